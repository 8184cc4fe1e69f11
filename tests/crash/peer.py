"""A broker that dies at a chosen step of the session, once for each step of its script, and is well afterwards.

It counts as arrived only what it has acknowledged: a broker that dies may lose anything else. Written with plain
sockets, so that it shares nothing with the gateway's own MQTT; speaks 3.1.1 and 5, as it is spoken to.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

from tests.crash.ledger import Id, ids_in

STEPS = ("CONNECT", "CONNACK", "SUBSCRIBE", "SUBACK", "LIMITS", "ANNOUNCE", "ANNOUNCED", "PUBLISH", "PUBACK")
"""Where it dies: having read this and not answered it, or having sent it. LIMITS is the request for the session's
limits, ANNOUNCE a device's announcement, ANNOUNCED its acknowledgement, PUBLISH telemetry."""

_ANSWER_TOPIC = b"v1/devices/me/rpc/response/1"


class ScriptedBroker:
    """Listens at once; `script` names the step at which each connection in turn dies."""

    def __init__(self, script: Sequence[str]) -> None:
        self.arrived: list[Id] = []
        """What was acknowledged, in the order of reception."""
        self.died: list[str] = []
        self.unacknowledged = 0
        """Telemetry that was read and never acknowledged: it has to come again."""
        self._script = list(script)
        self.well = threading.Event()
        """Set once the script is over."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            end = self._script.pop(0) if self._script else ""
            if not end:
                self.well.set()
            with contextlib.suppress(OSError):
                self._session(link, end)
                if end:
                    self.died.append(end)
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()

    def _session(self, link: socket.socket, end: str) -> None:
        """Until the peer or the script ends it."""
        five = False
        for kind, body in _packets(link):
            if kind == 1:
                five = body[6] == 5
                if end == "CONNECT":
                    return
                link.sendall(b"\x20\x03\x00\x00\x00" if five else b"\x20\x02\x00\x00")
                if end == "CONNACK":
                    return
            elif kind == 8:
                if end == "SUBSCRIBE":
                    return
                filters = body.count(b"v1/") + body.count(b"v2/")
                answer = body[:2] + b"\x00" * five + b"\x01" * filters
                link.sendall(b"\x90" + bytes([len(answer)]) + answer)
                if end == "SUBACK":
                    return
            elif kind == 12:
                link.sendall(b"\xd0\x00")
            elif kind == 3 and self._publish(link, body, end, five):
                return

    def _publish(self, link: socket.socket, body: bytes, end: str, five: bool) -> bool:
        """Whether it dies of it."""
        size = int.from_bytes(body[:2], "big")
        topic, packet_id, payload = body[2 : 2 + size], body[2 + size : 4 + size], body[4 + size :]
        if five:  # properties: fewer than 128 bytes of them
            payload = payload[1 + payload[0] :]
        if topic.startswith(b"v1/devices/me/rpc/request/"):
            if end == "LIMITS":
                return True
            reply = len(_ANSWER_TOPIC).to_bytes(2, "big") + _ANSWER_TOPIC + b"\x00" * five + b'{"error":"unknown"}'
            link.sendall(b"\x40\x02" + packet_id + b"\x30" + bytes([len(reply)]) + reply)
            return False
        announcement, telemetry = topic == b"v1/gateway/connect", topic == b"v1/gateway/telemetry"
        if (end == "ANNOUNCE" and announcement) or (end == "PUBLISH" and telemetry):
            self.unacknowledged += telemetry
            return True
        link.sendall(b"\x40\x02" + packet_id)
        if telemetry:
            self.arrived += ids_in(payload)
        return (end == "ANNOUNCED" and announcement) or (end == "PUBACK" and telemetry)

    def close(self) -> None:
        """Listen no more; the session under way ends with its peer."""
        self._listener.close()


def _packets(link: socket.socket) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each packet."""
    buffer = b""
    while chunk := link.recv(65536):
        buffer += chunk
        while len(buffer) >= 2:
            length = shift = 0
            used = 1
            while used < len(buffer):
                byte = buffer[used]
                length |= (byte & 127) << shift
                used += 1
                shift += 7
                if byte < 128:
                    break
            else:
                break  # the length goes on
            if len(buffer) < used + length:
                break
            kind, body, buffer = buffer[0] >> 4, buffer[used : used + length], buffer[used + length :]
            yield kind, body
