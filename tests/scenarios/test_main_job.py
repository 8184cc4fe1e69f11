"""Bytes of a device become telemetry and attributes in ThingsBoard's place, and survive a kill; with real programs."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import (
    SECONDS,
    GatewayFolder,
    Program,
    free_port,
    mosquitto,
    mosquitto_sub,
    need,
    send_tcp,
    send_udp,
)

_TELEMETRY = "SELECT payload FROM rows WHERE topic = 'v1/gateway/telemetry' ORDER BY seq"

DEVICE: dict[str, Any] = {
    "address": "*:*",
    "deviceName": "Weather",
    "deviceType": "weather",
    "encoding": "utf-8",
    "telemetry": [{"key": "t", "byteFrom": 1, "byteTo": 5}, {"key": "h", "byteFrom": 6, "byteTo": -1}],
    "attributes": [{"key": "head", "byteFrom": 0, "byteTo": 1}],
}


class GatewayTestCase(SynchronousTestCase):
    """What both groups of tests share."""

    def assertStopped(self, gateway: Program) -> None:
        """SIGTERM ends it in good order. twistd ends by the signal itself once it has cleaned up."""
        self.assertEqual(gateway.stop(), -signal.SIGTERM, gateway.output)
        self.assertIn("stopped: ", gateway.output)


class MainJobTests(GatewayTestCase):
    """Everything goes through `twistd tbgw -c etc/` and real sockets."""

    def setUp(self) -> None:
        self.folder = GatewayFolder(self)
        self.tcp, self.udp, self.mqtt, self.http = (free_port() for _ in range(4))

    def configure(
        self, *, sandbox: bool = False, device: dict[str, Any] = DEVICE, lines: bool = False, **thingsboard: Any
    ) -> None:
        """A TCP and a UDP connector, and ThingsBoard's place on `self.mqtt`."""
        security: dict[str, Any] = {"type": "accessToken", "accessToken": "a1b2c3"}
        content: dict[str, Any] = {}
        if sandbox:
            security = {"type": "accessToken", "accessTokenFile": "sandbox/token"}
            content["sandbox"] = {"enabled": True, "mqttPort": self.mqtt, "httpPort": self.http}
        content["thingsboard"] = {"host": "127.0.0.1", "port": self.mqtt, "security": security, **thingsboard}
        content["storage"] = {"type": "sqlite", "data_file_path": "./store/"}
        content["connectors"] = [
            {"type": "socket", "name": "Line TCP", "configuration": "tcp.json"},
            {"type": "socket", "name": "Line UDP", "configuration": "udp.json"},
        ]
        self.folder.write("tb_gateway.json", content)
        for name, kind, port in (("tcp.json", "TCP", self.tcp), ("udp.json", "UDP", self.udp)):
            socket: dict[str, Any] = {"type": kind, "address": "127.0.0.1", "port": port, "bufferSize": 1024}
            if lines and kind == "TCP":
                socket["framing"] = {"type": "delimiter", "delimiter": "\n"}
            self.folder.write(name, {"socket": socket, "devices": [device]})

    def page(self, path: str) -> Any:
        """What the page's server answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=SECONDS) as answer:
            return json.loads(answer.read())

    def wait_for_page(self, condition: Any, seconds: float) -> Any:
        """Ask for the devices until `condition` holds; the page itself is told by events, this looks from outside."""
        end = time.monotonic() + seconds
        while True:
            devices = {device["name"]: device for device in self.page("/api/devices")["devices"]}
            if condition(devices):
                return devices
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {devices}")

    def test_nc_to_the_page_within_a_second(self) -> None:
        """The README's first example: nc over TCP and UDP, the value is on the page within a second."""
        nc = need("nc")
        self.configure(sandbox=True)
        gateway = self.folder.start()
        gateway.wait_for("connected to ThingsBoard")
        subprocess.run([nc, "-q0", "127.0.0.1", str(self.tcp)], input=b"T21.5H048", check=True, timeout=SECONDS)
        devices = self.wait_for_page(lambda d: "t" in d.get("Weather", {}).get("telemetry", {}), 1.0)
        weather = devices["Weather"]
        # ThingsBoard makes numbers of text that looks like one, and so does the sandbox.
        self.assertEqual((weather["telemetry"]["t"]["value"], weather["telemetry"]["h"]["value"]), (21.5, 48))
        self.assertEqual(weather["attributes"]["head"]["value"], "T")
        self.assertEqual(weather["attributes"]["connectorType"]["value"], "socket")
        self.assertEqual(weather["profile"], "weather")
        subprocess.run([nc, "-u", "-q0", "127.0.0.1", str(self.udp)], input=b"T22.5H049", check=True, timeout=SECONDS)
        self.wait_for_page(lambda d: d["Weather"]["telemetry"]["t"]["value"] == 22.5, 1.0)
        began = time.monotonic()
        self.assertStopped(gateway)
        self.assertLess(time.monotonic() - began, 5.0)

    def test_mosquitto_in_thingsboards_place(self) -> None:
        """The same against Debian's broker, seen by mosquitto_sub: announced first, then attributes and telemetry."""
        mosquitto(self, self.mqtt)
        seen = mosquitto_sub(self, self.mqtt)
        self.configure()
        gateway = self.folder.start()
        gateway.wait_for("connected to ThingsBoard")
        send_tcp(self.tcp, b"T21.5H048")
        telemetry = seen.wait_for(r"^v1/gateway/telemetry (.*)")[1]
        payload = json.loads(telemetry)
        self.assertEqual([entry["values"] for entry in payload["Weather"]], [{"t": "21.5", "h": "048"}])
        self.assertLess(abs(payload["Weather"][0]["ts"] / 1000 - time.time()), 60)
        kinds = [line.split(" ")[0] for line in seen.lines if line.startswith("v1/gateway/")]
        self.assertEqual(kinds[0], "v1/gateway/connect")
        connect = next(line for line in seen.lines if line.startswith("v1/gateway/connect "))
        self.assertEqual(json.loads(connect.partition(" ")[2]), {"device": "Weather", "type": "weather"})
        attributes = [json.loads(line.partition(" ")[2]) for line in seen.lines if line.startswith("v1/gateway/attr")]
        merged: dict[str, Any] = {}
        for entry in attributes:
            merged.update(entry["Weather"])
        self.assertEqual(merged, {"connectorType": "socket", "connectorName": "Line TCP", "head": "T"})

    def test_known_devices_are_announced_after_a_reconnect_and_before_their_data(self) -> None:
        """C-02: a broker that comes back hears of the device before any data of it, with its profile."""
        broker = mosquitto(self, self.mqtt)
        self.configure()
        gateway = self.folder.start()
        gateway.wait_for("connected to ThingsBoard")
        send_tcp(self.tcp, b"T1.00H001")
        self.wait_until_delivered()
        broker.kill()
        gateway.wait_for("session with ThingsBoard .* ended")
        send_tcp(self.tcp, b"T2.00H002")
        mosquitto(self, self.mqtt)
        seen = mosquitto_sub(self, self.mqtt)
        seen.wait_for(r"^v1/gateway/telemetry .*2\.00")
        topics = [line.split(" ")[0] for line in seen.lines if line.startswith("v1/gateway/")]
        self.assertIn("v1/gateway/connect", topics)
        self.assertLess(topics.index("v1/gateway/connect"), topics.index("v1/gateway/telemetry"))

    def wait_until_delivered(self) -> None:
        """Until the store is empty, as seen in its file."""
        end = time.monotonic() + SECONDS
        while self.stored():
            if time.monotonic() > end:
                raise AssertionError("the store does not become empty")

    def stored(self) -> list[bytes]:
        """The payloads in the store, read from outside."""
        file = next((self.folder.path / "store").glob("*.db"))
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=5) as store:
            return [row[0] for row in store.execute(_TELEMETRY)]

    def test_a_kill_in_the_middle_of_ten_thousand_messages_loses_nothing_that_was_accepted(self) -> None:
        """kill -9 with the broker away: all that was stored arrives after the restart, each connection in order."""
        device = {
            **DEVICE,
            "telemetry": [{"key": "line", "byteFrom": 0, "byteTo": 1}, {"key": "n", "byteFrom": 1, "byteTo": 6}],
            "attributes": [],
        }
        self.configure(device=device, lines=True)
        gateway = self.folder.start()
        # Four connections, 10,000 messages in turn, told every 1,000.
        sender = Program(self, ["python3", "-c", _SENDER, str(self.tcp)])
        sender.wait_for("^1000$")
        end = time.monotonic() + SECONDS
        while sum(len(_values(payload)) for payload in self.stored()) < 4000:
            self.assertLess(time.monotonic(), end)
        gateway.kill()
        accepted = [value for payload in self.stored() for value in _values(payload)]
        self.assertGreater(len(accepted), 1000)
        self.assertLess(len(accepted), 10_000)
        mosquitto(self, self.mqtt)
        seen = mosquitto_sub(self, self.mqtt, "v1/gateway/telemetry")
        again = self.folder.start()
        again.wait_for("connected to ThingsBoard")
        arrived: list[tuple[str, int]] = []
        while len(set(arrived)) < len(set(accepted)):
            arrived += _values(seen.wait_for(r"^v1/gateway/telemetry (.*)")[1].encode())
        self.assertEqual(set(arrived), set(accepted))
        for line in "abcd":
            numbers = [n for own, n in arrived if own == line]
            self.assertEqual(numbers, sorted(numbers))
            # A line's messages are without a gap up to the last that was accepted: none was lost on the way.
            self.assertEqual(sorted(set(numbers)), list(range(len(set(numbers)))))
        self.assertStopped(again)

    def test_the_broker_killed_between_publish_and_puback(self) -> None:
        """What a broker took and did not acknowledge is sent again to the next one."""
        self.configure(mqttVersion="3.1.1")  # all that the script below speaks
        broker = Program(self, ["python3", "-c", _SILENT_BROKER, str(self.mqtt)])
        broker.wait_for("listening")
        gateway = self.folder.start()
        gateway.wait_for("connected to ThingsBoard")
        send_tcp(self.tcp, b"T33.3H033")
        broker.wait_for("publish .*33.3")
        broker.kill()
        mosquitto(self, self.mqtt)
        seen = mosquitto_sub(self, self.mqtt)
        seen.wait_for(r"^v1/gateway/telemetry .*33\.3")

    def test_sigint_flushes_and_leaves_within_five_seconds(self) -> None:
        """Ctrl-C: what was taken just before is stored, and the process ends well."""
        # Under a shell's `&` SIGINT is ignored, and what a process ignores its children ignore from birth.
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        self.configure()
        gateway = self.folder.start()
        send_udp(self.udp, b"T44.4H044")
        send_tcp(self.tcp, b"T55.5H055")
        end = time.monotonic() + SECONDS
        while len([v for payload in self.stored() for v in json.loads(payload)["Weather"]]) < 2:
            self.assertLess(time.monotonic(), end)
        began = time.monotonic()
        gateway.stop(signal.SIGINT)
        self.assertLess(time.monotonic() - began, 5.0)
        self.assertIn("kept in the store", gateway.output)

    def test_rubbish_in_every_encoding(self) -> None:
        """Bytes that are no text in the device's encoding cost their key, are told once, and harm nothing else."""
        rubbish = bytes(range(256)) + b"\xff\xfe\x00\xd8\x00\x00"
        mosquitto(self, self.mqtt)
        seen = mosquitto_sub(self, self.mqtt)
        for encoding in ("utf-8", "ascii", "utf-16", "utf-16-le", "utf-32", "utf-32-be", "hex", "latin-1"):
            self.configure(device={**DEVICE, "encoding": encoding})
            gateway = self.folder.start()
            gateway.wait_for("connected to ThingsBoard")
            send_udp(self.udp, rubbish, b"", b"T")
            send_udp(self.udp, "T21.5H048".encode("utf-8" if encoding == "hex" else encoding))
            self.assertStopped(gateway)
            self.assertNotIn("Traceback", gateway.output)
        self.assertIsNone(seen.process.poll())


