"""Tests of `tbgw check`, run as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.config.fakes import TOKEN, FolderCase

ROOT = Path(__file__).resolve().parent.parent.parent

NO_NETWORK = """
import sys
def forbid(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
    if writes or event.startswith("socket."):
        sys.exit(99)
sys.addaudithook(forbid)
"""


RUN = "import sys; from tbgw.cli.main import main; sys.exit(main(sys.argv[1:]))\n"


def tbgw(*arguments: str, code: str = RUN, **environ: str) -> tuple[int, str]:
    """Run the command in a process of its own; its exit status, and what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TB_GW_")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments],
        env={**clean, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environ},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


class CheckTests(FolderCase):
    """What it prints, and its exit status."""

    def check(self, *arguments: str, **environ: str) -> tuple[int, list[str]]:
        folders = ("-c", str(self.config_dir), "-d", str(self.data_dir))
        status, output = tbgw("check", *folders, *arguments, code=RUN, **environ)
        return status, output.splitlines()

    def test_good(self):
        """A good folder is one line and status 0."""
        self.write_gateway()
        self.assertEqual(self.check(), (0, [f"{self.config_dir}: good; connectors: none"]))

    def test_faults(self):
        """Faults of all files are printed, each with file, line and key; the status is 1."""
        self.write("socket.json", {"socket": {"port": 0}, "devices": [{"addressFilter": "1.2.3:*", "deviceName": "x"}]})
        self.write_gateway(
            storage={"type": "sqlit"},
            connectors=[{"type": "socket", "name": "Line 4", "configuration": "socket.json"}],
        )
        status, lines = self.check()
        folder = self.config_dir
        self.assertEqual(status, 1)
        self.assertEqual(lines[0], "faults:")
        self.assertEqual(lines[1], f"{folder}/socket.json:3: socket.port: is 0, must be a whole number from 1 to 65535")
        self.assertTrue(lines[2].startswith(f"{folder}/socket.json:7: devices[0].addressFilter: "), lines[2])
        self.assertEqual(
            lines[3],
            f'{folder}/tb_gateway.json:9: storage.type: is "sqlit", must be one of sqlite, memory, file; '
            "did you mean sqlite?",
        )
        self.assertEqual(lines[-1], f"{folder}: 3 faults; the gateway does not start with it")

    def test_strict(self):
        """An unknown key is a warning, and with --strict a fault."""
        self.write_gateway(storage={"max_bytes": 1})
        line = f"{self.config_dir}/tb_gateway.json:9: storage.max_bytes: unknown key; did you mean maxBytes?"
        status, lines = self.check()
        self.assertEqual((status, lines[:2]), (0, ["warnings:", line]))
        status, lines = self.check("--strict")
        self.assertEqual((status, lines[:2]), (1, ["faults:", line]))
        self.assertIn("the gateway would start", lines[-1])

    def test_strict_leaves_warnings(self):
        """What is a risk and no slip stays a warning under --strict."""
        self.write_gateway(connectors=[{"type": "mqtt", "name": "Broker", "configuration": "mqtt.json"}])
        status, lines = self.check("--strict")
        self.assertEqual((status, lines[0]), (0, "warnings:"))

    def test_environment(self):
        """The environment counts as at a start, and its faults name the variable."""
        self.write_gateway()
        status, lines = self.check(TB_GW_PORT="http")
        self.assertEqual(status, 1)
        self.assertEqual(
            lines[1],
            "environment variable TB_GW_PORT: thingsboard.port: is a text, must be a whole number from 1 to 65535",
        )

    def test_folder_from_the_environment(self):
        """Without -c the folder is the one that TB_GW_CONFIG_DIR names."""
        self.write_gateway()
        status, output = tbgw("check", TB_GW_CONFIG_DIR=str(self.config_dir))
        self.assertEqual((status, output), (0, f"{self.config_dir}: good; connectors: none\n"))

    def test_no_folder(self):
        """A folder that is not there is a fault, not a traceback."""
        status, output = tbgw("check", "-c", str(self.config_dir / "absent"))
        self.assertEqual(status, 1)
        self.assertIn("tb_gateway.json: cannot read", output)
        self.assertNotIn("Traceback", output)

    def test_secrets_are_not_printed(self):
        """Whatever is wrong, the token is not in the output (P-11)."""
        self.write(
            "tb_gateway.json", {"thingsboard": {"port": 0, "security": {"accessToken": TOKEN, "tls": "x"}}}, 0o644
        )
        status, lines = self.check("--strict")
        self.assertEqual(status, 1)
        self.assertNotIn(TOKEN, "\n".join(lines))

    def test_touches_nothing(self):
        """No socket is made, no name looked up and no file opened for writing, also with a host name and TLS."""
        (self.config_dir / "socket.json").write_text('{"devices": [{"address": "*:*", "deviceName": "x"}]}')
        self.write_gateway(
            connectors=[{"type": "socket", "name": "Line 4", "configuration": "socket.json"}], sandbox={"enabled": True}
        )
        status, output = tbgw(
            "check",
            "-c",
            str(self.config_dir),
            code=NO_NETWORK + RUN,
            TB_GW_HOST="thingsboard.cloud",
            TB_GW_PORT="8883",
        )
        self.assertEqual((status, output), (0, f"{self.config_dir}: good; connectors: Line 4 (socket)\n"))
        for touching in ("import socket; socket.socket()", "open('written', 'w')"):
            self.assertEqual(tbgw(code=NO_NETWORK + touching)[0], 99, "the watch itself does not work")

    def test_without_twisted(self):
        """The command does not import Twisted, so that it is quick on a small board."""
        self.write_gateway()
        code = (
            "import sys; from tbgw.cli.main import main; status = main(sys.argv[1:]);"
            "sys.exit(status or any(name.startswith('twisted') for name in sys.modules))"
        )
        self.assertEqual(tbgw("check", "-c", str(self.config_dir), code=code)[0], 0)


class MainTests(FolderCase):
    """The command around it."""

    def test_usage(self):
        """No subcommand and an unknown one are wrong usage, status 2."""
        self.assertEqual(tbgw()[0], 2)
        self.assertEqual(tbgw("chek")[0], 2)

    def test_version(self):
        """--version prints the version of the package."""
        from tbgw.version import VERSION

        self.assertEqual(tbgw("--version"), (0, f"tbgw {VERSION}\n"))
