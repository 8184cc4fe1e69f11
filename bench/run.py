"""`python -m bench.run [throughput|latency|memory|start|outage|live-outage ...]`: measures, and prints how it measured.

Ratios and medians are what can be quoted: the machines this runs on are noisy. Each throughput figure counts readings
that arrived at the broker, with every serial number seen and each connection's order checked; time runs from the first
`send` to the arrival of the last reading.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.rig import CORES, GATEWAY_CORE, LOAD_CORE, accepts, free_port, gateway, mosquitto, wait_for


def _spawn(*arguments: object, core: set[int]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.sched_setaffinity(process.pid, core)
    return process


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _one_run(kind: str, port: int, mqtt_port: int, connections: int, messages: int, end: str, rate: float) -> Any:
    subscriber = _spawn("bench.subscriber", mqtt_port, messages, connections, core=LOAD_CORE)
    assert _line(subscriber) == "ready"
    load = _spawn("bench.load", kind, port, connections, messages, end, rate, core=LOAD_CORE)
    begin, _ = map(float, _line(load).split())
    result = json.loads(_line(subscriber))
    result["seconds"] = result["last"] - begin
    load.communicate("\n", timeout=30)
    subscriber.wait(30)
    return result


def throughput(repeats: int = 3) -> None:
    """Messages a second, to the broker, with the durable store."""
    print("\n== throughput: 12-byte messages, two values each, SQLite store at synchronous=FULL, QoS 1 to mosquitto")
    print(f"   gateway on core {GATEWAY_CORE}; load, broker and subscriber on core {LOAD_CORE}; {repeats} runs each")
    print("   `apart`: sent minus seen. For a framed stream that would be loss. Without framing TCP joins what is sent")
    print("   in quick succession, and a joined read is one message; UDP drops in the kernel what comes too fast.")
    print(f"   {'case':<44} readings/s: median (min .. max)   apart  order   gateway CPU us/reading")
    cases: list[tuple[str, str, int, int, str, str, float]] = [
        *(
            (f"TCP, {n} connections, newline-framed", "tcp", n, 300_000, "\\n", "delimiter", 0)
            for n in (1, 10, 100, 1000)
        ),
        *((f"TCP, {n} connections, a read is a message", "tcp", n, 200_000, "", "none", 0) for n in (100, 1000)),
        ("UDP, 1 sender, at 40,000/s", "udp", 1, 200_000, "", "none", 40_000),
        ("UDP, 10 senders, as fast as it goes", "udp", 10, 200_000, "", "none", 0),
    ]
    for label, kind, connections, messages, end, framing, rate in cases:
        rates, lost, orders, cpu = [], [], [], []
        for _ in range(repeats):
            with mosquitto() as broker, gateway(broker, framing=framing) as running:
                wait_for(lambda running=running: "connected to ThingsBoard" in running.log(), 20, "link up")
                before = running.cpu_seconds()
                result = _one_run(kind, running.ports[kind], broker, connections, messages, end, rate)
                used = running.cpu_seconds() - before
            if result["readings"]:
                rates.append(result["readings"] / result["seconds"])
                cpu.append(used / result["readings"] * 1e6)
            lost.append(messages - result["distinct"])
            orders.append(result["order"])
        _row(label, rates, lost, orders, cpu)
    rates, lost, orders = [], [], []
    for _ in range(repeats):
        with mosquitto() as broker:
            port = free_port()
            peer = _spawn("bench.peer", port, broker, core=GATEWAY_CORE)
            wait_for(lambda port=port: accepts(port), 10, "the peer listens")
            result = _one_run("tcp", port, broker, 100, 300_000, "\\n", 0)
            peer.kill()
            peer.wait()
            rates.append(result["readings"] / result["seconds"])
            lost.append(300_000 - result["distinct"])
            orders.append(result["order"])
    _row("peer: bare Twisted listener, no store, 100", rates, lost, orders, [])


def _row(label: str, rates: list[float], lost: list[int], orders: list[bool], cpu: list[float]) -> None:
    if not rates:
        print(f"   {label:<44} nothing arrived")
        return
    cost = f"{statistics.median(cpu):6.1f}" if cpu else ""
    print(
        f"   {label:<44} {statistics.median(rates):>8,.0f}  ({min(rates):,.0f} .. {max(rates):,.0f})"
        f"   {max(lost):>6}   {'kept' if all(orders) else 'BROKEN'}   {cost}",
        flush=True,
    )


def latency(count: int = 500) -> None:
    """A lone message, from the device's send to the PUBLISH on the wire."""
    port = free_port()
    listener = socket.create_server(("127.0.0.1", port))
    arrivals: list[int] = []
    seen = threading.Event()

    def broker() -> None:
        link, _ = listener.accept()
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = b""
        while chunk := link.recv(65536):
            now = time.perf_counter_ns()
            buffer += chunk
            while len(buffer) >= 2:
                length, used, shift = 0, 1, 0
                while True:
                    byte = buffer[used]
                    length |= (byte & 127) << shift
                    used, shift = used + 1, shift + 7
                    if byte < 128:
                        break
                if len(buffer) < used + length:
                    break
                packet, body, buffer = buffer[0] >> 4, buffer[used : used + length], buffer[used + length :]
                if packet == 1:
                    link.sendall(b"\x20\x02\x00\x00")
                elif packet == 8:
                    codes = b"\x01" * (body.count(b"v1/") + body.count(b"v2/"))
                    link.sendall(b"\x90" + bytes([2 + len(codes)]) + body[:2] + codes)
                elif packet == 3:
                    topic = int.from_bytes(body[:2], "big")
                    link.sendall(b"\x40\x02" + body[2 + topic : 4 + topic])
                    if body[2 : 2 + topic] == b"v1/gateway/telemetry":
                        arrivals.append(now)
                        seen.set()
                    elif body[2 : 2 + topic].startswith(b"v1/devices/me/rpc/request/"):
                        answer = b"v1/devices/me/rpc/response/1"
                        reply = len(answer).to_bytes(2, "big") + answer + b'{"error":"bench"}'
                        link.sendall(b"\x30" + bytes([len(reply)]) + reply)

    threading.Thread(target=broker, daemon=True).start()
    os.sched_setaffinity(0, LOAD_CORE)
    with gateway(port, mqtt_version="3.1.1") as running:
        wait_for(lambda: "connected to ThingsBoard" in running.log(), 20, "link up")
        results: dict[str, list[float]] = {}
        for kind in ("tcp", "udp"):
            device = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
            device.connect(("127.0.0.1", running.ports[kind]))
            took = []
            for n in range(count + 20):
                seen.clear()
                arrivals.clear()
                sent = time.perf_counter_ns()
                device.send(b"%08d21.5" % n)
                assert seen.wait(5), "the message arrives"
                took.append((arrivals[0] - sent) / 1e6)
                time.sleep(0.02)  # so that the next one is a lone message, too
            device.close()
            results[kind] = sorted(took[20:])
    os.sched_setaffinity(0, set(CORES))
    print(f"\n== latency of a lone message, send() to PUBLISH at the broker's socket; {count} messages, 20 ms apart")
    for kind, took in results.items():
        print(
            f"   {kind.upper()}: median {statistics.median(took):.2f} ms, p95 {took[int(count * 0.95)]:.2f},"
            f" p99 {took[int(count * 0.99)]:.2f}, max {took[-1]:.2f}"
        )


