"""Taking configuration from ThingsBoard, with a real folder and the loader, and all else played by the test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock

from tbgw.config.gateway import GatewayConfig
from tbgw.config.loader import Examined, examine_folder
from tbgw.configfolder import WAITING, ConfigFolder
from tbgw.connectors.parsers import PARSERS
from tbgw.errors import ConfigurationError, NoAnswer
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import OwnAttributes
from tbgw.reconfiguration import Difference, Reconfiguration, difference
from tests.config.fakes import TOKEN, FolderCase

CONFIRM_SECONDS = 30


class OwnDevice:
    """What of `IOwnDevice` is used here."""

    def __init__(self) -> None:
        self.shared: dict[str, Any] | None = {}
        self.asked: list[list[str]] = []
        self.shown: dict[str, Any] = {}
        self.changed: Callable[[Mapping[str, Any], Sequence[str]], None] = lambda values, deleted: None
        self.up: Callable[[], None] = lambda: None

    def add_shared_listener(self, changed: Any) -> None:
        self.changed = changed

    def add_link_listener(self, up: Any) -> None:
        self.up = up

    def publish_attributes(self, values: Mapping[str, Any]) -> Deferred[str]:
        self.shown.update(json.loads(json.dumps(dict(values))))
        return succeed("")

    publish_telemetry = publish_attributes

    def request_attributes(self, client_keys: Any = (), shared_keys: Any = ()) -> Deferred[OwnAttributes]:
        self.asked.append(list(shared_keys))
        if self.shared is None:
            return fail(NoAnswer("nobody"))
        return succeed(OwnAttributes({}, {name: self.shared[name] for name in shared_keys if name in self.shared}))


class Applier:
    """Notes what it is asked to do."""

    def __init__(self) -> None:
        self.applied: list[Difference] = []
        self.restarts: list[str] = []
        self.wait: Deferred[None] | None = None
        self.fault: Exception | None = None

    def apply(self, config: GatewayConfig, what: Difference) -> Deferred[None]:
        self.applied.append(what)
        fault, self.fault = self.fault, None
        return fail(fault) if fault is not None else self.wait or succeed(None)

    def restart(self, why: str) -> None:
        self.restarts.append(why)


class ReconfigurationCase(FolderCase):
    """A gateway's folder with two connectors."""

    def setUp(self) -> None:
        super().setUp()
        self.general: dict[str, Any] = {
            "thingsboard": {
                "host": "127.0.0.1",
                "remoteConfiguration": True,
                "remoteConfigurationConfirmSeconds": CONFIRM_SECONDS,
                "checkConnectorsConfigurationInSeconds": 10,
                "security": {"type": "accessToken", "accessToken": TOKEN},
            },
            "connectors": [
                {"type": "socket", "name": "Line", "configuration": "line.json"},
                {"type": "socket", "name": "Other", "configuration": "other.json"},
            ],
        }
        self.write("tb_gateway.json", self.general)
        self.line = {"socket": {"address": "127.0.0.1", "port": 50001}, "devices": []}
        self.write("line.json", self.line)
        self.write("other.json", {"socket": {"address": "127.0.0.1", "port": 50002}, "devices": []})
        self.clock = Clock()
        self.begin()

    def begin(self) -> None:
        """A new process."""
        self.own, self.applier, self.counters = OwnDevice(), Applier(), Counters()
        self.folder = ConfigFolder(self.config_dir, self.data_dir)
        self.folder.load()
        self.folder.recover()
        config = self.examine_all({}).config
        assert config is not None
        self.reconfiguration = Reconfiguration(
            self.folder,
            config,
            self.own,  # type: ignore[arg-type] # what of it is used
            self.applier,
            examine=self.examine_all,
            in_thread=lambda job: maybeDeferred(job),
            clock=self.clock,
            now_ms=lambda: 1_700_000_000_000 + int(self.clock.seconds() * 1000),
            events=Events(self.counters, self.clock.seconds),
            version="1",
        )
        self.reconfiguration.start()
        self.addCleanup(self.reconfiguration.stop)

    def examine_all(self, instead: Mapping[str, bytes]) -> Examined:
        contents = {self.config_dir / name: content for name, content in instead.items()}
        return examine_folder(self.config_dir, {}, self.data_dir, PARSERS, contents)

    def content(self, name: str = "tb_gateway.json") -> Any:
        return json.loads((self.config_dir / name).read_text())

    def push(self, **values: Any) -> None:
        self.own.changed(values, [])

    def envelope(self, port: int, **more: Any) -> dict[str, Any]:
        content = {**self.line, "socket": {"address": "127.0.0.1", "port": port}}
        return {"type": "socket", "name": "Line", "configurationJson": content, **more}


