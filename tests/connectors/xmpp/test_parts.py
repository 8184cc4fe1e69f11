"""The small parts of the link: requests that wait, keeping alive, delays, answers, the shim for wokkel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element
from zope.interface import implementer

import tbgw
from tbgw.connectors.xmpp import asked, stanzas
from tbgw.connectors.xmpp.asked import Asked
from tbgw.connectors.xmpp.backoff import Backoff
from tbgw.connectors.xmpp.errors import LinkBusy, LinkGone, RequestTimedOut, StanzaRefused
from tbgw.connectors.xmpp.interfaces import IXMPPListener
from tbgw.connectors.xmpp.keepalive import Keepalive


def iq(kind: str, **attributes: str) -> Element:
    element = Element((None, "iq"))
    element["type"] = kind
    for name, value in attributes.items():
        element["from" if name == "sender" else name] = value
    return element


class AskedTests(SynchronousTestCase):
    """Who may answer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked = Asked(self.clock)
        self.asked.own_addresses = {None, "me@x.org/r", "me@x.org", "x.org"}

    def test_answer(self):
        """The answer of whom was asked, in whatever spelling of his address; nothing is left of it."""
        answer = self.asked.add(iq("get", to="Device@X.org/Res", id="1"), 5)
        self.assertTrue(self.asked.answered(iq("result", sender="device@x.ORG/Res", id="1")))
        self.successResultOf(answer)
        self.assertEqual((len(self.asked), self.clock.getDelayedCalls()), (0, []))
        self.assertFalse(self.asked.answered(iq("result", sender="device@x.org/Res", id="1")))

    def test_forged(self):
        """Anybody else's is none."""
        answer = self.asked.add(iq("get", to="device@x.org/a", id="1"), 5)
        for sender in ("device@x.org/b", "device@x.org", "x.org", "me@x.org", "@", "\ud800"):
            self.assertFalse(self.asked.answered(iq("result", sender=sender, id="1")))
        self.assertFalse(self.asked.answered(iq("result", id="1")))
        self.assertNoResult(answer)

    def test_server(self):
        """A request without `to` is answered by our server, which may leave its address out."""
        for sender in ("me@x.org", "x.org", "me@x.org/r", ""):
            answer = self.asked.add(iq("get", id="1"), 5)
            self.assertFalse(self.asked.answered(iq("result", sender="stranger@x.org", id="1")))
            self.assertTrue(self.asked.answered(iq("result", sender=sender, id="1")))
            self.successResultOf(answer)
        self.asked.add(iq("get", to="x.org", id="1"), 5)
        self.assertTrue(self.asked.answered(iq("result", id="1")))

    def test_refused(self):
        """An error fails it, with condition and text; the old forms have none."""
        answer = self.asked.add(iq("get", to="d@x", id="1"), 5)
        refusal = stanzas.error(iq("get", sender="g@x", to="d@x", id="1"), "forbidden", "not you")
        self.asked.answered(refusal)
        error = self.failureResultOf(answer, StanzaRefused).value
        self.assertEqual((error.condition, error.text, str(error)), ("forbidden", "not you", "forbidden: not you"))
        answer = self.asked.add(iq("get", to="d@x", id="1"), 5)
        old = iq("error", sender="d@x", id="1")
        old.addElement(("urn:xmpp:iot:sensordata", "rejected"))
        self.asked.answered(old)
        self.assertEqual(self.failureResultOf(answer, StanzaRefused).value.condition, "")

    def test_times(self):
        """Time-out, cancellation, the end of the session: each ends it once, and leaves no timer."""
        late = self.asked.add(iq("get", to="d@x"), 5)
        self.clock.advance(5)
        self.failureResultOf(late, RequestTimedOut)
        cancelled = self.asked.add(iq("get", to="d@x"), 5)
        cancelled.addErrback(lambda failure: None)
        cancelled.cancel()
        ended = self.asked.add(iq("get", to="d@x"), 5)
        self.asked.fail_all("over")
        self.failureResultOf(ended, LinkGone)
        self.assertEqual((len(self.asked), self.clock.getDelayedCalls()), (0, []))

    def test_bounds(self):
        """No id waits twice, and not everything waits."""
        first = self.asked.add(iq("get", to="d@x", id="1"), 5)
        self.failureResultOf(self.asked.add(iq("get", to="d@x", id="1"), 5), ValueError)
        self.assertNoResult(first)
        self.patch(asked, "MAX_REQUESTS", 1)
        self.failureResultOf(self.asked.add(iq("get", to="d@x"), 5), LinkBusy)
        one, other = iq("get"), iq("get")
        for request in (one, other):
            Asked(self.clock).add(request, 1)
        self.assertNotEqual(one["id"], other["id"])


