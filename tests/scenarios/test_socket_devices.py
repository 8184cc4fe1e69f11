"""Devices of all kinds against the whole gateway, both directions, with real programs: nc, socat, scripts."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import SECONDS, GatewayFolder, Program, free_port, mosquitto, mosquitto_sub, need, send_udp

LINES = {"type": "delimiter", "delimiter": "\r\n"}


class DevicesCase(SynchronousTestCase):
    """A broker in ThingsBoard's place, whose part mosquitto_pub plays."""

    def setUp(self) -> None:
        self.folder = GatewayFolder(self)
        self.port, self.mqtt = free_port(), free_port()

    def start(self, socket: dict[str, Any], *devices: dict[str, Any]) -> Program:
        """The gateway with one connector; `self.seen` has all that it sends."""
        mosquitto(self, self.mqtt)
        self.seen = mosquitto_sub(self, self.mqtt)
        security = {"type": "accessToken", "accessToken": "a1b2c3"}
        self.folder.write(
            "tb_gateway.json",
            {
                "thingsboard": {"host": "127.0.0.1", "port": self.mqtt, "security": security},
                "storage": {"type": "sqlite", "data_file_path": "./store/"},
                "connectors": [{"type": "socket", "name": "Line", "configuration": "line.json"}],
            },
        )
        listener = {"type": "TCP", "address": "127.0.0.1", "port": self.port, **socket}
        self.folder.write("line.json", {"socket": listener, "devices": list(devices)})
        gateway = self.folder.start()
        gateway.wait_for("connected to ThingsBoard")
        return gateway

    def push(self, topic: str, content: Any) -> None:
        """ThingsBoard says something."""
        to = ["-h", "127.0.0.1", "-p", str(self.mqtt), "-q", "1", "-t", topic, "-m", json.dumps(content)]
        subprocess.run([need("mosquitto_pub"), *to], check=True, timeout=SECONDS)

    def telemetry(self, pattern: str) -> Any:
        """The payload of the next telemetry that fits."""
        return json.loads(self.seen.wait_for(rf"^v1/gateway/telemetry (.*{pattern}.*)")[1])

    def call(self, number: int, device: str, method: str, params: Any) -> Any:
        """An RPC of a child: what comes back in its `data`."""
        self.push("v1/gateway/rpc", {"device": device, "data": {"id": number, "method": method, "params": params}})
        answer = self.seen.wait_for(rf'^v1/gateway/rpc (\{{"device":"{device}","id":{number},.*)')
        return json.loads(answer[1])["data"]