class UpdateTests(ReconfigurationCase):
    """Updates that come."""

    def test_only_what_changed(self) -> None:
        """One connector is made anew, the other and the link are not; the same again does nothing."""
        self.push(Line=self.envelope(50003, ts=10**13))
        (what,) = self.applier.applied
        self.assertEqual((what.gone, [entry.name for entry in what.begun]), (("Line",), ["Line"]))
        self.assertEqual((what.link, what.restart), (False, False))
        self.assertEqual(self.content("line.json")["socket"]["port"], 50003)
        self.assertEqual(self.own.shown["Line"]["ts"], 10**13)
        self.push(Line=self.envelope(50003, ts=10**13 + 1))
        self.assertEqual(len(self.applier.applied), 1)
        self.assertEqual(self.own.shown["Line"]["ts"], 10**13 + 1)
        self.assertNotIn(TOKEN, json.dumps(self.own.shown))

    def test_whole_or_not_at_all(self) -> None:
        """A fault in one attribute refuses the others too; nothing is written, all faults are shown."""
        before = {path.name: path.read_bytes() for path in self.config_dir.iterdir()}
        self.push(Line=self.envelope(99999), general_configuration={"keep_alive": 1, "publishSecrets": False})
        self.assertEqual({path.name: path.read_bytes() for path in self.config_dir.iterdir()}, before)
        status = self.own.shown["remote_configuration_status"]
        self.assertFalse(status["ok"])
        self.assertIn("line.json", " ".join(status["faults"]))
        self.assertIn("keep_alive", " ".join(status["faults"]))
        self.assertEqual(self.applier.applied, [])
        self.push(Line=self.envelope(50004))
        self.assertEqual(len(self.applier.applied), 1)
        self.assertTrue(self.own.shown["remote_configuration_status"]["ok"])

    def test_a_connector_of_the_machine_is_put_away_and_taken_up_again(self) -> None:
        """ThingsBoard never had its configuration; the name is enough, also for a later process."""
        self.push(active_connectors=["Other"])
        self.assertEqual([entry["name"] for entry in self.content()["connectors"]], ["Other"])
        self.reconfiguration.stop()
        self.begin()
        self.push(active_connectors=["Other", "Line"])
        self.assertEqual(self.content()["connectors"], self.general["connectors"][::-1])
        self.assertEqual([entry.name for entry in self.applier.applied[-1].begun], ["Line"])
        self.assertEqual(self.folder.state.inactive, {})

    def test_an_active_connector_of_which_nothing_is_known(self) -> None:
        """It is said, and does not keep the others; the same for one whose file is gone."""
        self.push(active_connectors=["Line"])
        (self.config_dir / "other.json").unlink()
        self.push(active_connectors=["Line", "Other", "nope"], general_configuration={"handleDeviceRenaming": False})
        self.assertEqual([entry["name"] for entry in self.content()["connectors"]], ["Line"])
        status = self.own.shown["remote_configuration_status"]
        self.assertEqual((status["ok"], status["changed"]), (True, ["tb_gateway.json"]))
        self.assertIn("Other, nope", str(status["faults"]))

    def test_what_only_shows_when_it_is_made(self) -> None:
        """A connector that cannot be made, e.g. for want of a package, changes nothing: the next start would fail."""
        before = {path.name: path.read_bytes() for path in self.config_dir.iterdir() if path.is_file()}
        self.applier.fault = ConfigurationError(["connector Line: needs the Python package x"])
        self.push(Line=self.envelope(50003))
        self.assertEqual({p.name: p.read_bytes() for p in self.config_dir.iterdir() if p.is_file()}, before)
        self.assertEqual([what.gone for what in self.applier.applied], [("Line",), ("Line",)])
        self.assertEqual(self.folder.state.phase, "")
        self.assertEqual(self.folder.state.undone, [])
        status = self.own.shown["remote_configuration_status"]
        self.assertEqual((status["ok"], status["faults"]), (False, ["connector Line: needs the Python package x"]))
        self.push(Line=self.envelope(50004))
        self.assertTrue(self.own.shown["remote_configuration_status"]["ok"])
        self.assertEqual(self.folder.state.phase, "")
        self.applier.fault = ConfigurationError(["ca.pem: cannot be read"])
        self.push(general_configuration={"port": 1884})
        self.assertEqual(self.content()["thingsboard"].get("port"), None)
        self.clock.advance(CONFIRM_SECONDS + 1)
        self.assertEqual(self.counters.total("configuration_undone"), 0)

    def test_connectors_come_and_go(self) -> None:
        """An unknown active connector is asked for; one that is not active any more ends, and its file stays."""
        new = {**self.envelope(50009), "name": "New"}
        self.own.shared = {"New": new}
        self.push(active_connectors=["Line", "New"])
        self.assertEqual(self.own.asked, [["New"]])
        (what,) = self.applier.applied
        self.assertEqual((what.gone, [entry.name for entry in what.begun]), (("Other",), ["New"]))
        self.assertEqual([entry["name"] for entry in self.content()["connectors"]], ["Line", "New"])
        self.assertTrue((self.config_dir / "other.json").exists())
        self.assertEqual(self.own.shown["active_connectors"], ["Line", "New"])

    def test_updates_that_come_meanwhile(self) -> None:
        """They wait, and are put together; the last value of each counts."""
        self.applier.wait = Deferred()
        self.push(Line=self.envelope(50003))
        for port in range(50010, 50020):
            self.push(Line=self.envelope(port))
        self.assertEqual(len(self.applier.applied), 1)
        wait, self.applier.wait = self.applier.wait, None
        wait.callback(None)
        self.assertEqual(len(self.applier.applied), 2)
        self.assertEqual(self.content("line.json")["socket"]["port"], 50019)

    def test_c52_an_error_of_ours(self) -> None:
        """C-52: an exception is logged, and the next update is taken all the same."""
        self.applier.wait = fail(RuntimeError("broken"))
        self.push(Line=self.envelope(50003))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.applier.wait = None
        self.push(Line=self.envelope(50004))
        self.assertEqual(len(self.applier.applied), 2)

    def test_switched_off(self) -> None:
        """Without `remoteConfiguration` nothing is taken, asked or shown."""
        config = self.reconfiguration.config
        off = dataclasses.replace(config.thingsboard, remote_configuration=False)
        self.reconfiguration.config = dataclasses.replace(config, thingsboard=off)
        self.push(Line=self.envelope(50003))
        self.own.up()
        self.assertEqual((self.applier.applied, self.own.asked, self.own.shown), ([], [], {}))

    def test_other_attributes(self) -> None:
        """Attributes of others, and deletions, are none of this."""
        self.push(fw_title="x", RemoteLoggingLevel="INFO", anything={"a": 1})
        self.own.changed({}, ["Line", "general_configuration"])
        self.assertEqual(self.own.shown, {})

    def test_a_folder_that_cannot_be_written(self) -> None:
        """A read-only folder is said, and nothing is tried."""
        self.patch(self.folder, "fault", lambda names: "the folder cannot be written")
        self.push(Line=self.envelope(50003))
        self.assertIn("cannot be written", str(self.own.shown["remote_configuration_status"]["faults"]))
        self.assertEqual(self.applier.applied, [])


