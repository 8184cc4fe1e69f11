"""Tests of presence: devices come and go, ask to see us, and are in doubt after a login."""

from __future__ import annotations

from tests.connectors.xmpp.fakes import ConnectorCase, element

PUMP = {"timeseries": [{"key": "v", "value": "${v}"}]}
BARE = "pump@example.org"


class PresenceTests(ConnectorCase):
    """Who is there."""

    def test_comes_and_goes(self) -> None:
        """The first resource connects the device, the last one's leaving ends it; what lies between is told."""
        self.make(PUMP)
        self.come(f"{BARE}/a")
        self.come(f"{BARE}/b", "<show>away</show><status>asleep</status><priority>5</priority>")
        self.go(f"{BARE}/b")
        self.go(f"{BARE}/a")
        self.assertEqual(self.attributes("xmppStatus"), ["online", "away", "online", "offline"])
        self.assertEqual(self.attributes("xmppStatusText"), ["asleep", ""])
        self.assertEqual(self.ingest.log[-2:], [("accept", "Pump"), ("disconnected", "Pump")])
        self.assertEqual(self.ingest.log.count(("disconnected", "Pump")), 1)
        self.come(f"{BARE}/a")
        self.assertEqual(self.attributes("xmppStatus")[-1], "online")

    def test_same_presence_again(self) -> None:
        """A presence that says nothing new is not told again."""
        self.make(PUMP)
        for _ in range(3):
            self.come()
        self.assertEqual(self.attributes("xmppStatus"), ["online"])

    def test_nothing_known_nothing_told(self) -> None:
        """A device whose presence nobody gives is connected by its messages, and never told gone."""
        self.make(PUMP)
        self.say('{"v": 1}')
        self.link.down()
        self.link.up()
        self.clock.advance(60)
        self.assertNotIn(("disconnected", "Pump"), self.ingest.log)

    def test_full_jid_entry(self) -> None:
        """Of an entry with a resource, only that resource's presence counts."""
        self.make({**PUMP, "jid": f"{BARE}/a"})
        self.come(f"{BARE}/b")
        self.assertEqual(self.readings, [])
        self.come(f"{BARE}/a")
        self.go(f"{BARE}/b")
        self.assertEqual(self.attributes("xmppStatus"), ["online"])

    def test_not_wanted(self) -> None:
        """With `presence` off it neither connects nor disconnects."""
        self.make({**PUMP, "presence": False})
        self.come()
        self.say('{"v": 1}')
        self.go()
        self.assertEqual((self.attributes("xmppStatus"), self.ingest.log), ([], [("accept", "Pump")]))

    def test_name_learned_later(self) -> None:
        """A device whose name comes with its first message has its status told then."""
        self.make({**PUMP, "deviceNameExpression": "${name}"})
        self.come()
        self.assertEqual(self.readings, [])
        self.say('{"name": "P7", "v": 1}')
        self.assertEqual(
            [(one.device.name, dict(one.attributes)) for one in self.readings[:1]], [("P7", {"xmppStatus": "online"})]
        )

    def test_after_a_login(self) -> None:
        """Who was there before, and does not show up within ten seconds of a login, is gone; others stay."""
        self.make(PUMP, {**PUMP, "jid": "b@example.org", "deviceNameExpression": "B"})
        self.come()
        self.come("b@example.org/x")
        self.link.down()
        self.clock.advance(100)
        self.assertNotIn("disconnected", [what for what, _ in self.ingest.log])
        self.link.up()
        self.come("b@example.org/y")
        self.clock.advance(10.1)
        self.assertEqual([name for what, name in self.ingest.log if what == "disconnected"], ["Pump"])

    def test_after_a_resumption(self) -> None:
        """A resumed session has told everything."""
        self.make(PUMP)
        self.come()
        self.link.down()
        self.link.up(resumed=True)
        self.clock.advance(20)
        self.assertNotIn(("disconnected", "Pump"), self.ingest.log)

    def test_cut_while_in_doubt(self) -> None:
        """While there is no session nothing is concluded from silence."""
        self.make(PUMP)
        self.come()
        self.link.down()
        self.link.up()
        self.link.down()
        self.clock.advance(20)
        self.assertNotIn(("disconnected", "Pump"), self.ingest.log)

    def test_status_of_one_who_is_gone(self) -> None:
        """Attributes about an absent device would connect it, so they wait until it is back."""
        self.make({**PUMP, "serverSideRpc": [{"methodRPC": "do"}]})
        self.come()
        self.go()
        count = len(self.readings)
        self.failureResultOf(self.connector.command("Pump", "do", 1))
        self.assertEqual(len(self.readings), count)
        self.come()
        self.assertEqual(self.readings[-1].attributes["xmppError"], "gone: the device is offline")
        self.assertEqual(self.readings[-1].attributes["xmppStatus"], "online")

    def test_one_device_by_two_entries(self) -> None:
        """A device that two entries name is gone when both JIDs are; a command goes to the one that spoke last."""
        entry = {**PUMP, "serverSideRpc": [{"methodRPC": "do", "withResponse": False}]}
        self.make({**entry, "jid": f"{BARE}/a"}, {**entry, "jid": f"{BARE}/b"})
        self.come(f"{BARE}/a")
        self.come(f"{BARE}/b")
        for resource in ("a", "b", "a"):
            self.say('{"v": 1}', f"{BARE}/{resource}")
        self.connector.command("Pump", "do", 1)
        self.assertEqual([one["to"] for one in self.link.take()], [f"{BARE}/a"])
        self.assertEqual(len({id(one.device) for one in self.readings}), 1)
        self.go(f"{BARE}/a")
        self.assertNotIn(("disconnected", "Pump"), self.ingest.log)
        self.go(f"{BARE}/b")
        self.assertEqual(self.ingest.log[-1], ("disconnected", "Pump"))

    def test_no_status_attributes(self) -> None:
        """Outcomes are told only where they are wanted."""
        self.make({**PUMP, "statusAttributes": False, "serverSideRpc": [{"methodRPC": "do", "withResponse": False}]})
        self.successResultOf(self.connector.command("Pump", "do", 1))
        self.assertEqual(self.readings, [])

    def test_many_resources(self) -> None:
        """Only so many resources of one JID are remembered."""
        self.make(PUMP)
        for number in range(200):
            self.come(f"{BARE}/{number}")
        status = self.successResultOf(self.connector.command("Pump", "xmpp_status", None))
        self.assertEqual(len(status["resources"]), 64)

    def test_highest_priority_is_written_to(self) -> None:
        """Before the device wrote, its resource of the highest priority is the one."""
        self.make({**PUMP, "serverSideRpc": [{"methodRPC": "do", "withResponse": False}]})
        self.come(f"{BARE}/low", "<priority>1</priority>")
        self.come(f"{BARE}/high", "<priority>9</priority>")
        self.connector.command("Pump", "do", 1)
        self.go(f"{BARE}/high")
        self.connector.command("Pump", "do", 1)
        self.assertEqual([one["to"] for one in self.link.take()], [f"{BARE}/high", f"{BARE}/low"])


