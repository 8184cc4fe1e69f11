"""`python -m bench.ocpp [throughput|latency|lone|connect|memory|storm|scale ...]`: what OCPP costs and carries.

Measured are the whole gateway (`twistd tbgw`, default mapping, its store at synchronous=FULL on this machine's disk,
delivering to a mosquitto meanwhile; a CALLRESULT leaves when the reading is stored), the library alone, and beside them
in the same run the PyPI package `ocpp` as central system on websockets, which stores nothing. The server is alone on
one core; charge points (`bench.stations`) and broker share the other. Repeats alternate between the servers, what is
printed is the median with the smallest and the largest. "per CPU second" divides by the CPU time that the server's
process used, which a busy machine disturbs less than the clock.

throughput: 500 stations, each sends MeterValues of ten samples (1.3 KB), the next when it has its CALLRESULT; and
Heartbeats. latency: the same with 20 under way at a time, all 500 in turn. lone: what a message costs that has the
gateway for itself, by the CPU time and the goings to sleep of all threads (/proc/PID/task), at 85 a second and with
each sent when the one before is answered; and what the same pure work of some 20 us costs a program when it never
sleeps and when it does in between, which is the machine's part. connect: 1,000 handshakes, plain and TLS. memory:
resident size per station after each has sent messages. storm: 5,000 reconnect at once. scale: 10,000 plain stations,
3,000 with TLS, at the pace of real ones.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.rig import GATEWAY_CORE, LOAD_CORE, accepts, free_port, mosquitto, wait_for

REPEATS = 3
SECONDS = 4
LONE_SECONDS = 8

_CONTROL = f"""
import json, os, time
os.sched_setaffinity(0, {GATEWAY_CORE})
text = json.dumps([{{"measurand": "Voltage", "value": str(n), "unit": "V"}} for n in range(20)])
def cost(times, pause):
    used = 0
    for _ in range(times):
        time.sleep(pause) if pause else None
        begin = time.thread_time_ns()
        json.dumps({{str(n): entry["value"] for n, entry in enumerate(json.loads(text))}}, sort_keys=True)
        used += time.thread_time_ns() - begin
    return used / times / 1000
