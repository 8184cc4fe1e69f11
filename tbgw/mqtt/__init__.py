"""MQTT 3.1.1 for either role: a core without input and output, and one adapter for Twisted. Imports nothing of tbgw.

`packets` what travels, `codec` how it is spelt, `topics` names and filters, `state` which moves are legal, `session`
what outlives a connection, `connection` bytes in and events out, `protocol` the same on a Twisted transport.
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
from tbgw.mqtt.protocol import (
    IClientListener,
    IServerListener,
    MQTTClientProtocol,
    MQTTServerProtocol,
    abandon_session,
)
from tbgw.mqtt.session import Session
from tbgw.mqtt.topics import matches

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
    "Will",
    "abandon_session",
    "matches",
]