def memory() -> None:
    """PSS, threads and wake-ups, idle and under load."""
    print("\n== memory: PSS from smaps_rollup; socket connectors TCP and UDP, SQLite store, connected to mosquitto")
    with mosquitto() as broker, gateway(broker) as running:
        wait_for(lambda: "connected to ThingsBoard" in running.log(), 20, "link up")
        time.sleep(2)
        before, begin = running.wakeups(), time.monotonic()
        time.sleep(20)
        wakeups = (running.wakeups() - before) / (time.monotonic() - begin)
        print(
            f"   idle: {running.pss_kib() / 1024:.1f} MiB PSS, {running.threads()} threads,"
            f" {wakeups:.2f} wake-ups a second over 20 s"
        )
        written = running.written_bytes()
        _one_run("tcp", running.ports["tcp"], broker, 1000, 200_000, "", 0)
        print(f"   after 200,000 messages from 1,000 connections: {running.pss_kib() / 1024:.1f} MiB PSS")
        print(f"   written to disk in between: {(running.written_bytes() - written) / 200_000:.0f} bytes a message")


def start(repeats: int = 5) -> None:
    """From exec to the first accepted connection."""
    took = []
    with mosquitto() as broker:
        for _ in range(repeats):
            began = time.perf_counter()
            with gateway(broker):
                took.append(time.perf_counter() - began)
    print(f"\n== start: exec to the TCP port listening, {repeats} runs")
    print(f"   median {statistics.median(took):.2f} s, max {max(took):.2f} s")


