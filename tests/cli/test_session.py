"""The commands that have a session of their own, as programs, against a sandbox in the test's process."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from twisted.internet.threads import deferToThread

from tests.cli.test_check import ROOT, RUN
from tests.programs import Program
from tests.scenarios.own import OwnCase

GATEWAY = "Gateway"


class SessionTests(OwnCase):
    """Each command does what it says, and says what went wrong."""

    def setUp(self) -> None:
        super().setUp()
        self.token = self.sandbox.ensure_token()
        self.configure(security={"accessToken": self.token})

    def program(self, *words: str) -> Program:
        """The command, started in the environment that runs the tests."""
        folders = ["-c", str(self.folder.etc), "-d", str(self.folder.path)]
        return Program(self, [sys.executable, "-c", RUN, *words, *folders], {"PYTHONPATH": str(ROOT)})

    async def tbgw(self, *words: str, status: int = 0) -> str:
        """Run the command to its end; its output."""
        program = self.program(*words)
        self.assertEqual(await deferToThread(program.finish), status, program.output)
        return program.output

    def attributes(self, device: str = GATEWAY) -> dict[str, Any]:
        found = next(one for one in self.sandbox.view.devices() if one["name"] == device)
        return {key: entry["value"] for key, entry in found["attributes"].items()}

    async def test_telemetry_and_attributes(self) -> None:
        """Values as JSON or as text; what was set and what is shared is read back."""
        await self.tbgw("telemetry", "a=1.5", "b=x y", "--ts", "1700000000000")
        self.assertEqual(str(self.latest(GATEWAY)["a"]), "1.5")
        self.assertEqual(self.latest(GATEWAY)["b"], "x y")
        await self.tbgw("telemetry", '[{"c": 1}, {"ts": 1700000000001, "values": {"a": 2}}]')
        self.assertEqual([str(value) for value in self.told(GATEWAY, "a")], ["1.5", "2"])
        self.assertEqual(str(self.latest(GATEWAY)["c"]), "1")
        self.assertIn("object", await self.tbgw("telemetry", "[1]", status=1))
        await self.tbgw("attributes", "set", '{"c": [1], "d": true}')
        self.control.set_attributes(GATEWAY, {"limit": 60, "other": 1})
        found = json.loads(await self.tbgw("attributes", "get", "--client", "c,none", "--shared", "limit"))
        self.assertEqual(found, {"client": {"c": [1]}, "shared": {"limit": 60}})
        found = json.loads(await self.tbgw("attributes", "get"))
        self.assertEqual((found["client"]["d"], found["shared"]["other"]), (True, 1))

    async def test_watch(self) -> None:
        """Changes come as lines while it runs."""
        program = self.program("attributes", "watch", "--timeout", "5")
        await self.until(lambda: self.control.device_as_json(GATEWAY)["connected"], "the session")
        self.control.set_attributes(GATEWAY, {"limit": 61})
        # A change just before the SUBSCRIBE is not pushed; so it is changed until one was seen.
        reading = deferToThread(program.wait_for, '"limit"')
        number = 61

        def seen() -> bool:
            nonlocal number
            number += 1
            self.control.set_attributes(GATEWAY, {"limit": number})
            return bool(reading.called)

        await self.until(seen, "a line")
        await reading
        self.control.delete_attributes(GATEWAY, ["limit"])
        self.assertEqual(await deferToThread(program.finish), 0)
        self.assertIn('{"deleted": ["limit"]}', program.output)

    async def test_rpc(self) -> None:
        """ThingsBoard's own answer; and nobody's, in words."""
        found = json.loads(await self.tbgw("rpc", "getSessionLimits"))
        self.assertEqual(found["maxPayloadSize"], 65536)
        self.assertIn("no JSON", await self.tbgw("rpc", "m", "{x", status=1))

    async def test_claim(self) -> None:
        """The gateway and a device behind it; the secret comes from a file and then fits."""
        self.control.create("Child")
        secret = self.folder.path / "secret"
        secret.write_text("s3cret\n")
        for device, options in ((GATEWAY, []), ("Child", ["--device", "Child"])):
            output = await self.tbgw("claim", "--secret-file", str(secret), "--duration", "60", *options)
            self.assertIn("has taken the claim", output)
            self.assertEqual(self.control.claim(device, "somebody", "s3cret"), "SUCCESS")

    async def test_faults(self) -> None:
        """A wrong token, nobody there, a broken configuration: one line each, status 1, no secret."""
        self.configure(security={"accessToken": "canary-wrong"})
        output = await self.tbgw("telemetry", "a=1", status=1)
        self.assertIn("refused the credentials", output)
        self.assertNotIn("canary", output)
        self.assertEqual(len(output.splitlines()), 1)
        self.configure(port=1, security={"accessToken": self.token})
        self.assertIn("no session with ThingsBoard", await self.tbgw("telemetry", "a=1", status=1))
        self.configure(security={})
        self.assertIn("tbgw check", await self.tbgw("telemetry", "a=1", status=1))

    async def test_while_the_gateway_runs(self) -> None:
        """The gateway's session is left alone, unless that is asked for."""
        gateway = self.gateway()
        await self.line(gateway, "connected to ThingsBoard")
        output = await self.tbgw("telemetry", "a=1", status=1)
        self.assertIn("the gateway is running", output)
        await self.tbgw("telemetry", "a=2", "--take-over")
        self.assertEqual(str(self.latest(GATEWAY)["a"]), "2")
        await self.line(gateway, "another one came with the same credentials")
        await self.stop(gateway)

    async def test_provision(self) -> None:
        """What is kept is told without its secret; --again forgets it."""
        self.assertIn("no credentials are kept", await self.tbgw("provision"))
        self.assertIn("no provisioning", await self.tbgw("provision", "--again", status=1))
        kept = self.folder.path / "credentials.json"
        kept.write_text(
            json.dumps(
                {
                    "status": "SUCCESS",
                    "credentialsType": "ACCESS_TOKEN",
                    "credentialsValue": self.token,
                    "deviceName": "Gate",
                }
            )
        )
        os.chmod(kept, 0o600)
        self.assertEqual((await self.tbgw("provision")).splitlines(), ["type: ACCESS_TOKEN", "device: Gate"])
        self.configure(provisioning={"provisionDeviceKey": "k1", "provisionDeviceSecret": "s1"})
        await self.tbgw("telemetry", "a=3")
        self.assertEqual(str(self.latest(GATEWAY)["a"]), "3")
        self.assertIn("forgotten", await self.tbgw("provision", "--again"))
        self.assertFalse(kept.exists())
        self.assertIn("not provisioned yet", await self.tbgw("telemetry", "a=1", status=1))