class ConnectionTests(ReconfigurationCase):
    """What happens around the link."""

    def test_asked_after_each_connection(self) -> None:
        """C-51: what was changed without a link is found, once; what holds is shown each time."""
        self.own.shared = {"Line": self.envelope(50003, ts=10**13)}
        self.own.up()
        self.assertEqual(len(self.applier.applied), 1)
        self.assertIn("Other", self.own.shown)
        self.own.shown.clear()
        self.write("line.json", self.line)  # changed on the machine since, which counts
        self.own.up()
        self.assertEqual(len(self.applier.applied), 1)
        self.assertEqual(self.own.shown["Line"]["configurationJson"], self.line)
        self.own.shared = None
        self.own.up()
        self.assertIn("Version", self.own.shown)

    def test_older_than_the_file(self) -> None:
        """At the first connection an attribute that is older than the file does not overwrite it."""
        self.own.shared = {"Line": self.envelope(50003, ts=5)}
        self.own.up()
        self.assertEqual(self.applier.applied, [])

    def test_confirmed(self) -> None:
        """A change of the link stays once ThingsBoard is reached."""
        self.push(general_configuration={"port": 1884})
        self.assertTrue(self.applier.applied[0].link)
        self.assertEqual(self.folder.state.phase, WAITING)
        self.own.up()
        self.clock.advance(CONFIRM_SECONDS + 1)
        self.assertEqual(self.content()["thingsboard"]["port"], 1884)
        self.assertEqual(self.counters.total("configuration_confirmations"), 1)

    def test_undone(self) -> None:
        """One that cuts the gateway off is undone after the time, and not taken again when it is found again."""
        update = {"port": 1884, "ts": 10**13}
        self.push(general_configuration=update)
        self.clock.advance(CONFIRM_SECONDS)
        self.assertEqual(self.content(), self.general)
        self.assertTrue(self.applier.applied[1].link)
        self.assertEqual(self.counters.total("configuration_undone"), 1)
        self.own.shared = {"general_configuration": update}
        self.own.up()
        self.assertEqual(len(self.applier.applied), 2)
        self.assertIn("undone", str(self.own.shown["remote_configuration_status"]))
        self.push(general_configuration={**update, "ts": 10**13 + 1})
        self.assertEqual(len(self.applier.applied), 3)

    def test_a_new_process_tells_what_was_undone(self) -> None:
        """Who undoes by a restart, or at a start, is gone before ThingsBoard is reached: the next process tells it."""
        self.push(storage_configuration={"type": "memory"})
        self.reconfiguration.stop()
        self.begin()
        self.clock.advance(CONFIRM_SECONDS)
        self.assertEqual(len(self.applier.restarts), 1)
        self.reconfiguration.stop()
        self.begin()
        self.own.up()
        status = self.own.shown["remote_configuration_status"]
        self.assertFalse(status["ok"])
        self.assertIn("tb_gateway.json", str(status["faults"]))
        self.assertIn("undone", str(status["faults"]))
        self.reconfiguration.stop()
        self.begin()
        self.own.up()
        self.assertNotIn("remote_configuration_status", self.own.shown, "told once")

    def test_undone_after_a_crash(self) -> None:
        """The time runs on in a new process."""
        self.push(general_configuration={"port": 1884})
        self.reconfiguration.stop()
        self.begin()
        self.assertEqual(self.reconfiguration.config.thingsboard.port, 1884)
        self.clock.advance(CONFIRM_SECONDS)
        self.assertEqual(self.content(), self.general)
        self.assertEqual(self.reconfiguration.config.thingsboard.port, 1883)

    def test_a_new_process(self) -> None:
        """What cannot be changed while all runs asks for a restart, and is confirmed or undone by the new process."""
        self.push(storage_configuration={"type": "memory"})
        self.assertEqual((len(self.applier.restarts), self.applier.applied), (1, []))
        self.push(Line=self.envelope(50003))
        self.assertEqual(self.applier.applied, [], "nothing more is begun in this one")
        self.reconfiguration.stop()
        self.begin()
        self.own.up()
        self.assertEqual(self.folder.state.phase, "")
        self.assertEqual(self.content()["storage"], {"type": "memory"})

    def test_files_on_the_disk(self) -> None:
        """A connector's file that is changed is followed; one with a fault is said once, and all goes on."""
        self.write("line.json", {**self.line, "socket": {"address": "127.0.0.1", "port": 50005}})
        self.clock.advance(10)
        (what,) = self.applier.applied
        self.assertEqual(what.gone, ("Line",))
        self.write("line.json", "{")
        self.clock.pump([10] * 5)
        self.assertEqual((len(self.applier.applied), self.counters.total("configuration_refusals")), (1, 1))
        self.write("line.json", self.line)
        self.clock.advance(10)
        self.assertEqual(len(self.applier.applied), 2)


