"""Tests of the connector on a fake link: messages in, presence, and what others ask of us."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred, fail
from zope.interface import implementer

from tbgw.errors import StoreError, StoreFull
from tbgw.interfaces import IConnector, IPausable, IReceipt, IStatusSource
from tests.connectors.xmpp.fakes import NOW_MS, ConnectorCase, element

SEED: dict[str, Any] = {
    "jid": "device@localhost/TMP_1101",
    "deviceNameExpression": "${serialNumber}",
    "deviceTypeExpression": "default",
    "attributes": [{"key": "temperature", "value": "${temp}"}],
    "timeseries": [{"key": "humidity", "value": "${hum}"}, {"key": "combination", "value": "${temp}:${hum}"}],
}
BODY = json.dumps({"serialNumber": "TMP-9", "temp": 19.4, "hum": 61})
PUMP = {"timeseries": [{"key": "v", "value": "${v}"}]}


class MessageTests(ConnectorCase):
    """The way up."""

    def test_interfaces(self) -> None:
        """The connector keeps the contracts that the gateway knows it by."""
        connector = self.make(PUMP)
        for interface in (IConnector, IStatusSource, IPausable):
            self.assertTrue(interface.providedBy(connector))
        self.assertEqual(json.loads(json.dumps(connector.status()))["devices"], 1)

    def test_seed(self) -> None:
        """The documents' example gives device, attribute and time series, with their types (X12, X-14)."""
        self.make(SEED)
        done = self.say(BODY, "device@localhost/TMP_1101")
        self.assertIsNone(self.successResultOf(done))
        (reading,) = self.readings
        self.assertEqual((reading.device.name, reading.device.profile), ("TMP-9", "default"))
        self.assertEqual((reading.device.connector, reading.device.connector_type), ("Site", "xmpp"))
        self.assertEqual(reading.attributes, {"temperature": 19.4})
        self.assertEqual(reading.telemetry, ((NOW_MS, {"humidity": 61, "combination": "19.4:61"}),))

    def test_other_resource(self) -> None:
        """A full JID in the configuration is that resource alone; others are refused, counted, told once."""
        self.make(SEED)
        for _ in range(5):
            self.assertIsNone(self.say(BODY, "device@localhost/other"))
        self.assertIsNone(self.say(BODY, "stranger@localhost/TMP_1101"))
        self.assertIsNone(self.say(BODY, ""))
        self.assertEqual(self.readings, [])
        self.assertEqual(self.count("senders_refused"), 7)
        self.assertEqual(len(self.told.of("SenderRefused")), 1)

    def test_bare_jid_has_all_resources(self) -> None:
        """A bare JID takes any resource, whatever the case of its name and domain; both are one device."""
        self.make({**PUMP, "jid": "Pump@Example.org"})
        self.say('{"v": 1}', "pump@example.org/a")
        self.say('{"v": 2}', "PUMP@example.org/b")
        self.assertEqual([one.device.name for one in self.readings], ["Pump", "Pump"])
        self.assertIs(self.readings[0].device, self.readings[1].device)

    def test_name_is_learned(self) -> None:
        """A message without a name is the device's that the JID spoke for before; before that it is nobody's (X6)."""
        self.make(SEED | {"jid": "device@localhost"})
        self.assertIsNotNone(self.say('{"hum": 5}', "device@localhost/a"))
        self.assertEqual((self.readings, self.count("devices_not_named")), ([], 1))
        self.say(BODY, "device@localhost/a")
        self.say('{"hum": 6}', "device@localhost/b")
        self.assertEqual([one.device.name for one in self.readings], ["TMP-9", "TMP-9"])

    def test_two_devices_behind_one_jid(self) -> None:
        """Two resources that name themselves are two devices, each with its own learned name."""
        self.make(SEED | {"jid": "device@localhost"})
        for name, resource in (("A", "1"), ("B", "2")):
            self.say(json.dumps({"serialNumber": name, "hum": 1}), f"device@localhost/{resource}")
        for resource in ("1", "2"):
            self.say('{"hum": 2}', f"device@localhost/{resource}")
        self.assertEqual([one.device.name for one in self.readings], ["A", "B", "A", "B"])

    def test_unresolved(self) -> None:
        """What a message does not have is left out and counted; the text of an expression never goes out."""
        self.make(SEED)
        self.say('{"serialNumber": "S", "hum": 3}', "device@localhost/TMP_1101")
        self.assertEqual(self.readings[0].telemetry, ((NOW_MS, {"humidity": 3}),))
        self.assertEqual(self.readings[0].attributes, {})
        self.assertEqual(self.count("keys_absent"), 2)
        self.say('{"serialNumber": "S", "other": 3}', "device@localhost/TMP_1101")
        self.assertEqual((len(self.readings), self.count("messages_unusable")), (1, 1))

    def test_receipt_after_storing(self) -> None:
        """What is returned for a message fires when its reading is stored, and not before."""
        self.make(PUMP)
        waiting: Deferred[None] = Deferred()
        self.ingest.accept = lambda reading: Waits(waiting)  # type: ignore[method-assign] # for this test
        done = self.say('{"v": 1}')
        self.assertNoResult(done)
        waiting.callback(None)
        self.assertIsNone(self.successResultOf(done))

    def test_store_is_full_or_broken(self) -> None:
        """A full store drops for good: the stanza counts, and gets no receipt; a broken one is the link's to know."""
        self.make(PUMP)
        self.ingest.accept = lambda reading: Waits(fail(StoreFull("full")))  # type: ignore[method-assign] # for this test
        self.assertIs(self.successResultOf(self.say('{"v": 1}')), False)
        self.ingest.accept = lambda reading: Waits(fail(StoreError("disk")))  # type: ignore[method-assign] # for this test
        self.failureResultOf(self.say('{"v": 1}'), StoreError)

    def test_no_receipt_for_what_is_dropped(self) -> None:
        """A message that is nobody's, or beyond the number of devices, is dropped: it counts, and gets no receipt."""
        self.make({**PUMP, "deviceNameExpression": "${n}"}, max_devices=1)
        self.assertIs(self.successResultOf(self.say('{"v": 1}')), False)
        self.assertIsNone(self.successResultOf(self.say('{"n": "A", "v": 1}')))
        self.assertIs(self.successResultOf(self.say('{"n": "B", "v": 1}')), False)
        self.assertIsNone(self.successResultOf(self.say('{"n": "A", "other": 1}')))

    def test_two_entries_with_one_jid(self) -> None:
        """Entries with the same JID all get each message, and its receipt waits for all."""
        self.make(PUMP, {**PUMP, "deviceNameExpression": "Twin"})
        waiting: list[Deferred[None]] = []

        def accept(reading: Any) -> Any:
            waiting.append(Deferred())
            return Waits(waiting[-1])

        self.ingest.accept = accept  # type: ignore[method-assign] # for this test
        done = self.say('{"v": 1}')
        waiting[0].callback(None)
        self.assertNoResult(done)
        waiting[1].errback(StoreError("disk"))
        self.failureResultOf(done, StoreError)

    def test_times(self) -> None:
        """The message's own time counts, then the server's note of a delay, then the arrival."""
        self.make(PUMP)
        self.say('{"v": 1, "ts": 1700000000123}')
        delay = "<delay xmlns='urn:xmpp:delay' stamp='2025-01-01T00:00:00Z'/>"
        self.say('{"v": 2, "ts": "2024-01-01T00:00:00Z"}', inner=delay)
        self.say('{"v": 3}', inner=delay)
        self.say('{"v": 4}', inner="<x xmlns='jabber:x:delay' stamp='20250101T00:00:00'/>")
        self.say('{"v": 5, "ts": "yesterday"}')
        self.say('{"v": 6}', inner="<delay xmlns='urn:xmpp:delay' stamp='never'/>")
        times = [one.telemetry[0][0] for one in self.readings]
        self.assertEqual(times[:2], [1700000000123, 1704067200000])
        # Two of one second must not overwrite each other, nor two of one millisecond.
        self.assertEqual(times[2:4], [1735689600000, 1735689600001])
        self.assertEqual(times[4:], [NOW_MS, NOW_MS + 1])
        self.assertEqual(self.count("times_unusable"), 1)

    def test_nothing_for_us(self) -> None:
        """Chat states, receipts and a group's messages are no readings and no faults."""
        self.make(PUMP)
        self.assertIsNone(self.say("", inner="<composing xmlns='http://jabber.org/protocol/chatstates'/>"))
        self.assertIsNone(self.say("", inner="<received xmlns='urn:xmpp:receipts' id='1'/>"))
        self.assertIsNone(self.say('{"v": 1}', type="groupchat"))
        self.assertEqual((self.readings, self.count("messages_unusable")), ([], 0))

    def test_wildcard(self) -> None:
        """`*@domain` takes every account of a domain, named by who the server says it is; no more than allowed."""
        self.make(
            {**PUMP, "jid": "*@sensors.example.org", "deviceNameExpression": "S ${from.local}"}, max_devices=3
        )
        for number in range(5):
            self.say('{"v": 1, "from": {"local": "forged"}}', f"n{number}@sensors.example.org/x")
        self.assertEqual([one.device.name for one in self.readings], ["S n0", "S n1", "S n2"])
        self.assertEqual(self.count("devices_refused"), 2)
        self.assertIsNone(self.say('{"v": 1}', "n1@evil-sensors.example.org/x"))
        self.assertIsNone(self.say('{"v": 1}', "sensors.example.org/x"))

    def test_many_senders_are_bounded(self) -> None:
        """A device that comes with ever new resources does not fill the memory."""
        connector = self.make(PUMP, max_devices=10)
        for number in range(100):
            self.say('{"v": 1}', f"pump@example.org/{number}")
        self.assertEqual(len(self.readings), 100)
        self.assertLessEqual(connector._routes.senders, 20)

    def test_pause(self) -> None:
        """While the store is behind, nothing is read from the server."""
        self.ingest.behind = True
        connector = self.make(PUMP)
        self.assertTrue(self.link.paused)
        connector.resume_reading()
        self.assertFalse(self.link.paused)
        connector.stopService()
        self.assertEqual(self.ingest.sources, [])


