"""The sandbox's MQTT endpoint: what comes in goes to the platform, is stored, and only then acknowledged.

Everything that arrives within one turn of the reactor is applied at once, written down in one transaction at the turn's
end, and then acknowledged in order; `MAX_WAITING` bounds what waits. A message that ends its connection ends the turn
early, so that what came before it on that connection is still acknowledged; what comes after it is not looked at.

What the platform wants to tell its sessions by itself (`Platform.pushes`: changed attributes, calls) goes out after the
commit and after the acknowledgements, so that nothing is told that a crash could take back.

When the store fails, nothing of the turn is acknowledged: all connections are cut, their clients will send again, and
`store_failed` is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import StoreError
from tbgw.internal_events import Events
from tbgw.mqtt import (
    Connect,
    IServerListener,
    LocalProtocolError,
    MQTTServerProtocol,
    Publish,
    ServerOptions,
    Subscribe,
    Unsubscribe,
)
from tbgw.sandbox import api, provisioning
from tbgw.sandbox.credentials import ShownCertificate
from tbgw.sandbox.devices import Push, Session
from tbgw.sandbox.internal_events import (
    ClientAccepted,
    ClientRefused,
    ClientReplaced,
    PublishRefused,
    RateLimitMet,
    ReplyLost,
    ValuesLeftOut,
)
from tbgw.sandbox.ota import MAX_PACKAGE_BYTES
from tbgw.sandbox.outcomes import (
    FILTER_REFUSED,
    MQTT_5,
    NO_SUBSCRIPTION_EXISTED,
    SERVER_SHUTTING_DOWN,
    SESSION_TAKEN_OVER,
    Action,
    Refusal,
    Verdict,
    action,
    refusal,
    suback_code,
)
from tbgw.sandbox.platform import Platform
from tbgw.sandbox.rpc import Strategy
from tbgw.sandbox.store import Store
from tbgw.sandbox.switches import Switches
from tbgw.sandbox.view import SandboxView

MAX_WAITING = 1000
"""Publishes, and ten times as many points, that may wait for one commit."""

METRICS_SECONDS = 60.0
"""`MQTT_GATEWAY_METRICS_REPORT_INTERVAL_SEC`: how often `gatewayMetrics` are written (3.4)."""

_MAX_INFLIGHT = 1000
"""Pushes that a client may leave without PUBACK. The real server knows no bound; a sandbox's memory does."""


def _options(max_payload_bytes: int) -> ServerOptions:
    """
    ThingsBoard's limit is one of the remaining length, before which a fixed header of two to five bytes goes (1.6). Its
    CONNACK bears no properties on MQTT 5 (1.3): nothing is announced.
    """
    length_bytes = 1 + sum(max_payload_bytes >= 1 << bits for bits in (7, 14, 21))
    return ServerOptions(
        max_packet_bytes=max_payload_bytes + 1 + length_bytes,
        announce_limits=False,
        max_inflight=_MAX_INFLIGHT,
        max_unsent_bytes=MAX_PACKAGE_BYTES + (1 << 20),
    )


_T = TypeVar("_T")

OnPublish = Callable[[str, str, bytes], None]


class _Provisioning:
    """A connection of somebody who has no credentials yet."""

    def __init__(self, protocol_version: int) -> None:
        self.protocol_version = protocol_version
        self.qos: int | None = None
        """Of its subscription to `/provision/response`, if there is one."""
        self.end: IDelayedCall | None = None


class _Waiting(NamedTuple):
    protocol: MQTTServerProtocol
    publish: Publish
    outcome: api.Outcome
    action: Action


