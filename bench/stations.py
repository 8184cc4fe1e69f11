"""Charge points as a load, a program of its own: `python -m bench.stations PORT COUNT MODE [OPTION=VALUE ...]`.

Plain sockets and one epoll, so that the load costs less than what it measures. Frames are masked with zeros, which the
server undoes like any other mask, and every message has an id and a timestamp of its own: nothing is a duplicate.

Modes. `meter` sends MeterValues with ten samples, `heartbeat` Heartbeats: each of ACTIVE stations (default: all) sends
its next message when it has its CALLRESULT, for SECONDS; the times from send to result are what is printed. `idle`
connects, sends MESSAGES from each, and waits for a line on stdin. `connect` only connects. `pace` sends RATE
MeterValues a second, the stations in turn, after a line that says that all are there. `storm` connects all at once;
those that hear 503 come back when they were told to; the time until the last is in is printed.

Options: seconds, active, messages, rate, version (1.6, 2.0.1), tls=1, deflate=1, path. Prints one line of JSON.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import select
import socket
import ssl
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

DIAL_AT_ONCE = 200
TLS_AT_ONCE = 20


def meter_values(version: str) -> tuple[str, dict[str, Any]]:
    """A charger's usual report: ten samples of one moment."""
    measurands = [
        ("Energy.Active.Import.Register", "Wh", None),
        *(
            (f"{quantity}", unit, f"L{n}")
            for quantity, unit in (("Current.Import", "A"), ("Voltage", "V"))
            for n in (1, 2, 3)
        ),
        ("Power.Active.Import", "W", None),
        ("Power.Offered", "W", None),
        ("SoC", "Percent", None),
    ]
    samples = []
    for n, (measurand, unit, phase) in enumerate(measurands):
        sample: dict[str, Any] = {"measurand": measurand, "context": "Sample.Periodic", "location": "Outlet"}
        if phase:
            sample["phase"] = phase
        if version == "1.6":
            sample.update(value=f"{n}.5", unit=unit)
        else:
            sample.update(value=n + 0.5, unitOfMeasure={"unit": unit})
        samples.append(sample)
    entry = [{"timestamp": "TIMESTAMP", "sampledValue": samples}]
    if version == "1.6":
        return "MeterValues", {"connectorId": 1, "transactionId": 1, "meterValue": entry}
    return "MeterValues", {"evseId": 1, "meterValue": entry}


class Station:
    """One charge point's socket."""

    def __init__(
        self, number: int, port: int, path: str, version: str, context: ssl.SSLContext | None, deflate: bool
    ) -> None:
        self.number = number
        self.sent_at = 0.0
        self.buffer = b""
        self.open = False
        raw = socket.create_connection(("127.0.0.1", port), timeout=60)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket: Any = context.wrap_socket(raw, server_hostname="localhost") if context else raw
        extra = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" if deflate else ""
        self.socket.sendall(
            f"GET /{path.format(number)} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: ocpp{version}\r\n{extra}\r\n".encode()
        )

    def opened(self) -> int:
        """Wait for the handshake's answer: 0, or the seconds of a 503's Retry-After."""
        while b"\r\n\r\n" not in self.buffer:
            data = self.socket.recv(4096)
            if not data:
                raise ConnectionError(f"closed during the handshake: {self.buffer!r}")
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101"):
            self.open = True
            return 0
        if head.startswith(b"HTTP/1.1 503"):
            for line in head.decode().split("\r\n"):
                if line.lower().startswith("retry-after:"):
                    return int(line.partition(":")[2])
        raise ConnectionError(head.decode())


