"""Tests of the way down: updates, configured commands, and the reserved ones."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from tbgw.errors import UnknownDevice
from tests.connectors.xmpp.fakes import CONTROL, NOW_MS, SENSOR, ConnectorCase, element, message

POINTS = {"timeseries": [{"key": "v", "value": "${v}"}]}
JID = "pump@example.org/a"


def body(sent: Element) -> str:
    return next((str(one) for one in sent.elements() if one.name == "body"), "")


def thread(sent: Element) -> str:
    return next((str(one) for one in sent.elements() if one.name == "thread"), "")


def rpc(**more: Any) -> dict[str, Any]:
    return {**POINTS, "serverSideRpc": [{"methodRPC": "do", **more}]}


class UpdateTests(ConnectorCase):
    """Shared attributes."""

    def test_all_of_an_update(self) -> None:
        """Every attribute that is configured goes out, of any type (X-06), to a device that never wrote (X-05)."""
        self.make({**POINTS, "attributeUpdates": [{"attributeOnThingsBoard": "a"}, {"attributeOnThingsBoard": "b"}]})
        self.connector.attributes_changed("Pump", {"a": 21, "b": "x", "c": 1}, ())
        sent = self.link.take()
        self.assertEqual([body(one) for one in sent], ['{"a":"21"}', '{"b":"x"}'])
        self.assertEqual([(one["to"], one["type"]) for one in sent], [("pump@example.org", "chat")] * 2)

    def test_goes_to_who_spoke(self) -> None:
        """Once the device wrote, its resource is written to; when another takes its place, that one."""
        self.make(
            {**POINTS, "attributeUpdates": [{"attributeOnThingsBoard": "a", "valueExpression": "${attributeValue}"}]}
        )
        self.say('{"v": 1}', "pump@example.org/old")
        self.connector.attributes_changed("Pump", {"a": {"x": [1]}}, ())
        self.say('{"v": 1}', "pump@example.org/new")
        self.connector.attributes_changed("Pump", {"a": "plain"}, ())
        sent = self.link.take()
        self.assertEqual([one["to"] for one in sent], ["pump@example.org/old", "pump@example.org/new"])
        self.assertEqual([body(one) for one in sent], ['{"x":[1]}', "plain"])

    def test_not_delivered(self) -> None:
        """Without a session, and when it comes back, an update is counted as not delivered."""
        self.make({**POINTS, "attributeUpdates": [{"attributeOnThingsBoard": "a"}]})
        self.connector.attributes_changed("Pump", {"a": 1}, ())
        (sent,) = self.link.take()
        error = "<error type='cancel'><item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
        self.connector.stanza_received(message("pump@example.org", inner=error, type="error", id=sent["id"]))
        self.link.down()
        self.connector.attributes_changed("Pump", {"a": 1}, ())
        self.assertEqual(self.count("xmpp_delivery_failures"), 2)
        self.connector.attributes_changed("Nobody", {"a": 1}, ())

    def test_by_control(self) -> None:
        """An update may set a control parameter instead."""
        update = {
            "attributeOnThingsBoard": "on",
            "send": "control",
            "parameter": "Relay",
            "valueExpression": "${attributeValue}",
        }
        self.make({**POINTS, "attributeUpdates": [update]})
        self.come()
        self.connector.attributes_changed("Pump", {"on": True}, ())
        payload = self.link.answer("set", CONTROL, f"<setResponse xmlns='{CONTROL}'/>")
        (child,) = payload.elements()
        self.assertEqual((child.name, child["name"], child["value"]), ("boolean", "Relay", "true"))
        self.assertEqual(self.attributes("xmppSuccessful")[-1:], [True])
        self.connector.attributes_changed("Pump", {"on": False}, ())
        self.link.answer(
            "set",
            CONTROL,
            "<error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
            "error",
        )
        self.assertEqual(self.count("xmpp_delivery_failures"), 1)
        self.assertEqual(self.attributes("xmppReplyCode")[-1:], [403])


class RpcTests(ConnectorCase):
    """Configured commands."""

    def ask(self, params: Any = None, method: str = "do") -> Deferred[Any]:
        return self.connector.command("Pump", method, params)

    def test_thread(self) -> None:
        """The answer with our thread is the device's answer, as JSON, and no reading."""
        self.make(rpc())
        first, second = self.ask({"n": 1}), self.ask("go")
        one, two = self.link.take()
        self.assertEqual((body(one), body(two)), ('{"n":1}', "go"))
        self.say('{"v": 2}', inner=f"<thread>{thread(two)}</thread>")
        self.say("ok", inner=f"<thread>{thread(one)}</thread>")
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), ("ok", {"v": 2}))
        self.assertEqual([one.telemetry for one in self.readings if one.telemetry], [])

    def test_id(self) -> None:
        """An answer may bear the id of the question."""
        self.make(rpc())
        answer = self.ask()
        self.assertIn("nothing to send", self.failure_of(answer))
        answer = self.ask(1)
        (sent,) = self.link.take()
        self.say("5", id=sent["id"])
        self.assertEqual(self.successResultOf(answer), 5)

    def test_next_message(self) -> None:
        """Without thread and id the next message is the answer, the oldest command's; a reading is not lost by it."""
        self.make(rpc())
        first, second = self.ask("1"), self.ask("2")
        self.say('{"v": 7}')
        self.assertEqual(self.successResultOf(first), {"v": 7})
        self.assertNoResult(second)
        self.say("done")
        self.assertEqual(self.successResultOf(second), "done")
        self.assertEqual([one.telemetry for one in self.readings if one.telemetry], [((NOW_MS, {"v": 7}),)])
        self.assertEqual(self.count("messages_unusable"), 0)

    def test_not_the_next_message(self) -> None:
        """With correlateBy thread a reading in between is a reading; other devices' messages never are the answer."""
        self.make(rpc(correlateBy="thread"), {**POINTS, "jid": "other@example.org", "deviceNameExpression": "Other"})
        answer = self.ask("1")
        self.say('{"v": 7}')
        (sent,) = self.link.take()
        self.say('{"v": 8}', "other@example.org/x", inner=f"<thread>{thread(sent)}</thread>")
        self.assertNoResult(answer)
        self.say("yes", inner=f"<thread>{thread(sent)}</thread>")
        self.assertEqual(self.successResultOf(answer), "yes")
        self.assertEqual(len([one for one in self.readings if one.telemetry]), 2)

    def test_answer_as_telemetry(self) -> None:
        """The configuration may want the answer as a reading, or never."""
        for wanted, count in ((True, 1), (False, 0)):
            self.setUp()
            self.make(rpc(responseAsTelemetry=wanted))
            answer = self.ask("1")
            (sent,) = self.link.take()
            inner = f"<thread>{thread(sent)}</thread>" if wanted else ""
            self.say('{"v": 7}', inner=inner)
            self.successResultOf(answer)
            self.assertEqual(len([one for one in self.readings if one.telemetry]), count)

    def test_part_of_the_answer(self) -> None:
        """`response` picks a part of the answer; an answer without it is an error."""
        self.make(rpc(response="${state.code}"))
        answer, missing = self.ask("1"), self.ask("2")
        self.say('{"state": {"code": 7}}')
        self.say('{"state": {}}')
        self.assertEqual(self.successResultOf(answer), 7)
        self.assertIn("no such value", self.failure_of(missing))

    def test_time_out(self) -> None:
        """After the time the command fails; the late answer is an ordinary message."""
        self.make(rpc(responseTimeoutMs=2000))
        answer = self.ask("1")
        (sent,) = self.link.take()
        self.clock.advance(2.1)
        self.assertEqual(self.failure_of(answer), "time-out: no answer within 2000 ms")
        self.say('{"v": 7}', inner=f"<thread>{thread(sent)}</thread>")
        self.assertEqual(len([one for one in self.readings if one.telemetry]), 1)
        self.assertEqual((self.attributes("xmppReplyCode"), self.attributes("xmppSuccessful")), ([408], [False]))

    def test_bounce(self) -> None:
        """An error with our id is the answer, in its words."""
        self.make(rpc())
        answer = self.ask("1")
        (sent,) = self.link.take()
        error = (
            "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>nobody home</text></error>"
        )
        self.connector.stanza_received(message(JID, inner=error, type="error", id=sent["id"]))
        self.assertEqual(
            self.failure_of(answer), "refused by the device or its server: service-unavailable: nobody home"
        )
        self.assertEqual(self.attributes("xmppReplyCode"), [503])

    def test_without_response(self) -> None:
        """Nothing is waited for, and the server is asked not to keep the command for later."""
        self.make(rpc(withResponse=False, messageType="normal"))
        self.assertEqual(self.successResultOf(self.ask("on")), {"success": True})
        (sent,) = self.link.take()
        self.assertFalse(sent.hasAttribute("type"))
        self.assertIn("no-store", [one.name for one in sent.elements()])

    def test_refused_before_sending(self) -> None:
        """Too large, no session, an unresolved template, a device that is unknown or gone: each by its name."""
        self.make(rpc(valueExpression="${params.x}"))
        self.assertIn("valueExpression", self.failure_of(self.ask({"y": 1})))
        self.assertRegex(self.failure_of(self.ask({"x": "y" * 300_000})), "^refused: too large: .*200000")
        self.failureResultOf(self.connector.command("Nobody", "do", None), UnknownDevice)
        self.assertEqual(self.failure_of(self.ask({}, "other")), "unknown method: other")
        self.come()
        self.go()
        self.assertEqual(self.failure_of(self.ask({"x": 1})), "gone: the device is offline")
        self.come()
        self.link.down()
        self.assertIn("gone: there is no session", self.failure_of(self.ask({"x": 1})))
        self.assertEqual(self.link.take(), [])

    def test_bounded_and_cancelled(self) -> None:
        """No more than so many wait for one device; one that is given up makes room; a stop ends all."""
        self.make(rpc())
        waiting = [self.ask("1") for _ in range(32)]
        self.assertIn("32 commands wait", self.failure_of(self.ask("1")))
        waiting[0].addErrback(lambda _: None)
        waiting[0].cancel()
        last = self.ask("1")
        self.assertNoResult(last)
        self.connector.stopService()
        self.assertIn("being stopped", self.failure_of(last))
        for one in waiting[1:]:
            self.assertIn("being stopped", self.failure_of(one))
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.active()], [])


