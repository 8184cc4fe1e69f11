"""Both directions of the spelling, under one name: `decoder` reads, `encoder` writes, `properties` and `wire` serve
both."""

from tbgw.mqtt.decoder import decode
from tbgw.mqtt.encoder import encode, encode_puback, encode_publish, encode_topic_name
from tbgw.mqtt.properties import encode_properties
from tbgw.mqtt.wire import MAX_PACKET_BYTES, MAX_REMAINING_LENGTH, SUPPORTED_VERSIONS

__all__ = [
    "MAX_PACKET_BYTES",
    "MAX_REMAINING_LENGTH",
    "SUPPORTED_VERSIONS",
    "decode",
    "encode",
    "encode_properties",
    "encode_puback",
    "encode_publish",
    "encode_topic_name",
]
