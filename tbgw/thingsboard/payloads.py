"""The JSON payloads of ThingsBoard's gateway API, written and read (spec thingsboard-mqtt, sections 3 and 6.3).

Pure. Sizes are those of the encoded UTF-8 bytes, never of Python strings: the reference estimates in characters, so
that its non-ASCII payloads can exceed the server's limit and be refused for ever (C-33).

Encoding runs once for each message that the gateway takes, so it uses the C encoder of the standard library directly
(0.6 us for a small object; `json.dumps` takes 1.6 us, most of it to build that encoder anew for every call). Considered
and left: orjson, msgspec (ten times faster, 4 to 5 MiB each; the profile does not ask for it).
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from tbgw.model import RateLimit, SessionLimits, Value
from tbgw.thingsboard import topics

PACKET_OVERHEAD_BYTES = 16
"""What a PUBLISH holds beside topic and payload within its remaining length: topic length, packet id, v5 property
length, and a reserve (spec thingsboard-mqtt, 1.6 and Appendix A rule 7)."""

MAX_NAME_CHARACTERS = 255
"""Longest name of a device (spec thingsboard-mqtt, fact 17)."""


def _unknown(value: object) -> Value:
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _make_encoder() -> Callable[[Value], str]:
    c_make_encoder = getattr(json.encoder, "c_make_encoder", None)
    if c_make_encoder is None:  # a Python without the C accelerator, such as PyPy
        return json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    chunks = c_make_encoder(None, _unknown, json.encoder.encode_basestring, None, ":", ",", False, False, False)

    def encode(value: Value) -> str:
        return "".join(chunks(value, 0))

    return encode


_encode_text = _make_encoder()


def encode(value: Value) -> bytes:
    """
    `value` as compact, strict JSON in UTF-8.

    Raises ValueError for NaN, infinity and what JSON has no form for, also somewhere inside; a lone surrogate, which
    UTF-8 cannot carry, comes out as its JSON escape.
    """
    try:
        return _encode_text(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _no_number(word: str) -> Value:
    raise ValueError(f"{word} is not JSON")


_decode_text = json.JSONDecoder(parse_constant=_no_number).decode


def decode(payload: bytes) -> Any:
    """The JSON value in `payload`. Raises ValueError for anything that is not strict UTF-8 JSON of bearable depth."""
    try:
        return _decode_text(payload.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def telemetry_fragment(ts_ms: int, values: Mapping[str, Value]) -> bytes:
    """One element of a device's telemetry array. Raises ValueError as `encode` does."""
    return b'{"ts":%d,"values":%b}' % (ts_ms, encode(values))


def join_telemetry(devices: Mapping[bytes, list[bytes]]) -> bytes:
    """The `v1/gateway/telemetry` payload of fragments by encoded device name."""
    return b"{%b}" % b",".join([b"%b:[%b]" % (name, b",".join(parts)) for name, parts in devices.items()])


def join_attributes(devices: Mapping[bytes, Mapping[bytes, bytes]]) -> bytes:
    """The `v1/gateway/attributes` payload of encoded values by encoded key by encoded device name."""
    return b"{%b}" % b",".join(
        [
            b"%b:{%b}" % (name, b",".join([b"%b:%b" % item for item in values.items()]))
            for name, values in devices.items()
        ]
    )


def is_device_name(name: str) -> bool:
    """
    Whether ThingsBoard can have a device of this name. An announcement with another one closes the session, or is never
    acknowledged (spec thingsboard-mqtt, 3.2 and fact 17).
    """
    return 0 < len(name) <= MAX_NAME_CHARACTERS and not name.isspace() and "\0" not in name


def connect(device: str, profile: str) -> bytes:
    """`v1/gateway/connect`."""
    return encode({"device": device, "type": profile})


def disconnect(device: str) -> bytes:
    """`v1/gateway/disconnect`."""
    return encode({"device": device})


_OF_ONE_DEVICE = frozenset({topics.CONNECT, topics.DISCONNECT, topics.RPC, topics.ATTRIBUTES_REQUEST})
"""Topics whose payload names its device as `device`; on all others devices are the keys."""


