# -*- test-case-name: tests.connectors.xmpp.test_commands -*-
"""The way from ThingsBoard to XMPP devices: attribute updates, configured RPC, and the reserved commands.

    set           value=...;                    a message, as it is (X-13); answered {"result": "ok"}
    get           value=...;timeout=5000;       a message, and the device's answer: {"result": ...}
    xmpp_request  see `requests`                a message or an iq, with reply, code and time ("Execute XMPP Request")
    xmpp_read     {"fieldTypes": [...], ...}    a read-out (XEP-0323)
    xmpp_control  {"name": value, ...}          control (XEP-0325) by iq, message or form
    xmpp_form     {"nodes": [...]}              the device's control form
    xmpp_features                               what it announces by disco#info
    xmpp_status                                 its presence, resource by resource

At the gateway itself the same with the device in the parameters: `xmpp_set` with `device=Pump 4;value=open;`,
`xmpp_read` with `{"device": "Pump 4", ...}`. A method of that name in the device's configuration comes first.

Every command fails or fires within its time; a device that presence shows to be gone is not written to at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed

from tbgw.connectors.xmpp import iot_control as control
from tbgw.connectors.xmpp.converter import compile_value, read_body, read_json, read_time
from tbgw.connectors.xmpp.device_config import FIELD_TYPES, MAX_RESPONSE_MS, ReadOutPlan, XMPPRpc, XMPPUpdate
from tbgw.connectors.xmpp.device_events import DeliveryFailed
from tbgw.connectors.xmpp.field_values import compile_cached
from tbgw.connectors.xmpp.iot_control import BadParameter
from tbgw.connectors.xmpp.iot_sensor_data import ReadRequest
from tbgw.connectors.xmpp.outcomes import BAD_REQUEST, Refusal
from tbgw.connectors.xmpp.outgoing import Outgoing
from tbgw.connectors.xmpp.presence import Recipient
from tbgw.connectors.xmpp.readouts import ReadOut
from tbgw.connectors.xmpp.requests import Requests
from tbgw.connectors.xmpp.routes import Intake, Routes
from tbgw.errors import CommandFailed, UnknownDevice
from tbgw.expressions import MISSING, text_of
from tbgw.internal_events import Events
from tbgw.model import Value

DEFAULT_TIMEOUT_SECONDS = 5.0
MAX_LIST = 1000
"""Nodes or fields that one command may name."""

_KEY = re.compile(r"(?:^|;)\s*(device|value|timeout)\s*=")

Read = Callable[[Recipient, ReadRequest, float], Deferred[ReadOut]]
"""Begin a read-out of a device; what comes is handed in as readings."""


class Commands:
    """See the module. One for each connector."""

    def __init__(
        self,
        connector: str,
        routes: Routes,
        outgoing: Outgoing,
        read: Read | None,
        has_control: bool,
        events: Events,
    ) -> None:
        """`read` None, `has_control` false: the plugin is not switched on."""
        self._connector = connector
        self._routes = routes
        self._outgoing = outgoing
        self._read_out = read
        self._has_control = has_control
        self._events = events
        self._requests = Requests(outgoing)
        self._reserved: dict[str, Callable[[Recipient, Value], Deferred[Value]]] = {
            "set": self._set,
            "get": self._get,
            "request": self._requests.execute,
            "read": self._read,
            "control": self._control,
            "form": self._form,
            "features": self._features,
            "status": self._status,
        }

    # What ThingsBoard says.

    def attributes_changed(self, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """See `IConnector`. All attributes that the entry names are sent (X-06); a deletion is nothing to send."""
        recipient = self._routes.recipients.get(device)
        if recipient is None:
            return
        for update in recipient.entry.config.attribute_updates:
            if update.attribute in values:
                try:
                    self._update(recipient, update, values[update.attribute])
                except CommandFailed as error:
                    self._not_delivered(recipient, str(error))

    def _update(self, recipient: Recipient, update: XMPPUpdate, value: Value) -> None:
        names = {"attributeKey": update.attribute, "attributeValue": value, "deviceName": recipient.device.name}
        made = _made(update.value, names)
        if update.send == "message":
            body = _body(made)
            if body:
                self._outgoing.message(recipient, body, update.message_type, is_command=False)
            return
        payload = self._control_payload([(update.parameter or update.attribute, made, update.parameter_type)])
        work = self._outgoing.observed(recipient, self._outgoing.control(recipient, payload, DEFAULT_TIMEOUT_SECONDS))
        work.addErrback(lambda failure: self._not_delivered(recipient, failure.getErrorMessage()))

    def command(self, device: str, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector.command`."""
        recipient = self._routes.recipients.get(device)
        if recipient is None:
            return fail(UnknownDevice("the device is not known here"))
        for rpc in recipient.entry.config.rpcs:
            if rpc.method == method:
                return self._observed(recipient, self._configured, recipient, rpc, params)
        reserved = self._reserved.get(_reserved_name(method))
        if reserved is None:
            return fail(CommandFailed(f"unknown method: {method[:100]}"))
        if reserved in (self._requests.execute, self._status):
            return maybeDeferred(reserved, recipient, params)  # the first has told its outcome, the second has none
        return self._observed(recipient, reserved, recipient, params)

    def own_command(self, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector.own_command`."""
        if isinstance(params, str):
            try:
                params = _split(params)
            except CommandFailed as error:
                return fail(error)
        device = params.get("device") if isinstance(params, dict) else None
        if not isinstance(device, str) or not device:
            return fail(CommandFailed('bad parameters: there is no "device" in them'))
        if device not in self._routes.recipients:
            return fail(UnknownDevice("the device is not known here"))
        rest = {key: value for key, value in params.items() if key != "device"}
        if method in self._reserved:
            return self.command(device, method if method in ("set", "get") else f"xmpp_{method}", rest)
        return self.command(device, method, rest.get("params"))

    def _observed(
        self, recipient: Recipient, work: Callable[..., Deferred[Value]], *arguments: Any
    ) -> Deferred[Value]:
        return self._outgoing.observed(recipient, maybeDeferred(work, *arguments))

    # Configured methods.

    def _configured(self, recipient: Recipient, rpc: XMPPRpc, params: Value) -> Deferred[Value]:
        seconds = rpc.timeout_ms / 1000
        if rpc.send == "readout":
            return self._read(recipient, {"timeoutMs": rpc.timeout_ms, **(params if isinstance(params, dict) else {})})
        names = {"params": params, "methodName": rpc.method, "deviceName": recipient.device.name}
        made = _made(rpc.value, names)
        if rpc.send == "control":
            values = [(rpc.parameter or rpc.method, made, rpc.parameter_type)]
            if rpc.with_response:
                return self._outgoing.control(recipient, self._control_payload(values), seconds)
            self._outgoing.control_message(recipient, self._parameters(values), ())
            return succeed({"success": True})
        body = _body(made)
        if not body:
            raise Refusal("bad parameters: there is nothing to send", BAD_REQUEST)
        if not rpc.with_response:
            self._outgoing.message(recipient, body, rpc.message_type, is_command=True)
            return succeed({"success": True})
        answer = self._outgoing.ask(
            recipient,
            body,
            rpc.message_type,
            by_place=rpc.correlate == "any",
            is_data=rpc.response_is_data,
            timeout_seconds=seconds,
        )
        return answer.addCallback(self._value_of, recipient.entry, rpc)

    def _value_of(self, body: str, intake: Intake, rpc: XMPPRpc) -> Value:
        if rpc.response is None:
            return read_json(body)
        value = compile_value(rpc.response)(read_body(body, intake.config.body_format))
        if value is MISSING:
            raise CommandFailed("the device's answer has no such value")
        return value

    # Reserved ones.

    def _set(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        body, _ = _value_and_timeout(params)
        self._outgoing.message(recipient, body, "chat", is_command=True)
        return succeed({"result": "ok"})

    def _get(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        body, seconds = _value_and_timeout(params)
        answer = self._outgoing.ask(
            recipient, body, "chat", by_place=True, is_data=None, timeout_seconds=seconds
        )
        return answer.addCallback(lambda text: {"result": read_json(text)})

    def _read(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        if self._read_out is None:
            raise Refusal("refused: xep_0323 is not among the connector's plugins", BAD_REQUEST)
        plan = recipient.entry.config.readout or ReadOutPlan()
        request, seconds = read_request(params, plan)
        began = self._read_out(recipient, request, seconds)
        return began.addCallback(lambda read_out: read_out.answer(self._outgoing.now()))

    def _control(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        self._check_control()
        if not isinstance(params, (dict, list)):
            raise Refusal('bad parameters: name the parameters, as {"name": value}', BAD_REQUEST)
        options = params if isinstance(params, dict) and "parameters" in params else {"parameters": params}
        nodes, seconds = _names(options, "nodes"), _timeout(options)
        way = options.get("by", "iq")
        if way == "form":
            values = options["parameters"]
            if not isinstance(values, dict):
                raise Refusal('bad parameters: a form is filled in by {"name": value}', BAD_REQUEST)
            return self._outgoing.control(recipient, control.form_element(values, nodes), seconds)
        try:
            parameters = control.parameters(options["parameters"])
        except BadParameter as error:
            raise Refusal(f"bad parameters: {error}", BAD_REQUEST) from None
        if way == "message":
            self._outgoing.control_message(recipient, parameters, nodes)
            return succeed({"success": True})
        return self._outgoing.control(recipient, control.set_element(parameters, nodes), seconds)

    def _form(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        self._check_control()
        options = params if isinstance(params, dict) else {}
        return self._outgoing.form(recipient, _names(options, "nodes"), _timeout(options))

    def _features(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        jid = self._outgoing.resource_of(recipient)
        found = self._outgoing.features(jid, _timeout(params if isinstance(params, dict) else {}))
        return found.addCallback(lambda features: {"jid": jid, "features": list(features)})

    def _status(self, recipient: Recipient, params: Value) -> Deferred[Value]:
        station = recipient.station
        return succeed(
            {
                "jid": station.address.full,
                "online": station.online,
                "resources": {
                    jid: {"show": one.show, "status": one.text, "priority": one.priority}
                    for jid, one in station.resources.items()
                },
            }
        )

    # Inside.

    def _check_control(self) -> None:
        if not self._has_control:
            raise Refusal("refused: xep_0325 is not among the connector's plugins", BAD_REQUEST)

    def _control_payload(self, values: Sequence[tuple[str, Value, str]]) -> Any:
        return control.set_element(self._parameters(values))

    def _parameters(self, values: Sequence[tuple[str, Value, str]]) -> list[control.Parameter]:
        self._check_control()
        try:
            return [control.parameter(*value) for value in values]
        except BadParameter as error:
            raise Refusal(f"bad parameters: {error}", BAD_REQUEST) from None

    def _not_delivered(self, recipient: Recipient, why: str) -> None:
        self._events.emit(DeliveryFailed(self._connector, recipient.device.name, why))


def _reserved_name(method: str) -> str:
    """`set` and `get` are every connector's words; all others bear our prefix, lest they be a method of the device."""
    if method == "Execute XMPP Request":
        return "request"
    if method.startswith("xmpp_"):
        return method.removeprefix("xmpp_")
    return method if method in ("set", "get") else ""


def read_request(params: Value, plan: ReadOutPlan) -> tuple[ReadRequest, float]:
    """What to read, and within how many seconds: what the parameters do not say, the plan does. Raises Refusal."""
    options = params if isinstance(params, dict) else {}
    types = _names(options, "fieldTypes") or plan.field_types
    for word in types:
        if word not in FIELD_TYPES:
            raise Refusal(f"bad parameters: {word[:50]!r} is no type of field", BAD_REQUEST)
    times: list[int | None] = []
    for key in ("from", "to", "when"):
        moment = None if options.get(key) is None else read_time(options[key])
        if options.get(key) is not None and moment is None:
            raise Refusal(f"bad parameters: {key} is no time", BAD_REQUEST)
        times.append(moment)
    request = ReadRequest(
        types, _names(options, "nodes") or plan.nodes, _names(options, "fields") or plan.fields, *times
    )
    return request, _timeout(options, plan.timeout_ms / 1000)


def _names(options: Mapping[str, Value], key: str) -> tuple[str, ...]:
    found = options.get(key)
    if found is None:
        return ()
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or len(listed) > MAX_LIST or not all(isinstance(one, str) for one in listed):
        raise Refusal(f"bad parameters: {key} is a list of names", BAD_REQUEST)
    return tuple(listed)


def _timeout(options: Mapping[str, Value], default: float = DEFAULT_TIMEOUT_SECONDS) -> float:
    """In seconds. `timeoutMs`, or `timeout` as in the written form."""
    found = options.get("timeoutMs", options.get("timeout"))
    if found is None or found == "":
        return default
    try:
        milliseconds = float(found) if not isinstance(found, (bool, list, dict)) else 0.0
    except ValueError:
        milliseconds = 0.0
    if not 1 <= milliseconds <= MAX_RESPONSE_MS:
        raise Refusal(f"bad parameters: timeoutMs is a number from 1 to {MAX_RESPONSE_MS}", BAD_REQUEST)
    return milliseconds / 1000


def _value_and_timeout(params: Value) -> tuple[str, float]:
    """Of `value=...;timeout=...;` or `{"value": ..., "timeoutMs": ...}`. Raises CommandFailed."""
    found = _split(params) if isinstance(params, str) else params
    if not isinstance(found, dict) or found.get("value") is None:
        raise Refusal("bad parameters: write value=<text>; or give an object with a value", BAD_REQUEST)
    body = text_of(found["value"])
    if not body:
        raise Refusal("bad parameters: value is empty", BAD_REQUEST)
    return body, _timeout(found)


def _split(line: str) -> dict[str, Value]:
    """`device=...;value=...;timeout=...;`, in any order; a value may hold `=`, and `;` unless a key comes behind it."""
    marks = list(_KEY.finditer(line))
    if not marks or line[: marks[0].start()].strip():
        raise Refusal("bad parameters: write value=<text>;timeout=<milliseconds>;", BAD_REQUEST)
    found: dict[str, Value] = {}
    for mark, end in zip(marks, [*(one.start() for one in marks[1:]), len(line)], strict=True):
        text = line[mark.end() : end]
        text = text.removesuffix(";") if end == len(line) else text
        found[mark[1]] = text if mark[1] == "value" else text.strip()
    return found


def _made(template: str, names: Mapping[str, Value]) -> Value:
    value = compile_cached(template)(names)
    if value is MISSING:
        raise Refusal("bad parameters: something that valueExpression names is not there", BAD_REQUEST)
    return value


def _body(value: Value) -> str:
    """A text as it is (X-12), everything else as JSON."""
    return "" if value is None else text_of(value)