class ReservedTests(ConnectorCase):
    """`set`, `get` and the commands of our own."""

    def test_set(self) -> None:
        """The value goes out as it is (X-13), whichever way it is given, at the device and at the gateway."""
        self.make(POINTS)
        for params in ("value=a=1;b=2;", {"value": "a=1;b=2"}):
            self.assertEqual(self.successResultOf(self.connector.command("Pump", "set", params)), {"result": "ok"})
        own = self.connector.own_command("set", "device=Pump;value=open;")
        self.assertEqual(self.successResultOf(own), {"result": "ok"})
        self.assertEqual(
            self.successResultOf(self.connector.command("Pump", "set", {"value": {"x": 1}})), {"result": "ok"}
        )
        self.assertEqual([body(one) for one in self.link.take()], ["a=1;b=2", "a=1;b=2", "open", '{"x":1}'])

    def test_get(self) -> None:
        """`get` gives the device's answer."""
        self.make(POINTS)
        answer = self.connector.own_command("get", "device=Pump;value=temp?;timeout=1000;")
        self.say("21.5")
        self.assertEqual(self.successResultOf(answer), {"result": 21.5})
        late = self.connector.command("Pump", "get", "value=x;timeout=1000")
        self.clock.advance(1.01)
        self.assertIn("time-out", self.failure_of(late))

    def test_bad_parameters(self) -> None:
        """What cannot be understood is refused in words, and unknown devices are left to the next connector."""
        self.make(POINTS)
        for params in (None, "open", "value=;", {"value": ""}, {"values": 1}, {"value": 1, "timeoutMs": "soon"}, 5):
            self.assertIn("bad parameters", self.failure_of(self.connector.command("Pump", "set", params)), params)
        self.assertIn("device", self.failure_of(self.connector.own_command("set", "value=1;")))
        self.failureResultOf(self.connector.own_command("set", "device=X;value=1;"), UnknownDevice)
        self.assertIn("unknown method", self.failure_of(self.connector.own_command("fly", {"device": "Pump"})))

    def test_own_name_first(self) -> None:
        """A method of the configuration that has a reserved name comes first."""
        self.make({**POINTS, "serverSideRpc": [{"methodRPC": "set", "withResponse": False, "valueExpression": "mine"}]})
        self.successResultOf(self.connector.command("Pump", "set", "value=x;"))
        self.assertEqual([body(one) for one in self.link.take()], ["mine"])

    def test_control(self) -> None:
        """Parameters by iq with their types, by message, by form; nodes; the refusals of both generations."""
        self.make(POINTS)
        self.come()
        values = {"a": True, "b": 5, "c": 1.5, "d": "x", "e": {"type": "duration", "value": "PT5S"}, "f": 2**40}
        answer = self.connector.command("Pump", "xmpp_control", values)
        iq, payload, _ = self.link.request_of("set", CONTROL)
        self.assertEqual((iq["to"], iq["type"]), (JID, "set"))
        self.assertEqual(
            [one.name for one in payload.elements()], ["boolean", "int", "double", "string", "duration", "long"]
        )
        self.link.answer("set", CONTROL, f"<setResponse xmlns='{CONTROL}' responseCode='OK'/>")
        self.assertEqual(self.successResultOf(answer), {"success": True})

        message_way = self.connector.command(
            "Pump", "xmpp_control", {"parameters": {"a": 1}, "nodes": ["n1"], "by": "message"}
        )
        self.assertEqual(self.successResultOf(message_way), {"success": True})
        (sent,) = self.link.take()
        (payload,) = [one for one in sent.elements() if one.uri == CONTROL]
        self.assertEqual(
            next((one.name, dict(one.attributes)) for one in payload.elements()), ("node", {"nodeId": "n1"})
        )

        form = self.connector.command(
            "Pump", "xmpp_control", {"parameters": {"a": True, "l": ["x", "y"]}, "by": "form"}
        )
        payload = self.link.answer("set", CONTROL, f"<setResponse xmlns='{CONTROL}'/>")
        (x,) = payload.elements()
        self.assertEqual((x.uri, x["type"], len(list(x.elements()))), ("jabber:x:data", "submit", 2))
        self.successResultOf(form)

        new = self.connector.command("Pump", "xmpp_control", {"a": 1})
        error = (
            "<error type='modify'><bad-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            f"<paramError xmlns='{CONTROL}' var='a'>Out of range.</paramError></error>"
        )
        self.link.answer("set", CONTROL, error, "error")
        self.assertEqual(self.failure_of(new), "refused by the device: bad-request: a: Out of range.")
        for kind in ("error", "result"):
            old = self.connector.command("Pump", "xmpp_control", {"a": 1})
            self.link.answer("set", CONTROL, f"<setResponse xmlns='{CONTROL}' responseCode='NotFound'/>", kind)
            self.assertEqual(self.failure_of(old), "refused by the device: item-not-found: NotFound")
        self.assertEqual(self.attributes("xmppReplyCode")[-1], 404)
        late = self.connector.command("Pump", "xmpp_control", {"a": 1})
        self.clock.advance(6)
        self.assertIn("time-out: no answer within 5000 ms", self.failure_of(late))
        odd: Any
        for odd in (
            None,
            {},
            [],
            {"a": None},
            {"a": {"type": "int", "value": "x"}},
            {"parameters": 5},
            {"a": {"type": "odd", "value": 1}},
        ):
            self.assertIn("bad parameters", self.failure_of(self.connector.command("Pump", "xmpp_control", odd)), odd)

    def test_form(self) -> None:
        """The device's form, in the new and in the old envelope."""
        self.make(POINTS)
        self.come()
        form = (
            "<x xmlns='jabber:x:data' type='form'><title>Lamp</title>"
            "<field var='on' type='boolean' label='Power'><value>1</value></field>"
            "<field var='mode' type='list-single'><value>eco</value><option><value>eco</value></option></field>"
            "<field var='rooms' type='list-multi'><value>a</value><value>b</value></field></x>"
        )
        expected = {
            "title": "Lamp",
            "instructions": None,
            "fields": [
                {"var": "on", "type": "boolean", "label": "Power", "value": True},
                {"var": "mode", "type": "list-single", "label": None, "value": "eco", "options": ["eco"]},
                {"var": "rooms", "type": "list-multi", "label": None, "value": ["a", "b"]},
            ],
        }
        for reply in (form, f"<getFormResponse xmlns='{CONTROL}' responseCode='OK'>{form}</getFormResponse>"):
            answer = self.connector.own_command("form", {"device": "Pump"})
            self.link.answer("getForm", CONTROL, reply)
            self.assertEqual(self.successResultOf(answer), expected)
        answer = self.connector.command("Pump", "xmpp_form", None)
        self.link.answer("getForm", CONTROL, "")
        self.assertIn("no form", self.failure_of(answer))

    def test_iq_needs_a_resource(self) -> None:
        """An iq to a bare JID would be answered by the server, so it is refused until a resource is known."""
        self.make(POINTS)
        self.assertIn("no resource", self.failure_of(self.connector.command("Pump", "xmpp_control", {"a": 1})))
        self.assertEqual([iq for iq, _ in self.link.requests if iq.hasAttribute("to")], [])

    def test_switched_off(self) -> None:
        """Without its plugin a stanza kind is not there."""
        self.make(POINTS, plugins=["xep_0030"])
        self.come()
        self.assertIn("xep_0325", self.failure_of(self.connector.command("Pump", "xmpp_control", {"a": 1})))
        self.assertIn("xep_0325", self.failure_of(self.connector.command("Pump", "xmpp_form", None)))
        self.assertIn("xep_0323", self.failure_of(self.connector.command("Pump", "xmpp_read", None)))

    def test_features_and_status(self) -> None:
        """What the device announces, and its presence, resource by resource."""
        self.make(POINTS)
        self.come(inner="<show>away</show><priority>5</priority>")
        answer = self.connector.command("Pump", "xmpp_features", None)
        disco = "http://jabber.org/protocol/disco#info"
        self.link.answer("query", disco, f"<query xmlns='{disco}'><feature var='{SENSOR}'/><feature var='a'/></query>")
        self.assertEqual(self.successResultOf(answer), {"jid": JID, "features": ["a", SENSOR]})
        status = self.successResultOf(self.connector.own_command("status", {"device": "Pump"}))
        self.assertEqual(status["resources"], {JID: {"show": "away", "status": "", "priority": 5}})


