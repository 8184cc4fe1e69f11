"""The registry of known devices: both forms of the file, damage, and writing that a power cut cannot spoil."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import Device
from tbgw.pipeline import devices
from tbgw.pipeline.devices import DeviceRegistry


class Killed(BaseException):
    """Stands for the end of the process at this very step."""


class Base(SynchronousTestCase):
    """A registry in a folder of its own."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "connected_devices.json"

    def registry(self) -> DeviceRegistry:
        registry = DeviceRegistry(self.path)
        self.assertEqual(registry.load(), [])
        return registry

    def written(self, content: object) -> DeviceRegistry:
        """A registry from a file with this content."""
        self.path.write_text(json.dumps(content))
        return self.registry()


class RegistryTests(Base):
    """What it knows."""

    def test_no_file(self):
        """Without a file there are no devices, and no fault."""
        registry = self.registry()
        self.assertEqual((len(registry), list(registry.present()), registry.dirty), (0, [], False))

    def test_seen(self):
        """The first word of a device makes it known; later ones change nothing."""
        registry = self.registry()
        device = Device("A", "thermo", "Line 4", "socket")
        self.assertTrue(registry.seen(device))
        self.assertTrue(registry.dirty)
        registry.snapshot()
        self.assertFalse(registry.seen(device))
        self.assertFalse(registry.dirty)
        self.assertIn("A", registry)
        self.assertEqual(registry.profile("A"), "thermo")
        self.assertEqual(registry.profile("unknown"), "default")

    def test_gone_and_back(self):
        """A device that went away is not among those present, until it speaks again."""
        registry = self.registry()
        a, b = Device("A"), Device("B")
        registry.seen(a)
        registry.seen(b)
        registry.snapshot()
        registry.gone("A")
        self.assertTrue(registry.stale)
        self.assertEqual(list(registry.present()), ["B"])
        flags = {name: entry["disconnected"] for name, entry in json.loads(registry.snapshot()).items()}
        self.assertEqual(flags, {"A": True, "B": False})
        registry.gone("A")
        registry.gone("unknown")
        self.assertFalse(registry.stale)
        self.assertFalse(registry.seen(a))
        self.assertTrue(registry.stale)
        self.assertEqual(list(registry.present()), ["A", "B"])
        self.assertIs(json.loads(registry.snapshot())["A"]["disconnected"], False)
        self.assertFalse(registry.dirty, "who is connected need not be on disk before the next row")

    def test_a_file_that_cannot_be_read_is_left_alone(self):
        """What may be read another day is not overwritten today."""
        registry = self.registry()
        registry.path.mkdir()
        (fault,) = registry.load()
        self.assertIn("left as it is", fault)
        registry.seen(Device("A"))
        registry.gone("A")
        self.assertEqual((registry.dirty, registry.stale), (False, False))
        self.assertIn("A", registry)

    def test_changes_are_noted(self):
        """Another connector or another profile in the configuration makes the file due for writing."""
        registry = self.registry()
        registry.seen(Device("A", "thermo", "Line 4"))
        for device in (Device("A", "thermo", "Line 5"), Device("A", "boiler", "Line 5")):
            registry.snapshot()
            self.assertFalse(registry.seen(device))
            self.assertTrue(registry.dirty)
        entry = json.loads(registry.snapshot())["A"]
        self.assertEqual((entry["connectorName"], entry["deviceType"]), ("Line 5", "boiler"))
        self.assertEqual(registry.profile("A"), "boiler")

    def test_round_trip(self):
        """What was written is known after a restart, with odd names too."""
        registry = self.registry()
        for name in ("A", 'say "B"', "温度", "line\nend", "lone \ud800"):
            registry.seen(Device(name, "prof é", "Line 4"))
        registry.gone("A")
        registry.write(registry.snapshot())
        again = self.registry()
        self.assertEqual(len(again), 5)
        self.assertEqual(sorted(again.present()), sorted(registry.present()))
        self.assertEqual(again.profile("温度"), "prof é")
        self.assertEqual(again.snapshot(), registry.snapshot())


class FormTests(Base):
    """The forms that the reference writes."""

    def test_present_form(self):
        """An object for each device; fields that we do not know are kept."""
        entry = {
            "connectorName": "Line 4",
            "deviceType": "thermo",
            "connectorId": "c-1",
            "renaming": "new name",
            "disconnected": False,
            "futureField": {"x": [1]},
        }
        registry = self.written({"A": entry, "B": {"deviceType": None, "disconnected": True}})
        self.assertEqual((registry.profile("new name"), registry.profile("B")), ("thermo", "default"))
        self.assertEqual(list(registry.present()), ["new name"])
        registry.write(registry.snapshot())
        content = json.loads(self.path.read_bytes())
        self.assertEqual(content["A"], entry)
        self.assertIs(content["B"]["disconnected"], True)

    def test_own_form(self):
        """What we write has every field that the reference reads."""
        registry = self.registry()
        registry.seen(Device("A", "thermo", "Line 4"))
        self.assertEqual(
            json.loads(registry.snapshot()),
            {
                "A": {
                    "connectorName": "Line 4",
                    "deviceType": "thermo",
                    "connectorId": None,
                    "renaming": None,
                    "disconnected": False,
                }
            },
        )

    def test_older_form(self):
        """A list for each device: connector, profile, and perhaps a new name."""
        registry = self.written({"A": ["Line 4", "thermo"], "B": ["Line 5", "boiler", "new name"]})
        self.assertEqual((registry.profile("A"), registry.profile("new name")), ("thermo", "boiler"))
        content = json.loads(registry.snapshot())
        self.assertEqual((content["A"]["connectorName"], content["A"]["renaming"]), ("Line 4", None))
        self.assertEqual((content["B"]["connectorName"], content["B"]["renaming"]), ("Line 5", "new name"))

    def test_entries_that_are_not_understood(self):
        """Such an entry is told and left out; the others are kept, and the file stays where it is."""
        bad = {
            "B": 5,
            "C": None,
            "D": [],
            "E": ["Line 4"],
            "F": [None, "thermo", "new name"],
            "G": {"deviceType": 5},
            "H": {"connectorName": ["x"]},
            "": {},
            " ": {},
            "x" * 256: {},
        }
        self.path.write_text(json.dumps({"A": {}, **bad}))
        registry = DeviceRegistry(self.path)
        faults = registry.load()
        self.assertEqual(len(faults), len(bad))
        self.assertTrue(all(str(self.path) in fault for fault in faults))
        self.assertEqual(list(registry.present()), ["A"])
        self.assertTrue(self.path.exists())


