"""Tests of reading a whole folder: everything wrong is found at once, and nothing else is touched."""

from __future__ import annotations

import os
from typing import Any

from tbgw.config.findings import Reporter, Severity
from tbgw.config.gateway import GatewayConfig
from tbgw.config.loader import MAX_CONNECTORS, load_folder
from tbgw.config.schema import Node
from tbgw.config.values import Refused
from tbgw.errors import ConfigurationError
from tbgw.model import ON_RECEIVED, ReportStrategy, ReportType
from tests.config.fakes import TOKEN, FolderCase


def parse_dummy(node: Node, reporter: Reporter) -> Any:
    """A connector that takes anything but `{"bad": ...}`."""
    bad = node.member("bad")
    if bad is not None:
        reporter.fault(bad, "is bad")
        raise Refused
    return node.plain()


class LoaderCase(FolderCase):
    def load(self, **environ: str) -> GatewayConfig:
        return load_folder(self.config_dir, environ, self.data_dir, {"socket": parse_dummy})

    def refused(self, **environ: str) -> list[str]:
        error: ConfigurationError = self.assertRaises(ConfigurationError, self.load, **environ)
        return error.faults


class LoadFolderTests(LoaderCase):
    """tb_gateway.json, and the files it names."""

    def test_smallest(self):
        """A token is all that a configuration needs."""
        self.write_gateway()
        found = self.load()
        assert found.thingsboard.security.access_token is not None
        self.assertEqual(found.thingsboard.security.access_token.reveal(), TOKEN)
        self.assertEqual((found.connectors, found.report, found.device_filter), ((), ON_RECEIVED, None))
        self.assertEqual((found.warnings, found.notices), ((), ()))
        self.assertEqual((found.config_dir, found.data_dir), (self.config_dir, self.data_dir))
        self.assertFalse(found.sandbox.enabled)
        self.assertEqual(found.storage.type, "sqlite")

    def test_nothing_is_written(self):
        """Reading a folder leaves it and the data folder as they were."""
        self.write_gateway(sandbox={"enabled": True}, storage={"data_file_path": "spool"})
        before = [os.listdir(self.config_dir), (self.config_dir / "tb_gateway.json").read_bytes()]
        self.load()
        self.assertEqual([os.listdir(self.config_dir), (self.config_dir / "tb_gateway.json").read_bytes()], before)
        self.assertEqual(os.listdir(self.data_dir), [])

    def test_missing_file(self):
        """Without tb_gateway.json there is one fault; beside a YAML file it says that YAML is not read."""
        self.assertIn("cannot read", self.refused()[0])
        self.write("tb_gateway.yaml", "thingsboard:\n")
        self.assertIn("YAML is not read", self.refused()[0])

    def test_what_is_no_file(self):
        """A folder or a pipe in the place of a file is a fault, and reading it does not wait."""
        os.mkfifo(self.config_dir / "tb_gateway.json")
        self.assertIn("no regular file", self.refused()[0])

    def test_syntax(self):
        """A fault of syntax is told as file and line."""
        self.write("tb_gateway.json", '{\n"thingsboard": {\n}')
        self.assertEqual(self.refused(), ["tb_gateway.json:3: the file ends, but the { opened on line 1 is not closed"])

    def test_top_is_no_object(self):
        """A list at the top is a fault."""
        self.write("tb_gateway.json", "[]")
        self.assertIn("must be an object", self.refused()[0])

    def test_everything_at_once(self):
        """Faults of every section and of every file come together, the unread ones included."""
        self.write("bad.json", {"bad": 1})
        self.write("broken.json", "{,}")
        self.write(
            "tb_gateway.json",
            {
                "thingsboard": {"port": 70000, "security": {"accessToken": "YOUR_ACCESS_TOKEN"}, "qos": "x"},
                "storage": {"type": "sqlit"},
                "sandbox": {"address": "0.0.0.0"},
                "connectors": [
                    {"type": "socket", "name": "a", "configuration": "bad.json"},
                    {"type": "socket", "name": "b", "configuration": "broken.json"},
                    {"type": "socket", "name": "c", "configuration": "absent.json"},
                    {"type": "socket", "name": "d"},
                ],
            },
        )
        self.assertEqual(
            [line.split(": ")[0] for line in self.refused()],
            ["bad.json:2", "broken.json:1", *(f"tb_gateway.json:{line}" for line in (3, 5, 7, 10, 13, 29, 31))],
        )

    def test_faults_are_lines(self):
        """Each fault is one line, the text of the error holds them all."""
        self.write(
            "tb_gateway.json",
            {"thingsboard": {"port": 0, "security": {"accessToken": TOKEN}, "ho\nst": 1}, "storage": 3},
        )
        error = self.assertRaises(ConfigurationError, self.load)
        self.assertEqual(
            error.faults,
            [
                "tb_gateway.json:3: thingsboard.port: is 0, must be a whole number from 1 to 65535",
                "tb_gateway.json:9: storage: is a number, must be an object {...}",
            ],
        )
        self.assertEqual(str(error), "\n".join(error.faults))

    def test_environment(self):
        """What the environment says counts, and a fault in it names the variable."""
        self.write_gateway()
        self.assertEqual(self.load(TB_GW_HOST="other", TB_GW_PORT="8883").thingsboard.port, 8883)
        self.assertEqual(
            self.refused(TB_GW_PORT="tcp://10.0.0.1:80"),
            ["environment variable TB_GW_PORT: thingsboard.port: is a text, must be a whole number from 1 to 65535"],
        )

    def test_environment_mends_the_sample(self):
        """The sample's placeholder is a fault in the file and none once the environment has the token."""
        self.write(
            "tb_gateway.json",
            {"thingsboard": {"security": {"type": "accessToken", "accessToken": "YOUR_ACCESS_TOKEN"}}},
        )
        self.assertEqual(len(self.refused()), 1)
        found = self.load(TB_GW_ACCESS_TOKEN=TOKEN).thingsboard.security.access_token
        assert found is not None
        self.assertEqual(found.reveal(), TOKEN)

    def test_settings_in_two_places(self):
        """reportStrategy and handleDeviceRenaming count at the top of the file too; inside thingsboard they win."""
        on_change = ReportStrategy(ReportType.ON_CHANGE)
        self.write_gateway(reportStrategy={"type": "ON_CHANGE"}, handleDeviceRenaming=False)
        found = self.load()
        self.assertEqual((found.report, found.thingsboard.handle_device_renaming), (on_change, False))
        self.assertEqual(found.warnings, ())
        inner = {"reportStrategy": {"type": "ON_RECEIVED"}, "security": {"accessToken": TOKEN}, "host": "::1"}
        self.write("tb_gateway.json", {"thingsboard": inner, "reportStrategy": {"type": "ON_CHANGE"}})
        found = self.load()
        self.assertEqual(found.report, ON_RECEIVED)
        self.assertIn("differs from thingsboard.reportStrategy, which counts", found.warnings[0])

    def test_unknown_key_warns(self):
        """An unknown key does not keep the gateway from starting; it is a warning with the nearest key."""
        self.write_gateway(conectors=[], storage={"typ": "memory"})
        self.assertEqual(
            self.load().warnings,
            (
                "tb_gateway.json:8: conectors: unknown key; did you mean connectors?",
                "tb_gateway.json:10: storage.typ: unknown key; did you mean type?",
            ),
        )

    def test_repeated_key_warns(self):
        """A key that stands twice warns, with the line of the one that counts."""
        self.write(
            "tb_gateway.json", '{"thingsboard": {"host": "::1", "security": {"accessToken": "abc"},\n"host": "::2"}}'
        )
        found = self.load()
        self.assertEqual(found.thingsboard.host, "::2")
        self.assertIn("tb_gateway.json:2: thingsboard.host: the key occurs twice", found.warnings[0])

    def test_grpc_in_all_spellings(self):
        """The section grpc is known in the spellings of the sample and of the documents, and named once."""
        self.write_gateway(
            grpc={"enabled": True, "keepAliveTimeMs": 1, "keepaliveTimeMs": 2, "keepalivePermitWithoutCalls": True}
        )
        found = self.load()
        self.assertEqual((found.warnings, len(found.notices)), ((), 1))

    def test_readable_secret(self):
        """A configuration file with a secret that everybody can read warns (P-12); one without does not."""
        self.write_gateway()
        (self.config_dir / "tb_gateway.json").chmod(0o644)
        self.assertEqual(len(self.load().warnings), 1)
        (self.config_dir / "tb_gateway.json").write_text('{"thingsboard": {"host": "::1"}}')
        self.assertEqual(self.load(TB_GW_ACCESS_TOKEN=TOKEN).warnings, ())

    def test_no_secret_in_the_configuration_s_repr(self):
        """The whole configuration can be shown without showing its token (P-11)."""
        self.write_gateway()
        self.assertNotIn(TOKEN, repr(self.load()))


