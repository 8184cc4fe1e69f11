"""An in-process ThingsBoard as data: its devices, their values, and who is connected. Pure; `now_ms` is an argument.

What holds between two calls:

- A device is found by its present name; the first one with credentials is the gateway itself.
- A device has at most one MQTT session of its own and is a child of at most one gateway session; the newer wins.
- Everything that has to be kept is noted in `Changes`, which the caller takes away and writes down before it
  acknowledges anything, and before it sends any of the `pushes`. Ids of devices and series are given out here, so the
  store never has to look one up.
- Devices, series and the room for long values are bounded; what goes over is refused as ThingsBoard refuses it
  (devices) or left out and counted (`values_left_out`); values are kept in `holding`.

What a PUBLISH does is told in `api`, how its outcome is said on the wire in `outcomes`; what an operator does, in
`control`; calls to devices are in `rpc`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tbgw.sandbox import credentials as book
from tbgw.sandbox import ota, profiles
from tbgw.sandbox.credentials import Credentials, CredentialsBook, ShownCertificate
from tbgw.sandbox.devices import Changes, Device, Push, Series, Session, Snapshot, StoredDevice
from tbgw.sandbox.holding import Holding, SandboxLimits, latency_figures, long_chars, show
from tbgw.sandbox.outcomes import FILTER_REFUSED, NO_SUBSCRIPTION_EXISTED, Refusal, refusal
from tbgw.sandbox.ratelimits import RateLimited, RateLimits
from tbgw.sandbox.rpc import Calls
from tbgw.sandbox.values import plain, stored_values
from tbgw.thingsboard import payloads, topics

__all__ = ["Changes", "Device", "Platform", "Push", "SandboxLimits", "Series", "Session", "Snapshot", "StoredDevice"]

MAX_NAME_CHARS = 255
"""The longest name of a device or profile that ThingsBoard takes."""

_HTML_TAG = re.compile(r"<[/!]?[A-Za-z][^<>]*>")

_SUBSCRIBABLE = frozenset(
    [
        *("v1/devices/me/attributes", "v2/a", "v2/a/j", "v2/a/p"),
        *("v1/devices/me/attributes/response/+", "v2/a/res/+", "v2/a/res/j/+", "v2/a/res/p/+"),
        *("v1/devices/me/rpc/request/+", "v2/r/req/+", "v2/r/req/j/+", "v2/r/req/p/+"),
        *("v1/devices/me/rpc/response/+", "v2/r/res/+", "v2/r/res/j/+", "v2/r/res/p/+"),
        *("v1/gateway/attributes", "v1/gateway/rpc", "v1/gateway/attributes/response"),
        *("v2/fw/response/+/chunk/+", "v2/sw/response/+/chunk/+", "v2/fw/error", "v2/sw/error"),
    ]
)  # section 2.8: exact strings, not patterns

_ATTRIBUTE_UPDATES = frozenset(["v1/devices/me/attributes", "v2/a", "v2/a/j"])
_RPC_REQUESTS = frozenset(["v1/devices/me/rpc/request/+", "v2/r/req/+", "v2/r/req/j/+"])
"""Without the protobuf ones: nothing would be sent there."""

CREDENTIALS_UPDATED = 0x98
"""Reason code with which the session of a device ends that has other credentials, or is no more."""

NOTICE_EXPIRES_MS = 24 * 3600 * 1000
"""How long a gateway may be away and still be told that a device was renamed or deleted (3.11)."""

class NotCreated(Exception):  # noqa: N818 - says what is
    """A device cannot be created under this name or profile."""


class TooManyDevices(NotCreated):
    """No more devices may be created."""


class CreationLimited(RateLimited):
    """A rate limit is met where a child would have been created or found."""


class Platform(Holding):
    """The devices and sessions of one sandbox. `steady_ms` is a clock that is never set."""

    Refused = NotCreated

    def __init__(
        self,
        limits: SandboxLimits,
        snapshot: Snapshot | None = None,
        steady_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(limits)
        self.devices: dict[str, Device] = {}
        self.sessions: set[Session] = set()
        self.credentials = CredentialsBook()
        self.profiles: dict[str, profiles.DeviceProfile] = {}
        """Those that are more than a name, by name."""
        self.packages: dict[str, ota.Package] = {}
        self._rates = RateLimits(limits.session_limits, steady_ms)
        self.pushes: list[Push] = []
        """What is to be sent once everything before it is on disk; the caller takes it away."""
        self.closes: list[tuple[Session, int]] = []
        """Sessions to be closed with a reason code, after that."""
        self.limit_notices: list[str] = []
        """Devices that met a rate limit."""
        self.calls = Calls(
            steady_ms, self.pushes.append, lambda session, code: self.closes.append((session, code)), self._reported
        )
        self._by_id: dict[int, Device] = {}
        self._next_device_id = 1
        if snapshot is not None:
            self._load(snapshot)

    def _load(self, snapshot: Snapshot) -> None:
        by_id = self._by_id
        for stored in snapshot.devices:
            by_id[stored.device_id] = self.devices[stored.name] = Device(*stored)
        for series_id, device_id, key, ts_ms, value in snapshot.series:
            series = by_id[device_id].telemetry[key] = Series(series_id, ts_ms, value)
            self._make_room(series, value)
        for device_id, key, ts_ms, value in snapshot.attributes:
            by_id[device_id].attributes[key] = (ts_ms, value)
            self._long_chars += long_chars(value)
        for device_id, key, ts_ms, value in snapshot.shared:
            by_id[device_id].shared[key] = (ts_ms, value)
            self._long_chars += long_chars(value)
        self._next_device_id = max(by_id, default=0) + 1
        self._next_series_id = max((row[0] for row in snapshot.series), default=0) + 1
        self._series_count = len(snapshot.series) + len(snapshot.attributes) + len(snapshot.shared)
        for name, content in snapshot.kept.items():
            kind, _, rest = name.partition("/")
            if kind == "credentials" and int(rest) in by_id:
                self.credentials.set(int(rest), book.from_json(json.loads(content)))
            elif kind == "profile":
                self.profiles[rest] = profiles.from_json(json.loads(content))
            elif kind == "package":
                self.packages[rest] = ota.from_bytes(content)
            elif kind == "limits":
                self._rates.change(json.loads(content))

    # Devices and credentials

    def add_credentials(self, token: str, name: str, gateway: bool = False) -> Device:
        """
        Let a device connect with `token`: the one that has it already, else the one called `name`, which is created
        when it is not there. Not kept: the caller has them elsewhere. Raises ValueError for an empty token.
        """
        given = Credentials(book.ACCESS_TOKEN, token=token)
        held = self.credentials.find(token, None, "")
        device = self._by_id[held] if held is not None else self.devices.get(name)
        if device is None:
            device = self._create(name, "default")
        device.gateway = gateway
        self._touch(device)
        if held is None and not device.more.get("credentialsSet"):
            self.credentials.set(device.id, given)
        return device

    def set_credentials(self, device: Device, credentials: Credentials) -> None:
        """
        These from now on; a session that came in with others is closed (1.8). Raises ValueError when another device
        has them.
        """
        self.credentials.set(device.id, credentials)
        self.keep(f"credentials/{device.id}", book.as_bytes(credentials))
        self.mark(device, credentialsSet=True)
        if device.session is not None:
            self.closes.append((device.session, CREDENTIALS_UPDATED))
        if device.child_of is not None:
            self.child_gone(device.child_of, device.child_name)

    def create(self, name: str, profile: str, now_ms: int, gateway: bool = False) -> Device:
        """A new device. Raises NotCreated, TooManyDevices, and ValueError when there is one of this name."""
        if name in self.devices:
            raise ValueError("there is a device of this name")
        device = self._checked_create(name, profile)
        device.gateway = gateway
        device.last_activity_ms = now_ms
        self._touch(device)
        return device

    def _checked_create(self, name: str, profile: str) -> Device:
        _check_name(name)
        _check_name(profile)
        if len(self.devices) >= self.limits.max_devices:
            raise TooManyDevices(name)
        return self._create(name, profile)

    def _create(self, name: str, profile: str) -> Device:
        device = Device(self._next_device_id, name, profile, False, 0)
        self._next_device_id += 1
        self.devices[name] = self._by_id[device.id] = device
        return device

    def rename(self, device: Device, name: str) -> None:
        """
        The device has another name; the gateway that connected it last is told (3.11). A child session goes on under
        the old name. Raises NotCreated for a name that cannot be one, ValueError for one that is taken.
        """
        _check_name(name)
        if name in self.devices:
            raise ValueError("there is a device of this name")
        old = device.name
        del self.devices[old]
        device.name = name
        self.devices[name] = device
        self._changes.names.append(old)
        self._touch(device)
        self._tell_gateway(device, "gateway_device_renamed", {old: name})

    def delete(self, device: Device) -> None:
        """The device is no more, with all its values; the gateway that connected it last is told (3.11)."""
        if device.session is not None:
            self.closes.append((device.session, CREDENTIALS_UPDATED))
            self.disconnect(device.session)
        device.deleted = True
        if device.child_of is not None and device.child_name == device.name:
            self.child_gone(device.child_of, device.child_name)
        self.calls.forget(device)
        self.credentials.remove(device.id)
        self.keep(f"credentials/{device.id}", None)
        for series in device.telemetry.values():
            self._long_chars -= series.long_chars
        for held in (device.attributes, device.shared):
            self._long_chars -= sum(long_chars(value) for _, value in held.values())
        self._series_count -= len(device.telemetry) + len(device.attributes) + len(device.shared)
        del self.devices[device.name], self._by_id[device.id]
        self._changes.devices.pop(device.id, None)
        changes = self._changes
        changes.attributes = {where: what for where, what in changes.attributes.items() if where[0] != device.id}
        changes.shared = {where: what for where, what in changes.shared.items() if where[0] != device.id}
        self._changes.deleted.append(device.id)
        self._changes.names.append(device.name)
        self._tell_gateway(device, "gateway_device_deleted", device.name)

    def _tell_gateway(self, device: Device, method: str, params: Any) -> None:
        gateway = self._by_id.get(device.last_gateway_id)
        if gateway is not None and gateway is not device:
            self.calls.call(
                gateway, method, params, two_way=False, persistent=True, retries=3, expires_in_ms=NOTICE_EXPIRES_MS
            )

    def set_profile(self, profile: profiles.DeviceProfile) -> None:
        """What the device profile of this name is from now on."""
        self.profiles[profile.name] = profile
        self.keep(f"profile/{profile.name}", profiles.as_bytes(profile))

    def profile_of(self, device: Device) -> profiles.DeviceProfile | None:
        """The device's profile, if it is more than a name."""
        return self.profiles.get(device.profile)

    def device_with_id(self, device_id: int) -> Device | None:
        """The device, if it still is."""
        return self._by_id.get(device_id)

    # Sessions

    def connect(
        self,
        username: str | None,
        password: bytes | None,
        client_id: str,
        protocol_version: int,
        certificate: ShownCertificate | None = None,
        now_ms: int = 0,
    ) -> tuple[Session, Session | None] | Refusal:
        """
        The new session and the older one that it takes the place of, or why there is none. With a `certificate` that
        the client showed, user name and password are not looked at.
        """
        if certificate is not None:
            device_id = self._device_with(certificate, now_ms)
        else:
            device_id = self.credentials.find(username, password, client_id)
        if device_id is None:
            return Refusal.NOT_AUTHORISED if certificate is not None else refusal(username, password, client_id)
        found = self._by_id[device_id]
        try:
            self.spend(found)
        except RateLimited:
            return Refusal.RATE_EXCEEDED
        session = Session(found, protocol_version)
        older = found.session
        if older is not None:
            self.disconnect(older)
        found.session = session
        self.sessions.add(session)
        self._touch(found)
        return session, older

    def _device_with(self, shown: ShownCertificate, now_ms: int) -> int | None:
        """
        The device of a certificate: one that is stored, or one whose profile takes every certificate of an authority,
        which is created when it is not there (1.1).
        """
        for text in shown.chain:
            held = self.credentials.find_certificate(text)
            if held is not None:
                return held
        for text in shown.chain:
            for profile in self.profiles.values():
                if profile.strategy == profiles.CERTIFICATE_CHAIN and profile.certificate == text:
                    return self._device_by_chain(profile, shown, now_ms)
        return None

    def _device_by_chain(self, profile: profiles.DeviceProfile, shown: ShownCertificate, now_ms: int) -> int | None:
        name = profile.name_of(shown.common_name)
        device = self.devices.get(name) if name is not None else None
        try:
            if device is None and name is not None:
                device = self.create(name, profile.name, now_ms)
            if device is None or device.profile != profile.name:
                return None
            self.set_credentials(device, Credentials(book.X509_CERTIFICATE, certificate=shown.chain[0]))
        except (NotCreated, ValueError):
            return None
        return device.id

    def disconnect(self, session: Session) -> None:
        """The session is over, with all its children. Doing so again changes nothing."""
        if session not in self.sessions:
            return
        self.sessions.discard(session)
        for child in session.children.values():
            child.child_of = None
            self._touch(child)
        session.children = {}
        self.calls.lost(session)
        if session.device.session is session:
            session.device.session = None
            self._touch(session.device)

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        """
        The SUBACK reason code, in MQTT 5's words. What waits for such a subscription is among the `pushes` afterwards.
        One that goes over the rate limit is granted and has no effect (2.8).
        """
        granted = self.grants(session, topic_filter, qos)
        if granted == FILTER_REFUSED:
            return granted
        try:
            self.spend(session.device)
        except RateLimited:
            return granted
        session.subscriptions[topic_filter] = granted
        if topic_filter in _ATTRIBUTE_UPDATES:
            session.attributes_topic = topic_filter
        elif topic_filter in _RPC_REQUESTS:
            session.rpc_stem = topic_filter.removesuffix("+")
            self.calls.reachable(session.device)
        elif topic_filter not in _SUBSCRIBABLE:
            session.attributes_topic = topics.DEVICE_ATTRIBUTES  # not the profile's own (2.1)
        return granted

    def grants(self, session: Session, topic_filter: str, qos: int) -> int:
        """The SUBACK reason code alone."""
        profile = self.profile_of(session.device)
        own = profile is not None and topic_filter and topic_filter == profile.shared_attributes_filter
        return min(qos, 1) if topic_filter in _SUBSCRIBABLE or own else FILTER_REFUSED

    def unsubscribe(self, session: Session, topic_filter: str) -> int:
        """The UNSUBACK reason code, in MQTT 5's words. A gateway's children stay subscribed (2.8)."""
        if session.subscriptions.pop(topic_filter, None) is None:
            return NO_SUBSCRIPTION_EXISTED
        if topic_filter == session.attributes_topic:
            session.attributes_topic = None
        elif topic_filter in _RPC_REQUESTS and session.rpc_stem == topic_filter.removesuffix("+"):
            session.rpc_stem = None
        return 0

    # Rate limits (6)

    @property
    def session_limits(self) -> Mapping[str, Any]:
        """What `getSessionLimits` answers to a gateway."""
        return self._rates.announced

    @property
    def children_limited(self) -> bool:
        """Whether `spend` has anything to do for children."""
        return self._rates.children

    def set_limits(self, changed: Mapping[str, Any]) -> None:
        """Announce and enforce other limits, from now on. Raises ValueError for what are none."""
        self._rates.change(changed)
        self.keep("limits", json.dumps(self._rates.announced).encode())

    def spend(self, device: Device, points: int = 0, *, children: bool = False) -> None:
        """
        Account for one message with so many data points: the device's own, or of a gateway's children. Raises
        RateLimited; of the first message of a row that is refused there is a notice.
        """
        try:
            self._rates.spend(device, points, children=children)
        except RateLimited as error:
            if error.first:
                self.limit_notices.append(device.name)
            raise

    def _reported(self, device: Device) -> bool:
        """The report of an RPC's status costs a message, and is lost where that is too many."""
        try:
            self.spend(device)
        except RateLimited:
            return False
        return True

    # Children of a gateway

    def child(self, session: Session, name: str, now_ms: int, profile: str = "default") -> Device:
        """
        The device `name`, created with `profile` when it is not there, as a child of `session` from now on. Raises
        NotCreated, TooManyDevices and CreationLimited.
        """
        device = session.children.get(name)
        if device is not None:
            return device
        try:
            self.spend(session.device, children=True)
        except RateLimited:
            raise CreationLimited(first=False) from None
        device = self.devices.get(name)
        if device is None:
            device = self._checked_create(name, profile)
        if device.child_of is not None:
            del device.child_of.children[device.child_name]
        device.child_of, device.child_name = session, name
        device.child_activity_ms = now_ms
        device.last_gateway_id = session.device.id
        session.children[name] = device
        self._touch(device)
        try:
            self.spend(session.device, children=True)
            device.deaf = False
        except RateLimited:
            device.deaf = True
        self.calls.reachable(device)
        return device

    def child_gone(self, session: Session, name: str) -> None:
        """The gateway says that `name` is disconnected. Unknown names are ignored."""
        device = session.children.pop(name, None)
        if device is not None:
            device.child_of = None
            self._touch(device)

    def expire(self, now_ms: int) -> int | None:
        """Let silent children go; answers when to look again (ms), or None when there is no child left."""
        limit_ms = self.limits.child_inactivity_ms
        earliest = None
        for session in self.sessions:
            for name, device in list(session.children.items()):
                due_ms = device.child_activity_ms + limit_ms
                if due_ms <= now_ms:
                    self.child_gone(session, name)
                elif earliest is None or due_ms < earliest:
                    earliest = due_ms
        return earliest

    def gateway_active(self, session: Session, now_ms: int) -> None:
        """The gateway said something; with `overwriteActivityTime` all its children did (3.10)."""
        if session.device.more.get("overwriteActivityTime"):
            for child in session.children.values():
                self.active(child, max(now_ms, child.child_activity_ms))

    def report_latencies(self, now_ms: int) -> None:
        """What the metadata of gateways' telemetry said since the last time, as telemetry of the gateways (3.4)."""
        for session in self.sessions:
            if session.latencies:
                figures = {connector: latency_figures(pairs) for connector, pairs in session.latencies.items()}
                session.latencies = {}
                self.record_telemetry(
                    session.device, [(now_ms, stored_values({"gatewayMetrics": figures}))], now_ms
                )

    # Shared attributes

    def set_shared(self, device: Device, values: Mapping[str, Any], now_ms: int) -> None:
        """Set shared attributes; who is subscribed is told, in one message. Raises BadPayload for what is no value."""
        kept = {}
        for key, value in stored_values(values):
            if self._keep_attribute(device.shared, key, now_ms, value):
                self._changes.shared[device.id, key] = (now_ms, value)
                kept[key] = plain(value)
        self._touch(device)
        if kept:
            self._push_attributes(device, kept)

    def delete_shared(self, device: Device, keys: Iterable[str]) -> list[str]:
        """Delete shared attributes; who is subscribed is told. Answers those that there were."""
        gone = []
        for key in keys:
            old = device.shared.pop(key, None)
            if old is not None:
                self._series_count -= 1
                self._long_chars -= long_chars(old[1])
                self._changes.shared[device.id, key] = None
                gone.append(key)
        self._touch(device)
        if gone:
            self._push_attributes(device, {"deleted": gone})
        return gone

    def _push_attributes(self, device: Device, data: Mapping[str, Any]) -> None:
        own = device.session
        if own is not None and own.attributes_topic is not None:
            qos = own.subscriptions.get(own.attributes_topic, 1)
            self.pushes.append(Push(own, own.attributes_topic, payloads.encode(data), qos))
        if device.child_of is not None and not device.deaf:
            session = device.child_of
            message = payloads.encode({"device": device.child_name, "data": data})
            qos = session.subscriptions.get(topics.ATTRIBUTES, 1)
            self.pushes.append(Push(session, topics.ATTRIBUTES, message, qos))

    # For those who look on

    def shown(self) -> list[dict[str, Any]]:
        """Every device as `ISandboxView.devices` wants it; the entries are shared and not to be changed."""
        gateways: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for device in self.devices.values():
            (gateways if device.gateway else others).append(device.shown or show(device))
        return gateways + others


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > MAX_NAME_CHARS or "\0" in name or _HTML_TAG.search(name):
        raise NotCreated(name)