class BadStartTests(GatewayTestCase):
    """What is wrong is said in one clear line each, with the file and the line, and nothing is half started."""

    def setUp(self) -> None:
        self.folder = GatewayFolder(self)

    def refused(self) -> str:
        """Start; the output of the refusal."""
        gateway = self.folder.start(wait=None)
        self.assertEqual(gateway.finish(), 1, gateway.output)
        self.assertNotIn("Traceback", gateway.output)
        return gateway.output

    def test_the_references_own_files(self) -> None:
        """The reference's files load; its placeholder token is refused with a clear line; with a real one it starts."""
        reference = Path(__file__).parent.parent / "data" / "reference-config"
        for file in reference.glob("*.json"):
            self.folder.write(file.name, file.read_text())
        output = self.refused()
        text = (reference / "tb_gateway.json").read_text()
        line = text[: text.index("YOUR_")].count("\n") + 1
        self.assertRegex(output, rf"tb_gateway\.json:{line}: thingsboard\.security\.accessToken: ")
        content = json.loads((reference / "tb_gateway.json").read_text())
        content["thingsboard"].update(host="127.0.0.1", port=free_port())
        content["connectors"] = [
            {"type": kind, "name": kind.upper(), "configuration": f"{kind}.json"} for kind in ("socket", "xmpp", "ocpp")
        ]
        socket = json.loads((reference / "socket.json").read_text())
        socket["socket"]["port"] = free_port()
        self.folder.write("socket.json", socket)
        self.folder.write("tb_gateway.json", content)
        gateway = self.folder.start(env={"TB_GW_ACCESS_TOKEN": "a-real-one"})
        self.assertRegex(gateway.output, "listening on TCP 127.0.0.1")
        self.assertStopped(gateway)

    def test_every_fault_of_every_file_at_once(self) -> None:
        """Faults of several files come together, and nothing listens."""
        self.folder.write(
            "tb_gateway.json",
            {
                "thingsboard": {"host": "127.0.0.1", "port": 70000, "security": {"accessToken": ""}},
                "connectors": [{"type": "socket", "name": "S", "configuration": "s.json"}],
            },
        )
        device = {"address": "192.16*:*", "deviceName": "D", "telemetry": [{"key": "k", "byteFrom": "x"}]}
        self.folder.write("s.json", {"socket": {"type": "TPC"}, "devices": [device]})
        output = self.refused()
        for place in (
            r"tb_gateway\.json:\d+: thingsboard\.port: ",
            r"tb_gateway\.json:\d+: thingsboard\.security",
            r"s\.json:\d+: socket\.type: .*must be one of TCP, UDP",
            r"s\.json:\d+: devices\[0\]\.address: ",
            r"s\.json:\d+: devices\[0\]\.telemetry\[0\]\.byteFrom: ",
        ):
            self.assertRegex(output, place)

    def test_a_certificate_that_does_not_exist(self) -> None:
        """A missing certificate file is a fault of the configuration; nothing connects in plain text instead."""
        self.folder.write(
            "tb_gateway.json",
            {
                "thingsboard": {
                    "host": "127.0.0.1",
                    "security": {"type": "tlsAccessToken", "accessToken": "a1b2c3", "caCert": "/nowhere/ca.pem"},
                },
                "connectors": [],
            },
        )
        self.assertRegex(self.refused(), r"tb_gateway\.json:\d+: thingsboard\.security\.caCert: .*/nowhere/ca\.pem")

    def test_a_port_in_use(self) -> None:
        """A port that somebody else has is said in one line; the gateway goes on and tries again."""
        import socket

        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port = taken.getsockname()[1]
        self.folder.write(
            "tb_gateway.json",
            {
                "thingsboard": {"host": "127.0.0.1", "port": free_port(), "security": {"accessToken": "a1b2c3"}},
                "connectors": [{"type": "socket", "name": "S", "configuration": "s.json"}],
            },
        )
        self.folder.write(
            "s.json", {"socket": {"type": "TCP", "address": "127.0.0.1", "port": port}, "devices": [DEVICE]}
        )
        gateway = self.folder.start(wait="S.*(in use|cannot listen)")
        self.assertStopped(gateway)
        self.assertNotIn("Traceback", gateway.output)

    def folder_rows(self, mount: Path) -> list[bytes]:
        """The telemetry payloads in the store on `mount`, read from outside; none while it cannot be read."""
        try:
            with sqlite3.connect(f"file:{mount}/store/spool.db?mode=ro", uri=True, timeout=1) as store:
                return [row[0] for row in store.execute(_TELEMETRY)]
        except sqlite3.Error:
            return []

    def test_a_full_disk_under_the_store(self) -> None:
        """On a file system without room tbgw says so once, ends with a failure, and keeps what it had accepted."""
        mount = Path(self.mktemp()).absolute()
        mount.mkdir(parents=True)
        try:
            made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True)
        except FileNotFoundError:
            made = None
        if made is None or made.returncode:
            from twisted.trial.unittest import SkipTest

            raise SkipTest("mounting a tmpfs is not allowed here")
        self.addCleanup(subprocess.run, ["umount", "-l", str(mount)], check=True)
        port = free_port()
        self.folder.write(
            "tb_gateway.json",
            {
                "thingsboard": {"host": "127.0.0.1", "port": free_port(), "security": {"accessToken": "a1b2c3"}},
                "storage": {"type": "sqlite", "data_file_path": f"{mount}/store/"},
                "connectors": [{"type": "socket", "name": "S", "configuration": "s.json"}],
            },
        )
        socket = {"type": "UDP", "address": "127.0.0.1", "port": port}
        self.folder.write("s.json", {"socket": socket, "devices": [DEVICE]})
        gateway = self.folder.start()
        sent = 0
        while gateway.process.poll() is None:
            # In small packs, each seen in the store before the next: one large transaction would fail as a whole.
            before = len(self.folder_rows(mount))
            with contextlib.suppress(ConnectionRefusedError):  # the gateway has ended meanwhile
                send_udp(port, *[b"T%04dH" % n + b"x" * 900 for n in range(sent, sent + 20)])
            sent += 20
            end = time.monotonic() + SECONDS
            while gateway.process.poll() is None and len(self.folder_rows(mount)) == before:
                self.assertLess(time.monotonic(), end, gateway.output)
        self.assertEqual(gateway.finish(), 1, gateway.output)
        self.assertEqual(len(re.findall("disk full", gateway.output)), 1, gateway.output)
        self.assertNotIn("Traceback", gateway.output)
        file = next((mount / "store").glob("*.db"))
        copy = self.folder.path / "copy"
        copy.mkdir()
        for part in file.parent.iterdir():
            (copy / part.name).write_bytes(part.read_bytes())
        with sqlite3.connect(copy / file.name) as store:
            payloads = [row[0] for row in store.execute(_TELEMETRY)]
        kept = [entry["values"]["t"] for payload in payloads for entry in json.loads(payload)["Weather"]]
        self.assertGreater(len(kept), 100)
        self.assertEqual(kept, sorted(kept))