class DifferenceTests(ReconfigurationCase):
    """What has to be done for which change."""

    def test_kinds(self) -> None:
        """Settings that can be changed while all runs, those of the link, and those that need a new process."""
        for section, expected in (
            ({"statistics": {"enable": True}}, "live"),
            ({"checkingDeviceActivity": {"checkDeviceInactivity": True}}, "live"),
            ({"handleDeviceRenaming": False}, "live"),
            ({"host": "localhost"}, "link"),
            ({"security": {"accessToken": TOKEN + "x"}}, "link"),
            ({"minPackSendDelayMS": 20}, "restart"),
            ({"mqttVersion": "5"}, "restart"),
        ):
            thingsboard = {**self.general["thingsboard"], **section}
            self.write("tb_gateway.json", {**self.general, "thingsboard": thingsboard})
            config = self.examine_all({}).config
            assert config is not None
            what = difference(self.reconfiguration.config, config)
            flags = {name for name in ("live", "link", "restart") if getattr(what, name)}
            self.assertEqual(flags, {expected}, section)
            self.assertEqual(what.begun, ())

    def test_the_sandboxs_own_token(self) -> None:
        """Its file, which is written at the first start, is no change of the link."""
        sandbox = {"enabled": True}
        thingsboard = {"host": "127.0.0.1", "security": {"accessTokenFile": "sandbox/token"}}
        self.write("tb_gateway.json", {**self.general, "thingsboard": thingsboard, "sandbox": sandbox})
        first = self.examine_all({}).config
        (self.data_dir / "sandbox").mkdir()
        (self.data_dir / "sandbox" / "token").write_text(TOKEN)
        (self.data_dir / "sandbox" / "token").chmod(0o600)
        second = self.examine_all({}).config
        assert first is not None and second is not None
        self.assertNotEqual(first.thingsboard.security, second.thingsboard.security)
        self.assertEqual(difference(first, second), Difference())

    def test_the_general_report_strategy(self) -> None:
        """It is a part of every connector."""
        strategy = {"type": "ON_CHANGE"}
        thingsboard = {**self.general["thingsboard"], "reportStrategy": strategy}
        self.write("tb_gateway.json", {**self.general, "thingsboard": thingsboard})
        config = self.examine_all({}).config
        assert config is not None
        self.assertEqual(difference(self.reconfiguration.config, config).gone, ("Line", "Other"))
