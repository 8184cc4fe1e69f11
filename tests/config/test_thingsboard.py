"""Tests of the section `thingsboard`."""

from __future__ import annotations

from typing import Any

from tbgw.config.findings import Severity
from tbgw.config.thingsboard import (
    DefaultLimit,
    StatisticsCommand,
    ThingsBoardSection,
    read_thingsboard,
    session_limits,
)
from tbgw.model import RateLimit, SessionLimits
from tests.config.fakes import TOKEN, FolderCase, tree


class ThingsBoardTests(FolderCase):
    """The link and the gateway as a whole."""

    def read(self, **value: Any) -> ThingsBoardSection:
        value.setdefault("security", {"accessToken": TOKEN})
        value.setdefault("host", "127.0.0.1")
        return read_thingsboard(tree(value), None, self.reporter)

    def test_defaults(self):
        """What counts when nothing is said."""
        found = self.read()
        self.assertEqual((found.port, found.keep_alive_seconds, found.qos), (1883, 60, 1))
        self.assertEqual((found.max_payload_bytes, found.pack_delay_ms), (65536, 10))
        self.assertFalse(found.remote_shell or found.remote_configuration or found.security.tls)
        self.assertEqual(self.lines(), [])

    def test_values(self):
        """The reference's keys reach their fields; the payload limit that it never used is obeyed (C-32)."""
        found = self.read(port=8883, keep_alive=30, maxPayloadSizeBytes=8196, minPackSendDelayMS=50)
        self.assertEqual((found.port, found.keep_alive_seconds), (8883, 30))
        self.assertEqual((found.max_payload_bytes, found.pack_delay_ms), (8196, 50))
        self.assertTrue(found.security.tls)
        self.assertEqual(self.lines(), [])

    def test_qos(self):
        """QoS 0 is taken with a notice, since data always goes at QoS 1; QoS 2 is a fault."""
        self.read(qos=0)
        self.assertEqual((len(self.lines(Severity.NOTICE)), self.faults()), (1, []))
        self.read(qos=2)
        self.assertEqual(len(self.faults()), 1)

    def test_host(self):
        """A URL, a host with its port and a name with blanks are faults; names and addresses are taken."""
        for host in ("thingsboard.cloud", "10.0.0.1", "::1", "localhost", "bücher.example"):
            self.assertEqual(self.read(host=host).host, host)
        self.assertEqual(self.faults(), [])
        for host in (
            "https://thingsboard.cloud",
            "thingsboard.cloud/api",
            "tb:1883",
            "[::1]",
            "a b",
            "",
            "a\nb",
            "a..b",
            "x" * 64,
        ):
            self.read(host=host)
        self.assertEqual(len(self.faults()), 9)

    def test_plain_text_is_told(self):
        """A server elsewhere without TLS is a notice; one on this machine is not worth a word."""
        self.read(host="thingsboard.cloud")
        self.assertIn("travel readable", self.lines(Severity.NOTICE)[0])

    def test_remote_shell(self):
        """A remote shell is never offered; asking for it is told, not asking is not."""
        self.read(remoteShell=False)
        self.assertEqual(self.lines(), [])
        self.read(remoteShell=True)
        self.assertIn("never offered", self.lines(Severity.NOTICE)[0])

    def test_what_is_off_is_silent(self):
        """Features that are switched off are not worth a word; those switched on are named, in one line."""
        off = {
            "remoteConfiguration": False,
            "latencyDebugMode": False,
            "handleDeviceRenaming": False,
            "statistics": {"enable": False, "statsSendPeriodInSeconds": 60, "configuration": "statistics.json"},
            "checkingDeviceActivity": {"checkDeviceInactivity": False, "inactivityTimeoutSeconds": 300},
        }
        self.read(**off)
        self.assertEqual(self.lines(), [])
        self.read(latencyDebugMode=True)
        self.assertEqual(len(self.lines()), 1)
        self.assertIn("latencyDebugMode", self.lines()[0])

    def test_sections_are_typed(self):
        """Sections of later versions are read and checked already."""
        found = self.read(
            statistics={
                "statsSendPeriodInSeconds": 60,
                "commands": [{"command": ["df", "-h"], "attributeOnGateway": "a"}],
            },
            checkingDeviceActivity={"inactivityTimeoutSeconds": 300, "inactivityCheckPeriodSeconds": 5},
            deviceFiltering={"enable": True, "filterFile": "list.json"},
        )
        self.assertEqual(found.statistics.period_seconds, 60)
        self.assertEqual(found.statistics.commands, (StatisticsCommand(("df", "-h"), "a", 10),))
        self.assertEqual((found.activity.timeout_seconds, found.activity.check_period_seconds), (300, 5))
        self.assertEqual(found.device_filtering.file, self.config_dir / "list.json")
        self.read(statistics={"statsSendPeriodInSeconds": "often"}, checkingDeviceActivity=7)
        self.assertEqual(len(self.faults()), 2)

    def test_files_stay_in_the_folder(self):
        """A file name that leads out of the folder is a fault."""
        for name in ("../list.json", "/etc/passwd", "a/../../b", "..\\x", "a\0b"):
            self.read(deviceFiltering={"filterFile": name})
        self.assertEqual(len(self.faults()), 5)

    def test_rate_limits(self):
        """Limits are pairs of messages and seconds, all in force together; 0:0 is none; words stand for defaults."""
        found = self.read(rateLimits="15:1,300:60,", deviceRateLimits="10:1;60:60", dpRateLimits="0:0")
        self.assertEqual(found.rate_limits, (RateLimit(15, 1), RateLimit(300, 60)))
        self.assertEqual(found.device_rate_limits, (RateLimit(10, 1), RateLimit(60, 60)))
        self.assertEqual(found.dp_rate_limits, ())
        self.assertIs(found.messages_rate_limits, DefaultLimit.MESSAGES)
        self.assertIs(
            self.read(deviceDpRateLimits="DEFAULT_TELEMETRY_DP_RATE_LIMIT").device_dp_rate_limits,
            DefaultLimit.TELEMETRY_DATA_POINTS,
        )
        self.assertEqual([line for line in self.lines() if "imit" in line], [])

    def test_limits_of_a_session(self):
        """What is announced and what is configured hold together, each of the six in its place."""
        keys = ["messagesRateLimits", "rateLimits", "dpRateLimits"]
        keys += ["deviceMessagesRateLimits", "deviceRateLimits", "deviceDpRateLimits"]
        found = self.read(host="example.org", **{key: f"{place}:9" for place, key in enumerate(keys, 1)})
        announced = SessionLimits(1000, 7, telemetry=(RateLimit(100, 1.0), RateLimit(50, 60.0)), announced=True)
        limits = session_limits(found, announced)
        self.assertEqual((limits.max_payload_bytes, limits.max_inflight), (1000, 7))
        own = (limits.own_messages, limits.own_telemetry, limits.own_points)
        children = (limits.messages, limits.telemetry, limits.points)
        for place, group in enumerate((*own, *children), 1):
            self.assertIn(RateLimit(place, 9.0), group)
        self.assertEqual(limits.telemetry, (RateLimit(100, 1.0), RateLimit(50, 60.0), RateLimit(5, 9.0)))

    def test_default_limits(self):
        """The words stand for limits on the public servers only, and only as long as ThingsBoard announces nothing."""
        messages = (RateLimit(10, 1.0), RateLimit(60, 60.0))
        points = (RateLimit(10, 1.0), RateLimit(300, 60.0))
        for host, public in (
            ("thingsboard.cloud", True),
            ("EU.ThingsBoard.Cloud", True),
            ("demo.thingsboard.io", True),
            ("tb.cloud.example.org", True),
            ("mqtt.example.cloud", False),
            ("tb.example.org", False),
            ("thingsboard.io", False),
        ):
            limits = session_limits(self.read(host=host), SessionLimits())
            expected = (messages, messages, points) * 2 if public else ((),) * 6
            own = (limits.own_messages, limits.own_telemetry, limits.own_points)
            self.assertEqual((*own, limits.messages, limits.telemetry, limits.points), expected, host)
        found = self.read(host="thingsboard.cloud", deviceRateLimits="5:1")
        self.assertEqual(session_limits(found, SessionLimits()).telemetry, (RateLimit(5, 1.0),))
        self.assertEqual(session_limits(found, SessionLimits(announced=True)).messages, ())
        self.assertEqual(session_limits(found, SessionLimits(announced=True)).telemetry, (RateLimit(5, 1.0),))

    def test_bad_rate_limits(self):
        """What is no limit is a fault."""
        for wrong in ("15", "15:", "a:1", "15:1 300:60", "5:0", "0:5", "-1:1", "DEFAULT_RATE", 15, "1:1," * 33):
            self.read(rateLimits=wrong)
        self.assertEqual(len(self.faults()), 10)

    def provision(self, security: dict[str, Any] | None = None, **provisioning: Any) -> ThingsBoardSection:
        """A section that is to be provisioned, with these keys besides."""
        keys = {"provisionDeviceKey": "canary1", "provisionDeviceSecret": "canary2", **provisioning}
        section: dict[str, Any] = {"host": "127.0.0.1", "provisioning": keys}
        if security is not None:
            section["security"] = security
        return read_thingsboard(tree(section), None, self.reporter)

    def test_provisioning(self) -> None:
        """Without credentials of its own the gateway is provisioned; secrets are shown nowhere."""
        found = self.provision()
        assert found.provisioning is not None and found.provisioning.device_secret is not None
        self.assertEqual(found.provisioning.device_secret.reveal(), "canary2")
        self.assertEqual((found.provisioning.type, found.security.tls, self.faults()), ("AUTO", False, []))
        self.assertNotIn("canary", repr(found) + "".join(self.lines()))

    def test_provisioning_types(self) -> None:
        """The kind follows from the keys when it is left out; a certificate needs TLS."""
        cases: list[tuple[dict[str, Any], str]] = [
            ({"access_token": "a1b2"}, "ACCESS_TOKEN"),
            ({"username": "u", "password": "p"}, "MQTT_BASIC"),
            ({"client_id": "c"}, "MQTT_BASIC"),
            ({"type": "X509_CERTIFICATE"}, "X509_CERTIFICATE"),
        ]
        for keys, kind in cases:
            found = self.provision(**keys)
            assert found.provisioning is not None
            self.assertEqual((found.provisioning.type, found.security.tls), (kind, kind == "X509_CERTIFICATE"))
        self.assertEqual(self.faults(), [])

    def test_provisioning_beside_credentials(self) -> None:
        """Credentials of `security` count, and that is said; only TLS in `security` leaves provisioning on."""
        found = self.provision({"accessToken": "kQ3xv81LmWzRt5Yb"})
        self.assertIsNone(found.provisioning)
        self.assertIn("thingsboard.security has credentials", "".join(self.lines()))
        self.assertIsNotNone(self.provision({"tls": True}).provisioning)
        self.assertEqual(self.faults(), [])

    def test_provisioning_faults(self) -> None:
        """A missing key, a placeholder, a password without a user: each is named."""
        read_thingsboard(tree({"provisioning": {"type": "AUTO"}}), None, self.reporter)
        self.assertEqual(len(self.faults()), 2)
        self.provision(provisionDeviceKey="YOUR_PROVISION_DEVICE_KEY")
        self.assertIn("placeholder", self.faults()[-1])
        self.provision(type="MQTT_BASIC", password="p")
        self.assertEqual(len(self.faults()), 4)

    def test_packages(self) -> None:
        """A command is a list that begins with a full path; numbers have bounds."""
        found = self.read(firmware={"command": ["/usr/bin/apply", "-q"], "maxSizeBytes": 1000})
        self.assertEqual((found.firmware.command, found.firmware.max_bytes), (("/usr/bin/apply", "-q"), 1000))
        self.assertEqual((found.software.enabled, found.software.command, self.faults()), (True, (), []))
        wrongs: list[dict[str, Any]] = [
            {"command": "rm -rf /"},
            {"command": []},
            {"command": ["apply"]},
            {"chunkSizeBytes": 70_000},
        ]
        for wrong in wrongs:
            self.read(software=wrong)
        self.assertEqual(len(self.faults()), 4)

    def test_no_security(self):
        """Without any credentials there is one fault, at the section."""
        read_thingsboard(tree({"host": "127.0.0.1"}), None, self.reporter)
        self.assertEqual(len(self.faults()), 1)
        self.assertIn("security: is missing: there are no credentials", self.faults()[0])

    def test_proxy(self):
        """The proxy's host and port; the port has the usual default."""
        section = self.read(proxy_host="10.0.0.1")
        self.assertEqual((section.proxy_host, section.proxy_port), ("10.0.0.1", 3128))
        self.assertEqual(self.read(proxy_host="10.0.0.1", proxy_port=8080).proxy_port, 8080)
        self.assertEqual(self.lines(Severity.WARNING), [])

    def test_mqtt_version(self):
        """The version of MQTT can be fixed; else 5 is tried first."""
        self.assertEqual(self.read().mqtt_version, "auto")
        self.assertEqual(self.read(mqttVersion="3.1.1").mqtt_version, "3.1.1")