class ConnectorTests(LoaderCase):
    """The entries of `connectors`."""

    def entries(self, *entries: Any) -> None:
        self.write_gateway(connectors=list(entries))

    def test_entry(self):
        """An entry becomes what the parse function of its type makes of its file."""
        self.write("line4.json", {"x": [1]})
        self.entries({"type": "socket", "name": "Line 4", "configuration": "line4.json"})
        (found,) = self.load().connectors
        self.assertEqual((found.type, found.name, found.config), ("socket", "Line 4", {"x": [1]}))
        self.assertEqual(found.file, self.config_dir / "line4.json")

    def test_types_of_the_reference(self):
        """A type that only the reference has is left out with a warning; its file need not be there."""
        self.entries(
            {"type": "mqtt", "name": "Broker", "configuration": "mqtt.json"},
            {"type": "my_own", "name": "Own", "configuration": "own.json", "class": "OwnConnector"},
        )
        found = self.load()
        self.assertEqual(found.connectors, ())
        self.assertEqual(len(found.warnings), 2)
        self.assertIn('"Broker" is not started', found.warnings[0])

    def test_unknown_type(self):
        """A type that nobody has is a fault with the nearest one."""
        self.entries({"type": "sockets", "name": "x", "configuration": "x.json"})
        self.assertEqual(
            self.refused(),
            ['tb_gateway.json:10: connectors[0].type: is "sockets", must be one of socket; did you mean socket?'],
        )

    def test_same_name(self):
        """Names are unique; the fault names the line of the other."""
        self.write("a.json", {})
        self.write("b.json", {})
        self.entries(
            {"type": "socket", "name": "x", "configuration": "a.json"},
            {"type": "socket", "name": "x", "configuration": "b.json"},
        )
        self.assertEqual(
            self.refused(),
            ["tb_gateway.json:16: connectors[1].name: is taken by the connector on line 9; names are unique"],
        )

    def test_same_file(self):
        """Two connectors on one file would claim the same port, so it is a fault."""
        self.write("a.json", {})
        self.entries(*({"type": "socket", "name": name, "configuration": "a.json"} for name in "xy"))
        self.assertIn('is the file of connector "x" already', self.refused()[0])

    def test_outside_the_folder(self):
        """A file outside the folder is a fault, even one that is there."""
        (self.config_dir.parent / "outside.json").write_text("{}")
        for name in ("../outside.json", str((self.config_dir / "x.json").absolute())):
            self.entries({"type": "socket", "name": "x", "configuration": name})
            self.assertIn("must be the name of a file in the configuration's folder", self.refused()[0])

    def test_wrong_shapes(self):
        """Entries of a wrong shape are faults, each on its own."""
        self.entries(3, {}, {"type": "socket", "name": " ", "configuration": 7})
        self.assertEqual(len(self.refused()), 1 + 3 + 2)
        self.write_gateway(connectors={})
        self.assertIn("must be a list", self.refused()[0])

    def test_cap(self):
        """The number of connectors has a limit."""
        self.entries(*({"type": "mqtt", "name": str(n), "configuration": "x"} for n in range(MAX_CONNECTORS)))
        self.assertEqual(len(self.load().warnings), MAX_CONNECTORS)
        self.entries(*({"type": "mqtt", "name": str(n), "configuration": "x"} for n in range(MAX_CONNECTORS + 1)))
        self.assertIn(f"at most {MAX_CONNECTORS}", self.refused()[0])

    def test_parser_that_refuses(self):
        """What a parse function refuses with a text is a fault of its file."""

        def refuse(node: Node, reporter: Reporter) -> object:
            raise Refused("is of no use")

        self.write("a.json", "{}")
        self.entries({"type": "socket", "name": "x", "configuration": "a.json"})
        found = self.examine(socket=refuse)
        self.assertEqual(self.faults(found.findings), ["a.json:1: is of no use"])