class DamageTests(Base):
    """Files that are not usable."""

    def check_aside(self, content: bytes) -> None:
        self.path.write_bytes(content)
        registry = DeviceRegistry(self.path)
        (fault,) = registry.load()
        self.assertIn(str(self.path), fault)
        self.assertEqual(len(registry), 0)
        self.assertEqual((self.folder / "connected_devices.json.corrupt").read_bytes(), content)
        self.assertFalse(self.path.exists())

    def test_moved_aside(self):
        """What is no JSON object is moved aside, whole, so that the next write does not destroy it."""
        for content in (b"", b"{", b'{"A": {}', b"[]", b"5", b"\xff\xfe\x00", b"\x00" * 100, b"[" * 100_000):
            self.check_aside(content)

    def test_every_truncation(self):
        """A file that was cut off at any byte, as the reference leaves it, is moved aside and never half read."""
        registry = self.registry()
        registry.seen(Device("A"))
        content = registry.snapshot()
        for length in range(len(content) - 1):
            self.check_aside(content[:length])

    def test_too_large(self):
        """A file beyond the cap is not read, and not destroyed either."""
        with mock.patch.object(devices, "MAX_FILE_BYTES", 10):
            self.check_aside(b'{"A": {}, "B": {}}')

    def test_cannot_be_moved(self):
        """When even moving it aside fails, that is a fault in words and no crash."""
        self.path.write_bytes(b"{")
        with mock.patch("os.replace", side_effect=PermissionError(13, "Permission denied")):
            (fault,) = DeviceRegistry(self.path).load()
        self.assertIn("Permission denied", fault)

    def test_cannot_be_read(self):
        """A file that cannot be read, here a folder, is a fault in words."""
        self.path.mkdir()
        (fault,) = DeviceRegistry(self.path).load()
        self.assertIn(str(self.path), fault)


class WriteTests(Base):
    """`write`."""

    STEPS = ("os.open", "os.fchmod", "os.fdopen", "os.fsync", "os.replace")

    def test_killed_between_steps(self):
        """Whatever step is the last, the file is the old one or the new one, and the next write works."""
        for step in self.STEPS:
            for before in (True, False):
                with self.subTest(step=step, before=before):
                    self.path.write_bytes(b'{"old": {}}')
                    real = {name: getattr(os, name[3:]) for name in self.STEPS}[step]

                    def die(*args, real=real, before=before, **kwargs):
                        if not before:
                            real(*args, **kwargs)
                        raise Killed

                    registry = DeviceRegistry(self.path)
                    with mock.patch(step, die):
                        self.assertRaises(Killed, registry.write, b'{"new": {}}')
                    self.assertIn(self.path.read_bytes(), (b'{"old": {}}', b'{"new": {}}'))
                    registry.write(b'{"newest": {}}')
                    self.assertEqual(self.path.read_bytes(), b'{"newest": {}}')
                    self.assertEqual([entry.name for entry in self.folder.iterdir()], [self.path.name])

    def test_synced_before_it_takes_the_place(self):
        """The content is on disk before the rename, and the rename before `write` returns."""
        steps: list[str] = []

        def noting(name, real):
            def call(*args, **kwargs):
                steps.append(name)
                return real(*args, **kwargs)

            return call

        registry = DeviceRegistry(self.path)
        with mock.patch("os.fsync", noting("fsync", os.fsync)), mock.patch("os.replace", noting("replace", os.replace)):
            registry.write(b"{}")
        self.assertEqual(steps, ["fsync", "replace", "fsync"])

    def test_mode(self):
        """The file is 0600, whatever the umask, and whatever a leftover was (P-13)."""
        leftover = self.folder / "connected_devices.json.new"
        for umask in (0, 0o022, 0o077, 0o277, 0o777):
            leftover.write_bytes(b"x")
            leftover.chmod(0o666)
            old = os.umask(umask)
            try:
                DeviceRegistry(self.path).write(b"{}")
            finally:
                os.umask(old)
            self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600, oct(umask))

    def test_error(self):
        """A disk that is full raises OSError, and leaves the old file."""
        self.path.write_bytes(b'{"old": {}}')
        with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
            self.assertRaises(OSError, DeviceRegistry(self.path).write, b"{}")
        self.assertEqual(self.path.read_bytes(), b'{"old": {}}')

    def test_leftover_is_not_followed(self):
        """A leftover that is a link to somewhere else is removed, not written through."""
        target = self.folder / "victim"
        target.write_bytes(b"mine")
        (self.folder / "connected_devices.json.new").symlink_to(target)
        DeviceRegistry(self.path).write(b"{}")
        self.assertEqual(target.read_bytes(), b"mine")
