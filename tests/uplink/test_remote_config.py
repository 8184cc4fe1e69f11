"""Remote configuration as data, against the shapes of the reference (spec reference-gateway, A12)."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.uplink.remote_config import (
    ACTIVE,
    FIXED,
    GENERAL,
    GENERAL_FILE,
    GRPC,
    LOGS,
    LOGS_FILE,
    SECRET_MASK,
    STORAGE,
    Refusal,
    is_configuration,
    masked,
    plan,
    published,
    same,
    times,
)

CANARY = "canary-7f3a"

FILES: dict[str, Any] = {
    GENERAL_FILE: {
        "thingsboard": {
            "host": "tb.example",
            "port": 1883,
            "remoteConfiguration": True,
            "security": {"type": "accessToken", "accessToken": CANARY},
            "statistics": {"enable": True, "commands": [{"command": ["df"], "attributeOnGateway": "disk"}]},
        },
        "storage": {"type": "sqlite", "data_file_path": "./data/", "size_limit": 5},
        "connectors": [
            {"type": "socket", "name": "Line", "configuration": "line.json", "id": "c-1"},
            {"type": "xmpp", "name": "Chat", "configuration": "chat.json"},
        ],
    },
    "line.json": {"socket": {"port": 50000}, "devices": []},
    "chat.json": {
        "server": {"jid": "gw@example", "password": CANARY},
        "devices": [{"jid": "a@example", "secretOf": "x", "password": CANARY + "a"}, {"jid": "b@example"}],
    },
}
PLACES = {"chat.json": [("devices", 0, "secretOf")]}


class LimitTests(SynchronousTestCase):
    """What limits remote commands cannot be taken away remotely."""

    def test_remote_methods(self) -> None:
        """Null would bring back all that the list leaves out; where there is no list, it means nothing."""
        files = copy.deepcopy(FILES)
        self.assertEqual(plan({GENERAL: {"remoteMethods": None}}, files, PLACES).files, {})
        files[GENERAL_FILE]["thingsboard"]["remoteMethods"] = ["gateway_ping"]
        refusal = self.assertRaises(Refusal, plan, {GENERAL: {"remoteMethods": None}}, files, PLACES)
        self.assertIn("remoteMethods", refusal.faults[0])
        same_list = {"remoteMethods": ["gateway_ping"], "port": 1884}
        self.assertEqual(list(plan({GENERAL: same_list}, files, PLACES).files), [GENERAL_FILE])


class PlanTests(SynchronousTestCase):
    """What an update makes of the files."""

    def plan(self, **update: Any) -> dict[str, Any]:
        """The new contents."""
        before = copy.deepcopy(FILES)
        made = plan(update, FILES, PLACES)
        self.assertEqual(FILES, before, "the present contents are not touched")
        return dict(made.files)

    def refused(self, **update: Any) -> str:
        error = self.assertRaises(Refusal, self.plan, **update)
        return str(error)

    def envelope(self, **more: Any) -> dict[str, Any]:
        """As ThingsBoard's page saves a connector."""
        return {"type": "socket", "name": "Line", "configurationJson": FILES["line.json"], "ts": 5, **more}

    def test_part_of_the_general_section(self) -> None:
        """C-53: a part is enough; what is not named stays, null takes away, ts and the order of keys mean nothing."""
        new = self.plan(general_configuration={"port": 8883, "remoteConfiguration": None, "ts": 7})
        general = new.pop(GENERAL_FILE)
        self.assertEqual(new, {})
        expected = {**FILES[GENERAL_FILE]["thingsboard"], "port": 8883}
        del expected["remoteConfiguration"]
        self.assertEqual(general["thingsboard"], expected)
        self.assertEqual(general["connectors"], FILES[GENERAL_FILE]["connectors"])

    def test_idempotent(self) -> None:
        """C-54: what holds already changes nothing, in whatever order and spelling of numbers, as text, or masked."""
        shown = published(FILES, PLACES, {}, "1")
        for message in shown:
            self.assertEqual(self.plan(**message), {})
            self.assertEqual(self.plan(**{name: json.dumps(value) for name, value in message.items()}), {})
        self.assertEqual(self.plan(storage_configuration={"size_limit": 5.0}), {})

    def test_storage_of_another_kind(self) -> None:
        """Settings of the old kind do not linger."""
        new = self.plan(storage_configuration={"type": "memory", "max_records_count": 7})
        self.assertEqual(new[GENERAL_FILE]["storage"], {"type": "memory", "max_records_count": 7})

    def test_credentials_of_another_kind(self) -> None:
        """Neither do credentials; a masked one stays what it was."""
        login = {"type": "usernamePassword", "username": "u", "password": "p"}
        new = self.plan(general_configuration={"security": login})
        self.assertEqual(new[GENERAL_FILE]["thingsboard"]["security"], login)
        secret = {"type": "tlsAccessToken", "accessToken": SECRET_MASK, "caCert": "ca.pem"}
        new = self.plan(general_configuration={"security": secret})
        self.assertEqual(new[GENERAL_FILE]["thingsboard"]["security"], {**secret, "accessToken": CANARY})

    def test_other_sections(self) -> None:
        """gRPC and logs are kept; nothing of the logs is carried out."""
        logs = {"version": 1, "handlers": {"x": {"class": "os.system"}}}
        new = self.plan(grpc_configuration={"enabled": False}, logs_configuration={**logs, "ts": 1})
        self.assertEqual(new[LOGS_FILE], logs)
        self.assertEqual(new[GENERAL_FILE]["grpc"], {"enabled": False})

    def test_connector(self) -> None:
        """Its file becomes what the page sent, to the letter; what goes with it stands beside its name."""
        content = {"socket": {"port": 1}, "devices": [], "logLevel": "x"}
        new = self.plan(Line=self.envelope(configurationJson=content, logLevel="DEBUG", enableRemoteLogging=True))
        self.assertEqual(new["line.json"], content)
        entry = new[GENERAL_FILE]["connectors"][0]
        self.assertEqual(
            entry,
            {
                "type": "socket",
                "name": "Line",
                "configuration": "line.json",
                "id": "c-1",
                "logLevel": "DEBUG",
                "enableRemoteLogging": True,
            },
        )

    def test_new_connector(self) -> None:
        """A name that is new is a new connector, in the file that it names or one after its name."""
        new = self.plan(**{"My Line!": self.envelope(name="My Line!")})
        self.assertEqual(new["my_line.json"], FILES["line.json"])
        self.assertEqual(new[GENERAL_FILE]["connectors"][-1]["configuration"], "my_line.json")
        new = self.plan(Other=self.envelope(name="Other", configuration="Other 2.json"))
        self.assertIn("Other 2.json", new)

    def test_active_connectors(self) -> None:
        """What is not active leaves the list, and its file stays; what is not known is asked for."""
        made = plan({ACTIVE: ["Chat", "New"]}, FILES, PLACES)
        self.assertEqual([entry["name"] for entry in made.files[GENERAL_FILE]["connectors"]], ["Chat"])
        self.assertEqual((set(made.files), made.unknown), ({GENERAL_FILE}, ("New",)))
        made = plan({ACTIVE: ["New"], "New": self.envelope(name="New"), "Off": self.envelope(name="Off")}, FILES, {})
        self.assertEqual([entry["name"] for entry in made.files[GENERAL_FILE]["connectors"]], ["New"])
        self.assertEqual(made.unknown, ())

    def test_c55_names_of_files(self) -> None:
        """C-55: no name leads out of the folder, takes another's file, or one that is not a connector's."""
        for file in ("../x.json", "/etc/x.json", "a/b.json", "x.txt", ".x.json", "x.json\0", "line.json", GENERAL_FILE,
                     LOGS_FILE, "list.json", "a\\b.json", " ", 5, "x" * 200 + ".json"):
            self.refused(New=self.envelope(name="New", configuration=file))
        self.assertIn("no name of a .json file", self.refused(**{"!!!": self.envelope(name="!!!")}))
        self.assertIn("another connector", self.refused(Line=self.envelope(name="Chat")))

    def test_paths_in_contents(self) -> None:
        """What is new names no file outside; what holds already may stay, and a datapoint's key is no file."""
        for content in (
            {"security": [{"type": "TLS", "cert": "/etc/x.pem", "key": "k.pem"}]},
            {"security": [{"type": "TLS", "cert": "x.pem", "key": "../k.pem"}]},
            {"tls": {"caCert": "/etc/shadow"}},
            {"passwordFile": "/etc/shadow"},
        ):
            self.assertIn("outside", self.refused(Line=self.envelope(configurationJson=content)))
        self.plan(Line=self.envelope(configurationJson={"telemetry": [{"key": "/temp"}], "url": "/ocpp"}))
        self.assertIn("outside", self.refused(storage_configuration={"data_file_path": "/tmp/x"}))
        self.assertIn("outside", self.refused(storage_configuration={"import": "../old"}))

    def test_set_on_the_machine_only(self) -> None:
        """What would give more than the permission to configure is refused, and what holds already is not."""
        for setting in (
            {"remoteMethods": ["gateway_reboot"]},
            {"publishSecrets": True},
            {"statistics": {"commands": [{"command": ["sh"], "attributeOnGateway": "x"}]}},
            {"statistics": {"configuration": "x.json"}},
            {"statistics": {"enableCustom": True}},
            {"firmware": {"command": ["/bin/sh"]}},
            {"security": {"accessTokenFile": "x"}},
            {"security": {"dangerouslyAcceptAnyServerCertificate": True}},
        ):
            self.assertIn("on the machine itself", self.refused(general_configuration=setting))
        same_commands = FILES[GENERAL_FILE]["thingsboard"]["statistics"]["commands"]
        self.plan(general_configuration={"statistics": {"commands": same_commands, "enableCustom": False}})

    def test_all_faults_at_once(self) -> None:
        """One fault refuses the whole update, and all are told."""
        text = self.refused(
            general_configuration={"port": 1, "publishSecrets": True}, storage_configuration=[], active_connectors="x"
        )
        for word in ("publishSecrets", STORAGE, ACTIVE):
            self.assertIn(word, text)

    def test_masked_secrets(self) -> None:
        """A masked secret stays what it was, also in a list whose entries changed their places or other values."""
        (message,) = [one for one in published(FILES, PLACES, {}, "1") if "Chat" in one]
        content = message["Chat"]["configurationJson"]
        self.assertNotIn(CANARY, json.dumps(content))
        content["devices"].reverse()
        content["devices"][1]["telemetry"] = [1]
        content["server"]["port"] = 5223
        new = self.plan(Chat={"type": "xmpp", "configurationJson": content})["chat.json"]
        self.assertEqual(new["server"]["password"], CANARY)
        self.assertEqual((new["devices"][1]["password"], new["devices"][1]["secretOf"]), (CANARY + "a", "x"))
        content["devices"][1]["jid"] = "other@example"
        self.assertIn("which secret", self.refused(Chat={"type": "xmpp", "configurationJson": content}))
        self.assertNotIn(CANARY, self.refused(Chat={"type": "xmpp", "configurationJson": content}))

    @settings(max_examples=200, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from([*FIXED, "Line", "New", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.sampled_from([SECRET_MASK, "a", "../x", "socket"]),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["type", "name", "configuration", "configurationJson", "security", "ts"]),
                        inner,
                        max_size=4,
                    )
                ),
                max_leaves=8,
            ),
            max_size=4,
        )
    )
    def test_any_update(self, update: dict[str, Any]) -> None:
        """Whatever comes, it is planned or refused, and taking it twice is the same as once."""
        try:
            made = plan(update, FILES, PLACES)
        except Refusal:
            return
        again = plan(update, {**FILES, **made.files}, {})
        self.assertEqual(dict(again.files), {})
        for name in made.files:
            self.assertNotIn("/", name)


