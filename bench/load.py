"""Load, as a program of its own: `python -m bench.load tcp|udp PORT CONNECTIONS MESSAGES END RATE`.

Every message is one `send` of 12 bytes (8 digits of serial number, 4 of value) and `END`, the delimiter, which may be
empty. Connections take turns. RATE limits messages a second, 0 for as fast as they go. Prints when it began
(time.perf_counter, which all processes of a machine share) and the seconds it took.
"""

from __future__ import annotations

import resource
import socket
import sys
import time


def main(kind: str, port: int, connections: int, messages: int, end: bytes, rate: float) -> float:
    """Send; returns the seconds from the first to the last message."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 200), hard))
    sockets = []
    for _ in range(connections):
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        if kind == "tcp":
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.connect(("127.0.0.1", port))
        sockets.append(one)
    bodies = [b"%08d21.5%b" % (n, end) for n in range(messages)]
    sends = [one.sendall if kind == "tcp" else one.send for one in sockets]
    begin = time.perf_counter()
    if rate:
        for n, body in enumerate(bodies):
            ahead = begin + n / rate - time.perf_counter()
            if ahead > 0.001:
                time.sleep(ahead)
            sends[n % connections](body)
    else:
        for n, body in enumerate(bodies):
            sends[n % connections](body)
    took = time.perf_counter() - begin
    print(f"{begin:.6f} {took:.6f}", flush=True)
    sys.stdin.readline()  # keep the connections until the reader has seen everything
    for one in sockets:
        one.close()
    return took


if __name__ == "__main__":
    _, kind, port, connections, messages, end, rate = sys.argv
    main(kind, int(port), int(connections), int(messages), end.encode().decode("unicode_escape").encode(), float(rate))
