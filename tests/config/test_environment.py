"""Tests of the environment variables laid over tb_gateway.json."""

from __future__ import annotations

from typing import Any

from tbgw.config.environment import TARGETS, overlay
from tests.config.fakes import FolderCase, tree


class OverlayTests(FolderCase):
    """Variables set single keys, and nothing else changes."""

    def overlaid(self, value: Any, **environ: str) -> Any:
        return overlay(tree(value), environ, self.reporter).plain()

    def test_nothing_set(self):
        """Without variables of ours the tree is as it was, whatever else is in the environment (C-27)."""
        value = {"thingsboard": {"host": "a"}}
        plain = {"host": "b", "port": "tcp://10.0.0.1:80", "username": "root", "type": "x", "accessToken": "y"}
        self.assertEqual(self.overlaid(value, **plain), value)
        self.assertEqual(self.lines(), [])

    def test_key_by_key(self):
        """One variable of the security section leaves its other keys alone (C-22)."""
        value = {"thingsboard": {"host": "a", "security": {"accessToken": "t"}}, "storage": {"type": "memory"}}
        self.assertEqual(
            self.overlaid(value, TB_GW_CA_CERT="ca.pem", TB_GW_HOST="b"),
            {
                "thingsboard": {"host": "b", "security": {"accessToken": "t", "caCert": "ca.pem"}},
                "storage": {"type": "memory"},
            },
        )

    def test_sections_are_made(self):
        """A variable whose section is not in the file makes it."""
        self.assertEqual(
            self.overlaid({}, TB_GW_ACCESS_TOKEN="t", TB_GW_PORT="8883"),
            {"thingsboard": {"port": "8883", "security": {"accessToken": "t", "type": "accessToken"}}},
        )

    def test_empty_is_unset(self):
        """An empty variable counts as none, as container files like to have them."""
        self.assertEqual(self.overlaid({}, TB_GW_ACCESS_TOKEN="", TB_GW_FOO=""), {})
        self.assertEqual(self.lines(), [])

    def test_every_variable(self):
        """Every variable of the reference reaches its key."""
        for name, paths in TARGETS.items():
            found = self.overlaid({}, **{name: "v"})
            for path in paths:
                at = found
                for key in path:
                    at = at[key]
                self.assertEqual(at, "v", name)
        self.assertEqual(self.lines(), [])

    def test_limits(self):
        """The variable that sets several limits gives way to the one that names a limit."""
        limits = self.overlaid({}, TB_GW_RATE_LIMITS="15:1", TB_GW_DEVICE_RATE_LIMITS="30:1")["thingsboard"]
        self.assertEqual(
            limits,
            {
                "rateLimits": "15:1",
                "messagesRateLimits": "15:1",
                "deviceMessagesRateLimits": "15:1",
                "deviceRateLimits": "30:1",
            },
        )

    def test_type_follows_the_credentials(self):
        """A user name in the environment is not kept from use by the type that the file names for its own token."""
        value = {"thingsboard": {"security": {"type": "accessToken", "accessToken": "t"}}}
        security = self.overlaid(value, TB_GW_USERNAME="u", TB_GW_PASSWORD="p")["thingsboard"]["security"]
        self.assertEqual(security["type"], "usernamePassword")

    def test_type_that_fits_stays(self):
        """A token in the environment leaves the file's type for tokens over TLS, and a named type always stays."""
        value = {"thingsboard": {"security": {"type": "tlsAccessToken", "caCert": "ca.pem"}}}
        found = self.overlaid(value, TB_GW_ACCESS_TOKEN="t")["thingsboard"]["security"]
        self.assertEqual(found["type"], "tlsAccessToken")
        found = self.overlaid(value, TB_GW_USERNAME="u", TB_GW_SECURITY_TYPE="x509Certificate")
        self.assertEqual(found["thingsboard"]["security"]["type"], "x509Certificate")

    def test_replaces_secret_files(self):
        """A secret in the environment takes the place of the file that the configuration names."""
        value = {"thingsboard": {"security": {"accessTokenFile": "sandbox/token", "passwordFile": "p"}}}
        found = self.overlaid(value, TB_GW_ACCESS_TOKEN="t")["thingsboard"]["security"]
        self.assertEqual(found, {"passwordFile": "p", "accessToken": "t", "type": "accessToken"})

    def test_place(self):
        """A value from the environment names its variable as its place."""
        root = overlay(tree({}), {"TB_GW_PORT": "x"}, self.reporter)
        port = root.value["thingsboard"].value["port"]
        self.reporter.fault(port, "wrong")
        self.assertEqual(self.lines(), ["environment variable TB_GW_PORT: thingsboard.port: wrong"])

    def test_unknown_and_idle_variables(self):
        """An unknown TB_GW_ variable is a doubt with the nearest name; those without effect are notices."""
        self.overlaid({}, TB_GW_ACESS_TOKEN="secret", TB_GW_LOGS_PATH="/x", TB_GW_CONFIG_DIR="/y")
        self.assertEqual(
            self.lines(),
            [
                "environment variable TB_GW_ACESS_TOKEN: unknown variable; did you mean TB_GW_ACCESS_TOKEN?",
                "environment variable TB_GW_LOGS_PATH: known, but without effect here",
            ],
        )

    def test_what_is_no_object(self):
        """A section that is no object is left for its reader to refuse."""
        self.assertEqual(self.overlaid({"thingsboard": 3}, TB_GW_HOST="b"), {"thingsboard": 3})
        self.assertEqual(self.overlaid([1], TB_GW_HOST="b"), [1])
