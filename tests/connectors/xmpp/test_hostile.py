"""What strangers and broken devices send, through real servers: clear and bounded."""

from __future__ import annotations

import time
from typing import Any

from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import link_events, stanzas
from tbgw.connectors.xmpp.disco import NS_INFO, NS_ITEMS, NS_VERSION
from tbgw.connectors.xmpp.errors import LinkGone, StanzaNotSendable, StanzaRefused, StanzaTooLarge
from tests.connectors.xmpp.links import LinkCase, body, message, pause
from tests.xmppservers import XMPPServer, shared


def query(to: str, namespace: str, name: str = "query", kind: str = "get") -> Element:
    iq = Element((None, "iq"))
    iq["type"], iq["to"] = kind, to
    iq.addElement((namespace, name))
    return iq


class HostileTests(LinkCase):
    """Through prosody."""

    kind = "prosody"
    depth = 5000

    def server(self) -> XMPPServer:
        return shared(self.kind, self)

    async def test_too_large_to_send(self):
        """A message of 300 kB is refused before it breaks the stream; one just within the limit arrives."""
        server = self.server()
        gateway, listener, _ = await self.up(server)
        device, other, _ = await self.up(server, "device")
        error = self.assertRaises(StanzaTooLarge, gateway.send, message(device.jid, "x" * 300_000))
        self.assertEqual(error.limit_bytes, 200_000)
        gateway.send(message(device.jid, "x" * 199_800))
        self.assertEqual(len((await other.until_bodies(1))[0]), 199_800)
        self.assertEqual(listener.downs, [])

    async def test_too_large_for_the_server(self):
        """Where our limit is above the server's, it ends the session, says why, and we come back."""
        server = self.server()
        gateway, listener, _ = await self.up(server, maxStanzaBytes=1_000_000)
        gateway.send(message(f"device@{server.domain}", "x" * 300_000))
        await listener.until(lambda: listener.downs)
        self.assertIn("policy-violation", listener.downs[0])
        await listener.next_up(2)

    async def test_too_large_to_take(self):
        """A stanza above our limit is read past and counted; those before and behind it arrive, and it is not again."""
        server = self.server()
        gateway, listener, events = await self.up(server, maxReceivedStanzaBytes=50_000)
        device, _, _ = await self.up(server, "device", maxStanzaBytes=1_000_000)
        for text in ("before", "x" * 100_000, "behind"):
            device.send(message(gateway.jid, text))
        self.assertEqual(await listener.until_bodies(2), ["before", "behind"])
        (event,) = events.of(link_events.StanzaOversized)
        self.assertEqual(event.sender, device.jid)
        gateway._cut("the test cut it")
        await listener.next_up(2)
        await pause(0.3)
        self.assertEqual((listener.bodies, gateway.resumed), (["before", "behind"], True))
        asked = query(gateway.jid, "urn:example")
        next(asked.elements()).addContent("x" * 100_000)
        refused = await self.assertFailure(device.request(asked, 10.0), StanzaRefused)
        self.assertEqual(refused.condition, "policy-violation")

    async def test_entities(self):
        """200,000 entities in one body cost little time and arrive as what they stand for."""
        server = self.server()
        gateway, listener, _ = await self.up(server)
        device, _, _ = await self.up(server, "device", maxStanzaBytes=1_000_000)
        # 250,000 bytes is what the servers let through: as text `&lt;`, so 60,000 of them; four such messages.
        began = time.process_time()
        for _ in range(4):
            device.send(message(gateway.jid, "<" * 60_000))
        texts = await listener.until_bodies(4)
        self.assertLess(time.process_time() - began, 1.0)
        self.assertEqual(set(texts), {"<" * 60_000})

    async def test_nested(self):
        """Thousands of elements within or beside each other harm nobody: the stanza is not taken, the session lives."""
        server = self.server()
        gateway, listener, events = await self.up(server)
        device, _, _ = await self.up(server, "device")
        nest = "<a>" * self.depth + "</a>" * self.depth
        deep = f"<message to='{gateway.jid}' type='chat'>{nest}<body>deep</body></message>"
        device._stream.send(deep)
        wide = f"<message to='{gateway.jid}' type='chat'>{'<a/>' * 20_000}</message>"
        device._stream.send(wide)
        device.send(message(gateway.jid, "behind"))
        await listener.until(lambda: "behind" in listener.bodies)
        self.assertEqual(listener.bodies, ["behind"])
        self.assertEqual(len(events.of(link_events.StanzaOversized)), 2)
        self.assertEqual(listener.downs, [])

    async def test_not_xml(self):
        """A character that XML cannot carry is refused, and does not end the stream."""
        server = self.server()
        gateway, listener, _ = await self.up(server)
        for text in ("a\x00b", "\x1b[1m", "\ufffe", "\ud800"):
            self.assertRaises(StanzaNotSendable, gateway.send, message(f"device@{server.domain}", text))
        gateway.send(message(gateway.jid, "to itself"))
        self.assertEqual(await listener.until_bodies(1), ["to itself"])

    async def test_answers(self):
        """Pings, disco and version are answered by the link; what it does not know goes to the listener."""
        server = self.server()
        gateway, listener, _ = await self.up(server)
        gateway.advertise(["urn:xmpp:iot:sensordata"])
        device, _, _ = await self.up(server, "device")
        await device.request(query(gateway.jid, stanzas.NS_PING, "ping"), 10.0)
        answer = await device.request(query(gateway.jid, NS_INFO), 10.0)
        (told,) = answer.elements()
        features = {one["var"] for one in told.elements() if one.name == "feature"}
        self.assertTrue({NS_INFO, stanzas.NS_PING, stanzas.NS_RECEIPTS, "urn:xmpp:iot:sensordata"} <= features)
        await device.request(query(gateway.jid, NS_ITEMS), 10.0)
        await device.request(query(gateway.jid, NS_VERSION), 10.0)
        other_node = query(gateway.jid, NS_INFO)
        next(other_node.elements())["node"] = "x"
        refused = await self.assertFailure(device.request(other_node, 10.0), StanzaRefused)
        self.assertEqual(refused.condition, "item-not-found")
        self.assertEqual([one for one in listener.stanzas if one.name == "iq"], [])
        listener.answer = lambda element: gateway.send(stanzas.error(element, "not-allowed", "why"))
        refused = await self.assertFailure(device.request(query(gateway.jid, "urn:example"), 10.0), StanzaRefused)
        self.assertEqual((refused.condition, refused.text), ("not-allowed", "why"))

    async def test_our_own_fault(self):
        """A fault in our code on one stanza is logged; the asker is told, the session lives."""
        server = self.server()
        gateway, listener, events = await self.up(server)
        device, _, _ = await self.up(server, "device")

        def broken(element: Element) -> None:
            raise ZeroDivisionError("a bug")

        listener.answer = lambda element: broken(element) if element.name == "iq" else None
        refused = await self.assertFailure(device.request(query(gateway.jid, "urn:example"), 10.0), StanzaRefused)
        self.assertEqual(refused.condition, "internal-server-error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(events.of(link_events.ListenerBroken)), 1)

    async def test_answer_of_another(self):
        """An answer that does not come from whom was asked is none, even with the right id."""
        server = self.server()
        gateway, _, events = await self.up(server)
        device, other, _ = await self.up(server, "device")
        asked = query(f"device@{server.domain}/device", "urn:example")
        answer = gateway.request(asked, 10.0)
        await other.until(lambda: [one for one in other.stanzas if one.name == "iq"])
        stranger, _, _ = await self.up(server, "device", jid=f"device@{server.domain}/stranger")
        forged = Element((None, "iq"))
        forged["type"], forged["to"], forged["id"] = "result", gateway.jid, asked["id"]
        stranger.send(forged)
        await self.told(events, link_events.AnswerUnexpected)
        self.assertFalse(answer.called)
        device.send(stanzas.result(next(one for one in other.stanzas if one.name == "iq")))
        self.assertEqual((await answer)["from"], device.jid)

    async def test_receipts(self):
        """A receipt goes out after the message is stored, to who asked, and only for what was accepted."""
        from twisted.internet.defer import Deferred

        server = self.server()
        gateway, listener, _ = await self.up(server)
        device, other, _ = await self.up(server, "device")
        waiting: list[Deferred[Any]] = []
        accepted: list[Element] = []

        def later(element: Element) -> Deferred[Any]:
            accepted.append(element)
            waiting.append(Deferred())
            return waiting[-1]

        listener.answer = lambda element: later(element) if body(element) != "stranger" else None

        def asking(text: str, **attributes: str) -> Element:
            element = message(gateway.jid, text, id=f"id-{text}", **attributes)
            element.addElement((stanzas.NS_RECEIPTS, "request"))
            return element

        def receipts() -> list[str]:
            return [
                child["id"]
                for one in other.stanzas
                for child in one.elements()
                if child.uri == stanzas.NS_RECEIPTS and child.name == "received"
            ]

        device.send(asking("stranger"))
        device.send(asking("refused"))
        device.send(asking("stored"))
        device.send(message(gateway.jid, "unasked", id="id-unasked"))
        device.send(asking("failed", type="error"))
        await listener.until(lambda: len([one for one in listener.stanzas if body(one)]) >= 5)
        await pause(0.3)
        self.assertEqual(receipts(), [])
        texts = [body(one) for one in listener.stanzas if body(one) and body(one) != "stranger"]
        messages = [one for one, element in zip(waiting, accepted, strict=True) if body(element)]
        for text, one in zip(texts, messages, strict=True):
            one.callback(False if text == "refused" else None)
        for one in waiting:  # presences
            if not one.called:
                one.callback(None)
        await other.until(lambda: receipts())
        await pause(0.3)
        self.assertEqual(receipts(), ["id-stored"])

    async def test_without_session(self):
        """Sending and asking without a session fail at once, by name."""
        server = self.server()
        link, _, _ = await self.up(server)
        await link.stopService()
        self.assertRaises(LinkGone, link.send, message("x@y", "z"))
        await self.assertFailure(link.request(query("x@y", "urn:example"), 1.0), LinkGone)


class EjabberdHostileTests(HostileTests):
    """Through ejabberd."""

    kind = "ejabberd"
    depth = 1000
    """At 5,000 ejabberd 23.01 itself ends with a segmentation fault, whoever sent them."""