cost(1000, 0)
print(f"the same work takes {{cost(5000, 0):.0f}} us without a sleep, {{cost(300, 1 / 85):.0f}} us 85 times a second")
"""


class Server:
    """A process that listens."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.port = port
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, preexec_fn=lambda: os.sched_setaffinity(0, GATEWAY_CORE)
            )
        wait_for(lambda: self.process.poll() is not None or accepts(port), 20, "the server listens")
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{log.read_text()}")

    def cpu_seconds(self) -> float:
        """What it used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tasks(self) -> tuple[float, int]:
        """CPU seconds of all threads, to the nanosecond, and how often one of them went to sleep."""
        used = sleeps = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            used += int((task / "schedstat").read_text().split()[0])
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    sleeps += int(line.split()[1])
        return used / 1e9, sleeps

    def resident_kib(self) -> int:
        """Its resident size."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize() // 1024

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on this machine's disk, not in memory."""
    folder = Path(tempfile.mkdtemp(prefix="tbgw-bench-", dir=Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def central(kind: str, *, tls: bool = False, rate: int = 100_000) -> Iterator[Server]:
    """`gateway`, `library` or `ocpp`."""
    with scratch() as folder:
        port = free_port()
        if tls:
            subprocess.run(
                [
                    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                    *("-subj", "/CN=localhost", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
                ],
                check=True,
                capture_output=True,
            )
        if kind != "gateway":
            options = [f"rate={rate}", *([f"tls={folder}"] if tls else [])]
            server = Server([sys.executable, "-m", "bench.centrals", kind, str(port), *options], port, folder / "log")
            try:
                yield server
            finally:
                server.stop()
            return
        with mosquitto() as broker:
            command = _gateway(folder, port, broker, tls, rate)
            server = Server(command, port, folder / "log")
            try:
                yield server
            finally:
                server.stop()


def _gateway(folder: Path, port: int, broker: int, tls: bool, rate: int) -> list[str]:
    etc = folder / "etc"
    etc.mkdir()
    connection = {"type": "tls", "cert": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    (etc / "tb_gateway.json").write_text(
        json.dumps(
            {
                "thingsboard": {
                    "host": "127.0.0.1",
                    "port": broker,
                    "maxPayloadSizeBytes": 65536,
                    "security": {"type": "accessToken", "accessToken": "bench-2f81c0"},
                },
                "storage": {"type": "sqlite", "data_file_path": "./store/"},
                "connectors": [{"type": "ocpp", "name": "OCPP", "configuration": "ocpp.json"}],
            }
        )
    )
    (etc / "ocpp.json").write_text(
        json.dumps(
            {
                "centralSystem": {
                    "name": "Bench",
                    "host": "127.0.0.1",
                    "port": port,
                    "connection": connection if tls else {"type": "insecure"},
                    "connectionsPerSecond": rate,
                    "maxConnections": 20_000,
                    "security": [{"type": "anonymous"}],
                },
                "chargePoints": [
                    {
                        "idRegexpPattern": "CP.*",
                        "deviceNameExpression": "${chargePointId}",
                        "deviceTypeExpression": "charger",
                    }
                ],
            }
        )
    )
    twistd = str(Path(sys.executable).with_name("twistd"))
    gateway = ["tbgw", "-c", str(etc), "-d", str(folder)]
    return [twistd, "-n", "--pidfile=", "--logger", "tbgw.logs.text", *gateway]


def stations(port: int, count: int, mode: str, **options: Any) -> subprocess.Popen[str]:
    """Start them."""
    given = [f"{name}={value}" for name, value in options.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "bench.stations", str(port), str(count), mode, *given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORE),
    )


def outcome(running: subprocess.Popen[str]) -> dict[str, Any]:
    """What they printed."""
    assert running.stdout is not None
    line = running.stdout.readline()
    if not line:
        raise RuntimeError("the load ended without a word")
    result: dict[str, Any] = json.loads(line)
    return result


def spread(values: list[float], digits: int = 0) -> str:
    """Median with both ends."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def driven(kind: str, mode: str, **options: Any) -> dict[str, Any]:
    """One run of a closed loop against a fresh server."""
    with central(kind) as server:
        running = stations(server.port, 500, mode, seconds=SECONDS, **options)
        before = server.cpu_seconds()
        result = outcome(running)
        running.wait()
        assert not result["errors"], result
        # The first second, which is not counted, costs CPU too: it is in proportion.
        used = (server.cpu_seconds() - before) * SECONDS / (SECONDS + 1)
        result["per_cpu_second"] = result["count"] / used
        return result


def compare(title: str, mode: str, kinds: list[str], **options: Any) -> None:
    """A closed loop against several servers in turn."""
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(REPEATS):
        for kind in kinds:
            results[kind].append(driven(kind, mode, **options))
    print(f"{title}: 500 stations, {REPEATS} runs of {SECONDS} s each in turn")
    for kind, runs in results.items():
        print(
            f"  {kind:8} {spread([run['per_second'] for run in runs])} a second, "
            f"{spread([run['per_cpu_second'] for run in runs])} per CPU second; "
            f"p50 {spread([run['p50_ms'] for run in runs], 1)} ms, p99 {spread([run['p99_ms'] for run in runs], 1)} ms"
        )
    if "ocpp" in results:
        for kind in kinds:
            if kind != "ocpp":
                clock, cpu = (
                    statistics.median(run[figure] for run in results[kind])
                    / statistics.median(run[figure] for run in results["ocpp"])
                    for figure in ("per_second", "per_cpu_second")
                )
                print(f"  {kind} carries {clock:.1f} times what the package ocpp does, {cpu:.1f} times per CPU second")


def throughput() -> None:
    """As much as it carries."""
    compare("MeterValues, all at once", "meter", ["gateway", "library", "ocpp"])
    compare("Heartbeat, all at once", "heartbeat", ["gateway", "library", "ocpp"])


def latency() -> None:
    """With little under way."""
    compare("MeterValues, 20 under way", "meter", ["gateway", "library", "ocpp"], active=20)


def lone() -> None:
    """Nothing to share a commit, a wake-up or a warm cache with."""
    ways: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("85 a second", "pace", {"rate": 85, "seconds": LONE_SECONDS}),
        ("one after the other", "meter", {"active": 1, "seconds": LONE_SECONDS}),
    )
    for title, mode, options in ways:
        for kind in ("gateway", "library"):
            runs = [_lone_run(kind, mode, options) for _ in range(REPEATS)]
            print(
                f"lone, {title}, {kind}: {spread([run['cpu_ms'] for run in runs], 2)} ms of CPU each, "
                f"{spread([run['sleeps'] for run in runs], 1)} goings to sleep, "
                f"p50 {spread([run['p50_ms'] for run in runs], 2)} ms ({REPEATS} runs, 100 stations)"
            )
    control = subprocess.run([sys.executable, "-c", _CONTROL], check=True, capture_output=True, text=True)
    print(f"the machine's part: {control.stdout.strip()}")


def _lone_run(kind: str, mode: str, options: dict[str, Any]) -> dict[str, float]:
    with central(kind) as server:
        warm = stations(server.port, 50, "meter", seconds=1, active=1, path="CPwarm{0}")
        outcome(warm)
        warm.wait()
        running = stations(server.port, 100, mode, **options)
        assert running.stdout is not None
        if mode == "pace":
            running.stdout.readline()
        cpu_before, sleeps_before = server.tasks()
        result = outcome(running)
        cpu_after, sleeps_after = server.tasks()
        # The load's first second is not in its count.
        count = result["count"] * (LONE_SECONDS + 1) / LONE_SECONDS
        return {
            "cpu_ms": (cpu_after - cpu_before) / count * 1000,
            "sleeps": (sleeps_after - sleeps_before) / count,
            "p50_ms": result["p50_ms"],
        }


def connect() -> None:
    """Handshakes."""
    for tls in (False, True):
        for kind in ("gateway", "library", *(() if tls else ("ocpp",))):
            rates, costs = [], []
            for _ in range(REPEATS):
                with central(kind, tls=tls) as server:
                    count = 500 if tls else 1000
                    before = server.cpu_seconds()
                    running = stations(server.port, count, "connect", **({"tls": 1} if tls else {}))
                    rates.append(count / outcome(running)["connect_seconds"])
                    costs.append((server.cpu_seconds() - before) / count * 1000)
                    running.wait()
            print(
                f"connections a second, {'TLS' if tls else 'plain'}, {kind}: {spread(rates)} in {REPEATS} runs, "
                f"{spread(costs, 2)} ms of CPU each"
            )


def memory() -> None:
    """Each station has sent some MeterValues when it is measured."""
    for title, tls, options in (
        ("plain", False, {}),
        ("TLS", True, {"tls": 1}),
        ("deflate", False, {"deflate": 1, "version": "2.0.1"}),
        ("2.0.1 without deflate", False, {"version": "2.0.1"}),
    ):
        for kind in ("library", "gateway"):
            count = 1000 if tls else 2000
            with central(kind, tls=tls) as server:
                first = stations(server.port, 50, "meter", seconds=2, path="CPfirst{0}", **options)
                outcome(first)
                first.wait()
                time.sleep(2)
                before = server.resident_kib()
                running = stations(server.port, count, "idle", messages=3, **options)
                outcome(running)
                time.sleep(3)
                each = (server.resident_kib() - before) / count
                running.kill()
                running.wait()
            print(f"memory per station, {title}, {kind}: {each:.1f} KiB ({count} stations; {before} KiB before them)")


def storm() -> None:
    """All come at once, and those sent away come back when they were told to."""
    with central("gateway", rate=200) as server:
        result = outcome(stations(server.port, 5000, "storm"))
        print(
            f"storm: 5,000 stations at once, 200 a second admitted: all in after {result['connect_seconds']:.1f} s, "
            f"503 was answered {result['sent_away']} times; {server.cpu_seconds():.1f} s of CPU; "
            f"{server.resident_kib() / 1024:.0f} MiB"
        )


def scale() -> None:
    """Many stations at the pace of real ones."""
    for count, tls in ((10_000, False), (3_000, True)):
        with central("gateway", tls=tls) as server:
            running = stations(server.port, count, "pace", seconds=20, rate=85, **({"tls": 1} if tls else {}))
            assert running.stdout is not None
            running.stdout.readline()
            before, begin = server.cpu_seconds(), time.monotonic()
            result = outcome(running)
            took = time.monotonic() - begin
            used = (server.cpu_seconds() - before) / took
            print(
                f"scale: {count:,} stations {'with TLS' if tls else 'plain'}, connected in "
                f"{result['connect_seconds']:.1f} s; {result['per_second']} MeterValues a second for {took:.0f} s: "
                f"{used:.1%} of a core, p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms; "
                f"{server.resident_kib() / 1024:.0f} MiB"
            )


PARTS: dict[str, Callable[[], None]] = {
    "throughput": throughput,
    "latency": latency,
    "lone": lone,
    "connect": connect,
    "memory": memory,
    "storm": storm,
    "scale": scale,
}


def main(parts: list[str]) -> None:
    """Measure what is asked for, or everything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{len(os.sched_getaffinity(0))} cores, Python {sys.version.split()[0]}, ulimit -n {hard} (was {soft})")
    for part in parts or list(PARTS):
        PARTS[part]()


if __name__ == "__main__":
    main(sys.argv[1:])
