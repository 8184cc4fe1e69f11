"""The link over a bad network, on real servers: half-open connections, and cuts in the middle of everything."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import backoff, link_events
from tests.connectors.xmpp.links import LinkCase, message, pause
from tests.faultproxy import FaultProxy
from tests.xmppservers import XMPPServer, start

USERS = {"gateway": "secret", "device": "secret"}


class NetworkTests(LinkCase):
    """On prosody."""

    kind = "prosody"

    def bad_network(self) -> tuple[XMPPServer, FaultProxy]:
        server = start(self.kind, self, USERS)
        proxy = FaultProxy(server.port)
        self.addCleanup(proxy.close)
        return server, proxy

    async def test_half_open(self):
        """A connection over which nothing gets through any more is left, and the session resumed: nothing is lost."""
        server, proxy = self.bad_network()
        keys: dict[str, Any] = {"port": proxy.port, "pingPeriodSeconds": 1, "pingTimeoutSeconds": 1}
        gateway, listener, events = await self.up(server, **keys, loginTimeoutSeconds=3)
        device, other, _ = await self.up(server, "device")
        proxy.hold()
        for number in range(20):
            device.send(message(gateway.jid, f"up {number}"))
            gateway.send(message(device.jid, f"down {number}"))
        await listener.until(lambda: listener.downs)
        self.assertIn("has not answered", listener.downs[0])
        proxy.release()
        await listener.next_up(2)
        await listener.until(lambda: len(set(listener.bodies)) == 20)
        await other.until(lambda: len(set(other.bodies)) == 20)
        self.assertEqual(len(events.of(link_events.SessionResumed)), 1)
        # What was on the wire comes once more on both servers' side at the most; the count says that nothing did here.
        self.assertEqual(listener.bodies, [f"up {number}" for number in range(20)])

    async def test_cuts_under_load(self):
        """2,000 messages while the connection is reset again and again, stored late and out of order: none is lost."""
        server, proxy = self.bad_network()
        self.patch(backoff, "FIRST_SECONDS", 0.05)
        self.patch(backoff, "LONGEST_SECONDS", 0.1)
        gateway, listener, events = await self.up(server, port=proxy.port)
        device, _, _ = await self.up(server, "device")
        random = Random(7)
        stored: set[str] = set()

        def store(element: Element) -> Deferred[None]:
            done: Deferred[None] = Deferred()
            text = str(element.body)

            def committed() -> None:
                stored.add(text)
                done.callback(None)

            reactor.callLater(random.uniform(0.0, 0.05), committed)
            return done

        listener.answer = lambda element: store(element) if element.name == "message" else None
        for burst in range(20):
            for number in range(100):
                device.send(message(gateway.jid, str(burst * 100 + number)))
            if burst % 2:
                # Every other cut comes when the session is up again, the others whenever they come.
                await listener.next_up(burst // 2 + 2)
            await pause(random.uniform(0.0, 0.2))
            proxy.reset()
        await listener.until(lambda: len(set(listener.bodies)) == 2000)
        await pause(0.5)
        self.assertEqual(stored, {str(number) for number in range(2000)})
        self.assertGreaterEqual(len(events.of(link_events.SessionResumed)), 10)
        self.assertEqual(len(events.of(link_events.SessionUp)), 1)
        self.assertEqual(gateway.status()["unstored"], 0)


class EjabberdNetworkTests(NetworkTests):
    """On ejabberd."""

    kind = "ejabberd"