class TextTests(DevicesCase):
    """Devices that speak in lines."""

    def test_nmea_like_device_over_socat(self) -> None:
        """A receiver that sends NMEA sentences: columns, numbers, regular expressions; it is commanded and answers."""
        device = {
            "address": "127.0.0.1:*",
            "deviceName": "GPS",
            "telemetry": [
                {"key": "lat", "regex": r"^\$GPGGA,[^,]*,(\d+\.\d+)", "type": "number", "scale": 0.01},
                {"key": "satellites", "column": 7, "type": "int"},
                {"key": "fix", "column": 6, "map": {"0": "none", "1": "GPS"}},
            ],
            "attributeUpdates": [{"attributeOnThingsBoard": "rate", "valueExpression": "$PRATE,${attributeValue}\r\n"}],
            "serverSideRpc": [
                {
                    "methodRPC": "version",
                    "valueExpression": "$PVER?\r\n",
                    "responseExpression": "$PVER,",
                    "response": {"column": 1},
                    "responseTimeoutMs": 3000,
                }
            ],
        }
        self.start({"framing": LINES}, device)
        script = self.folder.path / "gps.py"
        script.write_text(_GPS)
        receiver = Program(
            self, [need("socat"), f"TCP:127.0.0.1:{self.port}", f"EXEC:python3 -u {script} {self.folder.path}/heard"]
        )
        values = self.telemetry("satellites")["GPS"][0]["values"]
        self.assertEqual(values, {"lat": 48.07038, "satellites": 8, "fix": "GPS"})
        self.assertEqual(self.call(0, "GPS", "version", None), "3.7")
        self.push("v1/gateway/attributes", {"device": "GPS", "data": {"rate": 5}})
        self.telemetry('"satellites":5')  # the device says how often it sends now
        self.assertEqual((self.folder.path / "heard").read_text(), "$PVER?\n$PRATE,5\n")
        self.assertIn("unknown method", self.call(1, "GPS", "fly", None)["error"])
        receiver.kill()
        self.seen.wait_for(r'^v1/gateway/disconnect \{"device":"GPS"\}')
        self.assertIn("gone", self.call(2, "GPS", "version", None)["error"])

    def test_s01_s14_the_references_sample_with_nc(self) -> None:
        """S-01, S-14: the reference's own sample file, whose commands never arrived there, works with nc."""
        sample = json.loads(
            (Path(__file__).parent.parent / "data" / "reference-config" / "socket.json").read_text()
        )["devices"][0]
        self.start({}, sample)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([need("nc"), "127.0.0.1", str(self.port)], bufsize=0, **pipes) as nc:  # type: ignore[call-overload] # the dict's types
            self.addCleanup(nc.kill)
            nc.stdin.write(b"21.5")
            self.telemetry("21.5")
            self.push("v1/gateway/attributes", {"device": "Device Example", "data": {"sharedName": "é"}})
            self.assertEqual(nc.stdout.read(4), "é".encode("utf-16"))
            command = {"id": 7, "method": "rpcMethod1", "params": "x"}
            self.push("v1/gateway/rpc", {"device": "Device Example", "data": command})
            self.assertEqual(nc.stdout.read(1), b"x")
            nc.stdin.write(b"done")
            answer = self.seen.wait_for(r'^v1/gateway/rpc (\{"device":"Device Example","id":7.*)')[1]
            self.assertEqual(json.loads(answer)["data"], "done")
            nc.stdin.close()
        self.assertEqual(
            self.call(8, "Device Example", "set", "address=127.0.0.1;port=1;value=x")["error"][:7], "refused"
        )

    def test_udp_is_answered_from_the_bound_port(self) -> None:
        """S-10: a device behind a connected UDP socket, which takes datagrams of one port only, gets its command."""
        device = {
            "address": "*:*",
            "deviceName": "${[0:2]}",
            "telemetry": [{"key": "v", "byteFrom": 2, "type": "number"}],
            "serverSideRpc": [{"methodRPC": "get"}],
        }
        self.start({"type": "UDP"}, device)
        box = Program(self, ["python3", "-u", "-c", _UDP_BOX, str(self.port)])
        self.assertEqual(self.telemetry("U7")["U7"][0]["values"], {"v": 21.5})
        self.assertEqual(self.call(1, "U7", "get", "volts"), "U7230")
        box.kill()
        send_udp(self.port, b"U81")
        self.telemetry("U8")

    def test_json_bodies_and_names(self) -> None:
        """Devices that send JSON name themselves; a body that names nobody is the connection's own device's."""
        device = {
            "address": "*:*",
            "deviceName": "Meter ${id}",
            "deviceType": "${kind}",
            "telemetry": [{"key": "p", "value": "${power.total}"}, {"key": "on", "value": "${on}"}],
            "timestamp": {"value": "${ts}", "unit": "s"},
        }
        self.start({"framing": {"type": "markers", "start": "<", "end": ">"}}, device)
        data = b'noise<{"id":7,"kind":"em3","power":{"total":1.5},"on":true,"ts":1700000000}><{"power":{"total":2}}>'
        subprocess.run([need("nc"), "-q0", "127.0.0.1", str(self.port)], input=data, check=True, timeout=SECONDS)
        self.seen.wait_for(r'^v1/gateway/connect \{"device":"Meter 7","type":"em3"\}')
        entries = self.telemetry("Meter 7")["Meter 7"]
        while len(entries) < 2:
            entries += self.telemetry("Meter 7")["Meter 7"]
        self.assertEqual(entries[0], {"ts": 1700000000000, "values": {"p": 1.5, "on": True}})
        self.assertEqual(entries[1]["values"], {"p": 2})

    def test_reserved_set_at_the_gateway(self) -> None:
        """S-19: `socket_set` reaches a device that listens, with = and ; in the value, and says so."""
        device = {"address": "127.0.0.1:*", "deviceName": "Pump 4", "telemetry": [{"key": "v"}]}
        self.start({}, device)
        answers = mosquitto_sub(self, self.mqtt, "v1/devices/me/rpc/response/+")
        listener_port = free_port()
        listener = Program(self, [need("nc"), "-l", "-N", "127.0.0.1", str(listener_port)])
        end = time.monotonic() + SECONDS
        params = f"device=Pump 4 address=127.0.0.1;port={listener_port};value=a=1;b=2;"
        for number in range(100):  # nc says nothing when it listens
            self.push(f"v1/devices/me/rpc/request/{number + 10}", {"method": "socket_set", "params": params})
            answer = json.loads(answers.wait_for(rf"^v1/devices/me/rpc/response/{number + 10} (.*)")[1])
            if answer == {"result": "ok"}:
                break
            self.assertIn("refused", answer["error"])
            self.assertLess(time.monotonic(), end)
        listener.wait_for("^a=1;b=2$")


