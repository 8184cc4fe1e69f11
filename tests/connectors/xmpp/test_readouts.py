"""Tests of read-outs: on their period and by command, in every way in which they go on and end."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from tests.connectors.xmpp.fakes import NOW_MS, SENSOR, ConnectorCase

JID = "pump@example.org/a"
TS = "2026-01-01T00:00:00Z"
TS_MS = 1_767_225_600_000


def fields(
    seqnr: str,
    inner: str = "<numeric name='T' value='21.5' unit='C' momentary='true'/>",
    node: str = "",
    done: str = "",
) -> str:
    return (
        f"<fields xmlns='{SENSOR}' seqnr='{seqnr}'{done}><node nodeId='{node}'><timestamp value='{TS}'>"
        f"{inner}</timestamp></node></fields>"
    )


class ReadOutCase(ConnectorCase):
    """A device that is there."""

    def begin(self, plan: dict[str, Any] | None = None, params: Any = None, **entry: Any) -> Deferred[Any]:
        """The device is there, and a read-out by command has begun."""
        self.make({"readout": {"periodSeconds": 0, **(plan or {})}, **entry})
        self.come()
        self.ingest.readings.clear()
        return self.ask(params)

    def ask(self, params: Any = None) -> Deferred[Any]:
        answer = self.connector.command("Pump", "xmpp_read", params)
        if not answer.called:
            _, payload, _ = self.link.request_of("req", SENSOR)
            self.seqnr, self.payload = payload["seqnr"], payload
        return answer

    def reply(self, inner: str = "") -> None:
        self.link.answer("req", SENSOR, inner or f"<accepted xmlns='{SENSOR}' seqnr='{self.seqnr}'/>")

    def send(self, inner: str, sender: str = JID) -> Any:
        return self.say("", sender, inner)

    @property
    def telemetry(self) -> list[Any]:
        return [one.telemetry for one in self.readings if one.telemetry]


class CommandTests(ReadOutCase):
    """`xmpp_read`."""

    def test_plain(self) -> None:
        """Asked, accepted, values, done: the answer has them, and they are readings at their time, with units."""
        answer = self.begin()
        self.assertEqual(self.payload.attributes, {"seqnr": self.seqnr, "momentary": "true"})
        self.reply()
        self.assertIsNone(self.successResultOf(self.send(fields(self.seqnr))))
        self.assertNoResult(answer)
        self.clock.advance(0.5)
        self.send(f"<done xmlns='{SENSOR}' seqnr='{self.seqnr}'/>")
        found = self.successResultOf(answer)
        self.assertEqual(found["responseTimeMs"], 500)
        self.assertEqual(
            found["fields"],
            [
                {
                    "node": None,
                    "ts": TS_MS,
                    "name": "T",
                    "type": "numeric",
                    "value": 21.5,
                    "unit": "C",
                    "flags": ["momentary"],
                }
            ],
        )
        self.assertEqual(self.telemetry, [((TS_MS, {"T": 21.5}),)])
        self.assertEqual(self.attributes("T_unit"), ["C"])

    def test_data_first(self) -> None:
        """Values may come before the answer to the request, and the end with them (3.1)."""
        answer = self.begin()
        self.send(fields(self.seqnr, done=" done='true'"))
        self.assertEqual(len(self.successResultOf(answer)["fields"]), 1)

    def test_data_in_the_answer(self) -> None:
        """Values may be in the answer itself."""
        answer = self.begin()
        self.reply(fields(self.seqnr, done=" done='true'"))
        self.assertEqual(len(self.successResultOf(answer)["fields"]), 1)
        self.assertEqual(len(self.telemetry), 1)

    def test_queued(self) -> None:
        """A queued read-out is told started later, and goes on as any."""
        answer = self.begin(params={"when": "2026-01-01T00:00:05Z", "timeoutMs": 60000})
        self.assertEqual(self.payload["when"], "2026-01-01T00:00:05Z")
        self.reply(f"<accepted xmlns='{SENSOR}' seqnr='{self.seqnr}' queued='true'/>")
        self.clock.advance(50)
        self.send(f"<started xmlns='{SENSOR}' seqnr='{self.seqnr}'/>")
        self.send(fields(self.seqnr, done=" done='true'"))
        self.successResultOf(answer)

    def test_what_is_asked_for(self) -> None:
        """Types, nodes, names and times are in the request; what the device sends besides is left out (it may)."""
        params = {
            "fieldTypes": ["momentary", "historicalDay"],
            "nodes": ["n1"],
            "fields": ["T"],
            "from": 1_767_225_600_001,
            "to": "2026-01-02T00:00:00Z",
        }
        answer = self.begin(params=params)
        self.assertEqual(
            self.payload.attributes,
            {
                "seqnr": self.seqnr,
                "momentary": "true",
                "historicalDay": "true",
                "from": "2026-01-01T00:00:00.001Z",
                "to": "2026-01-02T00:00:00Z",
            },
        )
        self.assertEqual(
            [(one.name, dict(one.attributes)) for one in self.payload.elements()],
            [("node", {"nodeId": "n1"}), ("field", {"name": "T"})],
        )
        both = "<numeric name='T' value='1'/><numeric name='X' value='2'/>"
        self.send(fields(self.seqnr, both, "n1"))
        self.send(fields(self.seqnr, both, "n2", " done='true'"))
        self.assertEqual([one["value"] for one in self.successResultOf(answer)["fields"]], [1])
        self.assertEqual(self.telemetry, [((TS_MS, {"T": 1}),)])

    def test_failures(self) -> None:
        """Some nodes fail, others deliver: the answer has both. If nothing could be read, it failed."""
        answer = self.begin()
        self.reply()
        own = f"xmlns='{SENSOR}' seqnr='{self.seqnr}'"
        self.send(f"<failure {own}><error nodeId='n2' timestamp='{TS}'>Time-out.</error></failure>")
        self.send(fields(self.seqnr, done=" done='true'"))
        self.assertEqual(self.successResultOf(answer)["errors"], [{"node": "n2", "error": "Time-out."}])
        answer = self.ask()
        self.reply()
        self.send(
            f"<failure xmlns='{SENSOR}' seqnr='{self.seqnr}' done='true'><error nodeId=''>Broken.</error></failure>"
        )
        self.assertEqual(self.failure_of(answer), "the device could not read: Broken.")

    def test_refused(self) -> None:
        """Refusals of both generations, in their words."""
        answer = self.begin()
        new = (
            "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>No such node.</text></error>"
        )
        self.link.answer("req", SENSOR, new, "error")
        self.assertEqual(self.failure_of(answer), "refused by the device or its server: item-not-found: No such node.")
        for old in (
            f"<rejected xmlns='{SENSOR}' seqnr='1' error='No.'/>",
            f"<rejected xmlns='{SENSOR}'><error>No.</error></rejected>",
        ):
            answer = self.ask()
            self.link.answer("req", SENSOR, old, "error")
            self.assertEqual(self.failure_of(answer), "refused by the device: No.")
        self.assertEqual(self.attributes("xmppSuccessful"), [False] * 3)

    def test_time_out(self) -> None:
        """Our own time ends it, and the device is told; what came is a reading, and so is what comes later."""
        answer = self.begin(params={"timeoutMs": 3000})
        self.reply()
        self.send(fields(self.seqnr))
        self.clock.advance(3.1)
        self.assertEqual(self.failure_of(answer), "time-out: not all came within 3000 ms; 1 field(s) did")
        _, cancel, _ = self.link.request_of("cancel", SENSOR)
        self.assertEqual(cancel["seqnr"], self.seqnr)
        self.link.answer("cancel", SENSOR, f"<cancelled xmlns='{SENSOR}' seqnr='{self.seqnr}'/>")
        self.send(fields(self.seqnr))
        self.assertEqual(len(self.telemetry), 2)
        silent = self.ask({"timeoutMs": 3000})
        self.clock.advance(3.1)
        self.assertIn("time-out: no", self.failure_of(silent))

    def test_another_devices_answer(self) -> None:
        """Only the resource that was asked ends a read-out."""
        answer = self.begin()
        self.reply()
        self.send(f"<done xmlns='{SENSOR}' seqnr='{self.seqnr}'/>", "pump@example.org/other")
        self.send(f"<done xmlns='{SENSOR}' seqnr='999'/>")
        self.assertNoResult(answer)

    def test_unasked(self) -> None:
        """Values that nobody asked for are readings, of configured devices only."""
        self.make({})
        self.send(fields("77"))
        self.send(fields("77"), "stranger@example.org/x")
        self.assertEqual(self.telemetry, [((TS_MS, {"T": 21.5}),)])
        self.assertEqual(self.count("senders_refused"), 1)

    def test_bad_parameters(self) -> None:
        """Parameters that mean nothing are refused in words."""
        self.make({})
        self.come()
        for params in ({"fieldTypes": ["odd"]}, {"nodes": [1]}, {"from": "soon"}, {"timeoutMs": 0}, {"fields": 5}):
            self.assertIn("bad parameters", self.failure_of(self.connector.command("Pump", "xmpp_read", params)))

    def test_stop(self) -> None:
        """A stop ends it, and leaves no timer."""
        answer = self.begin()
        self.reply()
        self.connector.stopService()
        self.assertIn("being stopped", self.failure_of(answer))
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])

    def test_configured_method(self) -> None:
        """A method of the configuration may be a read-out."""
        self.make({"serverSideRpc": [{"methodRPC": "meter", "send": "readout", "responseTimeoutMs": 2000}]})
        self.come()
        answer = self.connector.command("Pump", "meter", {"fields": ["T"]})
        _, self.payload, _ = self.link.request_of("req", SENSOR)
        self.send(fields(self.payload["seqnr"], done=" done='true'"))
        self.assertEqual(self.successResultOf(answer)["fields"][0]["value"], 21.5)


class ValueTests(ReadOutCase):
    """What fields become."""

    def test_every_type(self) -> None:
        """All types of the old and the new form, each as its JSON value; what is none of its type is counted."""
        self.make({})
        inner = (
            "<numeric name='n' value='-1.5'/><numeric name='i' value='7'/><int name='int' value='-3'/>"
            "<long name='long' value='5000000000'/><boolean name='b' value='1'/><string name='s' value='x'/>"
            "<enum name='e' value='On' dataType='State'/><date name='d' value='2026-01-01'/>"
            "<time name='t' value='10:00:00'/><dateTime name='dt' value='2026-01-01T10:00:00'/>"
            "<duration name='du' value='PT5S'/><timeSpan name='ts' value='P1D'/>"
            "<numeric name='bad' value='x'/><int name='bad2' value='1.5'/><boolean name='bad3' value='maybe'/>"
            "<numeric name='nan' value='NaN'/><numeric name='gone' missing='true'/><odd name='o' value='1'/>"
        )
        self.send(fields("1", inner))
        expected = {
            "n": -1.5, "i": 7, "int": -3, "long": 5000000000, "b": True, "s": "x", "e": "On", "d": "2026-01-01",
            "t": "10:00:00", "dt": "2026-01-01T10:00:00", "du": "PT5S", "ts": "P1D",
        }  # fmt: skip
        self.assertEqual(self.telemetry, [((TS_MS, expected),)])
        self.assertEqual(self.count("fields_unusable"), 4)

    def test_identity_and_errors(self) -> None:
        """Identity is an attribute; a value that the device flags as an error is left out."""
        self.make({})
        inner = "<string name='serial' value='A7' identity='true'/><numeric name='T' value='5' error='true'/>"
        self.send(fields("1", inner))
        self.assertEqual((self.attributes("serial"), self.telemetry, self.count("fields_unusable")), (["A7"], [], 1))

    def test_units_once(self) -> None:
        """A unit is told when it is news."""
        self.make({})
        for unit in ("C", "C", "K"):
            self.send(fields("1", f"<numeric name='T' value='1' unit='{unit}'/>"))
        self.assertEqual(self.attributes("T_unit"), ["C", "K"])

    def test_units_off(self) -> None:
        """Units can be left out."""
        self.make({"readout": {"periodSeconds": 0, "units": False}})
        self.send(fields("1"))
        self.assertEqual(self.attributes("T_unit"), [])

    def test_no_time(self) -> None:
        """A value without a time that is one was measured when it came."""
        self.make({})
        self.send(fields("1").replace(TS, "long ago"))
        self.assertEqual(self.telemetry[0][0][0], NOW_MS)

    def test_history(self) -> None:
        """Several times in one message are several instants, in order."""
        self.make({})
        later = "<timestamp value='2026-01-02T00:00:00Z'><numeric name='T' value='2'/></timestamp>"
        self.send(fields("1").replace("<timestamp", later + "<timestamp", 1))
        self.assertEqual(self.telemetry, [((TS_MS, {"T": 21.5}), (TS_MS + 86_400_000, {"T": 2}))])

    def test_nodes(self) -> None:
        """Two nodes' fields of one name collide, which is told; keys or devices made of the node keep them apart."""
        two = "".join(
            f"<node nodeId='{node}'><timestamp value='{TS}'><numeric name='T' value='{node[1]}'/></timestamp></node>"
            for node in ("n1", "n2")
        )
        xml = f"<fields xmlns='{SENSOR}' seqnr='1'>{two}</fields>"
        for plan, expected in (
            ({}, [("Pump", {"T": 2})]),
            ({"keyExpression": "${node}.${field}"}, [("Pump", {"n1.T": 1, "n2.T": 2})]),
            ({"nodeNameExpression": "${deviceName} ${node}"}, [("Pump n1", {"T": 1}), ("Pump n2", {"T": 2})]),
        ):
            self.setUp()
            self.make({"readout": {"periodSeconds": 0, **plan}})
            self.send(xml)
            found = [(one.device.name, one.telemetry[0][1]) for one in self.readings if one.telemetry]
            self.assertEqual(found, expected)
            self.assertEqual(self.count("fields_unusable"), 0 if plan else 1)

    def test_configured_datapoints(self) -> None:
        """With `datapoints: configured` the entry's own expressions pick among the fields."""
        self.make(
            {
                "readout": {"periodSeconds": 0, "datapoints": "configured"},
                "timeseries": [{"key": "temp", "value": "${T}"}],
                "attributes": [{"key": "unit", "value": "${units.T}"}],
            }
        )
        self.send(fields("1", "<numeric name='T' value='5' unit='C'/><numeric name='X' value='6'/>"))
        self.assertEqual((self.telemetry, self.attributes("unit")), ([((TS_MS, {"temp": 5}),)], ["C"]))

    def test_named_by_a_field(self) -> None:
        """A device whose name is in its fields is found by it."""
        self.make({"deviceNameExpression": "${serial}"})
        self.send(fields("1", "<string name='serial' value='A7' identity='true'/><numeric name='T' value='5'/>"))
        self.assertEqual({one.device.name for one in self.readings}, {"A7"})

    def test_plugin_off(self) -> None:
        """Without the plugin such messages are none of ours."""
        self.make({}, plugins=["xep_0030"])
        self.assertIsNone(self.send(fields("1")))
        self.assertEqual(self.readings, [])


