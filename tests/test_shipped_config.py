"""The configuration that is shipped, and the one that the existing gateway ships, load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.devicefilter import parse_device_filter
from tbgw.config.document import read_document
from tbgw.config.findings import Reporter, Severity
from tbgw.config.loader import Examined, examine_folder
from tbgw.connectors.ocpp.config import OCPPConfig
from tbgw.connectors.parsers import PARSERS
from tbgw.connectors.socket.config import SocketConfig
from tbgw.connectors.socket.converter import compile_converter
from tbgw.connectors.xmpp.config import XMPPConfig

ROOT = Path(__file__).resolve().parent.parent
ETC = ROOT / "etc"
REFERENCE = ROOT / "tests" / "data" / "reference-config"
SAMPLES = {"ocpp.json": "ocpp", "xmpp.json": "xmpp"}
"""Files in etc/ that no connector uses as shipped, with the type that they are for."""
TOKEN = {"TB_GW_ACCESS_TOKEN": "kQ3xv81LmWzRt5Yb"}


class ShippedConfigTests(SynchronousTestCase):
    """The files in etc/."""

    def examine(self) -> Examined:
        return examine_folder(ETC, {}, Path(self.mktemp()), PARSERS)

    def test_nothing_to_report(self):
        """Every key in every file is known and has an effect; there is not even a notice."""
        found = self.examine()
        self.assertEqual([str(finding) for finding in found.findings], [])

    def test_every_file_is_used(self):
        """There is no file in etc/ that the configuration does not refer to, but the samples."""
        config = self.examine().config
        assert config is not None
        used = {entry.file.name for entry in config.connectors} | {"tb_gateway.json", "README.md"} | set(SAMPLES)
        self.assertEqual({path.name for path in ETC.iterdir()}, used)

    def test_samples(self):
        """A connector that is not in use by default can be put to use as the README says, without a word."""
        folder = Path(self.mktemp())
        shutil.copytree(ETC, folder)
        (folder / "xmpp-password").write_text("s3cr3t\n")
        (folder / "xmpp-password").chmod(0o600)
        general = json.loads((folder / "tb_gateway.json").read_text())
        general["connectors"] += [
            {"type": kind, "name": kind, "configuration": name} for name, kind in SAMPLES.items()
        ]
        (folder / "tb_gateway.json").write_text(json.dumps(general))
        found = examine_folder(folder, {}, Path(self.mktemp()), PARSERS)
        self.assertEqual([str(finding) for finding in found.findings], [])
        assert found.config is not None
        self.assertEqual([entry.type for entry in found.config.connectors][2:], list(SAMPLES.values()))

    def test_sandbox(self):
        """The gateway speaks to its own sandbox, with the token that the sandbox makes; nothing else is reachable."""
        config = self.examine().config
        assert config is not None
        sandbox, thingsboard = config.sandbox, config.thingsboard
        self.assertTrue(sandbox.enabled)
        self.assertEqual((thingsboard.host, thingsboard.port), (sandbox.address, sandbox.mqtt_port))
        self.assertEqual(thingsboard.security.access_token_file, sandbox.token_file)
        self.assertIsNone(thingsboard.security.access_token)
        listeners = [(entry.config.transport, entry.config.address, entry.config.port) for entry in config.connectors]  # type: ignore[attr-defined] # both are sockets
        self.assertEqual(listeners, [("TCP", "127.0.0.1", 50000), ("UDP", "127.0.0.1", 50001)])

    def test_example_message(self):
        """The example of etc/README.md gives what it says there."""
        config = self.examine().config
        assert config is not None
        for entry in config.connectors:
            assert isinstance(entry.config, SocketConfig)
            convert = compile_converter(entry.config.devices[0], lambda key, why: self.fail(key))
            self.assertEqual(
                convert(b"T21.5H048")[:2], ({"temperature": "21.5", "humidity": "048"}, {"format": "T"}), entry.name
            )

    def test_no_credentials(self):
        """No shipped file holds a secret (P-01)."""
        for path in ETC.glob("*.json"):
            self.assertNotRegex(path.read_text(), r'"(accessToken|password|provisionDeviceSecret)"\s*:')


class ReferenceConfigTests(SynchronousTestCase):
    """The files of the existing gateway, as they are."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        shutil.copytree(REFERENCE, self.folder)
        for path in self.folder.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)

    def examine(self, **environ: str) -> Examined:
        return examine_folder(self.folder, environ, Path("data"), PARSERS)

    def change(self, **thingsboard: Any) -> None:
        path = self.folder / "tb_gateway.json"
        value = json.loads(path.read_text())
        value["thingsboard"].update(thingsboard)
        value["connectors"] = [
            {"type": kind, "name": f"My {kind}", "configuration": f"{kind}.json"} for kind in ("socket", "xmpp", "ocpp")
        ]
        path.write_text(json.dumps(value, indent=2))

    def test_general_file(self):
        """tb_gateway.json loads once a token is there, with nothing but a short list of notices."""
        found = self.examine(**TOKEN)
        config = found.config
        assert config is not None
        self.assertEqual(config.warnings, ())
        self.assertLessEqual(len(config.notices), 6)
        self.assertEqual((config.thingsboard.host, config.thingsboard.max_payload_bytes), ("thingsboard.cloud", 8196))
        self.assertEqual((config.storage.type, config.storage.max_messages), ("memory", 100_000))

    def test_placeholder(self):
        """Unchanged and without a token in the environment, the placeholder is the one fault (P-01)."""
        faults = [str(one) for one in self.examine().findings if one.severity is Severity.FAULT]
        self.assertEqual(len(faults), 1)
        self.assertIn("tb_gateway.json:24: thingsboard.security.accessToken: is a placeholder", faults[0])

    def test_connector_files(self):
        """The three connector files load; their sample passwords warn, and no key is unknown."""
        self.change()
        found = self.examine(**TOKEN)
        self.assertEqual([str(one) for one in found.findings if one.severity in (Severity.FAULT, Severity.DOUBT)], [])
        config = found.config
        assert config is not None
        socket, xmpp, ocpp = (entry.config for entry in config.connectors)
        assert isinstance(socket, SocketConfig) and isinstance(xmpp, XMPPConfig) and isinstance(ocpp, OCPPConfig)
        self.assertEqual((socket.buffer_bytes, len(socket.devices), socket.port), (1024, 1, 50000))
        self.assertEqual(xmpp.devices[0].jid, "device@localhost/TMP_1101")
        self.assertEqual(ocpp.charge_points[0].timeseries[0].actions, ("DataTransfer",))
        self.assertEqual(len(config.warnings), 3)

    def test_device_filter(self):
        """list.json loads when filtering is on; that its connectors are not there is told."""
        self.change(deviceFiltering={"enable": True, "filterFile": "list.json"})
        found = self.examine(**TOKEN)
        assert found.config is not None
        self.assertEqual(len([one for one in found.findings if one.severity is Severity.DOUBT]), 3)
        names = frozenset({"MQTT Broker Connector", "Modbus Connector"})
        reporter = Reporter(self.folder, Path("data"))
        rules = parse_device_filter(
            read_document((self.folder / "list.json").read_bytes(), "list.json").root, names, reporter
        )
        self.assertEqual(reporter.findings(), ())
        self.assertFalse(rules.allows("MQTT Broker Connector", "me@example.org"))
        self.assertTrue(rules.allows("MQTT Broker Connector", "My Temperature Sensor"))

    def test_statistics(self):
        """A command file of the reference may be named; commands are never run."""
        self.change(statistics={"enable": True, "configuration": "statistics/statistics_linux.json"})
        self.assertIsNotNone(self.examine(**TOKEN).config)
