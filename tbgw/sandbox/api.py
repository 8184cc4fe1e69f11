"""What each topic of ThingsBoard's device and gateway API does with a PUBLISH (spec thingsboard-mqtt, 2 and 3). Pure.

Stored and shown are telemetry and client attributes, of the connected device and of a gateway's children. Attribute
requests are answered. Claims and RPC replies are checked and acknowledged, and have no further effect; of client-side
RPC only `getSessionLimits` is answered, the transport's own call, where the real server would leave the rest to its
rule engine. Protobuf payloads count as payloads that cannot be converted, OTA and provisioning topics as unknown ones.

An empty array (`[]`, `{"A":[]}`) is acknowledged, although the real server never does so and leaves the client waiting;
`Switches.never_acknowledge_empty` brings that back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tbgw.sandbox import values
from tbgw.sandbox.outcomes import Verdict
from tbgw.sandbox.platform import Device, NotCreated, Platform, Session, TooManyDevices
from tbgw.sandbox.switches import Switches
from tbgw.sandbox.values import BadPayload, ConversionFault
from tbgw.thingsboard import payloads, topics


class Outcome(NamedTuple):
    """What became of one PUBLISH."""

    verdict: Verdict
    reply: tuple[str, bytes, int] | None = None
    """(topic, payload, QoS) to send after the PUBACK."""
    parts: int = 1
    """How many devices a gateway message spoke of."""


ACCEPTED = Outcome(Verdict.ACCEPTED)

_TELEMETRY_TOPICS = frozenset([topics.DEVICE_TELEMETRY, topics.DEVICE_TELEMETRY_SHORT, "v2/t/j"])
_ATTRIBUTES_TOPICS = frozenset([topics.DEVICE_ATTRIBUTES, topics.DEVICE_ATTRIBUTES_SHORT, "v2/a/j"])
_PROTOBUF_TOPICS = frozenset(["v2/t/p", "v2/a/p"])
_GATEWAY = "v1/gateway"

_ATTRIBUTES_REQUESTS = (  # (request, response, filter), the longer stems first
    (topics.DEVICE_ATTRIBUTES_REQUEST, topics.DEVICE_ATTRIBUTES_RESPONSE),
    ("v2/a/req/j/", "v2/a/res/j/"),
    ("v2/a/req/", "v2/a/res/"),
)
_RPC_REQUESTS = (topics.DEVICE_RPC_REQUEST, "v2/r/req/j/", "v2/r/req/")
_RPC_RESPONSES = (topics.DEVICE_RPC_RESPONSE, "v2/r/res/j/", "v2/r/res/")
_CLAIM = "v1/devices/me/claim"

_INT = re.compile(r"[+-]?\d{1,10}", re.ASCII)


def publish(
    platform: Platform, session: Session, topic: str, payload: bytes, now_ms: int, switches: Switches
) -> Outcome:
    """Take over one PUBLISH. Never raises for what is in it."""
    gateway = topic.startswith(_GATEWAY)
    if gateway and not session.gateway:
        return Outcome(Verdict.SILENT)
    try:
        if gateway:
            return _gateway_publish(platform, session, topic, payload, now_ms, switches)
        return _device_publish(platform, session, topic, payload, now_ms, switches)
    except BadPayload:
        return Outcome(Verdict.BAD_PAYLOAD)
    except ConversionFault:
        return Outcome(Verdict.GATEWAY_FAULT if gateway else Verdict.FAULT)


# Device topics (2.1 to 2.7)


def _device_publish(
    platform: Platform, session: Session, topic: str, payload: bytes, now_ms: int, switches: Switches
) -> Outcome:
    device = session.device
    if topic in _TELEMETRY_TOPICS:
        root = values.parse(payload)
        platform.record_telemetry(device, values.telemetry(root, now_ms), now_ms)
        empty = isinstance(root, list) and not root
        return Outcome(Verdict.SILENT) if empty and switches.never_acknowledge_empty else ACCEPTED
    if topic in _ATTRIBUTES_TOPICS:
        platform.record_attributes(device, values.attributes(values.parse(payload)), now_ms)
        return ACCEPTED
    if topic in _PROTOBUF_TOPICS:
        raise BadPayload("protobuf is not spoken here")
    for request, response in _ATTRIBUTES_REQUESTS:
        if topic.startswith(request):
            platform.active(device, now_ms)
            return _answer_attributes(session, topic.removeprefix(request), response, payload)
    for request in _RPC_REQUESTS:
        if topic.startswith(request):
            platform.active(device, now_ms)
            return _client_rpc(platform, session, topic, topic.removeprefix(request), payload, switches)
    for response in _RPC_RESPONSES:
        if topic.startswith(response):
            _java_int(topic.removeprefix(response), BadPayload)
            platform.active(device, now_ms)
            return ACCEPTED
    if topic == _CLAIM:
        _check_claim(values.parse(payload) if payload.strip() else {})
        platform.active(device, now_ms)
        return ACCEPTED
    return Outcome(Verdict.UNKNOWN_TOPIC)


def _answer_attributes(session: Session, request_id: str, response: str, payload: bytes) -> Outcome:
    """2.5: comma strings, no trimming; neither of the two asks for everything."""
    number = _java_int(request_id, BadPayload)
    root = values.parse(payload)
    if not isinstance(root, dict):
        raise BadPayload("an attribute request is an object")
    if number < 0:
        return ACCEPTED
    device = session.device
    client_keys, shared_keys = root.get("clientKeys"), root.get("sharedKeys")
    everything = client_keys is None and shared_keys is None
    answer = {}
    for scope, asked, held in (
        ("client", client_keys, {key: value for key, (_, value) in device.attributes.items()}),
        ("shared", shared_keys, device.shared),
    ):
        names = list(held) if everything else values.text_of(asked).split(",") if asked is not None else []
        found = {name: values.plain(held[name]) for name in names if name in held}
        if found:
            answer[scope] = found
    qos = session.subscriptions.get(response + "+", 1)
    return Outcome(Verdict.ACCEPTED, (f"{response}{number}", payloads.encode(answer), qos))


def _client_rpc(
    platform: Platform, session: Session, topic: str, request_id: str, payload: bytes, switches: Switches
) -> Outcome:
    """4.3 and 6.3. A call that nobody answers is acknowledged all the same."""
    root = values.parse(payload)
    if not isinstance(root, dict):
        raise BadPayload("an RPC request is an object")
    number = _java_int(request_id, ConversionFault)
    if "method" not in root:
        raise ConversionFault("an RPC request has a method")
    method = values.text_of(root["method"])
    if (
        method != "getSessionLimits"
        or not topic.startswith(topics.DEVICE_RPC_REQUEST)
        or not switches.answer_session_limits
    ):
        return ACCEPTED
    limits = dict(platform.limits.session_limits)
    if not session.gateway:
        limits.pop("gatewayRateLimits", None)
    qos = session.subscriptions.get(topics.DEVICE_RPC_RESPONSE + "+", 1)
    return Outcome(Verdict.ACCEPTED, (f"{topics.DEVICE_RPC_RESPONSE}{number}", payloads.encode(limits), qos))


def _check_claim(root: Any) -> None:
    if not isinstance(root, dict):
        raise BadPayload("a claim is an object")
    if "secretKey" in root:
        values.text_of(root["secretKey"])
    if "durationMs" in root:
        values.timestamp_ms(root["durationMs"])


def _java_int(text: str, error: type[Exception]) -> int:
    """A number as `Integer.parseInt` takes it. Raises `error`."""
    if not _INT.fullmatch(text) or not -(2**31) <= int(text) < 2**31:
        raise error("not an int")
    return int(text)


# Gateway topics (3)


def _gateway_publish(
    platform: Platform, session: Session, topic: str, payload: bytes, now_ms: int, switches: Switches
) -> Outcome:
    if topic == topics.TELEMETRY:

        def keep_telemetry(device: Device, elements: Any) -> None:
            platform.record_telemetry(device, values.child_telemetry(elements, now_ms), now_ms)

        return _each_child(platform, session, payload, now_ms, switches, list, keep_telemetry)
    if topic == topics.ATTRIBUTES:

        def keep_attributes(device: Device, members: Any) -> None:
            platform.record_attributes(device, values.stored_values(members), now_ms)

        return _each_child(platform, session, payload, now_ms, switches, dict, keep_attributes)
    if topic == topics.CLAIM:

        def keep_claim(device: Device, members: Any) -> None:
            _check_claim(members)
            platform.active(device, now_ms)

        return _each_child(platform, session, payload, now_ms, switches, dict, keep_claim)
    if topic == topics.CONNECT:
        root = _gateway_object(payload)
        profile = root.get("type")
        profile = "default" if profile is None else values.text_of(profile)
        return _with_child(platform, session, _device_name(root), now_ms, profile)[1]
    if topic == topics.DISCONNECT:
        platform.child_gone(session, _device_name(_gateway_object(payload)))
        return ACCEPTED
    if topic == topics.ATTRIBUTES_REQUEST:
        return _answer_child_attributes(platform, session, _gateway_object(payload), now_ms)
    if topic == topics.RPC:
        root = _gateway_object(payload)
        values.timestamp_ms(root.get("id"))
        if "data" not in root:
            raise ConversionFault("an RPC reply has data")
        device, outcome = _with_child(platform, session, _device_name(root), now_ms)
        if device is not None:
            platform.active(device, now_ms)
        return outcome
    return Outcome(Verdict.UNKNOWN_TOPIC)


def _each_child(
    platform: Platform,
    session: Session,
    payload: bytes,
    now_ms: int,
    switches: Switches,
    wanted: type[list[Any]] | type[dict[str, Any]],
    keep: Callable[[Device, Any], None],
) -> Outcome:
    """
    A message about many devices (3.4, 3.5, 3.9): each one's part is kept as a whole or not at all, apart from the
    others; the first failure decides the outcome.
    """
    verdict: Verdict | None = None
    parts = 0
    empty = False
    for name, part in _gateway_object(payload).items():
        if not name:
            raise ConversionFault("a device has a name")
        if not isinstance(part, wanted):
            continue
        parts += 1
        device, outcome = _with_child(platform, session, name, now_ms)
        if device is None:
            verdict = verdict or outcome.verdict
            continue
        empty = empty or (wanted is list and not part)
        try:
            keep(device, part)
        except (BadPayload, ConversionFault):
            verdict = verdict or Verdict.GATEWAY_BAD_ELEMENT
    if not parts:
        return Outcome(Verdict.GATEWAY_FAULT)
    if verdict is None:
        verdict = Verdict.SILENT if empty and switches.never_acknowledge_empty else Verdict.ACCEPTED
    return Outcome(verdict, parts=parts)


def _with_child(
    platform: Platform, session: Session, name: str, now_ms: int, profile: str = "default"
) -> tuple[Device | None, Outcome]:
    try:
        return platform.child(session, name, now_ms, profile), ACCEPTED
    except TooManyDevices:
        return None, Outcome(Verdict.QUOTA)
    except NotCreated:
        return None, Outcome(Verdict.NOT_CREATED)


def _answer_child_attributes(platform: Platform, session: Session, root: dict[str, Any], now_ms: int) -> Outcome:
    """3.6: one name answers with `value`, more with `values`, none found with neither; no names ask for all."""
    request_id = values.timestamp_ms(root.get("id"))
    name = _device_name(root)
    client = root.get("client")
    if not isinstance(client, bool):
        raise ConversionFault("`client` is a boolean")
    if "keys" in root:
        keys = root["keys"]
        if not isinstance(keys, list):
            raise ConversionFault("`keys` is an array")
        asked = {values.text_of(key) for key in keys}
    else:
        asked = {values.text_of(root.get("key"))}
    device, outcome = _with_child(platform, session, name, now_ms)
    if device is None:
        return Outcome(Verdict.GATEWAY_FAULT if outcome.verdict is Verdict.QUOTA else outcome.verdict)
    platform.active(device, now_ms)
    client_values = {key: value for key, (_, value) in device.attributes.items()}
    held = client_values if client else device.shared
    if not asked:
        held = {**client_values, **device.shared}
        asked = set(held)
    found = {key: values.plain(held[key]) for key in sorted(asked) if key in held}
    answer: dict[str, Any] = {"id": request_id, "device": name}
    if found and len(asked) == 1:
        answer["value"] = next(iter(found.values()))
    elif found:
        answer["values"] = found
    qos = session.subscriptions.get(topics.ATTRIBUTES_RESPONSE, 1)
    return Outcome(Verdict.ACCEPTED, (topics.ATTRIBUTES_RESPONSE, payloads.encode(answer), qos))


def _gateway_object(payload: bytes) -> dict[str, Any]:
    root = values.parse(payload)
    if not isinstance(root, dict):
        raise ConversionFault("a gateway message is an object")
    return root


def _device_name(root: dict[str, Any]) -> str:
    name = values.text_of(root.get("device"))
    if not name:
        raise ConversionFault("a device has a name")
    return name
