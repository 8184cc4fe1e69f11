"""Who is told what happens on a connection: the contracts of the listeners, in prose.

Everything is called in the reactor's thread, from inside the protocol; nothing may block.
"""
# ruff: noqa: N805 - methods of a zope interface have no self

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IConsumer, ITCPTransport
from zope.interface import Interface

from tbgw.mqtt.packets import ConnAck, Connect, Publish, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from tbgw.mqtt.protocol import MQTTClientProtocol, MQTTServerProtocol


class IMQTTTransport(ITCPTransport, IConsumer):
    """What an MQTT protocol needs of its transport. TCP and TLS have it, so have Twisted's test transports."""


class IClientListener(Interface):
    """Who lives on a client connection."""

    def connected(protocol: MQTTClientProtocol, connack: ConnAck) -> None:
        """The server accepted: publish and subscribe work from now on."""

    def message_received(protocol: MQTTClientProtocol, publish: Publish) -> None:
        """A message came. With QoS 1 and 2 it is acknowledged when this has returned."""

    def disconnected(protocol: MQTTClientProtocol, reason: Exception) -> None:
        """
        The connection is gone, exactly once, whether or not `connected` was called. `reason` is ConnectionRefused,
        RemoteProtocolError, ConnectTimeout, KeepAliveTimeout, ServerDisconnected, or what the transport gave
        (ConnectionDone, ConnectionLost, a TLS error).
        """


class IServerListener(Interface):
    """Who answers the client at the other end of a server connection."""

    def connect_received(protocol: MQTTServerProtocol, connect: Connect) -> None:
        """A client wants in. `protocol.accept()` or `protocol.refuse(code)` must follow, now or later."""

    def publish_received(protocol: MQTTServerProtocol, publish: Publish) -> None:
        """A message came. With QoS 1 and 2 `protocol.acknowledge(publish)` must follow, now or later."""

    def subscribe_received(protocol: MQTTServerProtocol, subscribe: Subscribe) -> Sequence[int]:
        """
        One code for each filter, in order: the granted QoS, or 0x80 (on MQTT 5: or any code of a SUBACK). The SUBACK
        goes out when this returned.
        """

    def unsubscribe_received(protocol: MQTTServerProtocol, unsubscribe: Unsubscribe) -> Sequence[int]:
        """One code for each filter, in order, told on MQTT 5 only. The UNSUBACK goes out when this returned."""

    def disconnected(protocol: MQTTServerProtocol, reason: Exception) -> None:
        """
        The connection is gone, exactly once, whether or not a CONNECT ever came. `reason` is ClientDisconnected (the
        client said DISCONNECT), RemoteProtocolError, ConnectTimeout, KeepAliveTimeout, or what the transport gave.
        """