class RequestTests(ConnectorCase):
    """ "Execute XMPP Request"."""

    def execute(self, params: Any, method: str = "xmpp_request") -> Deferred[Any]:
        return self.connector.command("Pump", method, params)

    def test_message(self) -> None:
        """A message and its reply, with code and time; data as name=value pairs."""
        self.make(POINTS)
        answer = self.execute({"data": {"name1": 1, "name2": 2.5, "name3": True}}, "Execute XMPP Request")
        (sent,) = self.link.take()
        self.assertEqual(body(sent), "name1=1;name2=2.5;name3=true")
        self.clock.advance(0.25)
        self.say("done", inner=f"<thread>{thread(sent)}</thread>")
        expected = {"successful": True, "responseTimeMs": 250, "replyCode": 200, "reply": "done", "error": None}
        self.assertEqual(self.successResultOf(answer), expected)
        told = {"xmppSuccessful": True, "xmppResponseTimeMs": 250, "xmppReplyCode": 200, "xmppReply": "done"}
        self.assertEqual(self.readings[-1].attributes, {**told, "xmppError": ""})

    def test_last_reply(self) -> None:
        """The last reply is shown as the device wrote it, also where it was JSON; cut to a thousand characters."""
        self.make(POINTS)
        long = "[" + "1," * 999 + "1]"
        for said, shown in (('{"state":"open"}', '{"state":"open"}'), (long, long[:1000])):
            self.execute("state?")
            self.say(said)
            self.assertEqual(self.attributes("xmppReply")[-1], shown)

    def test_failures_are_answers(self) -> None:
        """A request that fails is answered with its error and code, and so are the device's attributes."""
        self.make(POINTS)
        late = self.execute({"body": "x", "timeoutMs": 1000})
        self.clock.advance(1.5)
        found = self.successResultOf(late)
        self.assertEqual((found["successful"], found["replyCode"]), (False, 408))
        self.link.down()
        self.assertEqual(self.successResultOf(self.execute("x"))["replyCode"], 503)
        self.assertEqual(self.attributes("xmppReplyCode"), [408, 503])

    def test_iq(self) -> None:
        """An iq with any payload; its reply as an object."""
        self.make(POINTS)
        self.come()
        answer = self.execute({"iq": "get", "xml": "<query xmlns='jabber:iq:version'/>"})
        reply = "<query xmlns='jabber:iq:version'><name>Pump</name><os kind='rt'/></query>"
        self.link.answer("query", "jabber:iq:version", reply)
        reply_object = self.successResultOf(answer)["reply"]
        self.assertEqual(reply_object["namespace"], "jabber:iq:version")
        self.assertEqual([one["name"] for one in reply_object["children"]], ["name", "os"])
        self.assertEqual(reply_object["children"][0]["text"], "Pump")
        self.assertEqual(reply_object["children"][1]["attributes"], {"kind": "rt"})
        answer = self.execute({"iq": "set", "xml": "<x xmlns='y'/>"})
        self.link.answer(
            "x", "y", "<error type='cancel'><not-allowed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>", "error"
        )
        self.assertEqual(self.successResultOf(answer)["replyCode"], 405)

    def test_bad_parameters(self) -> None:
        """A payload that is no single, plain element, and every other nonsense, is refused in words."""
        self.make(POINTS)
        self.come()
        self.link.take()
        for xml in (
            "",
            "<a/><b/>",
            "<a",
            "text",
            "<!DOCTYPE a><a/>",
            "<?x?><a/>",
            "<a>&lol;</a>",
            "<a>" * 60 + "</a>" * 60,
            5,
            "</payload><payload>",
        ):
            failed = self.failure_of(self.execute({"iq": "get", "xml": xml}))
            self.assertIn("bad parameters", failed, xml)
        params: Any
        for params in (
            None,
            {},
            [],
            {"body": ""},
            {"iq": "fly", "xml": "<a/>"},
            {"data": {"a;": 1}},
            {"body": "x", "timeoutMs": 0},
        ):
            self.assertIn("bad parameters", self.failure_of(self.execute(params)), params)
        self.assertEqual(self.link.take(), [])

    def test_one_way(self) -> None:
        """Nothing is waited for when no response is wanted."""
        self.make(POINTS)
        self.assertTrue(self.successResultOf(self.execute({"body": "x", "withResponse": False}))["successful"])


class OddAnswers(ConnectorCase):
    """What a device may do to the commands that wait."""

    def test_rubbish_between(self) -> None:
        """No stanza makes an exception, whatever is in it."""
        self.make(rpc())
        self.connector.command("Pump", "do", "1").addErrback(lambda _: None)
        for xml in (
            "<message/>",
            "<message from='pump@example.org/a' type='error'/>",
            "<message from='pump@example.org/a'><body/></message>",
            "<message from='pump@example.org/a'><body><b/></body><thread/></message>",
            "<message from='pump@example.org/a'><fields xmlns='urn:xmpp:iot:sensordata'/></message>",
            "<presence/>",
            "<presence from='pump@example.org/a'><priority>x</priority><show>odd</show></presence>",
            "<presence from='pump@example.org/a' type='odd'/>",
            "<presence from='@@' type='subscribe'/>",
            "<iq type='get' id='1'/>",
            "<iq from='@@/' type='set' id='1'><query xmlns='jabber:iq:roster'/></iq>",
        ):
            self.connector.stanza_received(element(xml))
        self.connector.stopService()