class ShownTests(SynchronousTestCase):
    """What is published."""

    def test_shape(self) -> None:
        """One message with the sections, the active connectors and the version, then one for each connector."""
        first, line, chat = published(FILES, PLACES, {GENERAL: 4, "Line": 9}, "3.8")
        self.assertEqual(set(first), {GENERAL, STORAGE, GRPC, LOGS, ACTIVE, "Version"})
        self.assertEqual((first[ACTIVE], first["Version"]), (["Line", "Chat"], "3.8"))
        general = first[GENERAL]
        self.assertEqual((general["host"], general["ts"]), ("tb.example", 4))
        self.assertEqual(general["security"], {"type": "accessToken", "accessToken": SECRET_MASK})
        self.assertEqual(general["statistics"]["enableCustom"], False)
        self.assertEqual(
            line["Line"],
            {
                "type": "socket",
                "name": "Line",
                "configuration": "line.json",
                "id": "c-1",
                "logLevel": "INFO",
                "enableRemoteLogging": False,
                "configurationJson": FILES["line.json"],
                "ts": 9,
            },
        )
        self.assertEqual(set(chat), {"Chat"})

    def test_c50_no_secret(self) -> None:
        """C-50, P-11: no secret is shown, by its key or by its place, unless that is asked for."""
        self.assertNotIn(CANARY, json.dumps(published(FILES, PLACES, {}, "1")))
        self.assertIn(CANARY, json.dumps(published(FILES, PLACES, {}, "1", show_secrets=True)))
        for key in ("password", "accessToken", "provisionDeviceSecret", "psk", "userPassword", "hash", "clientSecret"):
            self.assertEqual(masked({key: "x"}, ()), {key: SECRET_MASK}, key)
        for key in ("passwordFile", "accessTokenFile", "deviceName", "username", "caCert", "key"):
            self.assertEqual(masked({key: "x"}, ()), {key: "x"}, key)
        self.assertEqual(masked({"password": ""}, ()), {"password": ""})

    def test_any_files(self) -> None:
        """Files in which something is missing or odd are shown as far as they go."""
        odd: list[Any] = [{}, {"connectors": "x"}, {"connectors": [5, {}, {"name": 5}]}, {"thingsboard": 5}, [], None]
        for general in odd:
            first, *others = published({GENERAL_FILE: general}, {}, {}, "1")
            self.assertEqual((first["Version"], others), ("1", []))

    def test_small_parts(self) -> None:
        """Times, equality and what is a configuration at all."""
        self.assertEqual(times({"a": {"ts": 5}, "b": '{"ts":6}', "c": {"ts": True}, "d": 7}), {"a": 5, "b": 6})
        self.assertTrue(same({"a": [1, 2.0]}, {"a": [1.0, 2]}))
        self.assertFalse(same(True, 1))
        self.assertFalse(is_configuration("fw_title", "x"))
        self.assertFalse(is_configuration("x", {"type": "socket"}))
        self.assertTrue(is_configuration("x", {"type": "socket", "configurationJson": "{}"}))
