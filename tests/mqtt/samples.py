"""Packets of both versions beside the bytes that the standard gives them, written by hand from its tables."""

from __future__ import annotations

from tbgw.mqtt.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from tbgw.mqtt.properties import PropertyId as P

SAMPLES_V4: list[tuple[str, Packet, bytes]] = [
    ("connect least", Connect(keep_alive_seconds=60), b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"),
    (
        "connect token",
        Connect(client_id="gw", username="token", keep_alive_seconds=30),
        b"\x10\x15\x00\x04MQTT\x04\x82\x00\x1e\x00\x02gw\x00\x05token",
    ),
    (
        "connect full",
        Connect(
            client_id="c",
            clean_start=False,
            keep_alive_seconds=65535,
            username="u",
            password=b"\x00\xff",
            will=Will(topic="w", payload=b"gone", qos=1, retain=True),
        ),
        b"\x10\x1d\x00\x04MQTT\x04\xec\xff\xff\x00\x01c\x00\x01w\x00\x04gone\x00\x01u\x00\x02\x00\xff",
    ),
    ("connack accepted", ConnAck(), b"\x20\x02\x00\x00"),
    ("connack session present", ConnAck(session_present=True), b"\x20\x02\x01\x00"),
    ("connack refused", ConnAck(reason_code=5), b"\x20\x02\x00\x05"),
    ("publish qos 0", Publish(topic="a/b", payload=b"hello"), b"\x30\x0a\x00\x03a/bhello"),
    ("publish empty", Publish(topic="a", payload=b""), b"\x30\x03\x00\x01a"),
    (
        "publish qos 1",
        Publish(topic="a/b", payload=b"\x00\x01", qos=1, packet_id=0x1234),
        b"\x32\x09\x00\x03a/b\x12\x34\x00\x01",
    ),
    (
        "publish all flags",
        Publish(topic="ä", payload=b"x", qos=2, retain=True, dup=True, packet_id=65535),
        b"\x3d\x07\x00\x02\xc3\xa4\xff\xffx",
    ),
    (
        "publish two length bytes",
        Publish(topic="t", payload=b"p" * 200),
        b"\x30\xcb\x01\x00\x01t" + b"p" * 200,
    ),
    ("puback", PubAck(packet_id=7), b"\x40\x02\x00\x07"),
    ("puback zero", PubAck(packet_id=0), b"\x40\x02\x00\x00"),
    ("pubrec", PubRec(packet_id=7), b"\x50\x02\x00\x07"),
    ("pubrel", PubRel(packet_id=7), b"\x62\x02\x00\x07"),
    ("pubcomp", PubComp(packet_id=7), b"\x70\x02\x00\x07"),
    (
        "subscribe",
        Subscribe(
            packet_id=10, filters=(Subscription(topic_filter="a/+", qos=1), Subscription(topic_filter="#", qos=2))
        ),
        b"\x82\x0c\x00\x0a\x00\x03a/+\x01\x00\x01#\x02",
    ),
    ("suback", SubAck(packet_id=10, reason_codes=(0, 1, 2, 0x80)), b"\x90\x06\x00\x0a\x00\x01\x02\x80"),
    ("unsubscribe", Unsubscribe(packet_id=11, filters=("a/b", "c")), b"\xa2\x0a\x00\x0b\x00\x03a/b\x00\x01c"),
    ("unsuback", UnsubAck(packet_id=11), b"\xb0\x02\x00\x0b"),
    ("pingreq", PingReq(), b"\xc0\x00"),
    ("pingresp", PingResp(), b"\xd0\x00"),
    ("disconnect", Disconnect(), b"\xe0\x00"),
]
"""(name, packet, its bytes)."""

SAMPLES_V5: list[tuple[str, Packet, bytes]] = [
    (
        "connect least",
        Connect(keep_alive_seconds=60, protocol_version=5),
        b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00",
    ),
    (
        "connect password only",
        Connect(client_id="c", clean_start=False, password=b"p", protocol_version=5),
        b"\x10\x11\x00\x04MQTT\x05\x40\x00\x00\x00\x00\x01c\x00\x01p",
    ),
    (
        "connect all properties",
        Connect(
            protocol_version=5,
            properties={
                P.SESSION_EXPIRY_INTERVAL: 0xFFFFFFFF,
                P.RECEIVE_MAXIMUM: 10,
                P.MAXIMUM_PACKET_SIZE: 65536,
                P.TOPIC_ALIAS_MAXIMUM: 5,
                P.REQUEST_RESPONSE_INFORMATION: 1,
                P.REQUEST_PROBLEM_INFORMATION: 0,
                P.USER_PROPERTY: (("a", "b"), ("a", "")),
                P.AUTHENTICATION_METHOD: "m",
                P.AUTHENTICATION_DATA: b"\x00",
            },
        ),
        b"\x10\x36\x00\x04MQTT\x05\x02\x00\x00\x29"
        b"\x11\xff\xff\xff\xff\x21\x00\x0a\x27\x00\x01\x00\x00\x22\x00\x05\x19\x01\x17\x00"
        b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x00\x15\x00\x01m\x16\x00\x01\x00"
        b"\x00\x00",
    ),
    (
        "connect will properties",
        Connect(
            protocol_version=5,
            will=Will(
                topic="w",
                payload=b"!",
                properties={
                    P.WILL_DELAY_INTERVAL: 1,
                    P.PAYLOAD_FORMAT_INDICATOR: 1,
                    P.MESSAGE_EXPIRY_INTERVAL: 2,
                    P.CONTENT_TYPE: "t",
                    P.RESPONSE_TOPIC: "r",
                    P.CORRELATION_DATA: b"c",
                    P.USER_PROPERTY: (("k", "v"),),
                },
            ),
        ),
        b"\x10\x33\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x00\x1f"
        b"\x18\x00\x00\x00\x01\x01\x01\x02\x00\x00\x00\x02\x03\x00\x01t\x08\x00\x01r\x09\x00\x01c\x26\x00\x01k\x00\x01v"
        b"\x00\x01w\x00\x01!",
    ),
    ("connack accepted", ConnAck(), b"\x20\x03\x00\x00\x00"),
    ("connack refused", ConnAck(reason_code=0x87), b"\x20\x03\x00\x87\x00"),
    (
        "connack all properties",
        ConnAck(
            session_present=True,
            properties={
                P.SESSION_EXPIRY_INTERVAL: 1,
                P.RECEIVE_MAXIMUM: 2,
                P.MAXIMUM_QOS: 1,
                P.RETAIN_AVAILABLE: 0,
                P.MAXIMUM_PACKET_SIZE: 1000,
                P.ASSIGNED_CLIENT_IDENTIFIER: "c",
                P.TOPIC_ALIAS_MAXIMUM: 3,
                P.REASON_STRING: "r",
                P.WILDCARD_SUBSCRIPTION_AVAILABLE: 0,
                P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 0,
                P.SHARED_SUBSCRIPTION_AVAILABLE: 0,
                P.SERVER_KEEP_ALIVE: 4,
                P.RESPONSE_INFORMATION: "i",
                P.SERVER_REFERENCE: "s",
            },
        ),
        b"\x20\x30\x01\x00\x2d\x11\x00\x00\x00\x01\x21\x00\x02\x24\x01\x25\x00\x27\x00\x00\x03\xe8\x12\x00\x01c\x22\x00\x03"
        b"\x1f\x00\x01r\x28\x00\x29\x00\x2a\x00\x13\x00\x04\x1a\x00\x01i\x1c\x00\x01s",
    ),
    ("publish qos 0", Publish(topic="a/b", payload=b"hello"), b"\x30\x0b\x00\x03a/b\x00hello"),
    (
        "publish qos 2",
        Publish(topic="a", payload=b"", qos=2, packet_id=3, dup=True),
        b"\x3c\x06\x00\x01a\x00\x03\x00",
    ),
    (
        "publish properties",
        Publish(
            topic="",
            payload=b"x",
            qos=1,
            packet_id=1,
            properties={P.TOPIC_ALIAS: 7, P.SUBSCRIPTION_IDENTIFIER: (1, 300), P.MESSAGE_EXPIRY_INTERVAL: 9},
        ),
        b"\x32\x13\x00\x00\x00\x01\x0d\x23\x00\x07\x0b\x01\x0b\xac\x02\x02\x00\x00\x00\x09x",
    ),
    (
        "publish long properties",
        Publish(topic="t", payload=b"p", properties={P.USER_PROPERTY: (("n", "v" * 150),)}),
        b"\x30\xa2\x01\x00\x01t\x9c\x01\x26\x00\x01n\x00\x96" + b"v" * 150 + b"p",
    ),
    ("puback", PubAck(packet_id=7), b"\x40\x02\x00\x07"),
    ("puback code", PubAck(packet_id=7, reason_code=0x97), b"\x40\x03\x00\x07\x97"),
    (
        "puback reason",
        PubAck(packet_id=7, reason_code=0x99, properties={P.REASON_STRING: "no"}),
        b"\x40\x09\x00\x07\x99\x05\x1f\x00\x02no",
    ),
    ("pubrec", PubRec(packet_id=7, reason_code=0x10), b"\x50\x03\x00\x07\x10"),
    ("pubrel", PubRel(packet_id=7, reason_code=0x92), b"\x62\x03\x00\x07\x92"),
    ("pubcomp", PubComp(packet_id=7, reason_code=0x92), b"\x70\x03\x00\x07\x92"),
    (
        "subscribe",
        Subscribe(
            packet_id=10,
            filters=(
                Subscription(topic_filter="a/+", qos=1, no_local=True, retain_as_published=True, retain_handling=2),
                Subscription(topic_filter="$share/g/#", qos=2),
            ),
            properties={P.SUBSCRIPTION_IDENTIFIER: 5},
        ),
        b"\x82\x18\x00\x0a\x02\x0b\x05\x00\x03a/+\x2d\x00\x0a$share/g/#\x02",
    ),
    ("suback", SubAck(packet_id=10, reason_codes=(0, 1, 2, 0x8F)), b"\x90\x07\x00\x0a\x00\x00\x01\x02\x8f"),
    ("unsubscribe", Unsubscribe(packet_id=11, filters=("a/b",)), b"\xa2\x08\x00\x0b\x00\x00\x03a/b"),
    ("unsuback", UnsubAck(packet_id=11, reason_codes=(0, 0x11)), b"\xb0\x05\x00\x0b\x00\x00\x11"),
    ("pingreq", PingReq(), b"\xc0\x00"),
    ("pingresp", PingResp(), b"\xd0\x00"),
    ("disconnect", Disconnect(), b"\xe0\x00"),
    ("disconnect code", Disconnect(reason_code=0x04), b"\xe0\x01\x04"),
    (
        "disconnect properties",
        Disconnect(reason_code=0x9D, properties={P.SERVER_REFERENCE: "h"}),
        b"\xe0\x06\x9d\x04\x1c\x00\x01h",
    ),
    ("auth", Auth(), b"\xf0\x00"),
    (
        "auth continue",
        Auth(reason_code=0x18, properties={P.AUTHENTICATION_METHOD: "m"}),
        b"\xf0\x06\x18\x04\x15\x00\x01m",
    ),
]
"""The same for MQTT 5."""

SAMPLES = [(4, *sample) for sample in SAMPLES_V4] + [(5, *sample) for sample in SAMPLES_V5]
"""(version, name, packet, its bytes)."""
