"""The sandbox's MQTT endpoint: what comes in goes to the platform, is stored, and only then acknowledged.

Everything that arrives within one turn of the reactor is applied at once, written down in one transaction at the turn's
end, and then acknowledged in order; `MAX_WAITING` bounds what waits. A message that ends its connection ends the turn
early, so that what came before it on that connection is still acknowledged; what comes after it is not looked at.

When the store fails, nothing of the turn is acknowledged: all connections are cut, their clients will send again, and
`store_failed` is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

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
from tbgw.sandbox import api
from tbgw.sandbox.internal_events import (
    ClientAccepted,
    ClientRefused,
    ClientReplaced,
    PublishRefused,
    ReplyLost,
    ValuesLeftOut,
)
from tbgw.sandbox.outcomes import (
    MQTT_5,
    SERVER_SHUTTING_DOWN,
    SESSION_TAKEN_OVER,
    Action,
    Refusal,
    Verdict,
    action,
    refusal,
    suback_code,
)
from tbgw.sandbox.platform import Platform, Session
from tbgw.sandbox.store import Store
from tbgw.sandbox.switches import Switches
from tbgw.sandbox.view import SandboxView

MAX_WAITING = 1000
"""Publishes, and ten times as many points, that may wait for one commit."""

MAX_PACKET_BYTES = 65536 + 4
"""ThingsBoard's limit is a remaining length of 65536, before which a fixed header of four bytes goes (1.6)."""

_OPTIONS = ServerOptions(max_packet_bytes=MAX_PACKET_BYTES, announce_limits=False)
"""ThingsBoard's CONNACK bears no properties on MQTT 5 (1.3): nothing is announced."""

OnPublish = Callable[[str, str, bytes], None]


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
        self._waiting: list[_Waiting] = []
        self._turn_end: IDelayedCall | None = None
        self._expiry: IDelayedCall | None = None
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
        protocol = MQTTServerProtocol(_OPTIONS, self, self._clock)
        self._connections[protocol] = peer
        return protocol

    @property
    def session_count(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    def connection_of(self, device: str) -> MQTTServerProtocol:
        """The connection of the device's own session. Raises LookupError."""
        for protocol, session in self._sessions.items():
            if session.device.name == device:
                return protocol
        raise LookupError(f"{device!r} is not connected")

    # IServerListener

    def connect_received(self, protocol: MQTTServerProtocol, connect: Connect) -> None:
        """Let in whoever has a token; the older connection of the same device has to go."""
        peer = self._connections[protocol]
        version = connect.protocol_version
        if self._platform is None:
            self._events.emit(ClientRefused(peer=peer, why="unavailable"))
            protocol.refuse(Refusal.UNAVAILABLE.code(version))
            return
        accepted: tuple[Session, Session | None] | Refusal
        if self._switches.refuse_credentials:
            accepted = refusal(connect.username, connect.password, connect.client_id)
        else:
            accepted = self._platform.connect(connect.username, connect.password, connect.client_id, version)
        if isinstance(accepted, Refusal):
            self._events.emit(ClientRefused(peer=peer, why="credentials"))
            protocol.refuse(accepted.code(version))
            return
        session, older = accepted
        self._sessions[protocol] = session
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
        if session is None or platform is None:
            return
        if self.on_publish is not None:
            self.on_publish(session.device.name, publish.topic, publish.payload)
        outcome = api.publish(platform, session, publish.topic, publish.payload, self._now_ms(), self._switches)
        if outcome.verdict is not Verdict.ACCEPTED:
            self._events.emit(
                PublishRefused(device=session.device.name, topic=publish.topic, verdict=outcome.verdict.value)
            )
        due = action(outcome.verdict, session.protocol_version, publish.qos, self._switches.acknowledge_bad_payloads)
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
        if session is None or self._platform is None:
            return [suback_code(0x80, MQTT_5)] * len(subscribe.filters)
        return [
            suback_code(self._platform.subscribe(session, one.topic_filter, one.qos), session.protocol_version)
            for one in subscribe.filters
        ]

    def unsubscribe_received(self, protocol: MQTTServerProtocol, unsubscribe: Unsubscribe) -> Sequence[int]:
        """The code says whether there was such a subscription."""
        session = self._sessions.get(protocol)
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
        if session is not None and self._platform is not None:
            self._platform.disconnect(session)
            self._later()

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
        changes = platform.take_changes()
        if changes.devices:
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
        self._view.changed([device.name for device in changes.devices.values()])
        if self._expiry is None and any(session.children for session in platform.sessions):
            self._expiry = self._clock.callLater(platform.limits.child_inactivity_ms / 1000, self._expire)

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
        if session is None:
            return
        try:
            protocol.publish(topic, payload, qos=qos).addErrback(_ignore_lost)
        except LocalProtocolError as error:
            self._events.emit(ReplyLost(device=session.device.name, why=str(error)))

    def _expire(self) -> None:
        self._expiry = None
        if self._platform is None:
            return
        now_ms = self._now_ms()
        next_ms = self._platform.expire(now_ms)
        if next_ms is not None:
            # Never sooner than a tenth of a second: the wall clock may stand still or jump.
            self._expiry = self._clock.callLater(max(0.1, (next_ms - now_ms) / 1000), self._expire)
        if self._platform.changed:
            self._later()

    def _cancel_timers(self) -> None:
        for call in (self._turn_end, self._expiry):
            if call is not None and call.active():
                call.cancel()
        self._turn_end = self._expiry = None


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