class ScheduleTests(ReadOutCase):
    """The period."""

    def requests(self) -> int:
        return sum(
            1 for iq, _ in self.link.requests if (one := iq.firstChildElement()) is not None and one.name == "req"
        )

    def finish(self) -> None:
        _, payload, _ = self.link.request_of("req", SENSOR)
        self.link.answer("req", SENSOR)
        self.send(f"<done xmlns='{SENSOR}' seqnr='{payload['seqnr']}'/>")

    def test_period(self) -> None:
        """A device that is there is read out soon, and then on its period; one that went is not."""
        self.make({"readout": {"periodSeconds": 60}}, jitter=lambda: 0.5)
        self.clock.advance(10)
        self.assertEqual(self.requests(), 0)
        self.come()
        self.clock.advance(2.6)
        self.assertEqual(self.requests(), 1)
        self.finish()
        self.clock.pump([30, 31])
        self.assertEqual(self.requests(), 2)
        self.finish()
        self.go()
        self.clock.pump([60] * 3)
        self.assertEqual(self.requests(), 2)

    def test_one_at_a_time(self) -> None:
        """While one is under way the next turn is left out."""
        self.make({"readout": {"periodSeconds": 5, "timeoutMs": 20_000}})
        self.come()
        self.clock.pump([1] * 18)
        self.assertEqual(self.requests(), 1)
        self.clock.pump([1] * 10)
        self.assertEqual(self.requests(), 2)
        self.assertEqual(self.count("readout_failures"), 1)

    def test_nodes_are_not_asked(self) -> None:
        """A concentrator is asked once in a period, however many nodes it has that are devices by themselves."""
        self.make({"readout": {"periodSeconds": 60, "nodeNameExpression": "${deviceName} ${node}"}})
        self.come()
        self.clock.advance(0)
        _, payload, _ = self.link.request_of("req", SENSOR)
        self.link.answer("req", SENSOR)
        value = "<timestamp value='2026-01-01T00:00:00Z'><numeric name='E' value='1'/></timestamp>"
        nodes = "".join(f"<node nodeId='m{number}'>{value}</node>" for number in range(3))
        self.send(f"<fields xmlns='{SENSOR}' seqnr='{payload['seqnr']}' done='true'>{nodes}</fields>")
        self.assertEqual({one.device.name for one in self.readings if one.telemetry}, {"Pump m0", "Pump m1", "Pump m2"})
        self.clock.pump([30] * 2)
        self.assertEqual(self.requests(), 2)

    def test_one_for_all_names(self) -> None:
        """So is a JID for which several device names speak; when one of them moves, it is asked at its new JID."""
        entry = {"deviceNameExpression": "${n}", "timeseries": [{"key": "v", "value": "${v}"}]}
        self.make({**entry, "jid": "*@example.org", "readout": {"periodSeconds": 60}})
        for name in ("A", "B", "C"):
            self.say(f'{{"n": "{name}", "v": 1}}')
        self.clock.advance(0)
        self.finish()
        self.clock.advance(60)
        self.assertEqual(self.requests(), 2)
        self.finish()
        for name in ("A", "B", "C"):
            self.say(f'{{"n": "{name}", "v": 1}}', "other@example.org/x")
        self.clock.pump([30] * 4)
        asked = [iq["to"] for iq, _ in self.link.requests if [one for one in iq.elements() if one.name == "req"]]
        self.assertEqual(asked, ["pump@example.org/a"] * 2 + ["other@example.org/x"] * (len(asked) - 2))
        self.assertGreater(len(asked), 2)

    def test_spread(self) -> None:
        """Many devices are not asked in the same instant."""
        draws = iter(number / 10 for number in range(10))
        entries = [
            {"jid": f"p{number}@example.org", "deviceNameExpression": f"P{number}", "readout": {"periodSeconds": 60}}
            for number in range(10)
        ]
        self.make(*entries, jitter=lambda: next(draws, 0.9))
        for number in range(10):
            self.come(f"p{number}@example.org/x")
        seen = []
        for _ in range(6):
            self.clock.advance(1)
            seen.append(self.requests())
        self.assertGreater(len(set(seen)), 3)

    def test_no_session(self) -> None:
        """Without a session nothing is asked, and nothing fails."""
        self.make({"readout": {"periodSeconds": 5}})
        self.come()
        self.link.down()
        self.clock.pump([5] * 5)
        self.assertEqual((self.requests(), self.count("readout_failures")), (0, 0))

    def test_features_are_asked(self) -> None:
        """A device that came is asked what it announces, and the resource that announces sensor data is read out."""
        disco = "http://jabber.org/protocol/disco#info"
        self.make({"readout": {"periodSeconds": 0}})
        self.come("pump@example.org/phone", "<priority>9</priority>")
        self.link.answer("query", disco, f"<query xmlns='{disco}'><feature var='{disco}'/></query>")
        self.come("pump@example.org/sensor")
        self.link.answer("query", disco, f"<query xmlns='{disco}'><feature var='{SENSOR}'/></query>")
        self.assertEqual(self.attributes("xmppFeatures"), ["", SENSOR])
        self.ask()
        iq, _, _ = self.link.request_of("req", SENSOR)
        self.assertEqual(iq["to"], "pump@example.org/sensor")