class Heard:
    heard = False


class KeepaliveTests(SynchronousTestCase):
    """Silence, and what breaks it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.stream = Heard()
        self.keepalive = Keepalive(
            self.clock, 60, 20, lambda: self.told.append("ask"), lambda: self.told.append("dead")
        )

    def test_dead(self):
        """Asked after the period, dead after the time-out, and no timer left."""
        self.keepalive.start(self.stream)
        self.clock.advance(59)
        self.assertEqual(self.told, [])
        self.clock.advance(1)
        self.assertEqual(self.told, ["ask"])
        self.clock.advance(20)
        self.assertEqual((self.told, self.clock.getDelayedCalls()), (["ask", "dead"], []))

    def test_alive(self):
        """Whatever comes shows that it lives: then nothing is asked, or the question was answered."""
        self.keepalive.start(self.stream)
        self.clock.advance(30)
        self.stream.heard = True
        self.clock.advance(30)
        self.assertEqual(self.told, [])
        self.clock.advance(60)
        self.stream.heard = True
        self.clock.advance(20)
        self.assertEqual(self.told, ["ask"])
        self.clock.advance(60)
        self.assertEqual(self.told, ["ask", "ask"])

    def test_not_reading(self):
        """While we do not read, silence says nothing."""
        self.keepalive.start(self.stream)
        self.keepalive.is_reading = False
        for _ in range(50):
            self.clock.advance(60)
        self.assertEqual(self.told, [])

    def test_off(self):
        """A period of 0 asks never; a stop leaves no timer."""
        Keepalive(self.clock, 0, 20, self.fail, self.fail).start(self.stream)
        self.keepalive.start(self.stream)
        self.keepalive.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class BackoffTests(SynchronousTestCase):
    """Delays."""

    def test_growth(self):
        """Failures grow to a minute, refusals from a minute to ten, a session that lived begins anew."""
        backoff = Backoff(lambda: 0.5)
        delays = [backoff.failed() for _ in range(40)]
        self.assertEqual([round(delay, 2) for delay in delays[:4]], [1.0, 1.6, 2.56, 4.1])
        self.assertEqual(delays[-1], 60.0)
        self.assertEqual(backoff.refused(), 60.0)
        self.assertEqual([backoff.refused() for _ in range(20)][-1], 600.0)
        backoff.lived(5.0)
        self.assertEqual(backoff.failed(), 60.0)
        backoff.lived(30.0)
        self.assertEqual((backoff.failed(), backoff.refused()), (1.0, 60.0))

    def test_jitter(self):
        """A quarter more or less."""
        self.assertEqual((Backoff(lambda: 0.0).failed(), Backoff(lambda: 1.0).failed()), (0.75, 1.25))


class StanzaTests(SynchronousTestCase):
    """Answers."""

    def test_error(self):
        """An error bears condition and text, and repeats only the id."""
        request = iq("get", sender="d@x/r", to="g@x", id="7")
        request.addElement(("urn:secret", "query"))
        answer = stanzas.error(request, "not-allowed", "why")
        self.assertEqual((answer["to"], answer["from"], answer["id"], answer["type"]), ("d@x/r", "g@x", "7", "error"))
        self.assertEqual(stanzas.error_of(answer), ("not-allowed", "why"))
        self.assertNotIn("secret", answer.toXml())

    def test_conditions(self):
        """Every condition has the type that RFC 6120 gives it."""
        for condition in stanzas._TYPES:
            kind = next(stanzas.error(iq("get"), condition).elements())["type"]
            self.assertIn(kind, ("auth", "cancel", "modify", "wait"))

    def test_receipts(self):
        """Only who asks, with an id and an address, and never in answer to an error or in a room."""

        def asking(**attributes: str) -> Element:
            message = Element((None, "message"))
            for name, value in attributes.items():
                message["from" if name == "sender" else name] = value
            message.addElement((stanzas.NS_RECEIPTS, "request"))
            return message

        good: Any = stanzas.receipt_for(asking(sender="d@x", to="g@x", id="7", type="chat"))
        self.assertEqual(
            good.toXml(),
            "<message to='d@x' from='g@x' type='chat'><received xmlns='urn:xmpp:receipts' id='7'/></message>",
        )
        for bad in (
            *(asking(sender="d@x"), asking(id="7"), asking(sender="d@x", id="7" * 2000)),
            *(asking(sender="d@x", id="7", type="error"), asking(sender="d@x", id="7", type="groupchat")),
        ):
            self.assertIsNone(stanzas.receipt_for(bad))
        plain = Element((None, "message"))
        plain["from"], plain["id"] = "d@x", "7"
        self.assertIsNone(stanzas.receipt_for(plain))

    def test_jids(self):
        """One spelling; None for what is no address."""
        self.assertEqual(stanzas.normal_jid("A@B.org/Ä"), "a@b.org/Ä")
        for bad in (None, "", "@", "a@", "a@b@c", "a b@c", "\ud800@x", "/x", "a@b..c", "."):
            self.assertIsNone(stanzas.normal_jid(bad))


class CompatTests(SynchronousTestCase):
    """What is imported when."""

    def run_python(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(tbgw.__file__).parent.parent)},
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def test_quiet(self):
        """Importing wokkel through the shim warns of nothing and takes no reactor."""
        code = "import sys, tbgw.connectors.xmpp.compat; print('twisted.internet.reactor' in sys.modules)"
        self.assertEqual(self.run_python(code), "False")

    def test_not_without_xmpp(self):
        """A gateway without XMPP does not import wokkel; nor does one that only reads an XMPP file."""
        code = "import sys, tbgw.service, tbgw.connectors.xmpp.config; print('wokkel' in sys.modules)"
        self.assertEqual(self.run_python(code), "False")

    def test_without_openssl(self):
        """The link works without pyOpenSSL where the configuration has no use for TLS."""
        code = (
            "import sys; sys.modules['OpenSSL'] = None\n"
            "from tbgw.connectors.xmpp import link\n"
            "print(link.XMPPLink.__name__)"
        )
        self.assertEqual(self.run_python(code), "XMPPLink")


class ExchangeBoundTests(SynchronousTestCase):
    """The bounds of what flows, with a listener that stores slowly."""

    def test_store_behind(self):
        """With so many stanzas waiting for the store no more is read, until half of them are stored."""
        from tbgw.connectors.xmpp import exchange as module
        from tests.connectors.xmpp.links import NotedEvents

        self.patch(module, "MAX_UNSTORED", 4)
        reading: list[bool] = []
        exchange = module.Exchange("Line 4", NotedEvents(), Clock(), 1000, self.fail, reading.append)
        waiting: list[Deferred[None]] = []

        @implementer(IXMPPListener)
        class Slow:
            def link_up(self, own_jid: str) -> None:
                """Not called here."""

            def link_down(self, reason: str) -> None:
                """Not called here."""

            def stanza_received(self, element: Element) -> Deferred[None]:
                waiting.append(Deferred())
                return waiting[-1]

        exchange.listener = Slow()
        exchange._stream = type("Stream", (), {"namespace": "jabber:client"})()
        for _ in range(4):
            exchange.element_received(Element(("jabber:client", "message")))
        self.assertEqual((reading, exchange.unstored), ([False], 4))
        waiting[0].callback(None)
        self.assertEqual(reading, [False])
        waiting[3].callback(None)
        self.assertEqual((reading, exchange.unstored), ([False, True], 2))
