"""Counts the readings that arrive at the broker, in a process of its own: `python -m bench.subscriber PORT EXPECTED`.

Prints `ready` once subscribed; `first` with the time of the first; then one line of JSON once EXPECTED readings came or
nothing came for 15 s (or as a fourth argument says): readings, distinct serial numbers, whether each connection's order
was kept, and the times (time.perf_counter, which all processes of a machine share) of the first and the last.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from itertools import pairwise

SERIAL = re.compile(rb'"n":"(\d{8})')


def main(port: int, expected: int, connections: int, patience_seconds: float = 15.0) -> None:
    """Subscribe at QoS 0 with a client of twenty lines, so that counting costs next to nothing."""
    link = socket.create_connection(("127.0.0.1", port))
    link.sendall(_connect())
    topic = b"v1/gateway/telemetry"
    body = b"\x00\x01" + len(topic).to_bytes(2, "big") + topic + b"\0"
    link.sendall(b"\x82" + bytes([len(body)]) + body)
    link.settimeout(patience_seconds)
    print("ready", flush=True)
    serials: list[int] = []
    buffer = bytearray()
    first = last = 0.0
    while len(serials) < expected:
        try:
            chunk = link.recv(1 << 20)
        except TimeoutError:
            break
        if not chunk:
            break
        buffer += chunk
        found = SERIAL.findall(buffer)
        if found:
            last = time.perf_counter()
            first = first or last
            serials += map(int, found)
            # A serial number cut by the end of the chunk comes whole with the next one.
            del buffer[: buffer.rindex(found[-1]) + 8]
    order = all(
        all(a < b for a, b in pairwise(own))
        for own in ([s for s in serials if s % connections == c] for c in range(connections))
    )
    seen = {"readings": len(serials), "distinct": len(set(serials)), "order": order, "first": first, "last": last}
    print(json.dumps(seen))


def _connect() -> bytes:
    name = b"bench-subscriber"
    body = b"\x00\x04MQTT\x04\x02\x00\x00" + len(name).to_bytes(2, "big") + name
    return b"\x10" + bytes([len(body)]) + body


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:]))