class Frames:
    """The frame of a message, made once; id and timestamp are written into it."""

    def __init__(self, action: str, payload: dict[str, Any]) -> None:
        text = json.dumps([2, "I" * 16, action, payload], separators=(",", ":")).replace("TIMESTAMP", "T" * 24).encode()
        head = (
            struct.pack("!BB", 0x81, 0x80 | len(text))
            if len(text) < 126
            else struct.pack("!BBH", 0x81, 0xFE, len(text))
        )
        parts = (head + b"\0\0\0\0" + text).split(b"I" * 16)
        self.before, rest = parts
        self.middle, _, self.after = rest.partition(b"T" * 24)

    def make(self, number: int) -> bytes:
        """The frame with this number, which also is its time."""
        if not self.after:
            return b"%b%016d%b" % (self.before, number, self.middle)
        seconds, millis = divmod(number, 1000)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        stamp = b"2026-01-%02dT%02d:%02d:%02d.%03dZ" % (1 + hours // 24 % 28, hours % 24, minutes, seconds, millis)
        return b"%b%016d%b%b%b" % (self.before, number, self.middle, stamp, self.after)


def connect(count: int, port: int, options: dict[str, str], storm: bool = False) -> tuple[list[Station], float, int]:
    """All of them; gives the stations, the seconds it took, and how often one was sent away."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 500), hard))
    context = None
    if options.get("tls"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    path, version = options.get("path", "CP{0}"), options.get("version", "1.6")
    begin = time.perf_counter()
    stations: list[Station] = []
    sent_away = 0
    waiting = [(begin, number) for number in range(count)]
    pool = ThreadPoolExecutor(TLS_AT_ONCE)
    while waiting:
        waiting.sort()
        now = time.perf_counter()
        if waiting[0][0] > now:
            time.sleep(min(0.2, waiting[0][0] - now))
            continue
        due = [number for when, number in waiting if when <= now][:DIAL_AT_ONCE]
        chosen = set(due)
        waiting = [entry for entry in waiting if entry[1] not in chosen]

        def dial(number: int) -> Station | None:
            try:
                return Station(number, port, path, version, context, bool(options.get("deflate")))
            except OSError:
                if not storm:
                    raise
                return None

        # Threads only for TLS, whose handshake waits for the server in the middle.
        dialled = []
        for number, found in zip(due, pool.map(dial, due) if context else map(dial, due), strict=True):
            if found is not None:
                dialled.append(found)
            else:
                sent_away += 1
                waiting.append((time.perf_counter() + 1, number))
        for station in dialled:
            try:
                wait = station.opened()
            except (ConnectionError, OSError):
                if not storm:
                    raise
                wait = 1
            if not wait:
                stations.append(station)
                continue
            if not storm:
                raise RuntimeError("sent away")
            sent_away += 1
            station.socket.close()
            waiting.append((time.perf_counter() + wait, station.number))
    return stations, time.perf_counter() - begin, sent_away


def drive(stations: list[Station], frames: Frames, active: int, seconds: float, rate: float = 0) -> dict[str, Any]:
    """Each active station has one message under way, all the time."""
    poll = select.epoll()
    by_fd = {}
    for station in stations:
        station.socket.setblocking(False)
        by_fd[station.socket.fileno()] = station
        poll.register(station.socket.fileno(), select.EPOLLIN)
    number = int(time.time() * 1000) % 1_000_000_000
    times: list[float] = []
    order = list(stations)
    turn = 0
    begin = time.perf_counter()
    warm_until, end = begin + 1.0, begin + 1.0 + seconds
    for _ in range(active):
        number += 1
        order[turn].sent_at = time.perf_counter()
        order[turn].socket.send(frames.make(number))
        turn = (turn + 1) % len(order)
    errors = 0
    now = begin
    sent = 0
    while now < end:
        if rate and sent < (now - begin) * rate:
            sent += 1
            number += 1
            order[turn].sent_at = now
            order[turn].socket.send(frames.make(number))
            turn = (turn + 1) % len(order)
        for fd, _ in poll.poll(1.0 if not rate else max(0.0, begin + sent / rate - now)):
            station = by_fd[fd]
            try:
                data = station.socket.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            now = time.perf_counter()
            if not data:
                raise ConnectionError("the server closed a connection")
            if b"[3," not in data:
                if b"[4," not in data:
                    continue  # a ping, or a part
                errors += 1
            if now > warm_until and station.sent_at > warm_until:
                times.append(now - station.sent_at)
            if rate:
                continue
            number += 1
            # The next in turn speaks, so that with few at a time all of them do.
            other = order[turn] if active < len(order) else station
            turn = (turn + 1) % len(order)
            other.sent_at = now
            other.socket.send(frames.make(number))
        now = time.perf_counter()
    took = now - warm_until
    times.sort()
    return {
        "per_second": round(len(times) / took),
        "p50_ms": round(times[len(times) // 2] * 1000, 2),
        "p99_ms": round(times[len(times) * 99 // 100] * 1000, 2),
        "count": len(times),
        "errors": errors,
        "client_cpu": round(time.process_time() / took, 2),
    }


def main(port: int, count: int, mode: str, options: dict[str, str]) -> None:
    """Connect, do what the mode says, print."""
    stations, took, sent_away = connect(count, port, options, storm=mode == "storm")
    result: dict[str, Any] = {"stations": count, "connect_seconds": round(took, 3), "sent_away": sent_away}
    frames = Frames(*(("Heartbeat", {}) if mode == "heartbeat" else meter_values(options.get("version", "1.6"))))
    if mode == "pace":
        print("all are there", flush=True)
        result.update(drive(stations, frames, 0, float(options["seconds"]), float(options["rate"])))
    if mode == "idle":
        for message in range(int(options.get("messages", 0))):
            for station in stations:
                station.socket.sendall(frames.make(int(time.time() * 1000) % 1_000_000_000 + message * 1000))
            for station in stations:
                station.socket.recv(4096)
    if mode in ("meter", "heartbeat"):
        active = int(options.get("active", count))
        result.update(drive(stations, frames, active, float(options.get("seconds", 5))))
    print(json.dumps(result), flush=True)
    if mode == "idle":
        sys.stdin.readline()
    os._exit(0)  # ten thousand polite goodbyes are not what is measured


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], dict(option.split("=", 1) for option in sys.argv[4:]))
