"""One station's connection: a `LeanWebSocket` on the outside, a `Session` within, and the user behind both.

The order of things that the user can rely on (`ICentralSystem`) is made here: `admit` before anything is accepted; the
older connection's end before the newer's `connected`; failed Calls before `disconnected`. Whatever the user's own code
raises is logged here and ends nothing but what it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast

from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, ISSLTransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbgw.ocpp.errors import CallFailed, CallRefused, StationGone, StationReplaced
from tbgw.ocpp.handshake import choose_version, read_target, real_peer
from tbgw.ocpp.interfaces import Admission, Handshake, Refusal
from tbgw.ocpp.notices import Notice
from tbgw.ocpp.options import CentralSystemOptions
from tbgw.ocpp.session import CallArrived, CallEnded, Event, Ignored, IncomingCall, SendArrived, Session
from tbgw.ocpp.station import Station
from tbgw.ocpp.versions import Version
from tbgw.ocpp.websocket import (
    CONNECTING,
    OPEN,
    OWNER,
    REASONS,
    UNANSWERED,
    LeanWebSocket,
)

_log = Logger(namespace="tbgw.ocpp")

MAX_MISSED_PINGS = 2
MAX_CLOSE_REASON_BYTES = 123

FULL_RETRY_SECONDS = 30
"""After how long to come again when all places are taken."""


class StationProtocol(LeanWebSocket):
    """Made by `CentralSystemFactory`, through a child of it that `protocol_class` makes."""

    factory: Any  # a CentralSystemFactory; Autobahn declares its own
    _session: Session | None = None
    _station: Station | None = None
    _version: Version | None = None
    _path = ""
    _peer: tuple[str, int] = ("", 0)
    _pinged = 0.0
    _missed = 0
    _timer: IDelayedCall | None = None
    slot = 0
    """The wheel's."""

    # The way in.

    def connectionMade(self) -> None:
        """A TCP connection; with TLS its handshake has not begun."""
        address = self.transport.getPeer()
        self._peer = (str(getattr(address, "host", "")), int(getattr(address, "port", 0)))
        super().connectionMade()
        self.factory.made(self)

    def onConnect(self, request: Any) -> Any:
        """The request is complete and a WebSocket's. Gives the subprotocol, or a Deferred of it."""
        factory = self.factory
        now = factory.clock.seconds()
        is_full = factory.is_closing or len(factory.stations) >= self.options.max_connections
        wait = FULL_RETRY_SECONDS if is_full else factory.gate.ask(now)
        if wait:
            self._refuse("storm", 503, f"come again in {wait} seconds", {"Retry-After": str(wait)})
        target = read_target(self.http_request_uri)
        if target is None:
            self._refuse("bad_request", 400, "the path cannot be read")
        if not target.identity:
            self._refuse("refused", 404, "the path names no charge point")
        self._path = target.path
        self._peer, is_tls = real_peer(self._peer, self.http_headers, self.options.trusted_proxies)
        certificate = None
        if ISSLTransport.providedBy(self.transport):
            is_tls = True
            shown: Any = self.transport.getPeerCertificate()
            certificate = shown.to_cryptography() if shown is not None else None
        authorization = self.http_headers.get("authorization")
        handshake = Handshake(
            path=target.path,
            identity=target.identity,
            peer=self._peer,
            authorization=authorization.encode("latin-1") if authorization is not None else None,
            offered=self._offered(),
            certificate=certificate,
            tls=is_tls,
        )
        self._is_thinking = True
        try:
            answer = factory.listener.admit(handshake)
        except Exception:  # noqa: BLE001 - the user's code; without an answer nobody comes in
            _log.failure("admit failed for {path!r}", path=self._path)
            self._refuse("refused", 500, "admit failed")
        if isinstance(answer, Deferred):
            return answer.addCallbacks(self._admitted, self._not_admitted, callbackArgs=(target.identity,))
        return self._admitted(answer, target.identity)

    def _offered(self) -> tuple[str, ...]:
        return tuple(name for name in self.websocket_protocols if name)  # an empty header offers nothing

    def _not_admitted(self, failure: Failure) -> None:
        _log.failure("admit failed for {path!r}", failure, path=self._path)
        self._refuse("refused", 500, "admit failed")

    def _admitted(self, answer: Admission | Refusal, identity: str) -> str | None:
        if isinstance(answer, Refusal):
            self._refuse("refused", answer.status, answer.why, answer.headers)
        offered = self._offered()
        self._version = choose_version(offered, answer.versions) if offered else answer.missing_subprotocol
        if self._version is not None:
            self._station = Station(cast(Any, self), identity, self._path, self._version, self._peer, answer.data)
            self.may_compress = self.options.compression and self._version.is_2
        return self._version.value if self._version is not None and offered else None

    def _refuse(self, kind: str, status: int, why: str, headers: Mapping[str, str] | None = None) -> NoReturn:
        self._tell(kind, f"{status}: {why}")
        self._answer_headers = headers or {}
        raise ConnectionDeny(status, REASONS.get(status, "Refused"))

    def onOpen(self) -> None:
        """The handshake is over: the station is there, or has to hear why it is not."""
        self.factory.opened(self)
        if self._station is None or self._version is None:
            self._tell("no_subprotocol", "it offers no version that is spoken here")
            self.sendCloseFrame(1002, b"no common subprotocol")
            return
        factory = self.factory
        now = factory.clock.seconds()
        older = factory.stations.get(self._path)
        factory.stations[self._path] = self
        if older is not None:
            older.supersede()
        self._session = Session(
            self._version, factory.session_options, factory.ids, factory.replays_of(self._path, now), self
        )
        if self.options.ping_interval_seconds:
            factory.wheel.add(self, now + self.options.ping_interval_seconds)
        self.registerProducer(self, True)
        self._slim()
        factory.warm(self._session.version)
        if factory.is_paused:
            self._hold(OWNER)
        try:
            factory.listener.connected(self._station)
        except Exception:  # noqa: BLE001 - the user's code; the station is connected all the same
            _log.failure("connected failed for {path!r}", path=self._path)

    def give_up_opening(self) -> None:
        """Others want to come in, and this one's handshake takes too long."""
        self._tell("slow_opening", "its handshake was cut for another")
        self.factory.opened(self)
        self.wasNotCleanReason = "too slow"
        self.dropConnection(abort=True)

    def _now(self) -> float:
        return float(self.factory.clock.seconds())

    def _text_received(self, text: str) -> None:
        session = self._session
        if session is None:
            return
        event = session.receive(text, self._heard)
        if event is not None:
            self._happened(event)
        self._flush()

    def _happened(self, event: Event) -> None:
        kind = type(event)
        if kind is CallArrived:
            self._call_arrived(cast(CallArrived, event))
        elif kind is CallEnded:
            _settle(cast(CallEnded, event))
        elif kind is Ignored:
            ignored = cast(Ignored, event)
            self._tell(ignored.kind, ignored.what)
            if ignored.is_last_straw:
                self._tell("too_many_faults", "its connection is closed")
                self._flush()
                self.sendCloseFrame(1008, b"too many bad messages")
        else:
            send = cast(SendArrived, event)
            try:
                self.factory.listener.send_received(
                    self._station, send.action, send.payload, () if send.fault is None else (send.fault.text,)
                )
            except Exception:  # noqa: BLE001 - the user's code; there is nobody to answer
                _log.failure("send_received failed for {path!r}", path=self._path)

    def _call_arrived(self, event: CallArrived) -> None:
        call, payload, fault = event
        try:
            answer = self.factory.listener.call_received(
                self._station, call.action, payload, () if fault is None else (fault.text,)
            )
        except Exception:  # noqa: BLE001 - the user's code; the station gets an answer all the same
            self._not_answered(Failure(), call)
            return
        if isinstance(answer, Deferred):
            answer.addCallbacks(self._answered, self._not_answered, callbackArgs=(call,), errbackArgs=(call,))
            answer.addErrback(self._surprised, call)
        else:
            self._answered(answer, call)

    def _answered(self, payload: Mapping[str, Any], call: IncomingCall) -> None:
        session = cast(Session, self._session)
        fault = session.answer(call, payload, self.factory.clock.seconds())
        if fault is not None:
            self._tell("answer_invalid", f"{call.action}: {fault.text}")
            _log.error("the answer to {action} breaks its schema: {fault}", action=call.action, fault=fault.text)
        call.session.owner._flush()

    def _not_answered(self, failure: Failure, call: IncomingCall) -> None:
        refusal = failure.value
        if not isinstance(refusal, CallRefused):
            _log.failure("call_received failed for {action} of {path!r}", failure, action=call.action, path=self._path)
            refusal = CallRefused("InternalError")
        cast(Session, self._session).refuse(call, refusal, self.factory.clock.seconds())
        call.session.owner._flush()

    def _surprised(self, failure: Failure, call: IncomingCall) -> None:
        _log.failure("answering {action} of {path!r} failed", failure, action=call.action, path=self._path)

    def call(self, action: str, payload: Mapping[str, Any], timeout_seconds: float) -> Deferred[dict[str, Any]]:
        """See `IStation.call`."""
        session = self._session
        if session is None or self.state != OPEN:
            return fail(StationGone("the station is not connected"))
        now = self.factory.clock.seconds()

        def cancel(_: Deferred[dict[str, Any]]) -> None:
            session.cancel(call, self.factory.clock.seconds())
            self._flush()

        result: Deferred[dict[str, Any]] = Deferred(cancel)
        try:
            call = session.call(action, payload, now, timeout_seconds, result)
        except CallFailed as refused:
            return fail(refused)
        self._flush()
        return result

    def send(self, action: str, payload: Mapping[str, Any]) -> None:
        """See `IStation.send`."""
        if self._session is None or self.state != OPEN:
            raise StationGone("the station is not connected")
        self._session.send(action, payload)
        self._flush()

    def _flush(self) -> None:
        """Send what the session has to send, see to its timer, and to whether more may come in."""
        session = self._session
        if session is None:
            return
        for text in session.take_outgoing():
            self._send_text(text)
        deadline = session.next_deadline()
        if deadline is not None or self._timer is not None:
            self._see_to_timer(deadline)
        if self._held & UNANSWERED:
            if session.unanswered <= self.options.max_open_calls // 2:
                self._release(UNANSWERED)
        elif session.unanswered >= self.options.max_open_calls:
            self._hold(UNANSWERED)

    def _see_to_timer(self, deadline: float | None) -> None:
        timer = self._timer
        if timer is not None and timer.active():
            if deadline is not None and timer.getTime() <= deadline:
                return  # it comes early enough, and looks again
            timer.cancel()
        if deadline is None:
            self._timer = None
        else:
            clock = self.factory.clock
            self._timer = clock.callLater(max(0.0, deadline - clock.seconds()), self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._session is not None:
            for ended in self._session.expire(self.factory.clock.seconds()):
                _settle(ended)
        self._flush()

    # Whether anything is read.
    def hold_for_owner(self, hold: bool) -> None:
        """See `CentralSystemFactory.pause`."""
        if self._session is None:
            return
        if hold:
            self._hold(OWNER)
        else:
            self._release(OWNER)

    # Liveness, and the end.

    def ask(self, now: float) -> float | None:
        """The wheel's question: is the station alive, and when to ask again. Two pings may go unanswered."""
        if self.state != OPEN:
            return None
        options = self.options
        if self._held & (UNANSWERED | OWNER):
            self._missed = 0
            when = now + options.ping_interval_seconds  # we do not read, so its silence means nothing
        elif self._missed and self._heard >= self._pinged:
            self._missed = 0
            when = self._heard + options.ping_interval_seconds
        elif not self._missed and now - self._heard < options.ping_interval_seconds:
            when = self._heard + options.ping_interval_seconds
        elif self._missed < MAX_MISSED_PINGS:
            self._missed += 1
            self._pinged = now
            self.sendPing()
            when = now + options.ping_timeout_seconds
        else:
            self._tell("unresponsive", f"nothing came for {now - self._heard:.0f} seconds")
            self.wasNotCleanReason = "it answered no ping"
            self.dropConnection(abort=True)
            return None
        return when

    def supersede(self) -> None:
        """A newer connection of the same charge point counts."""
        self._tell("replaced", "the same charge point connected again")
        self._finish(StationReplaced("the station connected again"), "replaced by a newer connection")
        self.wasNotCleanReason = "replaced"
        self.dropConnection(abort=True)

    def close(self, code: int, reason: str) -> None:
        """See `IStation.close`; a handshake that is under way is cut."""
        if self.state == OPEN:
            self.sendCloseFrame(code, reason.encode()[:MAX_CLOSE_REASON_BYTES].decode("utf-8", "ignore").encode())
            if self._held:
                self._held = 0
                self.transport.resumeProducing()  # or its close frame would never be read
        elif self.state == CONNECTING:
            self.dropConnection(abort=True)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment] # Twisted's own default is one
        """The socket is gone, for whatever reason."""
        super().connectionLost(reason)
        self._finish(StationGone("the connection ended"), self._ending(reason))
        self.factory.lost(self)

    def _ending(self, reason: Failure | None) -> str:
        if self.wasClean:
            return f"closed with {self.remoteCloseCode or self.localCloseCode or 1005}"
        if self.wasNotCleanReason:
            return str(self.wasNotCleanReason)
        return str(reason.value) if reason is not None else "lost"

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        """Autobahn's word for the end; `connectionLost` does the work."""

    def _finish(self, why: StationGone, reason: str) -> None:
        session, station, factory = self._session, self._station, self.factory
        if session is None or station is None or not station.connected:
            return
        station.connected = False
        factory.wheel.discard(self)
        if factory.stations.get(self._path) is self:
            del factory.stations[self._path]
        for ended in session.end(why):
            _settle(ended)
        self._flush()
        try:
            factory.listener.disconnected(station, reason)
        except Exception:  # noqa: BLE001 - the user's code
            _log.failure("disconnected failed for {path!r}", path=self._path)

    def _tell(self, kind: str, text: str) -> None:
        self.factory.notice(Notice(kind, self._path, self._peer[0], text))


def _settle(ended: CallEnded) -> None:
    result: Deferred[Any] = ended.call.owner
    if ended.failure is not None:
        result.errback(ended.failure)
    else:
        result.callback(ended.payload)


def protocol_class(options: CentralSystemOptions) -> type[StationProtocol]:
    """The class of a listener's connections, with its settings."""
    return type(
        "ListeningStationProtocol",
        (StationProtocol,),
        {
            "options": options,
            "maxFramePayloadSize": options.max_message_bytes,
            "maxMessagePayloadSize": options.max_message_bytes,
            "openHandshakeTimeout": options.open_timeout_seconds,
            "closeHandshakeTimeout": options.close_timeout_seconds,
        },
    )
