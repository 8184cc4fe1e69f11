"""Firmware and software packages: the offer and the chunks (spec thingsboard-mqtt, 5.3, 8.14 row 165)."""

from __future__ import annotations

import json

from twisted.trial import unittest

from tbgw.mqtt.packets import Disconnect, PubAck, Publish
from tbgw.sandbox.control import Refused
from tbgw.sandbox.ota import CHECKSUMS, MAX_PACKAGES, as_bytes, from_bytes, make_package, murmur3_32, murmur3_128
from tests.sandbox.operated import NOW, OperatedTests

IMAGE = bytes(range(256)) * 4
ATTRIBUTES = "v1/devices/me/attributes"


class PackageTests(OperatedTests):
    """One device, offered a package of 1024 bytes."""

    def setUp(self):
        super().setUp()
        self.control.add_package(make_package("fw", "meter", "2.0", IMAGE))

    def offered(self, version=5):
        self.control.assign_package("Plain", "fw", "meter", "2.0")
        device = self.connect("device-token", version)
        device.subscribe("v2/fw/response/+/chunk/+", "v2/fw/error")
        return device

    def test_offer(self):
        """Unused attributes are deleted first, then all that announce it are set in one message; states are told."""
        self.control.set_attributes("Plain", {"fw_tag": "old", "fw_url": "http://old"})
        device = self.connect("device-token")
        device.subscribe(ATTRIBUTES)
        self.control.assign_package("Plain", "fw", "meter", "2.0")
        announced = {
            "fw_title": "meter",
            "fw_version": "2.0",
            "fw_size": 1024,
            "fw_checksum_algorithm": "SHA256",
            "fw_checksum": CHECKSUMS["SHA256"](IMAGE),
        }
        self.assertEqual(
            device.pushed(),
            [(ATTRIBUTES, {"deleted": ["fw_tag", "fw_url"]}), (ATTRIBUTES, {**announced, "fw_version": 2.0})],
        )
        latest = self.latest("Plain")
        self.assertEqual((latest["fw_state"], latest["target_fw_title"]), ("INITIATED", "meter"))
        self.assertEqual([v for _, v in self.view.history("Plain", "fw_state", 0)], ["QUEUED", "INITIATED"])
        self.assertEqual(self.shown("Plain")["telemetry"]["target_fw_ts"]["value"], NOW)
        self.control.unassign_package("Plain", "fw")
        self.assertEqual(self.shown("Plain")["shared"], {})

    def test_chunks(self):
        """Chunk by chunk; the number beyond the end is empty; the size is remembered for the request."""
        device = self.offered()
        ack, chunk = device.publish("v2/fw/request/1/chunk/0", "100")
        self.assertEqual(ack.reason_code, 0)
        self.assertEqual((chunk.topic, chunk.payload, chunk.qos), ("v2/fw/response/1/chunk/0", IMAGE[:100], 1))
        _, chunk = device.publish("v2/fw/request/1/chunk/10", "")
        self.assertEqual(chunk.payload, IMAGE[1000:])
        _, chunk = device.publish("v2/fw/request/1/chunk/11", "0")
        self.assertEqual(chunk.payload, b"")

    def test_whole(self):
        """Without a size the whole image comes at once."""
        _, whole = self.offered().publish("v2/fw/request/7/chunk/0", "")
        self.assertEqual(whole.payload, IMAGE)

    def test_pinned(self):
        """A request number keeps its package while another one is offered already (5.3)."""
        device = self.offered()
        device.publish("v2/fw/request/1/chunk/0", "4")
        self.control.add_package(make_package("fw", "meter", "3.0", b"new image"))
        self.control.assign_package("Plain", "fw", "meter", "3.0")
        device.received()
        self.assertEqual(device.publish("v2/fw/request/1/chunk/1", "4")[1].payload, IMAGE[4:8])
        self.assertEqual(device.publish("v2/fw/request/2/chunk/0", "4")[1].payload, b"new ")

    def test_errors(self):
        """No package, one that is elsewhere, a chunk that is too large: told on the error topic, then the end."""
        self.control.add_package(make_package("sw", "app", "1", b"", url="http://127.0.0.1/app"))
        self.control.assign_package("Plain", "sw", "app", "1")
        for version in (5, 4):
            for topic, size, why in (
                ("v2/fw/request/1/chunk/0", "70000", b"PAYLOAD_TOO_LARGE"),
                ("v2/fw/request/1/chunk/0", "-1", b"PAYLOAD_TOO_LARGE"),
                ("v2/sw/request/1/chunk/0", "100", b"FAILURE"),
            ):
                device = self.offered(version)
                error, *end = device.publish(topic, size)
                self.assertEqual((error.topic, error.payload), ("v2/fw/error", why))
                self.assertEqual(end, [Disconnect(reason_code=0x83)] if version == 5 else [])
                self.assertTrue(device.closed)
            gateway = self.connect(version=version)
            error, *_ = gateway.publish("v2/fw/request/1/chunk/0", "100")
            self.assertEqual(error.payload, b"NOT_FOUND")

    def test_no_number(self):
        """A size that is no number ends the connection with 0x8B."""
        device = self.offered()
        self.assertEqual(device.publish("v2/fw/request/1/chunk/0", "many"), [Disconnect(reason_code=0x8B)])

    def test_topics(self):
        """Only digits are numbers; the pattern is searched for, as the server does."""
        device = self.offered()
        self.assertEqual(device.code("v2/fw/request/a/chunk/0", "4"), 0x90)
        (_, chunk) = device.publish("x/v2/fw/request/1/chunk/0", "4")
        self.assertEqual(chunk.topic, "v2/fw/response/1/chunk/0")

    def test_software(self):
        """Software has its own prefix and topics."""
        self.control.add_package(make_package("sw", "app", "1.0.1", b"code", tag="app 1", algorithm="MD5"))
        self.control.assign_package("Plain", "sw", "app", "1.0.1")
        shared = {key: entry["value"] for key, entry in self.shown("Plain")["shared"].items()}
        told = [shared[f"sw_{key}"] for key in ("title", "tag", "checksum_algorithm")]
        self.assertEqual(told, ["app", "app 1", "MD5"])
        device = self.connect("device-token")
        _, chunk = device.publish("v2/sw/request/1/chunk/0", "100")
        self.assertEqual((chunk.topic, chunk.payload), ("v2/sw/response/1/chunk/0", b"code"))

    def test_kept(self):
        """Package and offer outlive a restart of the sandbox."""
        self.offered().lose()
        self.open()
        self.platform.add_credentials("device-token", "Plain")
        device = self.connect("device-token")
        self.assertEqual(device.publish("v2/fw/request/1/chunk/0", "4")[1].payload, IMAGE[:4])

    def test_large_image(self):
        """An image of many chunks comes as it is, with chunks of the largest size too."""
        image = bytes(1_000_000)
        self.control.add_package(make_package("fw", "big", "1", image, algorithm="CRC32"))
        self.control.assign_package("Plain", "fw", "big", "1")
        device = self.connect("device-token")
        collected = 0
        for number in range(17):
            packets = device.publish(f"v2/fw/request/1/chunk/{number}", "65536")
            chunk = next(packet for packet in packets if isinstance(packet, Publish))
            collected += len(chunk.payload)
            device.send(PubAck(packet_id=chunk.packet_id or 0))
        self.assertEqual(collected, 1_000_000)

    def test_refused(self):
        """What is no package, or not there, or in use, is said so."""
        self.assertRaises(ValueError, make_package, "hw", "t", "1", b"x")
        self.assertRaises(ValueError, make_package, "fw", "", "1", b"x")
        self.assertRaises(ValueError, make_package, "fw", "t", "1", b"")
        self.assertRaises(ValueError, make_package, "fw", "t", "1", b"x", algorithm="SHA1")
        self.assertRaises(ValueError, make_package, "fw", "t", "1", b"x" * (16 * 1024 * 1024 + 1))
        self.assertRaises(Refused, self.control.assign_package, "Plain", "fw", "none", "1")
        self.control.assign_package("Plain", "fw", "meter", "2.0")
        self.assertRaises(Refused, self.control.remove_package, "fw", "meter", "2.0")
        self.control.unassign_package("Plain", "fw")
        self.control.remove_package("fw", "meter", "2.0")
        for number in range(MAX_PACKAGES):
            self.control.add_package(make_package("fw", "t", str(number), b"x"))
        self.assertRaises(Refused, self.control.add_package, make_package("fw", "t", "x", b"x"))


