"""The link against prosody and ejabberd when things go wrong: cuts, restarts, silence, twins; nothing may be lost."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import link as link_module
from tbgw.connectors.xmpp import link_events, stanzas
from tbgw.connectors.xmpp.compat import PingHandler
from tbgw.connectors.xmpp.errors import LinkBusy, LinkGone, RequestTimedOut
from tbgw.connectors.xmpp.link import XMPPLink
from tests.connectors.xmpp.links import LinkCase, message, pause
from tests.xmppservers import USERS, XMPPServer, shared, start


def cut(link: XMPPLink) -> None:
    """The network breaks."""
    link._cut("the test cut it")


def ping(to: str) -> Element:
    iq = Element((None, "iq"))
    iq["type"], iq["to"] = "get", to
    iq.addElement((stanzas.NS_PING, "ping"))
    return iq


class CutTests(LinkCase):
    """On prosody."""

    kind = "prosody"

    def server(self, **options: Any) -> XMPPServer:
        """One that the test may stop, and that keeps messages for who is away."""
        return start(self.kind, self, USERS, **options)

    def shared(self) -> XMPPServer:
        """One that the test only talks with."""
        return shared(self.kind, self)

    async def test_resumed(self):
        """What was under way at a cut arrives once the session is resumed, each once, in both directions."""
        server = self.shared()
        gateway, listener, events = await self.up(server)
        device, other, _ = await self.up(server, "device")
        listener.answer = lambda element: _stored()
        for number in range(100):
            device.send(message(gateway.jid, f"up {number}"))
        await listener.until(lambda: len(listener.bodies) >= 20)
        gateway.pause_reading()
        for number in range(100, 200):
            device.send(message(gateway.jid, f"up {number}"))
            gateway.send(message(device.jid, f"down {number}"))
        cut(gateway)
        await listener.next_up(2)
        gateway.resume_reading()
        self.assertTrue(gateway.resumed)
        self.assertEqual(len(events.of(link_events.SessionResumed)), 1)
        await listener.until(lambda: len(set(listener.bodies)) >= 200)
        await other.until(lambda: len(set(other.bodies)) >= 100)
        self.assertEqual(listener.bodies, [f"up {number}" for number in range(200)])
        self.assertEqual(other.bodies, [f"down {number}" for number in range(100, 200)])
        await pause(0.3)
        self.assertEqual(gateway.status()["unconfirmed"], 0)

    async def test_not_stored_comes_again(self):
        """What was received and not stored at a cut comes again; only what was stored is counted."""
        server = self.shared()
        gateway, listener, _ = await self.up(server)
        device, _, _ = await self.up(server, "device")
        waiting: list[Deferred[None]] = []

        def first_three(element: Element) -> Deferred[None]:
            if len(waiting) < 3:
                waiting.append(_stored())
            else:
                waiting.append(Deferred())
            return waiting[-1]

        listener.answer = lambda element: first_three(element) if element.name == "message" else None
        for number in range(10):
            device.send(message(gateway.jid, str(number)))
        await listener.until_bodies(10)
        listener.stanzas.clear()
        listener.answer = lambda element: _stored()
        cut(gateway)
        self.assertEqual(await listener.until_bodies(7), [str(number) for number in range(3, 10)])
        for late in waiting[3:]:
            late.callback(None)
        await pause(0.3)
        self.assertEqual(len(listener.bodies), 7)

    async def test_store_fails(self):
        """A stanza that cannot be stored cuts the session, and it comes again with all behind it."""
        server = self.shared()
        gateway, listener, events = await self.up(server)
        device, _, _ = await self.up(server, "device")
        failing: list[bool] = []

        def fails_once(element: Element) -> Deferred[None]:
            failing.append(True)
            if len(failing) == 3:
                broken: Deferred[None] = Deferred()
                broken.errback(RuntimeError("the disk is gone"))
                return broken
            return _stored()

        listener.answer = lambda element: fails_once(element) if element.name == "message" else None
        for number in range(5):
            device.send(message(gateway.jid, str(number)))
        await listener.until_bodies(6)
        self.assertEqual(listener.bodies, ["0", "1", "2", "2", "3", "4"])
        self.assertIn("could not be stored", events.of(link_events.SessionLost)[0].why)

    async def test_acknowledged_only(self):
        """Without resumption the server gives what was not counted to the next session."""
        server = self.server()
        gateway, listener, _ = await self.up(server, resumeSeconds=0)
        device, _, _ = await self.up(server, "device")
        gateway.pause_reading()
        for number in range(5):
            device.send(message(f"gateway@{server.domain}", str(number)))
        await pause(0.3)
        cut(gateway)
        await listener.next_up(2)
        gateway.resume_reading()
        self.assertFalse(gateway.resumed)
        await listener.until(lambda: set(listener.bodies) >= set("01234"))

    async def test_request_over_a_cut(self):
        """A request survives a cut that is resumed in time."""
        server = self.shared()
        gateway, listener, _ = await self.up(server)
        device, other, _ = await self.up(server, "device")
        held: list[Element] = []
        other.answer = lambda element: held.append(element)
        asked = Element((None, "iq"))
        asked["type"], asked["to"] = "get", device.jid
        asked.addElement(("urn:example", "question"))
        answer = gateway.request(asked, 20.0)
        await other.until(lambda: any(one.name == "iq" for one in other.stanzas))
        cut(gateway)
        await listener.next_up(2)
        device.send(stanzas.result(next(one for one in other.stanzas if one.name == "iq")))
        self.assertEqual((await answer)["type"], "result")

    async def test_server_restarts(self):
        """A server that is restarted is found again; a request that waited is told; what was sent goes out again."""
        server = self.server()
        gateway, listener, events = await self.up(server)
        device, other, _ = await self.up(server, "device")
        silent = gateway.request(_question(device.jid), 60.0)
        failure = self.assertFailure(silent, LinkGone)
        server.stop()
        await listener.until(lambda: listener.downs)
        server.restart()
        await listener.next_up(2)
        await other.next_up(2)
        await failure
        device.send(message(gateway.jid, "here again"))
        await listener.until(lambda: "here again" in listener.bodies)
        self.assertEqual(len(events.of(link_events.SessionLost)), 1)

    async def test_server_killed(self):
        """The same where it said no goodbye: messages that it never counted are sent once more."""
        server = self.server()
        gateway, listener, _ = await self.up(server)
        server.freeze()
        for number in range(3):
            gateway.send(message(f"device@{server.domain}", str(number)))
        server.kill()
        server.restart()
        await listener.next_up(2)
        self.assertFalse(gateway.resumed)
        # The device comes later: ejabberd loses sight of offline messages that are stored as their receiver logs in.
        await pause(0.5)
        _, other, _ = await self.up(server, "device")
        self.assertEqual(set(await other.until_bodies(3)), set("012"))

    async def test_server_hangs(self):
        """A server that keeps the connection and says nothing is left within the ping's time, and found again."""
        server = self.server()
        keys: dict[str, Any] = {"pingPeriodSeconds": 1, "pingTimeoutSeconds": 1, "loginTimeoutSeconds": 2}
        gateway, listener, events = await self.up(server, **keys)
        await pause(2.5)
        self.assertEqual(listener.downs, [])
        server.freeze()
        began = gateway._clock.seconds()
        await listener.until(lambda: listener.downs)
        self.assertLess(gateway._clock.seconds() - began, 3.5)
        self.assertIn("not answered", listener.downs[0])
        await self.told(events, link_events.SessionFailed)
        self.assertIn("no login came about", events.of(link_events.SessionFailed)[0].why)
        server.thaw()
        await listener.next_up(2)

    async def test_server_does_not_read(self):
        """Sending to a server that takes nothing ends in an error by name, long before the memory does."""
        self.patch(link_module, "CLOSE_SECONDS", 0.5)
        for managed in (True, False):
            server = self.server()
            gateway, _, _ = await self.up(server, streamManagement=managed)
            server.freeze()
            large = message(f"device@{server.domain}", "x" * 190_000)
            sent = 0
            with self.assertRaises(LinkBusy):
                while sent < 300:
                    gateway.send(large)
                    sent += 1
                    await pause(0.001)
            self.assertLess(sent, 150)
            await gateway.stopService()
            server.kill()

    async def test_silent_login(self):
        """A server that takes the connection and never speaks is left after the login's time."""
        server = self.server()
        server.freeze()
        _, listener, events = self.link(self.settings(server, loginTimeoutSeconds=1))
        await pause(1.6)
        self.assertEqual(len(events.of(link_events.SessionFailed)), 1)
        server.thaw()
        await listener.next_up()

    async def test_twins(self):
        """Two gateways with one resource: the first is told why, and holds back instead of fighting."""
        server = self.shared()
        first, one, events = await self.up(server)
        _, other, other_events = await self.up(server)
        await one.until(lambda: one.downs)
        (event,) = events.of(link_events.SessionReplaced)
        self.assertGreaterEqual(event.retry_seconds, 45.0)
        self.assertIn("another program", event.line())
        await pause(1.5)
        self.assertEqual((len(one.ups), len(other.ups), other.downs), (1, 1, []))
        self.assertEqual(other_events.of(link_events.SessionReplaced), [])
        self.assertFalse(first.connected)

    async def test_stop(self):
        """Stopping takes in what is under way, waits for the store, closes the stream; the server keeps the rest."""
        server = self.server()
        gateway, listener, _ = await self.up(server)
        device, _, _ = await self.up(server, "device")
        waiting: list[Deferred[None]] = []

        def later(element: Element) -> Deferred[None]:
            waiting.append(Deferred())
            return waiting[-1]

        listener.answer = lambda element: later(element) if element.name == "message" else None
        for number in range(10):
            device.send(message(f"gateway@{server.domain}", str(number)))
        await listener.until(lambda: len(listener.bodies) >= 1)
        stopped = gateway.stopService()
        await listener.until_bodies(10)
        await pause(0.3)
        self.assertFalse(stopped.called)
        for one in waiting:
            one.callback(None)
        await stopped
        self.assertEqual(listener.downs, ["stopped"])
        device.send(message(f"gateway@{server.domain}", "kept"))
        await pause(0.3)
        _, again, _ = await self.up(server)
        self.assertEqual(await again.until_bodies(1), ["kept"])
        await pause(0.3)
        self.assertEqual(again.bodies, ["kept"])

    async def test_stop_while_server_hangs(self):
        """Stopping ends in time although the server says nothing."""
        self.patch(link_module, "CLOSE_SECONDS", 1.0)
        server = self.server()
        gateway, listener, _ = await self.up(server)
        server.freeze()
        began = gateway._clock.seconds()
        await gateway.stopService()
        self.assertLess(gateway._clock.seconds() - began, 4.0)
        self.assertEqual(listener.downs, ["stopped"])

    async def test_stop_during_login(self):
        """The same before there is a session."""
        server = self.server()
        server.freeze()
        gateway, listener, _ = self.link(self.settings(server))
        await pause(0.5)
        began = gateway._clock.seconds()
        await gateway.stopService()
        self.assertLess(gateway._clock.seconds() - began, 8.0)
        self.assertEqual((listener.ups, listener.downs), ([], []))

    async def test_pausing_outlives_a_cut(self):
        """Who asked us to stop reading is obeyed on the next session as well; while we do not read nobody is dead."""
        server = self.shared()
        gateway, listener, _ = await self.up(server, pingPeriodSeconds=1, pingTimeoutSeconds=1)
        device, _, _ = await self.up(server, "device")
        gateway.pause_reading()
        cut(gateway)
        await listener.next_up(2)
        device.send(message(gateway.jid, "waits"))
        await pause(2.5)
        self.assertEqual((listener.bodies, len(listener.downs)), ([], 1))
        gateway.resume_reading()
        self.assertEqual(await listener.until_bodies(1), ["waits"])

    async def test_stop_and_start(self):
        """A link that was stopped can be started again."""
        server = self.shared()
        gateway, listener, _ = await self.up(server)
        await gateway.stopService()
        gateway.startService()
        await listener.next_up(2)
        self.assertFalse(gateway.resumed)

    async def test_time_out(self):
        """A request that nobody answers fails in time."""
        server = self.shared()
        gateway, _, _ = await self.up(server)
        device, _, _ = await self.up(server, "device")
        await self.assertFailure(gateway.request(_question(device.jid), 0.5), RequestTimedOut)


class EjabberdCutTests(CutTests):
    """The same on ejabberd."""

    kind = "ejabberd"

    async def test_server_asks(self):
        """Pings of the server are answered: ejabberd is told to kill who does not."""
        ping = "{send_pings: true, ping_interval: 1, ping_ack_timeout: 1, timeout_action: kill}"
        server = self.server(ping=ping)
        _, listener, _ = await self.up(server, pingPeriodSeconds=0)
        await pause(3.0)
        self.assertEqual(listener.downs, [])
        # And it would: a link that does not answer is gone.
        self.patch(PingHandler, "onPing", lambda self, iq: setattr(iq, "handled", True))
        _, silent, _ = await self.up(server, "device", pingPeriodSeconds=0)
        await silent.until(lambda: silent.downs)


def _stored() -> Deferred[None]:
    done: Deferred[None] = Deferred()
    done.callback(None)
    return done


def _question(to: str) -> Element:
    iq = Element((None, "iq"))
    iq["type"], iq["to"] = "get", to
    iq.addElement(("urn:example", "question"))
    return iq
