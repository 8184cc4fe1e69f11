"""What has to happen between CONNACK and the first publish (spec thingsboard-mqtt, Appendix A rule 3): SUBSCRIBE, then
`getSessionLimits` with a time-out. One `Session` for each connection; nothing of one is carried into the next.

A plain broker in ThingsBoard's place echoes our request for the limits, since we are subscribed to its topic.
ThingsBoard never does. So the echo says that nobody will answer, and saves the wait for the time-out.

The short forms of the device topics (v2/..., spec 2.1) are spoken where that is configured, and are known nowhere else:
what comes is told by its long name. `getSessionLimits` exists on the long topic only (spec, fact 15).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.internal_events import Events
from tbgw.model import SessionLimits
from tbgw.mqtt import ConnAck, IClientListener, MQTTClientProtocol, Publish
from tbgw.thingsboard import payloads, topics
from tbgw.uplink.internal_events import LimitsUnknown, SubscriptionRefused

if TYPE_CHECKING:
    from tbgw.uplink.client import Uplink

LIMITS_SECONDS = 5.0
"""How long the answer to `getSessionLimits` may take (spec thingsboard-mqtt, Appendix A rule 3)."""

SUBACK_SECONDS = 20.0
"""How long the SUBACK may take: as long as CONNACK, because a server that answers one and not the other is broken."""

_REQUEST_ID = 1
_REQUEST_TOPIC = f"{topics.DEVICE_RPC_REQUEST}{_REQUEST_ID}"
_RESPONSE_TOPIC = f"{topics.DEVICE_RPC_RESPONSE}{_REQUEST_ID}"


@implementer(IClientListener)
class Session:
    """Listens to one connection, and tells the uplink when it is ready and when it is over."""

    def __init__(
        self,
        uplink: Uplink,
        clock: IReactorTime,
        events: Events,
        subscriptions: Sequence[str] = topics.GATEWAY_SUBSCRIPTIONS,
        *,
        short_topics: bool = False,
    ) -> None:
        self._uplink = uplink
        self._subscriptions = tuple(topics.shortened(topic) if short_topics else topic for topic in subscriptions)
        self._clock = clock
        self._events = events
        self._protocol: MQTTClientProtocol | None = None
        self._timer: IDelayedCall | None = None

    def connected(self, protocol: MQTTClientProtocol, connack: ConnAck) -> None:
        """See `IClientListener.connected`."""
        self._protocol = protocol
        self._uplink.session_accepted(self)
        self._timer = self._clock.callLater(SUBACK_SECONDS, self._no_suback)
        granted = protocol.subscribe([(topic, 1) for topic in self._subscriptions])
        granted.addCallbacks(self._subscribed, _over)

    def _no_suback(self) -> None:
        self._timer = None
        self._uplink.disrupt(f"no SUBACK within {SUBACK_SECONDS:g} s")

    def _subscribed(self, codes: list[int]) -> None:
        self._stop_timer()
        for topic, code in zip(self._subscriptions, codes, strict=False):
            if code >= 0x80:
                self._events.emit(SubscriptionRefused(topic=topic))
        if self._protocol is not None:
            self._timer = self._clock.callLater(LIMITS_SECONDS, self._overdue)
            request = self._protocol.publish(_REQUEST_TOPIC, payloads.session_limits_request(), qos=1)
            request.addErrback(_over)

    def _overdue(self) -> None:
        self._timer = None
        self._ready(SessionLimits(), f"no answer within {LIMITS_SECONDS:g} s")

    def message_received(self, protocol: MQTTClientProtocol, publish: Publish) -> None:
        """See `IClientListener.message_received`."""
        topic, payload = publish.topic, publish.payload
        if topic == _REQUEST_TOPIC and payload == payloads.session_limits_request():
            if self._stop_timer():
                self._ready(SessionLimits(echoes=True), "the server is a plain MQTT broker")
        elif topic == _RESPONSE_TOPIC:
            if self._stop_timer():
                self._ready(*_limits(payload))
        else:
            self._uplink.session_message(self, topics.lengthened(topic), payload)

    def disconnected(self, protocol: MQTTClientProtocol, reason: Exception) -> None:
        """See `IClientListener.disconnected`."""
        self._protocol = None
        self._stop_timer()
        self._uplink.session_over(self, reason)

    def _stop_timer(self) -> bool:
        """Whether the answer was still awaited."""
        if self._timer is None:
            return False
        self._timer.cancel()
        self._timer = None
        return True

    def _ready(self, limits: SessionLimits, unknown: str) -> None:
        if unknown:
            self._events.emit(LimitsUnknown(why=unknown))
        if not limits.echoes and self._protocol is not None and self._protocol.protocol_version != 5:
            # Whoever may be ThingsBoard from 4.2.1 on, which acknowledges what it refuses (spec thingsboard-mqtt, 3.9).
            limits = replace(limits, doubtful_pubacks=True)
        self._uplink.session_ready(self, limits)


def _limits(payload: bytes) -> tuple[SessionLimits, str]:
    """The limits in ThingsBoard's answer, or the defaults and why they have to do."""
    try:
        limits = payloads.parse_session_limits(payload)
    except ValueError as error:
        return SessionLimits(), f"the answer is not understood: {error}"
    return (limits, "") if limits is not None else (SessionLimits(), "the server does not know the request")


def _over(failure: Failure) -> None:
    """The session ended meanwhile; `disconnected` has told, or is about to."""
