"""What is in a handshake's request, the gate, and the wheel: the pure parts around the WebSocket."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp.gate import MAX_RETRY_SECONDS, Gate
from tbgw.ocpp.handshake import Target, choose_version, read_target, real_peer
from tbgw.ocpp.versions import Version
from tbgw.ocpp.wheel import Wheel

V16, V201, V21 = Version.V16, Version.V201, Version.V21


class TargetTests(SynchronousTestCase):
    """The path of the request."""

    def test_table(self) -> None:
        """The last segment is the identity; it is split before it is decoded, and the query does not count."""
        for uri, path, identity in (
            ("/CP1", "CP1", "CP1"),
            ("/CP1/", "CP1", "CP1"),
            ("//CP1", "CP1", "CP1"),
            ("/bidon/hello/CP_1", "bidon/hello/CP_1", "CP_1"),
            ("/a//CP1", "a//CP1", "CP1"),
            ("/CP;1", "CP;1", "CP;1"),
            ("/CP%3B1", "CP;1", "CP;1"),
            ("/RDAM%20123", "RDAM 123", "RDAM 123"),
            ("/a/b%2Fc", "a/b/c", "b/c"),
            ("/%C3%A9", "é", "é"),
            ("/\u00c3\u00a9", "é", "é"),
            ("/CP%7C1", "CP|1", "CP|1"),
            ("/CP+1", "CP+1", "CP+1"),
            ("/CP1?token=a/b", "CP1", "CP1"),
            ("ws://host:9000/x/CP1", "x/CP1", "CP1"),
            ("http://host", "", ""),
            ("/", "", ""),
            ("", "", ""),
            ("?x", "", ""),
            ("/" + "x" * 255, "x" * 255, "x" * 255),
        ):
            self.assertEqual(read_target(uri), Target(path, identity), uri)

    def test_refused(self) -> None:
        """Broken escapes, broken UTF-8, control characters and endless identities name nobody."""
        for uri in (
            "/CP%",
            "/CP%2",
            "/CP%zz",
            "/CP%+1",
            "/%FF",
            "/\u00e9",
            "/CP%00",
            "/CP%0D%0A1",
            "/%7F",
            "/" + "x" * 256,
        ):
            self.assertIsNone(read_target(uri), uri)

    @given(st.text(alphabet=st.characters(max_codepoint=255)))
    def test_any(self, uri: str) -> None:
        """Whatever is asked for, a target or None comes out, and what it names can be printed."""
        target = read_target(uri)
        if target is not None:
            self.assertTrue(target.path.isprintable() and target.path.endswith(target.identity))


class ChoiceTests(SynchronousTestCase):
    """Which version is spoken."""

    def test_client_order(self) -> None:
        """The first of the client's list that is allowed here."""
        for offered, allowed, chosen in (
            (["ocpp1.6", "ocpp2.0.1"], [V201, V16], V16),
            (["ocpp2.1", "ocpp2.0.1", "ocpp1.6"], [V16, V201], V201),
            (["ocpp1.5", "mqtt", "ocpp2.1"], list(Version), V21),
            (["ocpp2.0"], list(Version), None),
            (["OCPP1.6"], list(Version), None),
            (["ocpp1.6"], [], None),
            ([], list(Version), None),
        ):
            self.assertEqual(choose_version(offered, allowed), chosen)


class ProxyTests(SynchronousTestCase):
    """Who is behind a proxy."""

    def test_table(self) -> None:
        """Only what trusted proxies wrote is believed, read from the right."""
        trusted = [ip_network("10.0.0.0/8"), ip_network("::1/128")]
        for peer, forwarded, expected in (
            ("10.0.0.1", "9.9.9.9", ("9.9.9.9", 0)),
            ("10.0.0.1", "1.1.1.1, 9.9.9.9", ("9.9.9.9", 0)),
            ("10.0.0.1", "9.9.9.9, 10.0.0.2", ("9.9.9.9", 0)),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),
            ("::1", "[2001:db8::1]", ("2001:db8::1", 0)),
            ("10.0.0.1", "nonsense", ("10.0.0.1", 5)),
            ("10.0.0.1", "", ("10.0.0.1", 5)),
            ("8.8.8.8", "9.9.9.9", ("8.8.8.8", 5)),
            ("", "9.9.9.9", ("", 5)),
        ):
            headers = {"x-forwarded-for": forwarded, "x-forwarded-proto": "https"}
            self.assertEqual(real_peer((peer, 5), headers, trusted)[0], expected, (peer, forwarded))
        self.assertEqual(real_peer(("10.0.0.1", 5), {"x-forwarded-for": "9.9.9.9"}, ()), (("10.0.0.1", 5), False))

    def test_tls(self) -> None:
        """Whether it came over TLS is believed of a trusted proxy only."""
        headers = {"x-forwarded-proto": "http, https"}
        self.assertTrue(real_peer(("10.0.0.1", 5), headers, [ip_network("10.0.0.0/8")])[1])
        self.assertFalse(real_peer(("11.0.0.1", 5), headers, [ip_network("10.0.0.0/8")])[1])


