"""ThingsBoard's own SDK (`tb-mqtt-client`) against the sandbox: what works there works here.

The SDK runs as a program of its own, in `.venv-sdk`, which `make test` makes; without it these tests are skipped.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial import unittest

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device, Reading
from tbgw.pipeline.forwarder import Forwarder
from tbgw.pipeline.ingest import Ingest
from tbgw.pipeline.packer import PackLimits
from tbgw.sandbox.ota import make_package
from tbgw.sandbox.profiles import ALLOW_CREATE, DeviceProfile
from tbgw.sandbox.service import Sandbox
from tbgw.spool.memory import MemoryStore
from tbgw.spool.runners import CallDirectly
from tbgw.spool.service import Spool
from tbgw.thingsboard import topics
from tests.fakes import FakeUplink
from tests.pipeline.test_ingest import MemoryRegistry

PYTHON = Path(__file__).parents[2] / ".venv-sdk" / "bin" / "python"
DRIVER = Path(__file__).with_name("driver.py")


class Driver(ProcessProtocol):
    """The program with the SDK; what it prints comes as one JSON value after the other."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._waiting: list[Deferred[Any]] = []
        self._rest = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._values += [json.loads(line) for line in lines]
        self._serve()

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        self._serve()
        for waiting in self._waiting:
            waiting.errback(AssertionError(f"it ended: {self.errors.decode()}"))
        self.ended.callback(0 if reason.check(ProcessDone) else 1)

    def _serve(self) -> None:
        while self._values and self._waiting:
            self._waiting.pop(0).callback(self._values.pop(0))

    def next(self) -> Deferred[Any]:
        """The next value."""
        told: Deferred[Any] = Deferred()
        self._waiting.append(told)
        self._serve()
        return told

    def go(self, line: str = "") -> None:
        """Let it go on."""
        assert self.transport is not None
        self.transport.write(line.encode() + b"\n")


