"""What every measurement needs: a mosquitto, a gateway with a configuration of its own, pinning, and reading /proc."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CORES = sorted(os.sched_getaffinity(0))
GATEWAY_CORE = {CORES[0]}
"""The gateway alone on one core ..."""
LOAD_CORE = {CORES[-1]}
"""... and load, broker and subscriber together on another, where there is one."""


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port on 127.0.0.1 that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Any, seconds: float, what: str, every: float = 0.002) -> None:
    """Poll until `condition()`; a benchmark measures from outside, where there is no event to wait for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds:g} s: {what}")
        time.sleep(every)


def accepts(port: int) -> bool:
    """Whether something listens on this TCP port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def mosquitto(port: int | None = None) -> Iterator[int]:
    """Debian's broker on a port of its own, or on `port`; ended with the block."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="tbgw-bench-") as folder:
        file = Path(folder, "mosquitto.conf")
        file.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest none\n"
            "max_queued_messages 0\nmax_inflight_messages 0\n"
        )
        broker = subprocess.Popen([program, "-c", str(file)])
        os.sched_setaffinity(broker.pid, LOAD_CORE)
        try:
            wait_for(lambda: accepts(port), 5, "mosquitto listens")
            yield port
        finally:
            broker.terminate()
            broker.wait(10)


@dataclass
class GatewayProcess:
    """A running `twistd tbgw`."""

    process: subprocess.Popen[bytes]
    folder: Path
    ports: dict[str, int]
    started: float
    pids: list[int] = field(default_factory=list)

    def pss_kib(self) -> int:
        """Proportional set size, from /proc/PID/smaps_rollup."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
        raise RuntimeError("no Pss in smaps_rollup")

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def wakeups(self) -> int:
        """Voluntary context switches of all threads so far: each is one going to sleep, and so one waking up."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def written_bytes(self) -> int:
        """What the process caused to be written to the disk."""
        for line in Path(f"/proc/{self.process.pid}/io").read_text().splitlines():
            if line.startswith("write_bytes"):
                return int(line.split()[1])
        raise RuntimeError("no write_bytes in /proc/PID/io")

    def log(self) -> str:
        return (self.folder / "log").read_text()


DEVICE = {
    "address": "*:*",
    "deviceName": "Bench",
    "deviceType": "bench",
    "encoding": "utf-8",
    "telemetry": [{"key": "n", "byteFrom": 0, "byteTo": 8}, {"key": "t", "byteFrom": 8, "byteTo": 12}],
    "attributes": [],
}
"""Two values of each message of 12 bytes: a serial number of 8 digits, and four more."""


@contextmanager
def gateway(
    mqtt_port: int,
    *,
    framing: str = "none",
    storage: dict[str, Any] | None = None,
    folder: Path | None = None,
    mqtt_version: str = "auto",
) -> Iterator[GatewayProcess]:
    """A gateway with one TCP and one UDP connector, its store at synchronous=FULL on this machine's disk."""
    ports = {"tcp": free_port(), "udp": free_port(socket.SOCK_DGRAM)}
    own = Path(tempfile.mkdtemp(prefix="tbgw-bench-", dir=Path.cwd())) if folder is None else folder
    etc = own / "etc"
    etc.mkdir(exist_ok=True)
    (etc / "tb_gateway.json").write_text(
        json.dumps(
            {
                "thingsboard": {
                    "host": "127.0.0.1",
                    "port": mqtt_port,
                    "maxPayloadSizeBytes": 65536,
                    "mqttVersion": mqtt_version,
                    "security": {"type": "accessToken", "accessToken": "bench-2f81c0"},
                },
                "storage": storage or {"type": "sqlite", "data_file_path": "./store/"},
                "connectors": [
                    {"type": "socket", "name": "TCP", "configuration": "tcp.json"},
                    {"type": "socket", "name": "UDP", "configuration": "udp.json"},
                ],
            }
        )
    )
    for kind, port in ports.items():
        content: dict[str, Any] = {
            "socket": {"type": kind.upper(), "address": "127.0.0.1", "port": port, "bufferSize": 65536},
            "devices": [DEVICE],
        }
        if kind == "tcp" and framing != "none":
            content["socket"]["framing"] = {"type": "delimiter", "delimiter": "\n"}
        (etc / f"{kind}.json").write_text(json.dumps(content))
    twistd = Path(sys.executable).with_name("twistd")
    with (own / "log").open("ab") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(twistd), "-n", "--pidfile=", "--logger", "tbgw.logs.text", "tbgw", "-c", str(etc), "-d", str(own)],
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, GATEWAY_CORE),
        )
    running = GatewayProcess(process, own, ports, started)
    try:
        wait_for(lambda: process.poll() is not None or accepts(ports["tcp"]), 20, "the gateway listens")
        if process.poll() is not None:
            raise RuntimeError(f"the gateway ended:\n{running.log()}")
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        if folder is None:
            shutil.rmtree(own)
