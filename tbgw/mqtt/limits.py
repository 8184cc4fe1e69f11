"""What the two ends of a connection tell each other about their limits (MQTT 5), and the tables of topic aliases.

On 3.1.1 nothing is told: the peer's limits are then the widest there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tbgw.mqtt.errors import LocalProtocolError, RemoteProtocolError
from tbgw.mqtt.packets import ConnAck, Connect, Properties, Publish, Subscription, unchecked_publish
from tbgw.mqtt.properties import PropertyId
from tbgw.mqtt.reason_codes import ReasonCode
from tbgw.mqtt.topics import SHARE_PREFIX
from tbgw.mqtt.wire import MAX_PACKET_BYTES

WIDEST_RECEIVE_MAXIMUM: Final = 65535
"""What holds when nobody says anything (section 3.1.2.11.3)."""

LEAST_PACKET_BYTES: Final = 20
"""A peer that takes no packet of this size could not even be answered; nobody sets so little but to do harm."""

_P = PropertyId


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """What the peer takes from us."""

    receive_maximum: int = WIDEST_RECEIVE_MAXIMUM
    max_packet_bytes: int = MAX_PACKET_BYTES
    topic_alias_maximum: int = 0
    max_qos: int = 2
    retain: bool = True
    wildcards: bool = True
    subscription_identifiers: bool = True
    shared_subscriptions: bool = True
    problem_information: bool = True  # whether it wants reason strings and user properties with its answers

    @classmethod
    def of(cls, packet: Connect | ConnAck) -> PeerLimits:
        """The limits that stand in a CONNECT or CONNACK. Raises RemoteProtocolError for absurd ones."""
        told = packet.properties
        if not told:
            return _WIDEST
        if told.get(_P.MAXIMUM_PACKET_SIZE, MAX_PACKET_BYTES) < LEAST_PACKET_BYTES:
            raise RemoteProtocolError(
                f"a maximum packet size below {LEAST_PACKET_BYTES} leaves no room for an answer (section 3.1.2.11.4)",
                ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR,
            )
        return cls(
            receive_maximum=told.get(_P.RECEIVE_MAXIMUM, WIDEST_RECEIVE_MAXIMUM),
            max_packet_bytes=told.get(_P.MAXIMUM_PACKET_SIZE, MAX_PACKET_BYTES),
            topic_alias_maximum=told.get(_P.TOPIC_ALIAS_MAXIMUM, 0),
            max_qos=told.get(_P.MAXIMUM_QOS, 2),
            retain=bool(told.get(_P.RETAIN_AVAILABLE, 1)),
            wildcards=bool(told.get(_P.WILDCARD_SUBSCRIPTION_AVAILABLE, 1)),
            subscription_identifiers=bool(told.get(_P.SUBSCRIPTION_IDENTIFIER_AVAILABLE, 1)),
            shared_subscriptions=bool(told.get(_P.SHARED_SUBSCRIPTION_AVAILABLE, 1)),
            problem_information=bool(told.get(_P.REQUEST_PROBLEM_INFORMATION, 1)),
        )

    def publish_fault(self, qos: int, retain: bool) -> tuple[str, int] | None:
        """Why the peer takes no such message: text and reason code; or None."""
        if qos > self.max_qos:
            return f"the peer takes QoS {self.max_qos} at most [MQTT-3.2.2-11]", ReasonCode.QOS_NOT_SUPPORTED
        if retain and not self.retain:
            return "the peer retains nothing [MQTT-3.2.2-14]", ReasonCode.RETAIN_NOT_SUPPORTED
        return None

    def check_subscriptions(self, subscriptions: tuple[Subscription, ...], identified: bool) -> None:
        """Raises LocalProtocolError for what this server said it has not."""
        for subscription in subscriptions:
            topic_filter = subscription.topic_filter
            if not self.shared_subscriptions and topic_filter.startswith(SHARE_PREFIX):
                raise LocalProtocolError("the server has no shared subscriptions (section 3.2.2.3.13)")
            if not self.wildcards and ("+" in topic_filter or "#" in topic_filter):
                raise LocalProtocolError("the server has no wildcard subscriptions (section 3.2.2.3.11)")
        if identified and not self.subscription_identifiers:
            raise LocalProtocolError("the server has no subscription identifiers (section 3.2.2.3.12)")


_WIDEST: Final = PeerLimits()


def own_limits(receive_maximum: int, max_packet_bytes: int, topic_alias_maximum: int) -> dict[int, Any]:
    """The properties that tell the peer what we take; what is the widest anyway is left out."""
    told: dict[int, Any] = {}
    if receive_maximum < WIDEST_RECEIVE_MAXIMUM:
        told[_P.RECEIVE_MAXIMUM] = receive_maximum
    if max_packet_bytes < MAX_PACKET_BYTES:
        told[_P.MAXIMUM_PACKET_SIZE] = max_packet_bytes
    if topic_alias_maximum:
        told[_P.TOPIC_ALIAS_MAXIMUM] = topic_alias_maximum
    return told


def without_problem_information(properties: Properties | None) -> Properties | None:
    """The same without reason string and user properties, which may always be left out [MQTT-3.4.2-2]."""
    if not properties:
        return None
    kept = {key: value for key, value in properties.items() if key not in (_P.REASON_STRING, _P.USER_PROPERTY)}
    return kept or None


class OutgoingAliases:
    """Topics of ours and their numbers, first come first served, up to what the peer takes and we want."""

    __slots__ = ("_limit", "_numbers")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def known(self, topic: str) -> int | None:
        """The number by which the peer knows this topic."""
        return self._numbers.get(topic)

    def free(self) -> int | None:
        """The number that the next topic would get, or None when the table is full."""
        number = len(self._numbers) + 1
        return number if number <= self._limit else None

    def sent(self, topic: str, number: int) -> None:
        """A PUBLISH with this topic and number went out."""
        self._numbers[topic] = number


class IncomingAliases:
    """The peer's numbers and their topics; bounded by what we told it."""

    __slots__ = ("_limit", "_topics")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._topics: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def resolve(self, publish: Publish) -> Publish:
        """The same message with its topic and without the alias, which means nothing beyond this connection."""
        properties = publish.properties
        if properties is None or _P.TOPIC_ALIAS not in properties:
            return publish
        number = properties[_P.TOPIC_ALIAS]
        if number > self._limit:
            raise RemoteProtocolError(
                f"topic alias {number}, {self._limit} is the highest [MQTT-3.3.2-9]", ReasonCode.TOPIC_ALIAS_INVALID
            )
        topic = publish.topic
        if topic:
            self._topics[number] = topic
        else:
            known = self._topics.get(number)
            if known is None:
                raise RemoteProtocolError(f"topic alias {number} stands for nothing yet (section 3.3.2.3.4)")
            topic = known
        rest = {key: value for key, value in properties.items() if key != _P.TOPIC_ALIAS}
        return unchecked_publish(
            topic, publish.payload, publish.qos, publish.retain, publish.dup, publish.packet_id, rest or None
        )
