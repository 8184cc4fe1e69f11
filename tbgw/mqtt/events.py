"""What a connection tells its owner, as frozen values. `context` is what the owner gave along with the request.

The two that come with every message are named tuples, which are built in less than half of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from tbgw.mqtt.packets import ConnAck, Connect, Publish, Subscribe, Unsubscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectReceived:
    """Server: a client wants in. Answer with `accept` or `refuse`; until then what it sends is put aside."""

    connect: Connect


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """Client: the server said yes, and what was unacknowledged in the session has been sent again."""

    connack: ConnAck


class PublishReceived(NamedTuple):
    """A message came. With QoS 1 and 2 it is to be acknowledged by `acknowledge`."""

    publish: Publish


class PublishAcknowledged(NamedTuple):
    """The peer took over a message of ours; its packet id is free again. A code of 0x80 and above: it refused."""

    packet_id: int
    reason_code: int
    context: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeReceived:
    """Server: answer with `acknowledge_subscribe`."""

    subscribe: Subscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubscribeReceived:
    """Server: answer with `acknowledge_unsubscribe`."""

    unsubscribe: Unsubscribe


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscribeAcknowledged:
    """The answer to a SUBSCRIBE or UNSUBSCRIBE of ours: one code for each filter, in order."""

    packet_id: int
    reason_codes: tuple[int, ...]
    context: Any = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated:
    """
    The connection is over; no event but `CloseTimedOut` follows. First send what `data_to_send` still holds, then
    close: with `abort` at once, otherwise in good order.
    """

    reason: Exception
    abort: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTimedOut:
    """Closing in good order takes too long: abort."""


Event: TypeAlias = (
    ConnectReceived
    | Connected
    | PublishReceived
    | PublishAcknowledged
    | SubscribeReceived
    | UnsubscribeReceived
    | SubscribeAcknowledged
    | Terminated
    | CloseTimedOut
)
