"""`python -m bench.xmpp [throughput|memory ...]`: what the XMPP connector carries and costs, over a real prosody.

throughput: messages of a component's thousand accounts go through prosody (STARTTLS, SCRAM) to the gateway, into its
SQLite store at synchronous=FULL, and at QoS 1 to mosquitto; time runs from the first byte that the load writes to the
arrival of the last reading, every serial number seen. Beside it the bare receive rate of the same machine in the same
run: the connector's link alone, which counts and stores nothing, with stream management and without.

memory: proportional set size of the gateway with one device, and with 1,000 entries of which each has written.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.rig import GATEWAY_CORE, LOAD_CORE, GatewayProcess, mosquitto, wait_for
from tests.xmppservers import XMPPServer, start

PASSWORD = "bench-7cf1"  # noqa: S105 - of a server that lives for a minute
MESSAGES = 40_000
DEVICES = 1_000


class _Owner:
    """Stands in for the test case that the rig of servers belongs to."""

    def __init__(self) -> None:
        self._cleanups: list[Callable[[], None]] = []

    def mktemp(self) -> str:
        """A folder's name, not made yet."""
        folder = tempfile.mkdtemp(prefix="tbgw-bench-")
        self.addCleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        return f"{folder}/server"

    def addCleanup(self, cleanup: Callable[[], None]) -> None:
        self._cleanups.append(cleanup)

    def clean(self) -> None:
        while self._cleanups:
            self._cleanups.pop()()


@contextmanager
def prosody() -> Iterator[XMPPServer]:
    """A prosody on the load's core, without limits of rate."""
    owner: Any = _Owner()
    try:
        server = start("prosody", owner, {"gateway": PASSWORD})
        os.sched_setaffinity(server.program.process.pid, LOAD_CORE)
        yield server
    finally:
        owner.clean()


@contextmanager
def gateway(server: XMPPServer, mqtt_port: int, entries: list[dict[str, Any]]) -> Iterator[GatewayProcess]:
    """A gateway with one XMPP connector, logged in and connected."""
    folder = Path(tempfile.mkdtemp(prefix="tbgw-bench-", dir=Path.cwd()))
    etc = folder / "etc"
    etc.mkdir()
    account = {"jid": f"gateway@{server.domain}/tbgw", "password": PASSWORD, "host": "127.0.0.1", "port": server.port}
    files: dict[str, Any] = {
        "tb_gateway.json": {
            "thingsboard": {
                "host": "127.0.0.1",
                "port": mqtt_port,
                "maxPayloadSizeBytes": 65536,
                "security": {"type": "accessToken", "accessToken": "bench-2f81c0"},
            },
            "storage": {"type": "sqlite", "data_file_path": "./store/"},
            "connectors": [{"type": "xmpp", "name": "Site", "configuration": "site.json"}],
        },
        "site.json": {"server": {**account, "tls": {"caCert": str(server.ca)}}, "devices": entries},
    }
    for name, content in files.items():
        (etc / name).write_text(json.dumps(content))
    (etc / "ca.pem").write_bytes(server.ca.read_bytes())
    twistd = Path(sys.executable).with_name("twistd")
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [str(twistd), "-n", "--pidfile=", "--logger", "tbgw.logs.text", "tbgw", "-c", str(etc), "-d", str(folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, GATEWAY_CORE),
        )
    running = GatewayProcess(process, folder, {}, time.perf_counter())
    try:
        wait_for(
            lambda: "logged in as" in running.log() and "connected to ThingsBoard" in running.log(), 20, running.log()
        )
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
        shutil.rmtree(folder)