class RosterTests(ConnectorCase):
    """Who may see whom (X9)."""

    def sent(self) -> list[tuple[str | None, str | None]]:
        return [
            (one.getAttribute("to"), one.getAttribute("type")) for one in self.link.take() if one.name == "presence"
        ]

    def ask(self, sender: str) -> None:
        self.connector.stanza_received(element(f"<presence from='{sender}' type='subscribe'/>"))

    def test_login(self) -> None:
        """The roster is asked for, then our presence is shown; a server without rosters changes nothing in that."""
        self.make(PUMP, up=False)
        self.link.up()
        self.assertEqual(self.sent(), [])
        self.link.answer("query", "jabber:iq:roster", "<query xmlns='jabber:iq:roster'/>")
        self.assertEqual(self.sent(), [(None, None)])
        self.link.down()
        self.link.up()
        refused = "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
        self.link.answer("query", "jabber:iq:roster", refused, "error")
        self.assertEqual((self.sent(), self.count("roster_failures")), ([(None, None)], 1))

    def test_configured_is_accepted(self) -> None:
        """A device is accepted, and asked in turn, once; a full JID in the configuration will do."""
        self.make(PUMP, {**PUMP, "jid": "b@example.org/x", "deviceNameExpression": "B"})
        self.ask(BARE)
        self.assertEqual(self.sent(), [(BARE, "subscribed"), (BARE, "subscribe")])
        self.ask(BARE)
        self.assertEqual(self.sent(), [(BARE, "subscribed")])
        self.ask("b@example.org")
        self.assertEqual(self.sent(), [("b@example.org", "subscribed"), ("b@example.org", "subscribe")])
        self.assertEqual(self.count("subscriptions_accepted"), 3)

    def test_stranger_is_refused(self) -> None:
        """Anyone else is not."""
        self.make(PUMP)
        self.ask("stranger@example.org")
        self.ask("pump@example.org.evil.net")
        self.assertEqual([kind for _, kind in self.sent()], ["unsubscribed"] * 2)
        self.assertEqual(self.count("subscriptions_refused"), 2)

    def test_roster_says_it_is_known(self) -> None:
        """Whom the roster has is not asked, whether it came with the login or as a push."""
        items = "<item jid='pump@example.org' subscription='both'/>"
        push = f"<iq type='set' id='p1'><query xmlns='jabber:iq:roster'>{items}</query></iq>"
        self.make(PUMP)
        self.connector.stanza_received(element(push))
        (reply,) = self.link.take()
        self.assertEqual((reply["type"], reply["id"]), ("result", "p1"))
        self.ask(BARE)
        self.assertEqual(self.sent(), [(BARE, "subscribed")])

    def test_forged_push(self) -> None:
        """A push from anyone but our server is refused like any request."""
        self.make(PUMP)
        items = "<item jid='pump@example.org' subscription='both'/>"
        xml = f"<iq type='set' id='p1' from='x@evil.net/y'><query xmlns='jabber:iq:roster'>{items}</query></iq>"
        self.connector.stanza_received(element(xml))
        self.assertEqual(self.link.take()[0]["type"], "error")
        self.ask(BARE)
        self.assertEqual(len(self.sent()), 2)

    def test_requested(self) -> None:
        """`requestPresence` asks at the first login, unless the roster has it, and no second time."""
        self.make(
            {**PUMP, "requestPresence": True}, {**PUMP, "jid": "b@example.org", "requestPresence": True}, up=False
        )
        self.link.up()
        items = "<item jid='b@example.org' subscription='none' ask='subscribe'/>"
        self.link.answer("query", "jabber:iq:roster", f"<query xmlns='jabber:iq:roster'>{items}</query>")
        self.assertEqual(self.sent(), [(BARE, "subscribe"), (None, None)])
        self.link.down()
        self.link.up()
        self.link.answer("query", "jabber:iq:roster", "<query xmlns='jabber:iq:roster'/>")
        self.assertEqual(self.sent(), [(None, None)])

    def test_component(self) -> None:
        """A component has no roster: it answers who asks, and shows itself."""
        self.link.is_component = True
        self.make(PUMP)
        self.assertEqual((self.link.requests, self.link.take()), ([], []))
        self.ask(BARE)
        self.assertEqual(self.sent(), [(BARE, "subscribed"), (BARE, None), (BARE, "subscribe")])
        self.connector.stanza_received(element(f"<presence from='{BARE}/a' type='probe'/>"))
        self.assertEqual(self.sent(), [(f"{BARE}/a", None)])