class SDKTests(unittest.TestCase):
    """One sandbox in this process, and the SDK beside it."""

    timeout = 90

    def setUp(self) -> None:
        if not PYTHON.exists():
            raise unittest.SkipTest("there is no .venv-sdk with ThingsBoard's SDK; `make test` makes one")
        self.sandbox = Sandbox(
            reactor,
            mqtt_port=0,
            events=Events(Counters(), time.monotonic),
            now_ms=lambda: int(time.time() * 1000),
        )
        self.token = self.sandbox.ensure_token()
        self.sandbox.add_credentials("device-token", "Plain")
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)
        self.control = self.sandbox.control

    def start(self, scenario: str, *arguments: str) -> Driver:
        driver = Driver()
        command = [str(PYTHON), "-u", str(DRIVER), scenario, str(self.sandbox.port), *arguments]
        transport = reactor.spawnProcess(driver, command[0], command, env={"PYTHONUNBUFFERED": "1"})

        def end() -> Deferred[int]:
            if transport.pid is not None:
                transport.signalProcess("KILL")
            return driver.ended

        self.addCleanup(end)
        return driver

    def shown(self, name: str) -> dict[str, Any]:
        return next(device for device in self.sandbox.view.devices() if device["name"] == name)

    def values(self, name: str, group: str = "telemetry") -> dict[str, Any]:
        return {key: entry["value"] for key, entry in self.shown(name)[group].items()}

    async def told(self, driver: Driver, **expected: Any) -> None:
        self.assertEqual(await driver.next(), expected)

    async def test_device(self) -> None:
        """Telemetry, attributes and requests for them, updates, calls both ways, a claim."""
        driver = self.start("device", "device-token")
        await self.told(driver, connected=True)
        for word in ("telemetry", "timed", "attributes"):
            await self.told(driver, **{word: 0})
        self.assertEqual(
            self.values("Plain"),
            {"temperature": 41.9, "humidity": 69, "enabled": False, "currentFirmwareVersion": "v1.2.2", "old": 1},
        )
        self.assertEqual(self.shown("Plain")["telemetry"]["old"]["ts"], 10_000)
        self.assertEqual(self.values("Plain", "attributes"), {"sensorModel": "DHT-22", "atr3": "value3"})
        self.control.set_attributes("Plain", {"attr": "hello"})
        driver.go()
        await self.told(driver, answer={"shared": {"attr": "hello"}})
        await self.told(driver, answer={"client": {"atr3": "value3"}})
        await self.told(driver, subscribed=True)
        self.control.set_attributes("Plain", {"limit": 5})
        await self.told(driver, updates=[{"all": {"limit": 5}}, {"one": {"limit": 5}}])
        answer = await self.control.call("Plain", "setGpio", {"pin": "26", "value": 1})
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"echo": {"pin": "26", "value": 1}}))
        driver.go()
        self.assertIn("time", (await driver.next())["answer"])
        await self.told(driver, claim=0)
        self.assertEqual(self.control.claim("Plain", "Customer", "secret"), "SUCCESS")
        self.assertEqual(await driver.ended, 0, driver.errors)

    async def test_firmware(self) -> None:
        """Offered, fetched in chunks, checked with each algorithm that the SDK knows, and told with its states."""
        image = bytes(range(256)) * 10
        for algorithm in ("SHA256", "MURMUR3_128"):
            title = f"meter {algorithm}"
            self.control.add_package(make_package("fw", title, "v2", image, algorithm=algorithm))
            self.control.assign_package("Plain", "fw", title, "v2")
            driver = self.start("firmware", "device-token")
            await self.told(driver, connected=True)
            await self.told(driver, size=len(image), version="v2")
            states = [value for _, value in self.sandbox.view.history("Plain", "fw_state", 0)]
            self.assertEqual(states[-4:], ["DOWNLOADING", "DOWNLOADED", "VERIFIED", "UPDATED"])
            driver.go()
            self.assertEqual(await driver.ended, 0, driver.errors)

    async def test_provision(self) -> None:
        """All kinds of credentials, a gateway, a wrong key; and what was provisioned comes in."""
        profile = DeviceProfile("thermo", strategy=ALLOW_CREATE, key="key", secret="secret")
        self.control.set_profile(profile)
        driver = self.start("provision", "key", "secret")
        answers = [(await driver.next())["answer"] for _ in range(6)]
        self.assertEqual([answer and answer["credentialsType"] for answer in answers], [
            "ACCESS_TOKEN", "ACCESS_TOKEN", "MQTT_BASIC", "X509_CERTIFICATE", "ACCESS_TOKEN", None
        ])  # fmt: skip
        self.assertEqual(answers[1]["credentialsValue"], "own-token")
        self.assertEqual(answers[2]["credentialsValue"], {"clientId": "c", "userName": "u", "password": "p"})
        await self.told(driver, connected=True)
        await self.told(driver, telemetry=0)
        self.assertEqual(self.values("Own token"), {"a": 1})
        self.assertTrue(self.shown("Gateway 2")["gateway"])
        self.assertEqual(await driver.ended, 0, driver.errors)

    async def test_gateway(self) -> None:
        """The gateway client: devices, values, updates in its three kinds of subscription, calls, requests, claim."""
        driver = self.start("gateway", self.token)
        await self.told(driver, connected=True)
        for word in ("connect", "telemetry", "attributes"):
            await self.told(driver, **{word: 0})
        self.assertEqual((self.shown("A")["profile"], self.values("A")), ("thermo", {"t": 1.5}))
        self.assertEqual(self.values("A", "attributes"), {"model": "X", "serial": 7})
        await self.told(driver, subscribed=True)
        self.control.set_attributes("A", {"limit": 5})
        update = {"device": "A", "data": {"limit": 5}}
        await self.told(driver, updates=[{"all": update}, {"attribute": update}, {"device": update}])
        answer = await self.control.call("A", "open", [1, "x"])
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"echo": [1, "x"]}))
        driver.go()
        self.assertEqual((await driver.next())["answer"], {"id": 1, "device": "A", "value": 5})
        answer = (await driver.next())["answer"]
        self.assertEqual(answer["values"], {"model": "X", "serial": 7})
        await self.told(driver, claim=0)
        self.assertEqual(self.control.claim("A", "Customer", "secret"), "SUCCESS")
        await self.told(driver, disconnect=0)
        self.assertEqual(await driver.ended, 0, driver.errors)
        self.assertFalse(self.shown("A")["connected"])

    async def test_payloads_mean_the_same(self) -> None:
        """
        Its gateway client and ours make of the same readings payloads that say the same; but for the attributes that
        name a device's connector, which the reference gateway sends by itself, and we do.
        """
        theirs: list[tuple[str, bytes]] = []
        self.sandbox.on_publish = lambda _, topic, payload: theirs.append((topic, payload))
        readings = make_readings(Random(8))
        driver = self.start("readings", self.token)
        await self.told(driver, connected=True)
        for reading in readings:
            driver.go(json.dumps(reading))
        driver.go()
        await self.told(driver, done=True)
        ours = our_publishes(readings)
        mine, sdk = meaning(ours), meaning(theirs)
        for group in mine:
            self.assertEqual({key: value for key, value in mine[group].items() if sdk[group].get(key) != value}, {})
            self.assertEqual(set(mine[group]), set(sdk[group]))
        expected = sum(len(element["values"]) for reading in readings for element in reading["telemetry"])
        self.assertEqual(len(meaning(ours)["telemetry"]), expected)
        self.assertEqual(await driver.ended, 0, driver.errors)


