"""The rig of the OCPP scenarios: the sandbox in this process, the gateway by `twistd`, charge points as programs.

Nothing here blocks: the sandbox lives in the reactor that a blocking wait would stop.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox.service import Sandbox
from tbgw.thingsboard import payloads, topics
from tests.programs import free_port, need

reactor: Any = real_reactor
ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = ROOT / "tests" / "clients"
PUSHED = 1_000_000
"""Numbers of commands that the test sends by itself are not below."""
SECONDS = 40.0
"""How long something may take that must come: far more than it needs, since the machine may be busy."""


class Running(ProcessProtocol):
    """A program whose output is read line by line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended: Deferred[int] = Deferred()
        self.over = False
        self._held = ""
        self._read = 0

    def outReceived(self, data: bytes) -> None:
        *lines, self._held = (self._held + data.decode("utf-8", "replace")).split("\n")
        self.lines += lines

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        self.over = True
        self.lines.append(self._held)
        self.ended.callback(getattr(reason.value, "exitCode", None) or 0)

    async def wait_for(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """The next line with `pattern`, behind those that were found before; fails with the whole output."""
        end = reactor.seconds() + seconds
        while True:
            while self._read < len(self.lines):
                self._read += 1
                line = self.lines[self._read - 1]
                if match := re.search(pattern, line):
                    return match
                if re.search(r"^@?(FAILED|INVALID)", line):
                    raise AssertionError(f"instead of {pattern!r}:\n" + "\n".join(self.lines[-40:]))
            if self.over or reactor.seconds() > end:
                raise AssertionError(f"no line with {pattern!r}:\n" + "\n".join(self.lines[-60:]))
            await deferLater(reactor, 0.01, lambda: None)

    def signal(self, name: str) -> None:
        if not self.over:
            assert self.transport is not None
            self.transport.signalProcess(name)

    async def kill(self) -> None:
        if not self.over:
            self.signal("KILL")
            await self.ended


class OCPPCase(TestCase):
    """A gateway with one OCPP connector, and ThingsBoard's part played by the sandbox."""

    timeout = 150

    def setUp(self) -> Deferred[None]:  # type: ignore[override] # trial waits for it
        return Deferred.fromCoroutine(self.prepare())

    async def prepare(self) -> None:
        """The folder and the sandbox."""
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "etc").mkdir(parents=True)
        self.port, mqtt = free_port(), free_port()
        events = Events(Counters(), reactor.seconds)
        self.sandbox = Sandbox(
            reactor, mqtt_port=mqtt, events=events, now_ms=lambda: int(reactor.seconds() * 1000)
        )
        token = self.sandbox.ensure_token()
        self.answers: list[Any] = []
        """Of commands that were pushed, not called."""
        self.asked: list[Any] = []
        """Attribute requests of the gateway."""
        self.sandbox.on_publish = self._published
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)
        self.write(
            "tb_gateway.json",
            {
                "thingsboard": {"host": "127.0.0.1", "port": mqtt, "security": {"accessToken": token}},
                "connectors": [{"type": "ocpp", "name": "Chargers", "configuration": "ocpp.json"}],
            },
        )

    def _published(self, device: str, topic: str, payload: bytes) -> None:
        if topic == topics.RPC and json.loads(payload)["id"] >= PUSHED:
            self.answers.append(json.loads(payload)["data"])
        elif topic == topics.ATTRIBUTES_REQUEST:
            self.asked.append(json.loads(payload))

    def write(self, name: str, content: Any) -> Path:
        """A file in the configuration's folder."""
        path = self.folder / "etc" / name
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
        path.chmod(0o600)
        return path

    def configure(self, *points: Any, **central: Any) -> None:
        """The connector's file."""
        listed = list(points) or [{"idRegexpPattern": ".*", "deviceNameExpression": "${chargePointId}"}]
        self.write("ocpp.json", {"centralSystem": {"port": self.port, **central}, "chargePoints": listed})

    # Programs.

    def run_program(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> Running:
        running = Running()
        reactor.spawnProcess(running, command[0], list(command), env={**os.environ, **(env or {})}, path=str(ROOT))
        self.addCleanup(lambda: Deferred.fromCoroutine(running.kill()))
        return running

    async def start_gateway(self) -> Running:
        """`twistd tbgw`, listening."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "-n", "--pidfile=", "--logger", "tbgw.logs.text", "tbgw"]
        command += ["-c", str(self.folder / "etc"), "-d", str(self.folder)]
        self.gateway = self.run_program(command, {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"})
        await self.gateway.wait_for("listening on wss?://")
        return self.gateway

    def station_js(self, **options: Any) -> Running:
        """A charge point on ocpp-rpc."""
        node = _node_with("ocpp-rpc")
        return self.run_program([node, str(CLIENTS / "station.js"), json.dumps(self._options(options))])

    def station_py(self, **options: Any) -> Running:
        """A charge point on the packages ocpp and websockets."""
        command = [sys.executable, "-m", "tests.clients.station", json.dumps(self._options(options))]
        return self.run_program(command, {"PYTHONPATH": str(ROOT)})

    def simulator(self, url: str, ca: str = "", cert: str = "", key: str = "") -> Running:
        """A charge point on em-ocpp-chargepoint-simulator."""
        node = _node_with("em-ocpp-chargepoint-simulator")
        main = CLIENTS / "node_modules/em-ocpp-chargepoint-simulator/build/src/main.js"
        store = [{"id": url.rpartition("/")[2], "cert": cert, "key": key}] if cert else []
        env = {"STATION_URL": url, "SSL_CLIENT_KEYSTORE": json.dumps(store)}
        if ca:
            env["NODE_EXTRA_CA_CERTS"] = ca
        return self.run_program([node, str(main), "tests/clients/simulator.js"], env)

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"endpoint": f"ws://127.0.0.1:{self.port}", "identity": "CP_1", "protocol": "ocpp1.6", **options}

    # ThingsBoard.

    async def rpc(self, device: str, method: str, params: Any = None) -> Any:
        """A two-way RPC; its answer."""
        await self.until(lambda: bool(self.sandbox._endpoint.session_count), "a session")
        answer = await self.sandbox.control.call(device, method, params, timeout_ms=int(SECONDS * 1000))
        assert answer.status == 200, (method, answer)
        return json.loads(answer.body)

    async def shared(self, device: str, **values: Any) -> None:
        """Set shared attributes of a device."""
        self.sandbox.control.set_attributes(device, values)

    async def push(self, topic: str, content: Any) -> None:
        """Something that ThingsBoard says to the gateway; waits until there is a session."""
        await self.until(lambda: bool(self.sandbox._endpoint.session_count), "a session")
        await self.sandbox.push("Gateway", topic, payloads.encode(content))

    def values(self, device: str) -> dict[str, Any]:
        """The newest time series of a device."""
        return self._shown(device, "telemetry")

    def attributes(self, device: str) -> dict[str, Any]:
        """The client attributes of a device."""
        return self._shown(device, "attributes")

    def _shown(self, device: str, kind: str) -> dict[str, Any]:
        for one in self.sandbox.view.devices():
            if one["name"] == device:
                return {key: value["value"] for key, value in one[kind].items()}
        return {}

    async def until(self, condition: Callable[[], Any], what: str = "it") -> None:
        """Let the reactor run until it holds."""
        end = reactor.seconds() + SECONDS
        while not condition():
            if reactor.seconds() > end:
                log = "\n".join(self.gateway.lines[-30:]) if hasattr(self, "gateway") else ""
                raise AssertionError(f"{what} did not come\n{log}")
            await deferLater(reactor, 0.01, lambda: None)


def _node_with(package: str) -> str:
    node = need("node")
    if not (CLIENTS / "node_modules" / package).is_dir():
        raise SkipTest(f"{package} is not installed; `sh tools/clients.sh` brings it")
    return node


def coroutine(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Deferred[Any]]:
    """For helpers that trial calls and does not await."""
    return lambda *args: Deferred.fromCoroutine(function(*args))