@implementer(IReceipt)
class Waits:
    """A receipt that the test settles."""

    def __init__(self, stored: Deferred[None]) -> None:
        self._stored = stored

    def when_stored(self) -> Deferred[None]:
        return self._stored


class RequestTests(ConnectorCase):
    """What others ask of us."""

    def test_unknown_requests_are_answered(self) -> None:
        """Every iq gets its answer; for sensor data and control it says that we are not one."""
        self.make(PUMP)
        for xml, condition in (
            ("<query xmlns='jabber:iq:last'/>", "service-unavailable"),
            ("<req xmlns='urn:xmpp:iot:sensordata' seqnr='1'/>", "feature-not-implemented"),
            ("<set xmlns='urn:xmpp:iot:control'/>", "feature-not-implemented"),
        ):
            self.connector.stanza_received(element(f"<iq from='x@y/z' id='7' type='get'>{xml}</iq>"))
            (answer,) = self.link.take()
            self.assertEqual((answer["type"], answer["id"], answer["to"]), ("error", "7", "x@y/z"))
            self.assertIn(f"<{condition} ", answer.toXml())

    def test_advertised(self) -> None:
        """Only what the plugins switch on is announced."""
        self.make(PUMP)
        self.assertEqual(self.link.features, ["urn:xmpp:iot:sensordata", "urn:xmpp:iot:control"])

    def test_nothing_advertised(self) -> None:
        """Without the plugins there is nothing to announce."""
        self.make(PUMP, plugins=["xep_0030"])
        self.assertEqual(self.link.features, [])
