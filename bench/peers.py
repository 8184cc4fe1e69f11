"""`python -m bench.peers [--node-red DIR] [--reference VENV]`: tbgw beside what else could do its job, in one run.

The same 12-byte messages over TCP, newline-framed, to the same mosquitto and the same counting subscriber: tbgw with
its durable store; Node-RED with the equivalent flow and no store; a bare Twisted listener (bench.peer) with neither
conversion nor store; and the reference gateway with its memory store, which takes five messages a second and so gets
few. Each is alone on one core; load, broker and subscriber share the other. What is not installed is left out:

    mkdir peers && echo '{}' > peers/package.json && npm install node-red --prefix peers      (--node-red peers)
    python3 -m venv reference && reference/bin/pip install thingsboard-gateway                (--reference reference)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from bench.rig import (
    CORES,
    DEVICE,
    GATEWAY_CORE,
    LOAD_CORE,
    GatewayProcess,
    accepts,
    free_port,
    gateway,
    mosquitto,
    wait_for,
)
from bench.run import _line, _one_run, _spawn

CONNECTIONS = (10, 100, 1000)
REPEATS = 3
MESSAGES = 100_000
REFERENCE_MESSAGES = 60
REFERENCE_RATE = 20.0
"""Messages a second sent to the reference gateway: slow enough that each is a read of its own, faster than it takes."""

TO_JSON = """
msg.payload = JSON.stringify({Bench: [{ts: Date.now(), values: {
    n: msg.payload.substring(0, 8), t: msg.payload.substring(8, 12)
}}]});
return msg;
"""
"""What the device configuration of bench.rig asks of the gateways, as a function node."""

SINK = """
import selectors, socket, sys
listener, selector = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024), selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            selector.register(listener.accept()[0], selectors.EVENT_READ)
        elif not key.fileobj.recv(65536):
            selector.unregister(key.fileobj)
            key.fileobj.close()
"""
"""Reads and forgets: how fast the load generator can be at all."""

Running = AbstractContextManager[GatewayProcess]


@contextmanager
def _program(
    command: list[str], folder: Path, port: int, connected: str, environment: dict[str, str] | None = None
) -> Iterator[GatewayProcess]:
    """A peer alone on its core, once it listens and its log says `connected`; ended with the block."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(os.environ, **(environment or {})),
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, GATEWAY_CORE),
        )
    running = GatewayProcess(process, folder, {"tcp": port}, time.perf_counter())
    try:
        wait_for(
            lambda: process.poll() is not None or (accepts(port) and connected in running.log()),
            60,
            f"{command[0]} listens and is connected",
            0.1,
        )
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended:\n{running.log()}")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _tbgw(broker: int) -> Iterator[GatewayProcess]:
    with gateway(broker, framing="delimiter") as running:
        wait_for(lambda: "connected to ThingsBoard" in running.log(), 20, "link up")
        yield running


@contextmanager
def _bare(broker: int) -> Iterator[GatewayProcess]:
    port = free_port()
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory(prefix="tbgw-bench-") as folder:
        command = [sys.executable, "-m", "bench.peer", str(port), str(broker)]
        with _program(command, Path(folder), port, "", {"PYTHONPATH": path}) as running:
            yield running


def _flow(port: int, broker: int) -> list[dict[str, Any]]:
    """The flow of Node-RED: tcp in, function, mqtt out."""
    return [
        {"id": "tab", "type": "tab", "label": "bench"},
        {
            "id": "broker",
            "type": "mqtt-broker",
            "broker": "127.0.0.1",
            "port": str(broker),
            "clientid": "bench-node-red",
            "autoConnect": True,
            "usetls": False,
            "protocolVersion": "4",
            "keepalive": "60",
            "cleansession": True,
        },
        {
            "id": "in",
            "type": "tcp in",
            "z": "tab",
            "server": "server",
            "port": str(port),
            "datamode": "stream",
            "datatype": "utf8",
            "newline": "\\n",
            "wires": [["json"]],
        },
        {
            "id": "json",
            "type": "function",
            "z": "tab",
            "func": TO_JSON,
            "outputs": 1,
            "wires": [["out"]],
        },
        {
            "id": "out",
            "type": "mqtt out",
            "z": "tab",
            "topic": "v1/gateway/telemetry",
            "qos": "1",
            "retain": "false",
            "broker": "broker",
            "wires": [],
        },
    ]