def _spawn(*arguments: object, core: set[int]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.sched_setaffinity(process.pid, core)
    return process


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _load(server: XMPPServer, messages: int, devices: int = DEVICES) -> subprocess.Popen[str]:
    to = f"gateway@{server.domain}/tbgw"
    return _spawn(
        "bench.xmpp_load", server.component_port, server.component_secret, server.component, to, messages, devices,
        core=LOAD_CORE,
    )  # fmt: skip


def _entry(server: XMPPServer) -> dict[str, Any]:
    points = [{"key": "n", "value": "${n}"}, {"key": "t", "value": "${t}"}]
    return {"jid": f"*@{server.component}", "deviceNameExpression": "Meter ${from.local}", "timeseries": points}


def _to_puback() -> tuple[float, float, int]:
    """(messages a second, CPU us of the gateway for each, how many are missing)."""
    with prosody() as server, mosquitto() as broker, gateway(server, broker, [_entry(server)]) as running:
        subscriber = _spawn("bench.subscriber", broker, MESSAGES, 1, core=LOAD_CORE)
        assert _line(subscriber) == "ready"
        before = running.cpu_seconds()
        load = _load(server, MESSAGES)
        begin, _ = map(float, _line(load).split())
        result = json.loads(_line(subscriber))
        used = running.cpu_seconds() - before
        load.communicate("\n", timeout=30)
        subscriber.wait(30)
    missing = MESSAGES - result["distinct"]
    return result["readings"] / (result["last"] - begin), used / MESSAGES * 1e6, missing


def _bare(stream_management: bool) -> tuple[float, float]:
    """(messages a second, CPU us of the receiver for each)."""
    with prosody() as server:
        word = "true" if stream_management else "false"
        arguments = (server.port, server.ca, server.domain, PASSWORD, MESSAGES, word)
        peer = _spawn("bench.xmpp_peer", *arguments, core=GATEWAY_CORE)
        assert _line(peer) == "ready"
        load = _load(server, MESSAGES)
        begin, _ = map(float, _line(load).split())
        last, cpu = map(float, _line(peer).split())
        load.communicate("\n", timeout=30)
        peer.kill()
        peer.wait()
    return MESSAGES / (last - begin), cpu / MESSAGES * 1e6


def throughput(repeats: int = 3) -> None:
    """Prosody to PUBACK, beside the bare receive rate."""
    print(f"\n== throughput: {MESSAGES:,} messages, a JSON body of 27 bytes with two values, from {DEVICES:,} accounts")
    print(f"   receiver alone on core {GATEWAY_CORE}; prosody, load, broker, subscriber on core {LOAD_CORE};")
    print(f"   {repeats} runs each, in turn, each with servers of its own: median (min .. max)")
    rows: dict[str, list[tuple[float, float]]] = {}
    missing = 0
    for _ in range(repeats):
        rate, cpu, lost = _to_puback()
        missing = max(missing, lost)
        rows.setdefault("gateway, SQLite at FULL, to the broker at QoS 1", []).append((rate, cpu))
        for label, stream_management in (("bare link, stream management", True), ("bare link, without", False)):
            rows.setdefault(label, []).append(_bare(stream_management))
    for label, found in rows.items():
        rates = [rate for rate, _ in found]
        cpu = statistics.median(cost for _, cost in found)
        print(
            f"   {label:<48} {statistics.median(rates):>7,.0f}/s ({min(rates):,.0f} .. {max(rates):,.0f})"
            f"   {cpu:5.1f} us CPU each"
        )
    print(f"   readings that did not arrive, worst run: {missing}")


def memory() -> None:
    """With one device, and with a thousand."""
    print("\n== memory: proportional set size of the gateway, 3 s after its last message")
    found = {}
    for devices in (1, DEVICES):
        with prosody() as server, mosquitto() as broker:
            points = [{"key": "n", "value": "${n}"}, {"key": "t", "value": "${t}"}]
            entries = [
                {"jid": f"m{n}@{server.component}", "deviceNameExpression": f"Meter {n}", "timeseries": points}
                for n in range(devices)
            ]
            with gateway(server, broker, entries) as running:
                subscriber = _spawn("bench.subscriber", broker, devices * 10, 1, core=LOAD_CORE)
                assert _line(subscriber) == "ready"
                load = _load(server, devices * 10, devices)
                _line(load)
                result = json.loads(_line(subscriber))
                assert result["distinct"] == devices * 10, result
                time.sleep(3)
                found[devices] = running.pss_kib()
                load.communicate("\n", timeout=30)
                subscriber.wait(30)
        print(f"   {devices:>5} device(s), each with entry, name, JID and 10 messages: {found[devices] / 1024:.1f} MiB")
    print(f"   {(found[DEVICES] - found[1]) / (DEVICES - 1):.1f} KiB each")


def main(names: list[str]) -> None:
    """Run what was asked for, or all."""
    print(f"Python {sys.version.split()[0]}, cores {sorted(GATEWAY_CORE | LOAD_CORE)}")
    for name, run in (("throughput", throughput), ("memory", memory)):
        if not names or name in names:
            run()


if __name__ == "__main__":
    main(sys.argv[1:])