class BinaryTests(DevicesCase):
    """Devices that speak in bytes."""

    def test_modbus_like_device_that_listens(self) -> None:
        """Client mode: the gateway connects, polls, reads length-prefixed frames, and comes back after a loss."""
        target = free_port()
        device = {
            "address": f"127.0.0.1:{target}",
            "deviceName": "PLC",
            "encoding": "hex",
            "telemetry": [
                {"key": "temp", "byteFrom": 9, "type": "int16", "scale": 0.1},
                {"key": "flow", "byteFrom": 11, "type": "float32", "byteOrder": "bigSwapped"},
                {"key": "count", "byteFrom": 15, "byteTo": 17, "type": "bcd"},
                {"key": "alarm", "byteFrom": 17, "byteTo": 18, "type": "bool", "bit": 2},
                {
                    "key": "mode",
                    "byteFrom": 17,
                    "byteTo": 18,
                    "type": "bits",
                    "bit": 4,
                    "bits": 2,
                    "map": {"1": "auto", "2": "manual"},
                },
            ],
            "polls": [{"request": "000100000006010300000005", "periodMs": 200}],
            "serverSideRpc": [
                {
                    "methodRPC": "write",
                    "valueExpression": "0002000000060106${params}",
                    "responseExpression": "${[7]==\x06}",
                    "response": {"byteFrom": 10, "type": "uint16"},
                }
            ],
        }
        framing = {"type": "length", "lengthOffset": 4, "lengthBytes": 2, "keepHeader": True}
        script = self.folder.path / "plc.py"
        script.write_text(_PLC)
        plc = Program(self, ["python3", "-u", str(script), str(target)])
        plc.wait_for("listening")
        gateway = self.start({"role": "client", "framing": framing}, device)
        values = self.telemetry("PLC")["PLC"][0]["values"]
        self.assertEqual(values, {"temp": -12.5, "flow": 21.6, "count": 1234, "alarm": True, "mode": "manual"})
        self.assertEqual(self.call(1, "PLC", "write", "0005002a"), 42)
        plc.kill()
        gateway.wait_for(rf"127\.0\.0\.1:{target}: .*next attempt in")
        self.seen.wait_for(r'^v1/gateway/disconnect \{"device":"PLC"\}')
        again = Program(self, ["python3", "-u", str(script), str(target)])
        again.wait_for("listening")
        self.telemetry("PLC")

    def test_tls_with_client_certificates(self) -> None:
        """TLS server: socat with a certificate of ours is heard and answered; without one, or in plain text, not."""
        folder = self.folder.path
        _certificates(folder)
        device = {
            "address": "*:*",
            "deviceName": "Safe",
            "telemetry": [{"key": "v", "type": "number"}],
            "serverSideRpc": [{"methodRPC": "get"}],
        }
        for name in ("ca.pem", "server.pem", "server.key"):
            (self.folder.etc / name).write_text((folder / name).read_text())
        tls = {"certificate": "server.pem", "privateKey": "server.key", "caCert": "ca.pem"}
        gateway = self.start({"tls": tls, "framing": {"type": "delimiter"}}, device)
        where = f"OPENSSL:127.0.0.1:{self.port},cafile={folder}/ca.pem"
        own = f",cert={folder}/device.pem,key={folder}/device.key"
        for bad in (where, f"TCP:127.0.0.1:{self.port}"):
            subprocess.run([need("socat"), "-", bad], input=b"666\n", timeout=SECONDS, capture_output=True)
        script = folder / "echo.py"
        script.write_text('import os\nos.write(1, b"21.5\\n")\nos.write(1, os.read(0, 9) + b"=1\\n")\nos.read(0, 9)\n')
        Program(self, [need("socat"), f"EXEC:python3 -u {script}", where + own])
        self.assertEqual(self.telemetry("Safe")["Safe"][0]["values"], {"v": 21.5})
        self.assertEqual(self.call(1, "Safe", "get", "volts"), "volts=1")
        self.assertNotIn("666", self.seen.output)
        self.assertNotIn("Traceback", gateway.output)

    def test_tls_client(self) -> None:
        """TLS client: a device that listens is verified by our authority; one with another certificate is not heard."""
        folder = self.folder.path
        _certificates(folder)
        (self.folder.etc / "ca.pem").write_text((folder / "ca.pem").read_text())
        good, bad = free_port(), free_port()
        servers = []
        for port, pair in ((good, "server"), (bad, "other")):
            files = f"cert={folder}/{pair}.pem,key={folder}/{pair}.key,verify=0,fork"
            address = f"OPENSSL-LISTEN:{port},bind=127.0.0.1,{files}"
            servers.append(Program(self, [need("socat"), "-d", "-d", address, f"SYSTEM:echo {pair}; cat"]))
            servers[-1].wait_for("listening on")
        devices = [
            {"address": f"127.0.0.1:{port}", "deviceName": name, "telemetry": [{"key": "v"}]}
            for port, name in ((good, "Good"), (bad, "Bad"))
        ]
        tls = {"caCert": "ca.pem"}
        gateway = self.start({"role": "client", "tls": tls, "framing": {"type": "delimiter"}}, *devices)
        self.assertEqual(self.telemetry("Good")["Good"][0]["values"], {"v": "server"})
        gateway.wait_for(rf"127\.0\.0\.1:{bad}: .*next attempt in")
        self.assertNotIn("Bad", self.seen.output)
        self.assertIn("is refused", gateway.output)