class DeviceFilteringTests(LoaderCase):
    """The rules file."""

    def filtering(self, **section: Any) -> None:
        inner = {"host": "::1", "security": {"accessToken": TOKEN}, "deviceFiltering": section}
        self.write("x.json", {})
        self.write(
            "tb_gateway.json",
            {"thingsboard": inner, "connectors": [{"type": "socket", "name": "Line 4", "configuration": "x.json"}]},
        )

    def test_rules(self):
        """With filtering on, the rules of the file hold; list.json is the file when none is named."""
        self.write("list.json", {"deny": {"Line 4": ["bad.*"]}})
        for section in ({"enable": True, "filterFile": "list.json"}, {"enable": True}):
            self.filtering(**section)
            rules = self.load().device_filter
            assert rules is not None
            self.assertFalse(rules.allows("Line 4", "bad one"))
            self.assertTrue(rules.allows("Line 4", "good one"))

    def test_off(self):
        """With filtering off every device passes, and the file is not even read."""
        self.filtering(enable=False, filterFile="absent.json")
        found = self.load()
        self.assertEqual((found.device_filter, found.warnings), (None, ()))

    def test_faults(self):
        """A missing rules file and a wrong one are faults: rules that do not hold must not be thought to."""
        self.filtering(enable=True, filterFile="absent.json")
        self.assertIn("thingsboard.deviceFiltering.filterFile: cannot read", self.refused()[0])
        self.write("list.json", {"deny": {"Line 4": ["("]}})
        self.filtering(enable=True)
        self.assertIn("list.json:4: deny.Line 4[0]", self.refused()[0])
        self.write("list.json", "[]")
        self.assertIn("must be an object", self.refused()[0])


class ExamineTests(LoaderCase):
    """What `tbgw check` works with."""

    def test_warnings_beside_faults(self):
        """Doubts and notices are told beside the faults, the worst first."""
        self.write_gateway(storage={"type": "sqlit", "typo_of_mine": 1}, grpc={})
        found = self.examine()
        self.assertIsNone(found.config)
        self.assertEqual(
            [finding.severity for finding in found.findings], [Severity.FAULT, Severity.DOUBT, Severity.NOTICE]
        )