def renamed(topic: str, payload: bytes, names: Mapping[str, str]) -> bytes:
    """
    A gateway payload in which the devices that `names` names have their new names. What it says of two devices that
    become one is joined, in its order. Raises ValueError when it is not what `topic` says.
    """
    root = decode(payload)
    if not isinstance(root, dict):
        raise ValueError("not a JSON object")
    if topic in _OF_ONE_DEVICE:
        device = root.get("device")
        return encode({**root, "device": names.get(device, device) if isinstance(device, str) else device})
    joined: dict[str, Any] = {}
    for name, content in root.items():
        name = names.get(name, name)
        earlier = joined.get(name)
        if isinstance(earlier, list) and isinstance(content, list):
            joined[name] = earlier + content
        elif isinstance(earlier, dict) and isinstance(content, dict):
            joined[name] = earlier | content
        else:
            joined[name] = content
    return encode(joined)


def separated(topic: str, payload: bytes, names: frozenset[str]) -> tuple[bytes, dict[str, Part]]:
    """
    A gateway payload without what it says of some devices, which may leave nothing (b""), and that by itself, by name.
    Raises ValueError when it is not what `topic` says.
    """
    root = decode(payload)
    if not isinstance(root, dict):
        raise ValueError("not a JSON object")
    if topic in _OF_ONE_DEVICE:
        device = root.get("device")
        return (b"", {device: Part(payload, (device,), 0)}) if device in names else (payload, {})
    count = _points if topic == topics.TELEMETRY else len
    try:
        taken = {
            name: Part(encode({name: content}), (name,), count(content))
            for name, content in root.items()
            if name in names
        }
    except (TypeError, LookupError) as error:
        raise ValueError("not what its topic says") from error
    rest = {name: content for name, content in root.items() if name not in taken}
    return encode(rest) if rest else b"", taken


def claim(secret_key: str | None, duration_ms: int | None, device: str | None = None) -> bytes:
    """
    `v1/devices/me/claim`, or `v1/gateway/claim` for one device. None leaves a member out: ThingsBoard takes no null for
    the secret (spec thingsboard-mqtt, 5.1).
    """
    body: dict[str, Value] = {}
    if secret_key is not None:
        body["secretKey"] = secret_key
    if duration_ms is not None:
        body["durationMs"] = duration_ms
    return encode(body if device is None else {device: body})


def disconnect_reason(payload: bytes) -> int | None:
    """The reason in a `v1/gateway/disconnect` that ThingsBoard sends (spec thingsboard-mqtt, 3.9); None if unclear."""
    try:
        reason = decode(payload)["reason"]
    except (ValueError, TypeError, LookupError):
        return None
    return reason if isinstance(reason, int) and not isinstance(reason, bool) else None


def disconnected_device(payload: bytes) -> str:
    """The device in a `v1/gateway/disconnect` that ThingsBoard sends; empty if there is none."""
    try:
        device = decode(payload)["device"]
    except (ValueError, TypeError, LookupError):
        return ""
    return device if isinstance(device, str) else ""


def payload_limit(limits: SessionLimits, topic: str, configured_bytes: int) -> int:
    """How long a payload on `topic` may be, in bytes, under the server's limit and the configured one."""
    return min(limits.max_payload_bytes - len(topic.encode()) - PACKET_OVERHEAD_BYTES, configured_bytes)


class Piece(NamedTuple):
    """A part of a stored payload: a payload of its own."""

    payload: bytes
    devices: int
    """How many devices it speaks of: ThingsBoard counts each as a message."""
    points: int
    """Data points in it."""


def split_telemetry(payload: bytes, limit_bytes: int, max_devices: int, max_points: int) -> list[Piece]:
    """
    A telemetry payload that was stored under larger limits, as several that keep these, in order, element by element.
    An element that alone is too large is split by keys; a single key that is too long stays as it is, for the caller
    to refuse. Raises ValueError when `payload` is not a telemetry payload.
    """
    try:
        elements = [
            (name, element, points)
            for name, device in _parts(payload)
            for item in device
            for element, points in fragments(item["ts"], item["values"], limit_bytes - len(name) - 5, max_points)
        ]
    except (TypeError, LookupError) as error:
        raise ValueError("not a telemetry payload") from error
    return _pieces(elements, join_telemetry, limit_bytes, max_devices, max_points)