def _values(payload: bytes) -> list[tuple[str, int]]:
    """(line, number) of the readings in a telemetry payload."""
    return [
        (entry["values"]["line"], int(entry["values"]["n"]))
        for entries in json.loads(payload).values()
        for entry in entries
    ]


_SENDER = """
import socket, sys, time
lines = []
for letter in b"abcd":
    s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines.append((letter, s))
try:
    for n in range(2500):
        for letter, s in lines:
            s.sendall(b"%c%05d\\n" % (letter, n))
        time.sleep(0.001)  # a device's pace, so that there is a middle to be killed in
        if n % 250 == 249:
            print(4 * (n + 1), flush=True)
except ConnectionError:
    print("gone", flush=True)
"""

_SILENT_BROKER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
link, _ = listener.accept()
buffer = b""
while chunk := link.recv(65536):
    buffer += chunk
    while len(buffer) >= 2:
        length, used, shift = 0, 1, 0
        while True:
            byte = buffer[used]; length |= (byte & 127) << shift; used += 1; shift += 7
            if byte < 128: break
        if len(buffer) < used + length: break
        kind, body, buffer = buffer[0] >> 4, buffer[used:used+length], buffer[used+length:]
        if kind == 1: link.sendall(b"\\x20\\x02\\x00\\x00")
        elif kind == 8:
            count = body.count(b"v1/") + body.count(b"v2/")
            link.sendall(b"\\x90" + bytes([2 + count]) + body[:2] + b"\\x01" * count)
        elif kind == 3:
            size = int.from_bytes(body[:2], "big"); topic = body[2:2+size]
            if topic == b"v1/gateway/connect": link.sendall(b"\\x40\\x02" + body[2+size:4+size])
            elif topic.startswith(b"v1/devices"):
                answer = b"v1/devices/me/rpc/response/1"
                reply = len(answer).to_bytes(2, "big") + answer + b'{"error":"x"}'
                link.sendall(b"\\x30" + bytes([len(reply)]) + reply)
            else: print("publish", body[4+size:].decode(), flush=True)
"""