class GateTests(SynchronousTestCase):
    """How fast connections are let in."""

    def test_rate(self) -> None:
        """After the burst so many come in per second, whatever the rhythm of their asking."""
        gate = Gate(10, 5)
        admitted = sum(gate.ask(tenth / 100) == 0 for tenth in range(1000))
        self.assertEqual(admitted, 5 + 99)

    def test_queue(self) -> None:
        """Those turned away are told later and later moments, at the rate; nobody longer than the limit."""
        gate = Gate(10, 1)
        self.assertEqual(gate.ask(0.0), 0)
        waits = [gate.ask(0.0) for _ in range(10_000)]
        self.assertEqual((waits[0], waits[14], waits[94]), (1, 2, 10))
        self.assertEqual(waits, sorted(waits))
        self.assertEqual(waits[-1], MAX_RETRY_SECONDS)

    def test_storm_as_a_queue(self) -> None:
        """A storm of 5,000 that comes when it was told to is in after the time that the rate wants."""
        gate = Gate(200, 400)
        due = {0: 5000}
        second = -1
        while due:
            second = min(due)
            for _ in range(due.pop(second)):
                wait = gate.ask(float(second))
                if wait:
                    due[second + wait] = due.get(second + wait, 0) + 1
        self.assertLess(second, 40)

    def test_no_limit(self) -> None:
        """A rate of 0 lets everybody in."""
        gate = Gate(0, 0)
        self.assertEqual({gate.ask(0.0) for _ in range(1000)}, {0})


class Member:
    """Something in a wheel."""

    slot = 0


class WheelTests(SynchronousTestCase):
    """The one timer for all pings."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[tuple[Member, float]] = []
        self.answer: float | None = None
        self.wheel: Wheel[Member] = Wheel(self.clock, self.ask)

    def ask(self, member: Member, now: float) -> float | None:
        self.asked.append((member, now))
        return self.answer

    def test_one_timer(self) -> None:
        """Many members share one delayed call, and each is asked in its second, not before its time."""
        members = [Member() for _ in range(1000)]
        for index, member in enumerate(members):
            self.wheel.add(member, index / 100)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.pump([0.5] * 25)
        self.assertEqual(len(self.asked), 1000)
        for member, when in self.asked:
            self.assertTrue(0 <= when - members.index(member) / 100 < 1.5)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_again(self) -> None:
        """A member is asked again at the moment it named, and no more when it names none."""
        self.answer = 7.2
        self.wheel.add(Member(), 3)
        self.clock.advance(3)
        self.answer = None
        self.clock.advance(4)
        self.assertEqual(len(self.asked), 1)
        self.clock.advance(1)
        self.clock.advance(100)
        self.assertEqual([when for _, when in self.asked], [3, 8])

    def test_discard(self) -> None:
        """Who has left is not asked, and leaves no timer behind."""
        gone, there = Member(), Member()
        self.wheel.add(gone, 3)
        self.wheel.add(there, 5)
        self.wheel.discard(gone)
        self.wheel.discard(gone)
        self.clock.advance(3)
        self.clock.advance(2)
        self.assertEqual([member for member, _ in self.asked], [there])
        self.wheel.add(gone, 9)
        self.wheel.discard(gone)
        self.assertEqual((self.clock.getDelayedCalls(), len(self.wheel)), ([], 0))

    def test_earlier(self) -> None:
        """A member with an earlier moment moves the timer forward."""
        self.wheel.add(Member(), 50)
        self.wheel.add(Member(), 2)
        self.clock.advance(2)
        self.assertEqual(len(self.asked), 1)
