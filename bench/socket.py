"""`python -m bench.socket [idle|flood|halfopen ...]`: what the socket connector costs and holds, one process each.

idle: 10,000 TCP connections that say nothing, memory of each. flood: one connection floods while others send a message
now and then; the time from their send to the gateway's intake, with and without the flood and the limit. halfopen:
1,000 connections that were begun and say no more; the time that others' messages take meanwhile.

The connector runs here, in this process, with an ingest that only counts: what is measured is the connector. The
clients are another process on the other core.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from bench.rig import GATEWAY_CORE, LOAD_CORE
from tbgw.connectors.socket.addresses import parse_filter
from tbgw.connectors.socket.config import SocketConfig, SocketDevice
from tbgw.connectors.socket.connector import SocketConnector
from tbgw.connectors.socket.fields import Datapoint
from tbgw.connectors.socket.framing import Framing
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device

reactor: Any = installed

IDLE = 10_000
ADDRESSES = 20
"""Addresses of this machine that the idle connections come from."""

_IDLE_CLIENT = """
import resource, socket, sys
port, count, addresses = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
links = []
for n in range(count):
    links.append(socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + n % addresses}", 0)))
print("open", flush=True)
sys.stdin.readline()
"""

_PACED_CLIENT = """
import socket, sys, time
port, messages = map(int, sys.argv[1:])
links = [socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0)) for _ in range(10)]
for link in links:
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
for n in range(messages):
    links[n % 10].sendall(b"p%019d\\n" % time.monotonic_ns())
    time.sleep(0.002)
print("sent", flush=True)
"""

_FLOOD_CLIENT = """
import socket, sys
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])), source_address=("127.0.0.2", 0))
block = b"f0000000000000000000\\n" * 500
try:
    while True:
        link.sendall(block)
except OSError:
    pass
"""

_HALF_OPEN_CLIENT = """
import resource, socket, sys
port, count = map(int, sys.argv[1:])
links = [socket.create_connection(("127.0.0.1", port)) for n in range(count)]
for link in links:
    link.sendall(b"\\x16\\x03\\x01")
print("open", flush=True)
sys.stdin.readline()
"""


class Counting:
    """An ingest that keeps nothing but when a paced message came."""

    def __init__(self) -> None:
        self.readings = 0
        self.delays: list[float] = []

    def accept(self, reading: Any) -> None:
        self.readings += 1
        text = reading.telemetry[0][1].get("all", "")
        if text.startswith("p"):
            self.delays.append((time.monotonic_ns() - int(text[1:])) / 1e6)

    def disconnected(self, device: Device) -> None: ...

    def add_source(self, source: Any) -> None: ...

    def remove_source(self, source: Any) -> None: ...


def start(ingest: Any, **options: Any) -> SocketConnector:
    """A listening connector."""
    device = SocketDevice(parse_filter("*:*"), "Bench", telemetry=(Datapoint("all"),))
    config = SocketConfig("TCP", "127.0.0.1", 0, 1024, (device,), None, 20_000, **options)
    events = Events(Counters(), reactor.seconds)
    model = [(device, Device(device.name, device.profile, "bench", "socket"))]
    connector = SocketConnector("bench", config, model, ingest, events, reactor, lambda: time.time_ns() // 1_000_000)
    connector.startService()
    return connector


def client(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A client program on the other core."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.sched_setaffinity(process.pid, LOAD_CORE)
    return process


async def printed(process: subprocess.Popen[str], seconds: float) -> None:
    """Let the reactor run until the client has printed a line."""
    from twisted.internet.threads import deferToThread

    assert process.stdout is not None
    line: Deferred[str] = deferToThread(process.stdout.readline)
    line.addTimeout(seconds, reactor)
    assert await line


def rss_kib() -> int:
    """Resident memory of this process."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


async def idle() -> None:
    """Memory of idle connections."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, IDLE + 200), hard))
    connector = start(Counting(), max_per_address=20_000)
    gc.collect()
    before = rss_kib()
    process = client(_IDLE_CLIENT, connector.status()["port"], IDLE, ADDRESSES)
    await printed(process, 60)
    while connector.status()["connections"] < IDLE:
        await deferLater(reactor, 0.05, lambda: None)
    gc.collect()
    each = (rss_kib() - before) / IDLE
    print(f"idle: {connector.status()['connections']} connections, {each:.2f} KiB each (resident, this process)")
    process.communicate("\n", timeout=30)
    await connector.stopService()


def shown(delays: list[float]) -> str:
    """Median and tail."""
    ordered = sorted(delays)
    return f"p50 {statistics.median(ordered):.2f} ms, p99 {ordered[int(len(ordered) * 0.99)]:.2f} ms of {len(ordered)}"


async def flood() -> None:
    """The delay of ten paced peers, alone, beside a flood, and beside a flood that is limited."""
    for label, limit, flooding in (("alone", 0, False), ("beside a flood", 0, True), ("... of 2,000/s", 2000, True)):
        ingest = Counting()
        connector = start(ingest, framing=Framing("delimiter"), max_messages_per_second=limit)
        port = connector.status()["port"]
        flooder = client(_FLOOD_CLIENT, port) if flooding else None
        await deferLater(reactor, 0.3, lambda: None)
        began, count = time.monotonic(), ingest.readings
        paced = client(_PACED_CLIENT, port, 1500)
        await printed(paced, 60)
        await deferLater(reactor, 0.2, lambda: None)
        rate = (ingest.readings - count) / (time.monotonic() - began)
        print(f"flood: ten paced peers {label:<16} {shown(ingest.delays)}; {rate:,.0f} messages/s in all")
        if flooder is not None:
            flooder.kill()
            flooder.wait()
        paced.wait(10)
        await connector.stopService()


async def halfopen() -> None:
    """The delay of paced peers while 1,000 others have begun a connection and say no more."""
    ingest = Counting()
    connector = start(ingest, framing=Framing("delimiter"), first_message_seconds=30)
    process = client(_HALF_OPEN_CLIENT, connector.status()["port"], 1000)
    await printed(process, 60)
    paced = client(_PACED_CLIENT, connector.status()["port"], 1000)
    await printed(paced, 60)
    await deferLater(reactor, 0.2, lambda: None)
    print(f"halfopen: {connector.status()['connections']} waiting; ten paced peers {shown(ingest.delays)}")
    process.communicate("\n", timeout=30)
    paced.wait(10)
    await connector.stopService()


async def main(names: list[str]) -> None:
    """Run what was asked for, or all."""
    os.sched_setaffinity(0, GATEWAY_CORE)
    print(f"connector alone on core {GATEWAY_CORE}, clients on core {LOAD_CORE}; Python {sys.version.split()[0]}")
    for name, run in (("idle", idle), ("flood", flood), ("halfopen", halfopen)):
        if not names or name in names:
            await run()


if __name__ == "__main__":
    from twisted.internet.task import react

    react(lambda _, *names: Deferred.fromCoroutine(main(list(names))), sys.argv[1:])