class ChecksumTests(unittest.SynchronousTestCase):
    """ThingsBoard's checksum algorithms."""

    def test_murmur(self):
        """MurmurHash3 against the reference implementation's values."""
        for text, short, long in (
            (b"", 0x00000000, 0),
            (b"hello", 0x248BFA47, 0x5B1E906A48AE1D19CBD8A7B341BD9B02),
            (b"hello, world", 0x149BBB7F, 0x4CDCBC079642414D342FAC623A5EBC8E),
            (b"19 Jan 2038 at 3:14:07 AM", 0xE31E8A70, 0x664FC2950231B2CBB89E5988B737AFFC),
            (bytes(range(31)), 0x64426AD6, 0x9EE59AEFB4005490053DD3E1A32CD094),
        ):
            self.assertEqual((murmur3_32(text), murmur3_128(text)), (short, long), text)

    def test_written(self):
        """The last three are written as little-endian hex."""
        self.assertEqual(CHECKSUMS["CRC32"](b"123456789"), "2639f4cb")
        self.assertEqual(CHECKSUMS["MURMUR3_32"](b"hello"), "47fa8b24")
        self.assertEqual(CHECKSUMS["SHA256"](b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        self.assertEqual([len(CHECKSUMS[name](b"x")) for name in CHECKSUMS], [32, 64, 96, 128, 8, 8, 32])

    def test_stored(self):
        """A package comes back as it was put away."""
        package = make_package("fw", "t\n", "1", b"\x00\nimage", tag="x")
        self.assertEqual(from_bytes(as_bytes(package)), package)
        self.assertRaises(ValueError, from_bytes, json.dumps({"x": 1}).encode())
