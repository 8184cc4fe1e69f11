"""MQTT 3.1.1 and 5 for either role: a core without input and output, and adapters for Twisted. Imports nothing of tbgw.

`packets` and `properties` what travels, `codec` (`decoder`, `encoder`, `wire`) how it is spelt, `topics` names and
filters, `state` which moves are legal, `session` what outlives a connection, `exchanges` QoS 1 and 2, `limits` what the
peers told each other, `timers` when to wake, `connection` (and its half `outgoing`) bytes in and events out, `protocol`
the same on a Twisted transport, `versions` 5 first and then 3.1.1.

Not imported here, because not everybody needs them: `proxy` (HTTP CONNECT), `websocket` (Autobahn), `broker`.
"""

from tbgw.mqtt.errors import (
    ClientDisconnected,
    ConnectionRefused,
    ConnectTimeout,
    KeepAliveTimeout,
    LocalProtocolError,
    MQTTError,
    PeerDisconnected,
    RemoteProtocolError,
    ServerDisconnected,
)
from tbgw.mqtt.options import ClientOptions, ServerOptions
from tbgw.mqtt.packets import (
    SUBACK_FAILURE,
    Auth,
    ConnAck,
    Connect,
    ConnectReturnCode,
    Disconnect,
    PacketType,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tbgw.mqtt.properties import PropertyId
from tbgw.mqtt.protocol import (
    IClientListener,
    IServerListener,
    MQTTClientProtocol,
    MQTTServerProtocol,
    abandon_session,
)
from tbgw.mqtt.session import Session
from tbgw.mqtt.topics import matches
from tbgw.mqtt.versions import VersionChoice

__all__ = [
    "SUBACK_FAILURE",
    "Auth",
    "ClientDisconnected",
    "ClientOptions",
    "ConnAck",
    "Connect",
    "ConnectReturnCode",
    "ConnectTimeout",
    "ConnectionRefused",
    "Disconnect",
    "IClientListener",
    "IServerListener",
    "KeepAliveTimeout",
    "LocalProtocolError",
    "MQTTClientProtocol",
    "MQTTError",
    "MQTTServerProtocol",
    "PacketType",
    "PeerDisconnected",
    "PingReq",
    "PingResp",
    "PropertyId",
    "PubAck",
    "PubComp",
    "PubRec",
    "PubRel",
    "Publish",
    "ReasonCode",
    "RemoteProtocolError",
    "ServerDisconnected",
    "ServerOptions",
    "Session",
    "SubAck",
    "Subscribe",
    "Subscription",
    "UnsubAck",
    "Unsubscribe",
    "VersionChoice",
    "Will",
    "abandon_session",
    "matches",
]
