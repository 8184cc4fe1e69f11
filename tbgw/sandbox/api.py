"""What each topic of ThingsBoard's device and gateway API does with a PUBLISH (spec thingsboard-mqtt, 2 to 6). Pure.

Telemetry and client attributes are kept, of the connected device and of a gateway's children. Requests for attributes
and chunks of packages are answered, replies to RPCs go to the call they belong to, claims are remembered. Of the
client-side RPCs `getSessionLimits` is the transport's own call; the rest is for the rule engine, in whose place stand
the answers of `Switches.client_rpc_answers` and `getCurrentTime`; what is not among them gets `{"error":"timeout"}`
after a minute.
Protobuf payloads count as payloads that cannot be converted.

An empty array (`[]`, `{"A":[]}`) is acknowledged, although the real server never does so and leaves the client waiting;
`Switches.never_acknowledge_empty` brings that back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tbgw.sandbox import ota, values
from tbgw.sandbox.devices import Device, Push, Session
from tbgw.sandbox.outcomes import MQTT_5, Verdict
from tbgw.sandbox.platform import CreationLimited, NotCreated, Platform, TooManyDevices
from tbgw.sandbox.profiles import topic_matches
from tbgw.sandbox.ratelimits import RateLimited
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
_RPC_REQUESTS = (  # (request, response)
    (topics.DEVICE_RPC_REQUEST, topics.DEVICE_RPC_RESPONSE),
    ("v2/r/req/j/", "v2/r/res/j/"),
    ("v2/r/req/", "v2/r/res/"),
)
_RPC_RESPONSES = (topics.DEVICE_RPC_RESPONSE, "v2/r/res/j/", "v2/r/res/")
_CLAIM = "v1/devices/me/claim"
_CHUNK_REQUEST = re.compile(r"v2/(fw|sw)/request/(\d+)/chunk/(\d+)", re.ASCII)
"""Searched for, not matched as a whole, as the server does (2.1)."""
_OTA_ERROR = "v2/fw/error"
"""For software, too (5.3)."""

SYSTEM_CLAIM_MS = 24 * 3600 * 1000
"""`security.claim.duration`, of a claim that does not say how long it stands."""

_MAX_LATENCIES = 1000
"""Figures of one connector that are kept until the next report."""

_MAX_REQUESTS_REMEMBERED = 100
"""Chunk sizes of one connection."""

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
    except CreationLimited:
        return Outcome(Verdict.FAULT)
    except RateLimited:
        return Outcome(Verdict.GATEWAY_LIMITED if gateway else Verdict.LIMITED)
    except ConversionFault:
        return Outcome(Verdict.GATEWAY_FAULT if gateway else Verdict.FAULT)


# Device topics (2.1 to 2.7)


def _device_publish(
    platform: Platform, session: Session, topic: str, payload: bytes, now_ms: int, switches: Switches
) -> Outcome:
    device = session.device
    profile = platform.profile_of(device)
    is_telemetry, is_attributes = topic in _TELEMETRY_TOPICS, topic in _ATTRIBUTES_TOPICS
    if profile is not None:
        if profile.attributes_filter:
            is_attributes = (is_attributes and topic != topics.DEVICE_ATTRIBUTES) or topic_matches(
                profile.attributes_filter, topic
            )
        if profile.telemetry_filter and not is_attributes:
            is_telemetry = (is_telemetry and topic != topics.DEVICE_TELEMETRY) or topic_matches(
                profile.telemetry_filter, topic
            )
    if is_telemetry and not is_attributes:
        root = values.parse(payload)
        elements = values.telemetry(root, now_ms, type_cast=switches.type_cast)
        platform.spend(device, sum([len(found) for _, found in elements]))
        platform.record_telemetry(device, elements, now_ms)
        empty = isinstance(root, list) and not root
        return Outcome(Verdict.SILENT) if empty and switches.never_acknowledge_empty else ACCEPTED
    if is_attributes:
        members = values.attributes(values.parse(payload), type_cast=switches.type_cast)
        platform.spend(device, len(members))
        platform.record_attributes(device, members, now_ms)
        return ACCEPTED
    if topic in _PROTOBUF_TOPICS:
        raise BadPayload("protobuf is not spoken here")
    for request, response in _ATTRIBUTES_REQUESTS:
        if topic.startswith(request):
            platform.active(device, now_ms)
            return _answer_attributes(platform, session, topic.removeprefix(request), response, payload)
    for request, response in _RPC_REQUESTS:
        if topic.startswith(request):
            platform.active(device, now_ms)
            return _client_rpc(platform, session, topic.removeprefix(request), response, payload, now_ms, switches)
    for response in _RPC_RESPONSES:
        if topic.startswith(response):
            number = _java_int(topic.removeprefix(response), BadPayload)
            platform.spend(device)
            platform.active(device, now_ms)
            platform.calls.replied(device, number, payload)
            return ACCEPTED
    if topic == _CLAIM:
        claim = _claim_of(values.parse(payload) if payload.strip() else {}, now_ms)
        platform.spend(device)
        platform.active(device, now_ms)
        _put_claim(device, claim, now_ms)
        return ACCEPTED
    chunk = _CHUNK_REQUEST.search(topic)
    if chunk is not None:
        platform.active(device, now_ms)
        return _chunk(platform, session, chunk[1], chunk[2], int(chunk[3][:10]), payload)
    return Outcome(Verdict.UNKNOWN_TOPIC)


def _answer_attributes(
    platform: Platform, session: Session, request_id: str, response: str, payload: bytes
) -> Outcome:
    """2.5: comma strings, no trimming; neither of the two asks for everything."""
    number = _java_int(request_id, BadPayload)
    root = values.parse(payload)
    if not isinstance(root, dict):
        raise BadPayload("an attribute request is an object")
    platform.spend(session.device)
    if number < 0:
        return ACCEPTED
    device = session.device
    client_keys, shared_keys = root.get("clientKeys"), root.get("sharedKeys")
    everything = client_keys is None and shared_keys is None
    answer = {}
    for scope, asked, held in (
        ("client", client_keys, {key: value for key, (_, value) in device.attributes.items()}),
        ("shared", shared_keys, {key: value for key, (_, value) in device.shared.items()}),
    ):
        names = list(held) if everything else values.text_of(asked).split(",") if asked is not None else []
        found = {name: values.plain(held[name]) for name in names if name in held}
        if found:
            answer[scope] = found
    qos = session.subscriptions.get(response + "+", 1)
    return Outcome(Verdict.ACCEPTED, (f"{response}{number}", payloads.encode(answer), qos))


def _client_rpc(
    platform: Platform,
    session: Session,
    request_id: str,
    response: str,
    payload: bytes,
    now_ms: int,
    switches: Switches,
) -> Outcome:
    """4.3 and 6.3."""
    root = values.parse(payload)
    if not isinstance(root, dict):
        raise BadPayload("an RPC request is an object")
    number = _java_int(request_id, ConversionFault)
    if "method" not in root:
        raise ConversionFault("an RPC request has a method")
    method = values.text_of(root["method"])
    topic, qos = f"{response}{number}", session.subscriptions.get(response + "+", 1)
    if method == "getSessionLimits" and response == topics.DEVICE_RPC_RESPONSE and switches.answer_session_limits:
        limits = dict(platform.session_limits)
        if not session.gateway:
            limits.pop("gatewayRateLimits", None)
        return Outcome(Verdict.ACCEPTED, (topic, payloads.encode(limits), qos))
    platform.spend(session.device)
    if method in switches.client_rpc_answers:
        answer = switches.client_rpc_answers[method]
    elif method in ("getCurrentTime", "getTime"):
        answer = {"time": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")}
    else:
        timeout = payloads.encode({"error": "timeout"})
        platform.calls.nobody_answers(Push(session, topic, timeout, qos))
        return ACCEPTED
    return Outcome(Verdict.ACCEPTED, (topic, payloads.encode(answer), qos))


def _claim_of(root: Any, now_ms: int) -> tuple[str, int]:
    """(secret, wall-clock time in ms of its end) of a claim (5.1)."""
    if not isinstance(root, dict):
        raise BadPayload("a claim is an object")
    secret = values.text_of(root["secretKey"]) if "secretKey" in root else ""
    duration_ms = values.timestamp_ms(root["durationMs"]) if "durationMs" in root else SYSTEM_CLAIM_MS
    return secret, now_ms + duration_ms


def _put_claim(device: Device, claim: tuple[str, int], now_ms: int) -> None:
    """While one stands, another changes nothing; a device that has a customer is not claimed (5.1)."""
    if device.more.get("customer") is None and (device.claim is None or device.claim[1] <= now_ms):
        device.claim = claim


def _chunk(
    platform: Platform, session: Session, kind: str, request_id: str, number: int, payload: bytes
) -> Outcome:
    """5.3. What is wrong with a request is told on the error topic, and the connection ends."""
    text = payload.decode("utf-8", "replace").strip()
    if text and not _INT.fullmatch(text):
        raise ConversionFault("a chunk size is an int")
    size = int(text) if text else 0
    where = (kind, request_id)
    error_qos = session.subscriptions.get(_OTA_ERROR, 1)
    if size > ota.MAX_CHUNK_BYTES or size < 0:
        return Outcome(Verdict.OTA_ERROR, (_OTA_ERROR, b"PAYLOAD_TOO_LARGE", error_qos))
    pinned = session.packages.get(where)
    if pinned is None:
        platform.spend(session.device)
        name = session.device.more.get(kind)
        package = platform.packages.get(name) if name is not None else None
        if package is None:
            return Outcome(Verdict.OTA_ERROR, (_OTA_ERROR, b"NOT_FOUND", error_qos))
        if package.url:
            return Outcome(Verdict.OTA_ERROR, (_OTA_ERROR, b"FAILURE", error_qos))
        while len(session.packages) >= _MAX_REQUESTS_REMEMBERED:
            del session.packages[next(iter(session.packages))]
    else:
        package = pinned[0]
    if not size:
        size = pinned[1] if pinned is not None and pinned[1] else len(package.data)
    session.packages[where] = (package, size)
    data = package.data[number * size : (number + 1) * size]
    qos = session.subscriptions.get(f"v2/{kind}/response/+/chunk/+", 1)
    return Outcome(Verdict.ACCEPTED, (f"v2/{kind}/response/{request_id}/chunk/{number}", data, qos))


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
            timed = values.child_telemetry(elements, now_ms, type_cast=switches.type_cast)
            if platform.children_limited:
                platform.spend(session.device, sum([len(found) for _, found in timed]), children=True)
            platform.record_telemetry(device, timed, now_ms)
            if b'"metadata"' in payload:
                _keep_latencies(session, elements, now_ms)

        return _each_child(platform, session, payload, now_ms, switches, list, keep_telemetry)
    if topic == topics.ATTRIBUTES:

        def keep_attributes(device: Device, members: Any) -> None:
            stored = values.stored_values(members, type_cast=switches.type_cast)
            platform.spend(session.device, len(stored), children=True)
            platform.record_attributes(device, stored, now_ms)

        return _each_child(platform, session, payload, now_ms, switches, dict, keep_attributes)
    if topic == topics.CLAIM:

        def keep_claim(device: Device, members: Any) -> None:
            claim = _claim_of(members, now_ms)
            platform.spend(session.device, children=True)
            platform.active(device, now_ms)
            _put_claim(device, claim, now_ms)

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
        number = values.timestamp_ms(root.get("id"))
        if "data" not in root:
            raise ConversionFault("an RPC reply has data")
        device, outcome = _with_child(platform, session, _device_name(root), now_ms)
        if device is not None:
            platform.spend(session.device, children=True)
            platform.active(device, now_ms)
            platform.calls.replied(device, number, payloads.encode(root["data"]))
        return outcome
    return Outcome(Verdict.UNKNOWN_TOPIC)


def _keep_latencies(session: Session, elements: list[Any], now_ms: int) -> None:
    for connector, received_ts, published_ts in values.latencies(elements):
        pairs = session.latencies.setdefault(connector, [])
        if len(pairs) < _MAX_LATENCIES and len(session.latencies) <= _MAX_LATENCIES:
            pairs.append((published_ts - received_ts, now_ms - published_ts))


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
    limited: list[str] = []
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
        except RateLimited:
            verdict = verdict or Verdict.GATEWAY_LIMITED
            if switches.tell_limits_as_before_4_2_1:
                limited.append(name)
    if not parts:
        return Outcome(Verdict.GATEWAY_FAULT)
    if limited:
        told = payloads.encode({"device": limited[0], "reason": 150})
        reply = (topics.DISCONNECT, told, 1) if session.protocol_version >= MQTT_5 else None
        return Outcome(Verdict.LIMITED, reply, parts)
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
    platform.spend(session.device, children=True)
    platform.active(device, now_ms)
    client_values = {key: value for key, (_, value) in device.attributes.items()}
    shared_values = {key: value for key, (_, value) in device.shared.items()}
    held = client_values if client else shared_values
    if not asked:
        held = {**client_values, **shared_values}
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
