"""Packets of MQTT 3.1.1 beside the bytes that the standard gives them, written by hand from its tables."""

from __future__ import annotations

from tbgw.mqtt.packets import (
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
