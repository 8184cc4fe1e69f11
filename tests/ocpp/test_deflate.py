"""permessage-deflate, byte by byte, without sockets: what is agreed on, what it costs, bombs."""

from __future__ import annotations

import zlib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.ocpp.versions import Version
from tests.ocpp.wires import Rig, frame, request

V16, V201, V21 = Version.V16, Version.V201, Version.V21
HEARTBEAT = b'[2,"i","Heartbeat",{}]'
DEFLATE = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits"}


class DeflateTests(SynchronousTestCase):
    """permessage-deflate, for 2.x only."""

    def deflated(self, data: bytes, bits: int = -9) -> bytes:
        deflate = zlib.compressobj(9, zlib.DEFLATED, bits)
        return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def extensions(self, protocol: str, offer: str, **options: Any) -> str | None:
        wire = Rig(**options).dial()
        wire.say(request(protocols=[protocol], headers={"Sec-WebSocket-Extensions": offer}))
        status, headers = wire.head()
        self.assertEqual(status, 101)
        return headers.get("sec-websocket-extensions")

    def test_negotiation(self) -> None:
        """1.6 goes without, 2.x gets the small parameters that its offer allows."""
        offer = "permessage-deflate; client_max_window_bits"
        self.assertIsNone(self.extensions("ocpp1.6", offer))
        self.assertIsNone(self.extensions("ocpp2.0.1", offer, compression=False))
        self.assertIsNone(self.extensions("ocpp2.0.1", "x-webkit-deflate-frame"))
        full = self.extensions("ocpp2.0.1", offer)
        assert full is not None
        self.assertIn("client_max_window_bits=9", full)
        self.assertIn("client_no_context_takeover", full)
        bare = self.extensions("ocpp2.1", "permessage-deflate")
        assert bare is not None
        self.assertNotIn("max_window_bits", bare)
        asked = self.extensions("ocpp2.1", "permessage-deflate; server_max_window_bits=10; server_no_context_takeover")
        assert asked is not None
        self.assertIn("server_max_window_bits=10", asked)

    def test_odd_offers(self) -> None:
        """An offer that makes no sense never leaves a socket hanging: 101 without it, or 400."""
        for offer in (
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=99",
            "permessage-deflate; nonsense=1",
            "permessage-bzip2; client_max_compress_level=x",
            ";;;",
        ):
            wire = Rig().dial()
            wire.say(request(protocols=["ocpp2.0.1"], headers={"Sec-WebSocket-Extensions": offer}))
            self.assertIn(wire.head()[0], (101, 400), offer)

    def test_messages(self) -> None:
        """Compressed and plain messages mix; short answers go plain, long ones compressed; no zlib object is kept."""
        rig = Rig()
        wire = rig.connect(protocols=["ocpp2.0.1"], headers=DEFLATE)
        for text in (HEARTBEAT, HEARTBEAT, b'[2,"j","Heartbeat",{"customData":{"vendorId":"' + b"v" * 200 + b'"}}]'):
            wire.say(frame(self.deflated(text), rsv=4))
        wire.say(frame(HEARTBEAT))
        self.assertEqual(len(rig.listener.told("call")), 4)
        self.assertEqual(len(wire.messages()), 4)
        rig.listener.stations[0].call("DataTransfer", {"vendorId": "v", "data": "x" * 2000}, 5).addErrback(
            lambda _: None
        )
        sent = wire.socket.value()
        self.assertEqual((sent[0], len(sent) < 200), (0xC1, True))
        deflate = wire.protocol._perMessageCompress
        self.assertEqual((deflate._compressor, deflate._decompressor), (None, None))

    def test_bomb(self) -> None:
        """A message that grows beyond the limit is stopped near the limit, in one frame or in many."""
        bomb = self.deflated(b"[" + b" " * 50_000_000, -15)
        for pieces in (1, 20):
            rig = Rig()
            wire = rig.connect(protocols=["ocpp2.0.1"], headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
            size = len(bomb) // pieces + 1
            for start in range(0, len(bomb), size):
                wire.say(
                    frame(
                        bomb[start : start + size],
                        0 if start else 1,
                        fin=start + size >= len(bomb),
                        rsv=0 if start else 4,
                    )
                )
            self.assertEqual(wire.close_code(), 1009)

    def test_corrupt(self) -> None:
        """What cannot be decompressed closes with 1007."""
        wire = Rig().connect(protocols=["ocpp2.0.1"], headers=DEFLATE)
        wire.say(frame(b"\xff" * 50, rsv=4))
        self.assertEqual(wire.close_code(), 1007)