def split_attributes(payload: bytes, limit_bytes: int, max_devices: int, max_points: int) -> list[Piece]:
    """As `split_telemetry`, for an attributes payload: cut between devices and between keys."""
    try:
        pairs = [
            (name, b"%b:%b" % (encode(key), encode(value)), 1)
            for name, device in _parts(payload)
            for key, value in device.items()
        ]
    except AttributeError as error:
        raise ValueError("not an attributes payload") from error
    return _pieces(pairs, _join_pairs, limit_bytes, max_devices, max_points)


def _parts(payload: bytes) -> list[tuple[bytes, Any]]:
    """(encoded device name, what the payload says of it)"""
    root = decode(payload)
    if not isinstance(root, dict):
        raise ValueError("not a JSON object")
    return [(encode(name), content) for name, content in root.items()]


def _join_pairs(devices: Mapping[bytes, list[bytes]]) -> bytes:
    return b"{%b}" % b",".join([b"%b:{%b}" % (name, b",".join(pairs)) for name, pairs in devices.items()])


def _pieces(
    elements: Iterable[tuple[bytes, bytes, int]],
    join: Callable[[Mapping[bytes, list[bytes]]], bytes],
    limit_bytes: int,
    max_devices: int,
    max_points: int,
) -> list[Piece]:
    """(encoded name, encoded element, its points) in order, as few payloads that keep the limits where they can."""
    pieces: list[Piece] = []
    parts: dict[bytes, list[bytes]] = {}
    size, points = 1, 0

    def close() -> None:
        if parts:
            pieces.append(Piece(join(parts), len(parts), points))

    for name, element, more in elements:
        cost = len(element) + 1 + (0 if name in parts else len(name) + 3)
        devices = len(parts) + (name not in parts)
        if parts and (size + cost > limit_bytes or points + more > max_points or devices > max_devices):
            close()
            parts, size, points = {}, 1, 0
            cost = len(element) + len(name) + 4
        parts.setdefault(name, []).append(element)
        size += cost
        points += more
    close()
    return pieces


def fragments(
    ts_ms: int, values: Mapping[str, Value], limit_bytes: int, max_points: int
) -> list[tuple[bytes, int]]:
    """
    `values` of one instant as telemetry elements of at most `limit_bytes` and `max_points` each, with their points; one
    where they fit. A single key that does not fit makes an element of its own, over the limit. Raises ValueError as
    `encode` does.
    """
    whole = telemetry_fragment(ts_ms, values)
    if (len(whole) <= limit_bytes and len(values) <= max_points) or len(values) <= 1:
        return [(whole, len(values))]
    keys = list(values)
    half = len(keys) // 2
    return [
        *fragments(ts_ms, {key: values[key] for key in keys[:half]}, limit_bytes, max_points),
        *fragments(ts_ms, {key: values[key] for key in keys[half:]}, limit_bytes, max_points),
    ]


MOST_PARTS = 32
"""Into how many parts `parts` cuts at once: a single culprit among 1,000 is found in two cuts and some 60 publishes."""


class Part(NamedTuple):
    """A part of a stored payload that is sent by itself, because something in the whole is suspect."""

    payload: bytes
    devices: tuple[str, ...]
    points: int


def parts(topic: str, payload: bytes) -> list[Part]:
    """
    A gateway payload cut into at most `MOST_PARTS` smaller ones, in order: between devices; between the elements, if it
    speaks of one device only; between the keys, if of one instant only. Empty for what cannot be cut any further, or is
    not what `topic` says.
    """
    try:
        if topic == topics.TELEMETRY:
            return _telemetry_parts(decode(payload))
        return _attributes_parts(decode(payload)) if topic == topics.ATTRIBUTES else []
    except (ValueError, TypeError, LookupError, AttributeError):
        return []