@implementer(IServerListener)
class Endpoint:
    """Who answers all MQTT clients of the sandbox."""

    def __init__(
        self,
        clock: IReactorTime,
        events: Events,
        now_ms: Callable[[], int],
        switches: Switches,
        view: SandboxView,
        max_connections: int,
        store_failed: Callable[[StoreError], None],
    ) -> None:
        self._clock = clock
        self._events = events
        self._now_ms = now_ms
        self._switches = switches
        self._view = view
        self._max_connections = max_connections
        self._store_failed = store_failed
        self._platform: Platform | None = None
        self._store: Store | None = None
        self._connections: dict[MQTTServerProtocol, str] = {}
        self._sessions: dict[MQTTServerProtocol, Session] = {}
        self._protocols: dict[Session, MQTTServerProtocol] = {}
        self._provisioning: dict[MQTTServerProtocol, _Provisioning] = {}
        self._waiting: list[_Waiting] = []
        self._turn_end: IDelayedCall | None = None
        self._expiry: IDelayedCall | None = None
        self._calls_due: IDelayedCall | None = None
        self._metrics: IDelayedCall | None = None
        self._values_left_out = 0
        self._all_gone: list[Deferred[None]] = []
        self.on_publish: OnPublish | None = None

    # For the service

    def open(self, platform: Platform, store: Store) -> None:
        """Serve from these. Until then, and after `suspend`, every CONNECT is refused as "server unavailable"."""
        self._platform, self._store = platform, store
        self._values_left_out = platform.values_left_out
        self._later()

    def suspend(self) -> None:
        """Cut all connections and forget what waits; `open` ends it."""
        self._platform = self._store = None
        self._waiting.clear()
        self._cancel_timers()
        for protocol in tuple(self._connections):
            protocol.abort()

    def close(self) -> Deferred[None]:
        """Store and acknowledge what waits, then close all connections. Fires when they are gone."""
        self._flush()
        for protocol in tuple(self._connections):
            self._end(protocol, SERVER_SHUTTING_DOWN)
        self._flush()
        self._cancel_timers()
        if not self._connections:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._all_gone.append(gone)
        return gone

    def admit(self, peer: str) -> MQTTServerProtocol | None:
        """A connection for `peer`, or None when there are too many."""
        if len(self._connections) >= self._max_connections:
            self._events.emit(ClientRefused(peer=peer, why="too many connections"))
            return None
        limits = {} if self._platform is None else self._platform.session_limits
        protocol = MQTTServerProtocol(_options(limits.get("maxPayloadSize") or 65536), self, self._clock)
        self._connections[protocol] = peer
        return protocol

    @property
    def session_count(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    def changed(self) -> None:
        """Somebody changed something of the platform: store it and tell it now."""
        self._flush()

    def connection_of(self, device: str) -> MQTTServerProtocol:
        """The connection of the device's own session. Raises LookupError."""
        for protocol, session in self._sessions.items():
            if session.device.name == device:
                return protocol
        raise LookupError(f"{device!r} is not connected")

    def cut(self, device: str | None = None) -> int:
        """Drop the connection of a device, or all, without a word, as a network would; answers how many."""
        cut = [
            protocol
            for protocol in tuple(self._connections)
            if device is None or (protocol in self._sessions and self._sessions[protocol].device.name == device)
        ]
        for protocol in cut:
            protocol.abort()
        return len(cut)

    # IServerListener

    def connect_received(self, protocol: MQTTServerProtocol, connect: Connect) -> None:
        """Let in whoever has a token; the older connection of the same device has to go."""
        peer = self._connections[protocol]
        version = connect.protocol_version
        if self._platform is None:
            self._events.emit(ClientRefused(peer=peer, why="unavailable"))
            protocol.refuse(Refusal.UNAVAILABLE.code(version))
            return
        if provisioning.USER in (connect.username, connect.client_id):
            self._provisioning[protocol] = _Provisioning(version)
            protocol.accept(session_present=self._switches.session_present and not connect.clean_start)
            self._events.emit(ClientAccepted(device=provisioning.USER, peer=peer))
            return
        accepted: tuple[Session, Session | None] | Refusal
        if self._switches.refuse_credentials:
            accepted = refusal(connect.username, connect.password, connect.client_id)
        else:
            shown = _certificate_of(protocol, self._now_ms())
            accepted = self._platform.connect(
                connect.username, connect.password, connect.client_id, version, shown, self._now_ms()
            )
        if isinstance(accepted, Refusal):
            why = "rate limit" if accepted is Refusal.RATE_EXCEEDED else "credentials"
            self._events.emit(ClientRefused(peer=peer, why=why))
            protocol.refuse(accepted.code(version))
            self._later()
            return
        session, older = accepted
        self._sessions[protocol] = session
        self._protocols[session] = protocol
        protocol.accept(session_present=self._switches.session_present and not connect.clean_start)
        self._events.emit(ClientAccepted(device=session.device.name, peer=peer))
        if older is not None:
            self._events.emit(ClientReplaced(device=session.device.name))
            self._flush()  # what the older one sent before is still acknowledged
            for other, its_session in tuple(self._sessions.items()):
                if its_session is older:
                    self._end(other, SESSION_TAKEN_OVER)
        self._later()

    def publish_received(self, protocol: MQTTServerProtocol, publish: Publish) -> None:
        """Apply it now; it is stored and acknowledged at the end of the turn."""
        session = self._sessions.get(protocol)
        platform = self._platform
        if platform is not None and protocol in self._provisioning:
            self._provision(platform, protocol, publish)
            return
        if session is None or platform is None:
            return
        if self.on_publish is not None:
            self.on_publish(session.device.name, publish.topic, publish.payload)
        outcome = api.publish(platform, session, publish.topic, publish.payload, self._now_ms(), self._switches)
        if outcome.verdict is not Verdict.ACCEPTED:
            self._events.emit(
                PublishRefused(device=session.device.name, topic=publish.topic, verdict=outcome.verdict.value)
            )
        profile = platform.profile_of(session.device)
        lenient = self._switches.acknowledge_bad_payloads or (profile is not None and profile.acknowledge_bad_payloads)
        due = action(outcome.verdict, session.protocol_version, publish.qos, lenient)
        self._wait_for_commit(platform, protocol, publish, outcome, due)

    def _provision(self, platform: Platform, protocol: MQTTServerProtocol, publish: Publish) -> None:
        asking = self._provisioning[protocol]
        done = provisioning.provision(platform, publish.topic, publish.payload, self._now_ms())
        if done.verdict is not Verdict.ACCEPTED:
            self._events.emit(
                PublishRefused(device=provisioning.USER, topic=publish.topic, verdict=done.verdict.value)
            )
        reply = None
        if done.response is not None:
            reply = (provisioning.RESPONSE, done.response, 1 if asking.qos is None else asking.qos)
            if asking.end is None:
                asking.end = self._clock.callLater(provisioning.IDLE_SECONDS, self._end, protocol, 0)
        due = action(done.verdict, asking.protocol_version, publish.qos)
        self._wait_for_commit(platform, protocol, publish, api.Outcome(done.verdict, reply), due)

    def _wait_for_commit(
        self, platform: Platform, protocol: MQTTServerProtocol, publish: Publish, outcome: api.Outcome, due: Action
    ) -> None:
        self._waiting.append(_Waiting(protocol, publish, outcome, due))
        if (
            due.disconnect is not None
            or len(self._waiting) >= MAX_WAITING
            or platform.waiting_points >= 10 * MAX_WAITING
        ):
            self._flush()
        elif self._turn_end is None:
            self._later()

    def subscribe_received(self, protocol: MQTTServerProtocol, subscribe: Subscribe) -> Sequence[int]:
        """Only ThingsBoard's fixed filters are granted."""
        session = self._sessions.get(protocol)
        asking = self._provisioning.get(protocol)
        if asking is not None:
            return [self._subscribe_response(asking, one.topic_filter, one.qos) for one in subscribe.filters]
        if session is None or self._platform is None:
            return [suback_code(0x80, MQTT_5)] * len(subscribe.filters)
        if self._switches.subscribe_late_ms:
            self._clock.callLater(self._switches.subscribe_late_ms / 1000, self._subscribe_late, session, subscribe)
            codes = [self._platform.grants(session, one.topic_filter, one.qos) for one in subscribe.filters]
        else:
            codes = [self._platform.subscribe(session, one.topic_filter, one.qos) for one in subscribe.filters]
        self._later()  # what waited for it goes out after the SUBACK
        return [suback_code(code, session.protocol_version) for code in codes]

    def _subscribe_response(self, asking: _Provisioning, topic_filter: str, qos: int) -> int:
        if topic_filter != provisioning.RESPONSE:
            return suback_code(FILTER_REFUSED, asking.protocol_version)
        asking.qos = min(qos, 1)
        return asking.qos

    def _subscribe_late(self, session: Session, subscribe: Subscribe) -> None:
        if self._platform is not None and session in self._protocols:
            for one in subscribe.filters:
                self._platform.subscribe(session, one.topic_filter, one.qos)
            self._later()

    def unsubscribe_received(self, protocol: MQTTServerProtocol, unsubscribe: Unsubscribe) -> Sequence[int]:
        """The code says whether there was such a subscription."""
        session = self._sessions.get(protocol)
        asking = self._provisioning.get(protocol)
        if asking is not None:
            had, asking.qos = asking.qos, None
            known = provisioning.RESPONSE if had is not None else None
            return [0 if one == known else NO_SUBSCRIPTION_EXISTED for one in unsubscribe.filters]
        if session is None or self._platform is None:
            return [0x80] * len(unsubscribe.filters)
        return [self._platform.unsubscribe(session, topic_filter) for topic_filter in unsubscribe.filters]

    def disconnected(self, protocol: MQTTServerProtocol, reason: Exception) -> None:
        """The device, and all children of a gateway, are gone."""
        self._connections.pop(protocol, None)
        self._forget(protocol)
        if not self._connections:
            gone, self._all_gone = self._all_gone, []
            for deferred in gone:
                deferred.callback(None)

    # Inside

    def _forget(self, protocol: MQTTServerProtocol) -> None:
        session = self._sessions.pop(protocol, None)
        if session is not None:
            del self._protocols[session]
            if self._platform is not None:
                self._platform.disconnect(session)
                self._later()
        asking = self._provisioning.pop(protocol, None)
        if asking is not None and asking.end is not None and asking.end.active():
            asking.end.cancel()

    def _end(self, protocol: MQTTServerProtocol, reason_code: int) -> None:
        """Close a connection from our side; nothing that still comes on it is looked at."""
        self._forget(protocol)
        protocol.close(reason_code)

    def _later(self) -> None:
        if self._turn_end is None:
            self._turn_end = self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        """The end of a turn: store, acknowledge, tell."""
        if self._turn_end is not None and self._turn_end.active():
            self._turn_end.cancel()
        self._turn_end = None
        platform, store = self._platform, self._store
        if platform is None or store is None:
            return
        waiting, self._waiting = self._waiting, []
        self._use_switches(platform)
        changes = platform.take_changes()
        if changes:
            try:
                store.write(changes)
            except StoreError as error:
                self.suspend()
                self._store_failed(error)
                return
        if waiting:
            self._events.counters.add("sandbox_publishes", amount=len(waiting))
        for protocol, group in groupby(waiting, key=lambda one: one.protocol):
            self._answer(protocol, list(group))
        if platform.values_left_out > self._values_left_out:
            self._events.emit(ValuesLeftOut(count=platform.values_left_out - self._values_left_out))
            self._values_left_out = platform.values_left_out
        self._push(platform)
        for session, code in _taken(platform.closes):
            if session in self._protocols:
                self._end(self._protocols[session], code)
        for device in _taken(platform.limit_notices):
            self._events.emit(RateLimitMet(device=device))
        self._view.changed([*changes.names, *(device.name for device in changes.devices.values())])
        self._arm(platform)

    def _use_switches(self, platform: Platform) -> None:
        platform.calls.strategy = Strategy(self._switches.rpc_strategy)
        platform.calls.close_on_timeout = self._switches.close_on_rpc_timeout

    def _arm(self, platform: Platform) -> None:
        """One timer each for children that fall silent, calls that wait too long, and figures that are due."""
        if self._metrics is None and any(session.latencies for session in platform.sessions):
            self._metrics = self._clock.callLater(METRICS_SECONDS, self._report_metrics)
        due_ms = platform.calls.next_due_ms if platform.calls.changed or self._calls_due is None else None
        platform.calls.changed = False
        if due_ms is not None:
            seconds = max(0.001, due_ms / 1000 - self._clock.seconds())
            if self._calls_due is None or not self._calls_due.active():
                self._calls_due = self._clock.callLater(seconds, self._expire_calls)
            elif self._calls_due.getTime() > self._clock.seconds() + seconds:
                self._calls_due.reset(seconds)
        if self._expiry is None and any(session.children for session in platform.sessions):
            self._expiry = self._clock.callLater(platform.limits.child_inactivity_ms / 1000, self._expire)

    def _push(self, platform: Platform) -> None:
        for push in _taken(platform.pushes):
            protocol = self._protocols.get(push.session)
            if protocol is None:
                continue
            zero = self._switches.next_push_has_packet_id_zero and push.qos
            self._switches.next_push_has_packet_id_zero &= not zero
            try:
                sent = protocol.publish(push.topic, push.payload, qos=push.qos, packet_id=0 if zero else None)
            except LocalProtocolError as error:
                self._events.emit(ReplyLost(device=push.session.device.name, why=str(error)))
                continue
            sent.addCallbacks(self._delivered, _ignore_lost, callbackArgs=(push,))

    def _delivered(self, code: int, push: Push) -> None:
        if push.call is not None and push.qos and self._platform is not None:
            self._platform.calls.delivered(push.call)
            self._later()

    def _expire_calls(self) -> None:
        self._calls_due = None
        if self._platform is not None:
            self._platform.calls.expire()
            self._later()

    def _report_metrics(self) -> None:
        self._metrics = None
        if self._platform is not None:
            self._platform.report_latencies(self._now_ms())
            self._later()

    def _answer(self, protocol: MQTTServerProtocol, group: list[_Waiting]) -> None:
        disconnect = None
        with protocol.gathered():
            for _, publish, outcome, due in group:
                if due.puback is not None:
                    if self._switches.close_instead_of_puback:
                        self._forget(protocol)
                        protocol.abort()
                        return
                    self._acknowledge(protocol, publish, outcome, due.puback)
                if outcome.reply is not None:
                    self._reply(protocol, *outcome.reply)
                disconnect = due.disconnect if due.disconnect is not None else disconnect
        if disconnect is not None:
            self._end(protocol, disconnect)

    def _acknowledge(self, protocol: MQTTServerProtocol, publish: Publish, outcome: api.Outcome, code: int) -> None:
        if self._switches.withhold_pubacks:
            return
        for _ in range(outcome.parts if self._switches.puback_per_device else 1):
            protocol.acknowledge(publish, code)

    def _reply(self, protocol: MQTTServerProtocol, topic: str, payload: bytes, qos: int) -> None:
        session = self._sessions.get(protocol)
        if session is None and protocol not in self._provisioning:
            return
        try:
            protocol.publish(topic, payload, qos=qos).addErrback(_ignore_lost)
        except LocalProtocolError as error:
            name = provisioning.USER if session is None else session.device.name
            self._events.emit(ReplyLost(device=name, why=str(error)))

    def _expire(self) -> None:
        self._expiry = None
        if self._platform is None:
            return
        now_ms = self._now_ms()
        for protocol, session in self._sessions.items():
            if session.gateway:  # pings count, too
                silent_ms = int((self._clock.seconds() - protocol.last_received_seconds) * 1000)
                self._platform.gateway_active(session, now_ms - silent_ms)
        next_ms = self._platform.expire(now_ms)
        if next_ms is not None:
            # Never sooner than a tenth of a second: the wall clock may stand still or jump.
            self._expiry = self._clock.callLater(max(0.1, (next_ms - now_ms) / 1000), self._expire)
        if self._platform.changed:
            self._later()

    def _cancel_timers(self) -> None:
        for call in (self._turn_end, self._expiry, self._calls_due, self._metrics):
            if call is not None and call.active():
                call.cancel()
        self._turn_end = self._expiry = self._calls_due = self._metrics = None


def _certificate_of(protocol: MQTTServerProtocol, now_ms: int) -> ShownCertificate | None:
    """The certificate that the client showed, if the transport is TLS and it did."""
    if not hasattr(protocol.transport, "getPeerCertificate"):
        return None
    from tbgw.sandbox.tls import certificate_of

    return certificate_of(protocol.transport, now_ms)


def _taken(waiting: list[_T]) -> list[_T]:
    """What waits, which is then empty."""
    taken = list(waiting)
    waiting.clear()
    return taken


def _ignore_lost(failure: Failure) -> None:
    """A reply whose PUBACK never came; the connection's own end is told elsewhere."""


class EndpointFactory(ServerFactory):
    """Makes the connections of an `Endpoint`."""

    noisy = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def buildProtocol(self, addr: IAddress | None) -> MQTTServerProtocol | None:
        """None, which closes the connection, when there are too many."""
        host, port = getattr(addr, "host", "?"), getattr(addr, "port", "?")
        return self._endpoint.admit(f"{host}:{port}")
