"""twistd's face: what happens before the gateway is made."""

from __future__ import annotations

import gc
import io
import sys

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from tbgw.configfolder import WAITING, ConfigFolder
from tbgw.tap import Options, collect_garbage_seldom
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


class GarbageTests(SynchronousTestCase):
    """What it sets for the process."""

    def setUp(self) -> None:
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(700, 10, 10)

    def test_seldom(self) -> None:
        """Everything is looked at after millions of objects, and young garbage still after thousands."""
        collect_garbage_seldom()
        young, middle, old = gc.get_threshold()
        self.assertTrue(700 < young <= 10_000)
        self.assertGreater(young * middle * old, 1_000_000)
        self.assertTrue(gc.isenabled())
