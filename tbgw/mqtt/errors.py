"""Errors of the MQTT library, parted by whose fault they are.

`LocalProtocolError`: our own side asked for something that is not allowed now or never; nothing was sent and the
connection goes on. `RemoteProtocolError`: the peer broke the standard, and the connection is over; its text names the
clause (`[MQTT-2.2.2-2]`) and its `reason_code` is what MQTT 5 would tell the peer. The others end a connection without
a breach of the standard. No text ever holds what a packet contained: user name, password and payload are secrets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tbgw.mqtt.reason_codes import ReasonCode, describe

if TYPE_CHECKING:
    from tbgw.mqtt.packets import ConnAck, Disconnect


class MQTTError(Exception):
    """Parent of all errors of this library; `reason_code` is the MQTT 5 code that comes nearest."""

    reason_code: int = ReasonCode.UNSPECIFIED_ERROR


class LocalProtocolError(MQTTError):
    """We asked for something that MQTT, the peer's limits or our own limits forbid. Nothing was sent."""

    reason_code: int = ReasonCode.PROTOCOL_ERROR


class RemoteProtocolError(MQTTError):
    """The peer did something that MQTT or our limits forbid. The connection is over."""

    connect_version: int | None = None
    """The version of the CONNECT that could not be read, where that much of it could."""

    def __init__(self, text: str, reason_code: int = ReasonCode.PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.reason_code = reason_code


class ConnectionRefused(RemoteProtocolError):  # noqa: N818 - named by the outcome, as ConnectionLost is
    """The server answered CONNECT with a CONNACK that says no; `connack` is its packet."""

    def __init__(self, connack: ConnAck, protocol_version: int) -> None:
        super().__init__(
            f"server refused the connection: {describe(connack.reason_code, connack_version=protocol_version)}",
            connack.reason_code,
        )
        self.connack = connack
        self.protocol_version = protocol_version


class ConnectTimeout(MQTTError):  # noqa: N818 - as above
    """CONNECT (seen by the server) or CONNACK (seen by the client) did not come in time."""

    reason_code: int = ReasonCode.MAXIMUM_CONNECT_TIME


class KeepAliveTimeout(MQTTError):  # noqa: N818 - as above
    """The peer was silent for longer than keep alive allows."""

    reason_code: int = ReasonCode.KEEP_ALIVE_TIMEOUT


class PeerDisconnected(MQTTError):  # noqa: N818 - as above
    """The peer said DISCONNECT; `packet` is what it said."""

    peer = "peer"

    def __init__(self, packet: Disconnect) -> None:
        super().__init__(f"{self.peer} disconnected: {describe(packet.reason_code)}")
        self.packet = packet
        self.reason_code = packet.reason_code


class ServerDisconnected(PeerDisconnected):
    """The server sent DISCONNECT (MQTT 5 only)."""

    peer = "server"


class ClientDisconnected(PeerDisconnected):
    """The client sent DISCONNECT: the clean end of its connection."""

    peer = "client"
