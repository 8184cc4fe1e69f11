"""twistd's face: what happens before the gateway is made."""

from __future__ import annotations

import io
import sys

from twisted.python.usage import UsageError

from tbgw.configfolder import WAITING, ConfigFolder
from tbgw.tap import Options
from tests.config.fakes import TOKEN, FolderCase


class StartTests(FolderCase):
    """A start that fails."""

    def setUp(self) -> None:
        super().setUp()
        self.write("tb_gateway.json", {"thingsboard": {"host": "tb", "security": {"accessToken": TOKEN}}})
        self.said = io.StringIO()
        self.patch(sys, "stderr", self.said)

    def start(self) -> Options:
        options = Options()
        options.parseOptions(["-c", str(self.config_dir), "-d", str(self.data_dir)])
        return options

    def test_on_a_remote_change(self) -> None:
        """It is undone at once, and not after some starts: maybe nobody is there to start the gateway again."""
        folder = ConfigFolder(self.config_dir, self.data_dir)
        folder.write({"tb_gateway.json": b'{"thingsboard": {"port": 99999}}'}, 1, confirm=True)
        options = self.start()
        self.assertEqual(options.config.thingsboard.host, "tb")
        self.assertIn("is undone", self.said.getvalue())
        self.assertIn("port", self.said.getvalue())
        again = ConfigFolder(self.config_dir, self.data_dir)
        again.load()
        self.assertEqual((again.state.phase, again.state.undone), ("", ["tb_gateway.json"]))

    def test_on_a_change_of_the_machine(self) -> None:
        """That is not ours to undo."""
        self.write("tb_gateway.json", {"thingsboard": {"port": 99999}})
        self.assertRaises(UsageError, self.start)
        folder = ConfigFolder(self.config_dir, self.data_dir)
        folder.load()
        self.assertNotEqual(folder.state.phase, WAITING)
