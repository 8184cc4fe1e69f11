"""`python -m bench.packages`: how long a firmware package takes to the gateway, by the size of its chunks.

The sandbox runs here; the gateway is a process of its own (`twistd tbgw`), and so is the peer: a bare MQTT client of
`tbgw.mqtt` that asks for the same chunks one after the other, and neither keeps nor checks what comes. Measured from
the offer to the state VERIFIED as the sandbox hears it, without the second for which the gateway gathers attributes;
the peer from its first request to its last chunk. Medians of three runs, with their spread.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from bench.rig import GATEWAY_CORE, LOAD_CORE
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox import ota
from tbgw.sandbox.credentials import ACCESS_TOKEN, Credentials
from tbgw.sandbox.service import Sandbox
from tbgw.uplink.updates import SETTLE_SECONDS

reactor: Any = installed

RUNS = 3
CASES = ((1024, 1), (16_384, 4), (65_536, 4))
"""(bytes of a chunk, MiB of the package)"""
ROOT = Path(__file__).parent.parent

_BARE = """
import sys, time
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from tbgw.mqtt import ClientOptions, MQTTClientProtocol
port, chunk, size = map(int, sys.argv[1:])
class Asker:
    number = 0
    def connected(self, protocol, connack):
        self.began = time.monotonic()
        self.ask(protocol)
    def ask(self, protocol):
        protocol.publish(f"v2/fw/request/1/chunk/{self.number}", b"%d" % chunk, qos=1).addErrback(lambda f: None)
    def message_received(self, protocol, publish):
        self.number += 1
        if self.number * chunk < size:
            return self.ask(protocol)
        print(time.monotonic() - self.began, flush=True)
        protocol.disconnect()
    def disconnected(self, protocol, reason):
        reactor.stop()
options = ClientOptions(username="bare", client_id="bare", protocol_version=5)
factory = Factory.forProtocol(lambda: MQTTClientProtocol(options, Asker(), reactor))
TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
reactor.run()
"""


async def main() -> None:
    """All cases, one after the other."""
    sandbox = Sandbox(
        reactor,
        mqtt_port=0,
        events=Events(Counters(), time.monotonic),
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    sandbox.startService()
    sandbox.control.create("Bare", credentials=Credentials(ACCESS_TOKEN, token="bare"))  # noqa: S106 - of the benchmark
    print(__doc__)
    for chunk, mebibytes in CASES:
        gateway, bare = [], []
        data = os.urandom(mebibytes << 20)
        for run in range(RUNS):
            version = f"{chunk}-{run}"
            sandbox.control.add_package(ota.make_package("fw", "bench", version, data))
            gateway.append(await _gateway(sandbox, chunk, version))
            sandbox.control.assign_package("Bare", "fw", "bench", version)
            bare.append(await deferToThread(_bare, sandbox.port or 0, chunk, len(data)))
            for device in ("Gateway", "Bare"):
                sandbox.control.unassign_package(device, "fw")
            sandbox.control.remove_package("fw", "bench", version)
        chunks = len(data) // chunk
        for name, took in (("gateway", gateway), ("bare client", bare)):
            middle = statistics.median(took)
            print(
                f"{chunk:6d} bytes a chunk, {mebibytes} MiB, {name:11s}: {middle:.2f} s ({min(took):.2f} to "
                f"{max(took):.2f}), {mebibytes / middle:.1f} MiB/s, {middle / chunks * 1e6:.0f} us a chunk"
            )
    await sandbox.stopService()


async def _gateway(sandbox: Sandbox, chunk: int, version: str) -> float:
    """One run of the gateway; seconds."""
    verified: Deferred[None] = Deferred()

    def heard(device: str, topic: str, payload: bytes) -> None:
        if b'"VERIFIED"' in payload and not verified.called:
            verified.callback(None)

    sandbox.on_publish = heard
    with tempfile.TemporaryDirectory(prefix="tbgw-bench-", dir=Path.cwd()) as folder:
        etc = Path(folder, "etc")
        etc.mkdir()
        thingsboard = {
            "host": "127.0.0.1",
            "port": sandbox.port,
            "security": {"accessToken": sandbox.ensure_token()},
            "firmware": {"chunkSizeBytes": chunk},
        }
        etc.joinpath("tb_gateway.json").write_text(json.dumps({"thingsboard": thingsboard, "connectors": []}))
        command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "tbgw", "-c", str(etc)]
        process = subprocess.Popen(
            [*command, "-d", folder], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
        )
        os.sched_setaffinity(process.pid, GATEWAY_CORE)
        try:
            while not sandbox.control.device_as_json("Gateway")["connected"]:
                await deferLater(reactor, 0.05)
            await deferLater(reactor, SETTLE_SECONDS + 0.5)  # its first questions are answered by then
            began = time.monotonic()
            sandbox.control.assign_package("Gateway", "fw", "bench", version)
            await verified
            return time.monotonic() - began - SETTLE_SECONDS
        finally:
            sandbox.on_publish = None
            process.terminate()
            await deferToThread(process.wait)


def _bare(port: int, chunk: int, size: int) -> float:
    """One run of the peer; seconds."""
    command = [sys.executable, "-c", _BARE, str(port), str(chunk), str(size)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, GATEWAY_CORE)
    output, _ = process.communicate(timeout=60)
    return float(output)


if __name__ == "__main__":
    os.sched_setaffinity(0, LOAD_CORE)
    Deferred.fromCoroutine(main()).addErrback(lambda failure: failure.printTraceback()).addBoth(
        lambda _: reactor.callWhenRunning(reactor.stop)
    )
    reactor.run()