def _node_red(installed: Path) -> Callable[[int], Running]:
    program = installed / "node_modules" / "node-red" / "red.js"

    @contextmanager
    def run(broker: int) -> Iterator[GatewayProcess]:
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="tbgw-bench-") as own:
            folder = Path(own)
            (folder / "flow.json").write_text(json.dumps(_flow(port, broker)))
            (folder / "settings.js").write_text(
                'module.exports = {flowFile: "flow.json", httpAdminRoot: false, httpNodeRoot: false,'
                f' uiHost: "127.0.0.1", uiPort: {free_port()}, telemetry: {{enabled: false}}}};\n'
            )
            command = ["node", str(program), "--userDir", own, "--settings", str(folder / "settings.js")]
            with _program(command, folder, port, "Connected to broker") as running:
                yield running

    return run


@contextmanager
def _session_limits(broker: int) -> Iterator[None]:
    """Answer `getSessionLimits` as ThingsBoard does (no limits): the reference gateway publishes nothing before."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bench-session-limits")
    answer = json.dumps(
        {"maxPayloadSize": 65536, "maxInflightMessages": 100, "rateLimits": {}, "gatewayRateLimits": {}}
    )

    def message(own: paho.Client, _: object, request: paho.MQTTMessage) -> None:
        own.publish("v1/devices/me/rpc/response/" + request.topic.rpartition("/")[2], answer, qos=1)

    subscribed: list[object] = []
    client.on_message = message
    client.on_subscribe = lambda *_: subscribed.append(None)
    client.connect("127.0.0.1", broker)
    client.subscribe("v1/devices/me/rpc/request/+", qos=1)
    client.loop_start()
    try:
        wait_for(lambda: bool(subscribed), 10, "the responder is subscribed")
        yield
    finally:
        client.disconnect()
        client.loop_stop()


def _reference(venv: Path) -> Callable[[int], Running]:
    @contextmanager
    def run(broker: int) -> Iterator[GatewayProcess]:
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="tbgw-bench-") as own, _session_limits(broker):
            folder = Path(own)
            etc = folder / "etc"
            etc.mkdir()
            (folder / "logs").mkdir()
            (etc / "tb_gateway.json").write_text(
                json.dumps(
                    {
                        "thingsboard": {
                            "host": "127.0.0.1",
                            "port": broker,
                            "remoteShell": False,
                            "remoteConfiguration": False,
                            "statistics": {"enable": False},
                            "maxPayloadSizeBytes": 65536,
                            "qos": 1,
                            "reportStrategy": {"type": "ON_RECEIVED"},
                            "security": {"type": "accessToken", "accessToken": "bench-2f81c0"},
                        },
                        "storage": {"type": "memory", "read_records_count": 100, "max_records_count": 100_000},
                        "grpc": {"enabled": False},
                        "connectors": [{"type": "socket", "name": "TCP", "configuration": "tcp.json"}],
                    }
                )
            )
            (etc / "tcp.json").write_text(
                json.dumps(
                    {
                        "name": "TCP",
                        "socket": {"type": "TCP", "address": "127.0.0.1", "port": port, "bufferSize": 1024},
                        "devices": [dict(DEVICE, addressFilter="*:*")],
                    }
                )
            )
            handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}
            (etc / "logs.json").write_text(
                json.dumps(
                    {
                        "version": 1,
                        "disable_existing_loggers": False,
                        "handlers": {"console": handler},
                        "loggers": {
                            name: {"handlers": ["console"], "level": "INFO", "propagate": False}
                            for name in ("service", "connector", "converter", "tb_connection", "storage", "extension")
                        },
                        "root": {"level": "ERROR", "handlers": ["console"]},
                    }
                )
            )
            command = [str(venv / "bin" / "python"), "-m", "thingsboard_gateway.tb_gateway"]
            # PYTHONPATH would show it this checkout's packages.
            environment = {"TB_GW_CONFIG_DIR": str(etc), "PYTHONPATH": "", "PYTHONUNBUFFERED": "1"}
            with _program(command, folder, port, "Gateway started.", environment) as running:
                yield running

    return run


def _ceiling(connections: int) -> float:
    """Messages a second that the load generator sends to a program that only reads."""
    port = free_port()
    sink = [sys.executable, "-c", SINK, str(port)]
    with tempfile.TemporaryDirectory(prefix="tbgw-bench-") as folder, _program(sink, Path(folder), port, ""):
        load = _spawn("bench.load", "tcp", port, connections, MESSAGES, "\\n", 0, core=LOAD_CORE)
        _, took = map(float, _line(load).split())
        load.communicate("\n", timeout=30)
    return MESSAGES / took


@dataclass
class Case:
    """One line of the table."""

    label: str
    run: Callable[[int], Running]
    connections: int
    messages: int = MESSAGES
    repeats: int = REPEATS
    end: str = "\\n"
    rate: float = 0.0
    rates: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    orders: list[bool] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    pss: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """One run."""
        with mosquitto() as broker, self.run(broker) as running:
            before = running.cpu_seconds()
            result = _one_run("tcp", running.ports["tcp"], broker, self.connections, self.messages, self.end, self.rate)
            used = running.cpu_seconds() - before
            self.pss.append(running.pss_kib() / 1024)
        self.lost.append(self.messages - result["distinct"])
        if result["readings"]:
            self.orders.append(result["order"])
            self.rates.append(result["readings"] / result["seconds"])
            self.cpu.append(used / result["readings"] * 1e6)
            self.busy.append(used / result["seconds"] * 100)

    def row(self) -> str:
        """What was found."""
        if not self.rates:
            return f"   {self.label:<34} {self.connections:>5}   nothing arrived"
        median = statistics.median(self.rates)
        digits = 0 if median >= 100 else 1
        spread = f"({min(self.rates):,.{digits}f} .. {max(self.rates):,.{digits}f})"
        return (
            f"   {self.label:<34} {self.connections:>5} {median:>9,.{digits}f}  {spread:<20} {max(self.lost):>6}"
            f"   {'kept' if all(self.orders) else 'BROKEN':<6} {statistics.median(self.cpu):>9,.1f}"
            f" {statistics.median(self.busy):>6.0f} {statistics.median(self.pss):>9.1f}"
        )


def _version(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _cases(node_red: Path | None, reference: Path | None) -> Iterator[Case]:
    """What is installed; says why what is not is left out."""
    for connections in CONNECTIONS:
        yield Case("tbgw, SQLite synchronous=FULL", _tbgw, connections)
    manifest = None if node_red is None else node_red / "node_modules" / "node-red" / "package.json"
    if manifest is None:
        print("   Node-RED is left out: neither --node-red nor NODE_RED_DIR says where it is")
    elif not manifest.is_file():
        print(f"   Node-RED is left out: there is no {manifest}")
    elif node_red is None or shutil.which("node") is None:
        print("   Node-RED is left out: there is no `node` on PATH")
    else:
        version = json.loads(manifest.read_text())["version"]
        print(f"   Node-RED {version} on node {_version(['node', '--version'])}")
        for connections in CONNECTIONS:
            yield Case("Node-RED, no store", _node_red(node_red), connections)
    for connections in CONNECTIONS:
        yield Case("bare Twisted listener, no store", _bare, connections)
    if reference is None:
        print("   the reference gateway is left out: no --reference")
    elif not list(reference.glob("lib/python3*/site-packages/thingsboard_gateway")):
        print(f"   the reference gateway is left out: {reference} is no venv with thingsboard-gateway")
    else:
        code = (
            "import importlib.metadata as m; print(m.version('thingsboard-gateway'), 'on', __import__('sys').version)"
        )
        print(f"   reference gateway {_version([str(reference / 'bin' / 'python'), '-c', code]).split(' (')[0]}")
        yield Case(
            "reference gateway, memory store", _reference(reference), 10, REFERENCE_MESSAGES, 1, "", REFERENCE_RATE
        )


def main(node_red: Path | None, reference: Path | None) -> None:
    """Measure all; the repeats of a line are spread over the run, so that a slow minute of the machine hits all."""
    print(f"tbgw bench on {platform.machine()}, {len(CORES)} cores, Python {platform.python_version()}, {time.ctime()}")
    print("\n== peers: 12-byte messages over TCP, two values each, QoS 1 to mosquitto, counted by its subscriber")
    print(f"   gateway on core {GATEWAY_CORE}; load, broker and subscriber on core {LOAD_CORE}")
    cases = list(_cases(node_red, reference))
    print(f"   {MESSAGES:,} messages newline-framed as fast as they are taken, {REPEATS} runs each; to the reference")
    print(f"   gateway, which has no framing, {REFERENCE_MESSAGES} at {REFERENCE_RATE:g}/s in one run, each a read.")
    for repeat in range(REPEATS):
        for case in cases:
            if repeat < case.repeats:
                case.measure()
    print(
        "   `busy`: the peer's CPU seconds by the run's. Well below 100 not the peer sets the rate, but the other core"
    )
    print("   (load, broker, subscriber): then the rate is a lower bound, and such rates do not rank the peers.")
    ceilings = ", ".join(f"{_ceiling(connections):,.0f}/s from {connections}" for connections in CONNECTIONS)
    print(f"   The load alone, into a program that only reads, without broker and subscriber: {ceilings} connections")
    print(
        f"   {'who':<34} {'conns':>5} {'readings/s: median (min .. max)':<32} {'lost':>6}   {'order':<6}"
        f" {'CPU us/r':>9} {'busy %':>6} {'PSS MiB':>9}"
    )
    for case in cases:
        print(case.row(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--node-red", type=Path, default=os.environ.get("NODE_RED_DIR") or None, metavar="DIR")
    parser.add_argument("--reference", type=Path, metavar="VENV")
    given = parser.parse_args()
    main(*(path and path.resolve() for path in (given.node_red, given.reference)))