def outage(minutes: float = 10.0, rate: int = 1000) -> None:
    """Memory while ThingsBoard is away: as many messages as ten minutes at 1,000 a second bring, compressed in time."""
    messages = int(minutes * 60 * rate)
    closed = free_port()  # nobody listens there
    print(f"\n== outage: {messages:,} messages (what {minutes:g} minutes at {rate}/s bring), no broker, newline-framed")
    with gateway(closed, framing="delimiter", storage={"type": "sqlite", "data_file_path": "./store/"}) as running:
        samples = []
        step = messages // 10
        for _ in range(10):
            load = _spawn("bench.load", "tcp", running.ports["tcp"], 10, step, "\\n", 20_000, core=LOAD_CORE)
            _line(load)
            load.communicate("\n", timeout=60)
            samples.append(running.pss_kib() / 1024)
        size = sum(file.stat().st_size for file in (running.folder / "store").iterdir()) / 2**20
        print("   PSS in MiB after each tenth: " + " ".join(f"{sample:.1f}" for sample in samples))
        print(f"   growth from the second to the last: {samples[-1] - samples[1]:+.1f} MiB; on disk {size:.0f} MiB")


def live_outage(seconds: float = 600.0, rate: int = 1000) -> None:
    """The same in real time, with the broker coming back: everything has to arrive, in order."""
    messages = int(seconds * rate)
    port = free_port()
    print(f"\n== live outage: {rate}/s for {seconds:g} s from 10 connections with no broker, then the broker comes")
    with gateway(port, framing="delimiter") as running:
        load = _spawn("bench.load", "tcp", running.ports["tcp"], 10, messages, "\\n", rate, core=LOAD_CORE)
        samples = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(seconds / 20)
            samples.append(running.pss_kib() / 1024)
        _line(load)
        size = sum(file.stat().st_size for file in (running.folder / "store").iterdir()) / 2**20
        print("   PSS in MiB, twenty samples: " + " ".join(f"{sample:.1f}" for sample in samples))
        slope = (samples[-1] - samples[5]) / (0.75 * seconds) * 3600
        print(f"   slope over the last three quarters: {slope:+.2f} MiB an hour")
        print(f"   store on disk {size:.1f} MiB, {size * 2**20 / messages:.0f} bytes a message")
        with mosquitto(port) as broker:
            # The gateway dials once a minute by now.
            subscriber = _spawn("bench.subscriber", broker, messages, 10, 150, core=LOAD_CORE)
            assert _line(subscriber) == "ready"
            begin = time.perf_counter()
            result = json.loads(_line(subscriber))
            order = "kept" if result["order"] else "BROKEN"
            print(f"   after it: {result['readings']:,} arrived, {result['distinct']:,} different of {messages:,}")
            print(f"   order {order}; the last one {result['last'] - begin:.1f} s after the broker")
        load.communicate("\n", timeout=30)


PARTS: dict[str, Callable[[], None]] = {
    "start": start,
    "latency": latency,
    "memory": memory,
    "throughput": throughput,
    "outage": outage,
    "live-outage": live_outage,
}

if __name__ == "__main__":
    wanted = sys.argv[1:] or [name for name in PARTS if name != "live-outage"]  # which takes ten minutes
    print(f"tbgw bench on {platform.machine()}, {len(CORES)} cores, Python {platform.python_version()}, {time.ctime()}")
    for name in wanted:
        PARTS[name]()
