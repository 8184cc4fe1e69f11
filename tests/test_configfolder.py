"""The configuration's folder: changes that are whole or not at all, whenever the power goes."""

from __future__ import annotations

import json
import os
import stat
from functools import partial
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tbgw import configfolder as module
from tbgw.configfolder import KEPT_BACKUPS, MAX_SEEN, MAX_STARTS, STATE_FILE, WAITING, WRITING, ConfigFolder, rendered
from tbgw.errors import ConfigurationError
from tbgw.files import replace_file


class PowerCut(Exception):  # noqa: N818 - says what happens
    """The process ends here."""


class FolderTests(SynchronousTestCase):
    """`ConfigFolder` on a real folder."""

    def setUp(self) -> None:
        self.config_dir, self.data_dir = Path(self.mktemp()), Path(self.mktemp())
        self.config_dir.mkdir()
        self.data_dir.mkdir()
        self.write("tb_gateway.json", {"connectors": [{"name": "Line", "configuration": "line.json"}]})
        self.write("line.json", {"port": 1})
        self.now_ms = 1_700_000_000_000

    def write(self, name: str, content: object) -> None:
        (self.config_dir / name).write_text(json.dumps(content))

    def folder(self) -> ConfigFolder:
        """As a new process sees it."""
        folder = ConfigFolder(self.config_dir, self.data_dir)
        self.assertEqual(folder.load(), "")
        return folder

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.config_dir.iterdir() if path.is_file()}

    def change(self, folder: ConfigFolder, confirm: bool = False, **files: object) -> None:
        self.now_ms += 1000
        contents = {f"{name}.json": rendered(content) for name, content in files.items()}
        folder.write(contents, self.now_ms, confirm)

    def test_a_power_cut_anywhere(self) -> None:
        """Cut before each single step of the disk, the folder is as before or as after once it is started again."""
        before = self.files()
        after = {"tb_gateway.json": rendered({"x": 2}).decode(), "line.json": rendered({"port": 2}).decode(),
                 "new.json": rendered({}).decode()}
        seen = set()
        for step in range(40):
            for name in set(self.files()) - set(before):
                (self.config_dir / name).unlink()
            for name, content in before.items():
                (self.config_dir / name).write_text(content)
            (self.data_dir / STATE_FILE).unlink(missing_ok=True)
            count = 0

            def cut(real: object, *arguments: object, step: int = step) -> object:
                nonlocal count
                count += 1
                if count > step:
                    raise PowerCut
                return real(*arguments)  # type: ignore[operator] # a function of os

            with (
                mock.patch("os.replace", partial(cut, os.replace)),
                mock.patch("os.fsync", partial(cut, os.fsync)),
            ):
                try:
                    self.change(self.folder(), tb_gateway={"x": 2}, line={"port": 2}, new={})
                    done = True
                except PowerCut:
                    done = False
            self.folder().recover()
            found = {name: text for name, text in self.files().items() if not name.endswith(".new")}
            self.assertIn(found, [before, after])
            seen.add("after" if found == after else "before")
            if done:
                self.assertEqual(found, after)
                break
        else:
            self.fail("it never came to an end")
        self.assertEqual(seen, {"before", "after"})

    def test_an_error_of_the_disk(self) -> None:
        """A file that cannot be written leaves all as it was, and says so."""
        before = self.files()
        real = replace_file

        def full(path: Path, content: bytes, mode: int = 0o600) -> None:
            if path.name == "tb_gateway.json":
                raise OSError(28, "No space left on device")
            real(path, content, mode)

        folder = self.folder()
        with mock.patch.object(module, "replace_file", full):
            self.assertRaises(OSError, self.change, folder, tb_gateway={"x": 2}, line={"port": 2})
        self.assertEqual(self.files(), before)
        self.assertEqual(self.folder().state.phase, "")

    def test_not_confirmed(self) -> None:
        """A change that is not confirmed is undone after some starts, also one on top of another; a confirmed stays."""
        before = self.files()
        folder = self.folder()
        self.change(folder, confirm=True, tb_gateway={"x": 2})
        self.change(folder, confirm=False, tb_gateway={"x": 3}, new={})
        for _ in range(MAX_STARTS):
            again = self.folder()
            self.assertEqual(again.recover(), [])
            self.assertEqual(again.state.phase, WAITING)
        (line,) = self.folder().recover()
        self.assertIn("new.json, tb_gateway.json", line)
        self.assertEqual(self.files(), before)
        folder = self.folder()
        self.change(folder, confirm=True, tb_gateway={"x": 4})
        folder.confirmed()
        self.assertEqual(self.folder().recover(), [])
        self.assertEqual(json.loads(self.files()["tb_gateway.json"]), {"x": 4})

    def test_undone_at_once(self) -> None:
        """`undo` brings back contents and rights, and takes away what is new."""
        os.chmod(self.config_dir / "line.json", 0o640)
        before = self.files()
        folder = self.folder()
        self.change(folder, confirm=True, line={"port": 9}, new={})
        self.assertEqual(stat.S_IMODE((self.config_dir / "line.json").stat().st_mode), 0o640)
        self.assertEqual(stat.S_IMODE((self.config_dir / "new.json").stat().st_mode), 0o600)
        folder.undo()
        self.assertEqual(self.files(), before)
        self.assertEqual(stat.S_IMODE((self.config_dir / "line.json").stat().st_mode), 0o640)

    def test_backups(self) -> None:
        """Ten of each file, by its whole name, and nobody else may read them."""
        folder = self.folder()
        self.write("line2.json", {})
        for number in range(KEPT_BACKUPS + 5):
            self.change(folder, line={"port": number}, line2={"n": number})
        backup = self.config_dir / "backup"
        self.assertEqual(stat.S_IMODE(backup.stat().st_mode), 0o700)
        names = sorted(path.name for path in backup.iterdir())
        self.assertEqual(len([name for name in names if name.startswith("line.backup.")]), KEPT_BACKUPS)
        self.assertEqual(len([name for name in names if name.startswith("line2.backup.")]), KEPT_BACKUPS)
        self.assertEqual({stat.S_IMODE((backup / name).stat().st_mode) for name in names}, {0o600})
        newest = json.loads((backup / names[KEPT_BACKUPS - 1]).read_text())
        self.assertEqual(newest, {"port": KEPT_BACKUPS + 3})

    def test_links(self) -> None:
        """A symbolic link is not written, and is said."""
        outside = Path(self.mktemp())
        outside.write_text("{}")
        (self.config_dir / "linked.json").symlink_to(outside)
        self.assertIn("symbolic link", self.folder().fault({"linked.json": 1}))
        self.assertEqual(self.folder().fault({"line.json": 1}), "")

    def test_reading(self) -> None:
        """All files that the general one names are read, none outside; what is no JSON is said without its text."""
        self.write("tb_gateway.json", {"connectors": [{"configuration": name} for name in
                                                      ("line.json", "../x.json", "/etc/hostname", "gone.json", 5)]})
        self.assertEqual(set(self.folder().read()), {"tb_gateway.json", "line.json"})
        (self.config_dir / "line.json").write_text('{"password": "canary"')
        error = self.assertRaises(ConfigurationError, self.folder().read)
        self.assertNotIn("canary", str(error))

    def test_state(self) -> None:
        """What was seen outlives a restart, bounded; a damaged file is begun anew."""
        folder = self.folder()
        folder.note({f"a{number}": (number, "x") for number in range(MAX_SEEN + 10)}, carried_out=True)
        folder.note({"é": (5, "y")}, carried_out=False)
        folder.save()
        again = self.folder().state
        self.assertEqual(len(again.seen), MAX_SEEN)
        self.assertEqual(again.seen["é"], (5, "y"))
        self.assertNotIn("é", again.shown)
        self.assertEqual(again.shown[f"a{MAX_SEEN + 9}"], MAX_SEEN + 9)
        for content in ("", "[]", '{"seen":{}}', '{"seen":{},"shown":{},"undo":{},"phase":"x","starts":1}'):
            (self.data_dir / STATE_FILE).write_text(content)
            broken = ConfigFolder(self.config_dir, self.data_dir)
            self.assertIn("not usable", broken.load())
            self.assertEqual((broken.state.phase, WRITING), ("", "writing"))

    def test_any_text(self) -> None:
        """Half of a surrogate pair in a value can be written, too."""
        self.assertEqual(json.loads(rendered({"x": "\ud800é"})), {"x": "\ud800é"})