def _telemetry_parts(root: Any) -> list[Part]:
    if len(root) > 1:
        return [
            Part(encode(dict(some)), tuple([name for name, _ in some]), sum([_points(part) for _, part in some]))
            for some in _groups(list(root.items()))
        ]
    ((name, elements),) = root.items()
    if len(elements) > 1:
        return [Part(encode({name: some}), (name,), _points(some)) for some in _groups(elements)]
    (element,) = elements
    cut = _groups(list(element["values"].items()))
    return [Part(encode({name: [{**element, "values": dict(some)}]}), (name,), len(some)) for some in cut]


def _attributes_parts(root: Any) -> list[Part]:
    if len(root) > 1:
        return [
            Part(encode(dict(some)), tuple([name for name, _ in some]), sum([len(part) for _, part in some]))
            for some in _groups(list(root.items()))
        ]
    ((name, values),) = root.items()
    return [Part(encode({name: dict(some)}), (name,), len(some)) for some in _groups(list(values.items()))]


def _points(elements: Any) -> int:
    return sum([len(element["values"]) for element in elements])


def _groups(items: list[Any]) -> list[list[Any]]:
    """At most `MOST_PARTS` runs of near equal length; none where there is nothing to cut."""
    if len(items) < 2:
        return []
    size = -(-len(items) // MOST_PARTS)
    return [items[start : start + size] for start in range(0, len(items), size)]


def session_limits_request() -> bytes:
    """The client-side RPC that asks for the limits of this session (spec thingsboard-mqtt, 6.3)."""
    return b'{"method":"getSessionLimits","params":{}}'


def parse_rate_limits(text: object) -> tuple[RateLimit, ...]:
    """
    `"count:seconds,count:seconds"` as buckets; None, "" and entries of zero mean no limit. `;` separates too (seen in
    the reference's SDK). Raises ValueError for anything else.
    """
    if text is None or text == "":
        return ()
    if not isinstance(text, str):
        raise ValueError(f"a rate limit is text such as '15:1,300:60', not {text!r}")
    limits = []
    for part in text.replace(";", ",").split(","):
        if not part.strip():
            continue
        count, colon, seconds = part.partition(":")
        try:
            limit = RateLimit(int(count), float(seconds))
        except ValueError:
            raise ValueError(f"a rate limit is text such as '15:1,300:60', not {text!r}") from None
        if limit.capacity < 0 or limit.seconds < 0 or not colon or not isfinite(limit.seconds):
            raise ValueError(f"a rate limit is text such as '15:1,300:60', not {text!r}")
        if limit.capacity and limit.seconds:
            limits.append(limit)
    return tuple(limits)


def parse_session_limits(payload: bytes) -> SessionLimits | None:
    """
    ThingsBoard's answer to `getSessionLimits`; None when it says that it does not know the call (servers before 3.8
    answer `{"error": ...}`). Raises ValueError for what cannot be such an answer. Fields that are missing or null mean
    no limit, or the default where there has to be one.
    """
    answer = decode(payload)
    if not isinstance(answer, dict):
        raise ValueError("the answer to getSessionLimits is a JSON object")
    if "error" in answer:
        return None
    defaults = SessionLimits()

    def number(key: str, default: int) -> int:
        value = answer.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{key} is a number, not {value!r}")
        return value or default

    def three(key: str) -> Iterable[tuple[RateLimit, ...]]:
        group = answer.get(key) or {}
        if not isinstance(group, dict):
            raise ValueError(f"{key} is an object, not {group!r}")
        return [parse_rate_limits(group.get(k)) for k in ("messages", "telemetryMessages", "telemetryDataPoints")]

    own_messages, own_telemetry, own_points = three("rateLimits")
    messages, telemetry, points = three("gatewayRateLimits")
    return SessionLimits(
        max_payload_bytes=number("maxPayloadSize", defaults.max_payload_bytes),
        max_inflight=number("maxInflightMessages", defaults.max_inflight),
        own_messages=own_messages,
        own_telemetry=own_telemetry,
        own_points=own_points,
        messages=messages,
        telemetry=telemetry,
        points=points,
        announced=True,
    )