def make_readings(random: Random) -> list[dict[str, Any]]:
    """Readings of five devices, with values of every kind, one of them many times as large as the others."""
    values: list[Any] = [0, -5, 2**53, 1.5, True, "", "text", "Grüße ☀", '"quoted"\n', {"a": [1, {"b": None}]}, [1, 2]]
    readings = []
    for number in range(60):
        name = random.choice(["A", "Pump 1", "Zähler/2", "a+b#", "x" * 100])
        elements = [
            {
                "ts": 1_700_000_000_000 + 10 * number + instant,
                "values": {f"k{key}": random.choice(values) for key in range(random.randint(1, 8))},
            }
            for instant in range(random.randint(0, 3))
        ]
        if number == 30:
            elements.append({"ts": 1, "values": {"long": "y" * 20_000, "short": 1}})
        attributes = {f"a{key}": random.choice(values) for key in range(random.randint(0, 2))}
        readings.append({"device": name, "profile": "thermo", "telemetry": elements, "attributes": attributes})
    return readings


def our_publishes(readings: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """What ingest and forwarder send of these."""
    clock = Clock()
    events = Events(Counters(), clock.seconds)
    spool = Spool(
        MemoryStore,
        clock=clock,
        runner=CallDirectly(),
        wall_ms=lambda: 1,
        events=events,
        max_bytes=10**9,
        max_messages=None,
    )
    spool.open()
    uplink, registry = FakeUplink(clock.seconds), MemoryRegistry()
    limits = PackLimits(60_000, 1000)
    forwarder = Forwarder(
        spool,
        uplink,
        registry,
        clock=clock,
        events=events,
        max_payload_bytes=65_000,
        idled=lambda: ingest.link_idled(),
        limits_changed=lambda _: None,
    )
    uplink.set_listener(forwarder)
    ingest = Ingest(
        spool,
        registry,
        clock=clock,
        now_ms=lambda: 1,
        events=events,
        limits=limits,
        pack_delay_seconds=0.02,
        appended=forwarder.appended,
        link_idle=lambda: forwarder.idle,
    )
    spool.set_listeners(ingest, forwarder, lambda error: None)
    forwarder.start()
    uplink.up()
    for reading in readings:
        telemetry = tuple([(element["ts"], element["values"]) for element in reading["telemetry"]])
        ingest.accept(Reading(Device(reading["device"], reading["profile"]), telemetry, reading["attributes"]))
    ingest.stop()
    for _ in range(1000):
        clock.advance(0.05)
        uplink.acknowledge_all()
    assert not spool.stored_rows
    return [(sent.topic, sent.payload) for sent in uplink.sent]


def meaning(publishes: list[tuple[str, bytes]]) -> dict[str, Any]:
    """What the payloads say, however they are cut: profiles, points, the last value of each attribute."""
    profiles: dict[str, str] = {}
    points: dict[tuple[str, int, str], Any] = {}
    attributes: dict[tuple[str, str], Any] = {}
    for topic, payload in publishes:
        if topic == topics.CONNECT:
            said = json.loads(payload)
            profiles[said["device"]] = said["type"]
        elif topic == topics.TELEMETRY:
            for name, elements in json.loads(payload).items():
                for element in elements:
                    points |= {(name, element["ts"], key): value for key, value in element["values"].items()}
        elif topic == topics.ATTRIBUTES:
            for name, values in json.loads(payload).items():
                said = {key: value for key, value in values.items() if key not in ("connectorName", "connectorType")}
                attributes |= {(name, key): value for key, value in said.items()}
    return {"profiles": profiles, "telemetry": points, "attributes": attributes}