class ScaleTests(DevicesCase):
    """Many connections, most of which say nothing."""

    DEVICE: ClassVar[dict[str, Any]] = {"address": "*:*", "deviceName": "Many", "telemetry": [{"key": "v"}]}

    def connections(self, count: int) -> Program:
        """Open so many from 20 addresses, in a program of its own."""
        program = Program(self, ["python3", "-u", "-c", _CROWD, str(self.port), str(count)])
        program.wait_for("^open$", 60)
        return program

    def test_ten_thousand_connections(self) -> None:
        """One process holds 10,000 connections at less than 6 KiB each, and hears a further one at once."""
        gateway = self.start({"framing": {"type": "delimiter"}, "maxConnections": 11_000}, self.DEVICE)
        send = ["-q0", "127.0.0.1", str(self.port)]
        subprocess.run([need("nc"), *send], input=b"first\n", check=True, timeout=SECONDS)
        self.telemetry("first")
        before = _resident_kib(gateway.process.pid)
        crowd = self.connections(10_000)
        began = time.monotonic()
        subprocess.run([need("nc"), *send], input=b"second\n", check=True, timeout=SECONDS)
        self.telemetry("second")
        self.assertLess(time.monotonic() - began, 5)
        self.assertLess((_resident_kib(gateway.process.pid) - before) / 10_000, 6)
        self.assertIsNone(crowd.process.poll())
        self.assertNotIn("refused", gateway.output)

    def test_p16_half_open_connections(self) -> None:
        """P-16: 1,000 connections that say nothing leave the service answering, and are closed by the timer."""
        gateway = self.start({"framing": {"type": "delimiter"}, "firstMessageTimeoutSeconds": 3}, self.DEVICE)
        crowd = self.connections(1000)
        subprocess.run([need("nc"), "-q0", "127.0.0.1", str(self.port)], input=b"heard\n", check=True, timeout=SECONDS)
        self.telemetry("heard")
        crowd.wait_for("^1000 closed$")
        gateway.wait_for("no message within 3 s")


def _resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def _certificates(folder: Path) -> None:
    """An authority, `server` and `device` by it, and `other`, which is its own."""
    openssl = need("openssl")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=folder, timeout=SECONDS)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    run("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    name = "subjectAltName=IP:127.0.0.1"
    run("req", "-x509", *curve, "-keyout", "other.key", "-out", "other.pem", "-subj", "/CN=o", "-addext", name)
    (folder / "names").write_text(name)
    for who in ("server", "device"):
        run("req", *curve, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        run("x509", "-req", "-in", f"{who}.csr", *signing, "-out", f"{who}.pem")


_GPS = r"""
import os, sys
heard = open(sys.argv[1], "w")
def say(line): os.write(1, line.encode() + b"\r\n")
def position(n): say("$GPGGA,123519,4807.038,N,01131.000,E,1,%d,0.9,545.4,M" % n)
position(8)
for line in sys.stdin:
    heard.write(line.strip() + "\n"); heard.flush()
    if line.startswith("$PVER?"):
        position(9)
        say("$PVER,3.7")
    elif line.startswith("$PRATE,"):
        position(int(line.split(",")[1]))
"""

_UDP_BOX = """
import socket, sys
box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
box.connect(("127.0.0.1", int(sys.argv[1])))  # takes datagrams of that port only
box.send(b"U721.5")
while box.recv(1000):
    box.send(b"U7230")
"""

_PLC = """
import socket, struct, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True:
    link, _ = listener.accept()
    held = b""
    while data := link.recv(3):  # in pieces, as from a slow line
        held += data
        if len(held) < 6 or len(held) < 6 + int.from_bytes(held[4:6], "big"):
            continue
        request, held = held[:12], held[12:]
        if request[7] == 3:
            flow = struct.pack(">f", 21.6)
            body = b"\\x01\\x03\\x0a" + struct.pack(">h", -125) + flow[2:] + flow[:2] + b"\\x12\\x34" + b"\\x24\\x00"
        else:
            body = request[6:]
        answer = request[:4] + len(body).to_bytes(2, "big") + body
        link.sendall(answer[:5]); link.sendall(answer[5:])
"""

_CROWD = """
import resource, select, socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
links = [
    socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + n % 20}", 0)) for n in range(count)
]
print("open", flush=True)
def ended(link):
    try:
        return link.recv(1) == b""
    except ConnectionResetError:
        return True
closed = sum(map(ended, links))
print(closed, "closed", flush=True)
"""
