"""What the crash tests share: how many rounds, folders, the driver as a process, loop mounts, and who listens."""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tbgw.spool.contract import Store
from tbgw.spool.file import FileStore
from tbgw.spool.store import SqliteStore
from tests.crash.ledger import Id, Ledger, ids_in
from tests.programs import SECONDS, Program, mosquitto_sub

LONG = os.environ.get("TBGW_CRASH") == "long"
ROOT = Path(__file__).parent.parent.parent

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2
"""Flag of that ioctl: what is in the journal's memory is lost too, as when the power is cut."""


def rounds(short: int, long: int) -> int:
    """How many rounds a test goes in this run."""
    return long if LONG else short


def say(test: SynchronousTestCase, text: str) -> None:
    """What a long run found, for whoever reads along."""
    if LONG:
        print(f"    {test.id().split('.', 2)[-1]}: {text}", flush=True)


class Driver:
    """`tests.crash.driver` as a process; `ids` is what it has said so far."""

    def __init__(self, test: SynchronousTestCase, folder: CrashFolder, first: int, *options: str) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process, see `kill`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.driver", str(folder.etc), str(folder.data), str(first), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        )
        self.ids: list[Id] = []
        self._rest = b""
        self._ended = self._ready = False
        test.addCleanup(self.kill)

    def read(self, count: int, seconds: float = SECONDS) -> None:
        """Read on until `count` ids came in all; fails when they do not come."""
        self._read(count, seconds)
        if len(self.ids) < count:
            raise AssertionError(f"{len(self.ids)} of {count} ids; the driver says:\n{self.log}")

    def read_for(self, seconds: float) -> None:
        """Read whatever comes in this time."""
        self._read(sys.maxsize, seconds)

    def finish(self, seconds: float = SECONDS) -> int:
        """Read to the end of a driver that ends by itself; its exit status."""
        self._read(sys.maxsize, seconds)
        return self.process.wait(seconds)

    def _read(self, count: int, seconds: float) -> None:
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        descriptor = self.process.stdout.fileno()
        while (len(self.ids) < count or (count == 0 and not self._ready)) and not self._ended:
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return
            chunk = os.read(descriptor, 65536)
            self._ended = not chunk
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                if line == b"ready":
                    self._ready = True
                    continue
                device, number = line.split()
                self.ids.append((device.decode(), int(number)))

    def kill(self) -> None:
        """SIGKILL; what it had said by then is in `ids`."""
        if self.process.stdout is None or self.process.stdout.closed:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.finish()
        self.process.stdout.close()
        self._log = self.log
        self.errors.close()

    def stop(self) -> int:
        """SIGTERM, once it is up; the exit status."""
        self._read(0, SECONDS)
        self.process.terminate()
        return self.finish()

    @property
    def log(self) -> str:
        """Its log lines."""
        if self.errors.closed:
            return self._log
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode("utf-8", "replace")


class CrashFolder:
    """A configuration without connectors, and the place of the store."""

    def __init__(self, test: SynchronousTestCase, kind: str = "sqlite", store: Path | None = None) -> None:
        self.test = test
        self.kind = kind
        path = Path(test.mktemp()).absolute()
        self.etc, self.data = path / "etc", path / "data"
        self.etc.mkdir(parents=True)
        self.data.mkdir()
        self.store = store or self.data / "store"

    def configure(self, mqtt_port: int, mqtt_version: str = "auto", **storage: Any) -> None:
        """Point it at this broker."""
        content = {
            "thingsboard": {
                "host": "127.0.0.1",
                "port": mqtt_port,
                "mqttVersion": mqtt_version,
                "keep_alive": 5,
                "minPackSendDelayMS": 1,
                "security": {"type": "accessToken", "accessToken": "a1b2c3"},
            },
            "storage": {
                "type": self.kind,
                "data_folder_path" if self.kind == "file" else "data_file_path": str(self.store) + "/",
                **storage,
            },
            "connectors": [],
        }
        (self.etc / "tb_gateway.json").write_text(json.dumps(content))

    def driver(self, first: int, *options: str) -> Driver:
        """Start one; `first` below zero only delivers."""
        return Driver(self.test, self, first, *options)

    def stored(self) -> list[Id]:
        """The ids in the store, oldest first, as the next start will find them. Nobody may have it open."""
        store = self.open()
        found: list[Id] = []
        after = 0
        while rows := store.fetch(after, 1 << 20, 0).rows:
            after = rows[-1].seq
            for row in rows:
                if row.topic == "v1/gateway/telemetry":
                    found += ids_in(row.payload)
        store.close(None)
        return found

    def open(self) -> Store:
        """The store itself."""
        store: Store = FileStore(self.store) if self.kind == "file" else SqliteStore(self.store / "spool.db")
        store.open()
        return store


class Watch:
    """A subscriber at the broker that fills a ledger."""

    def __init__(self, test: SynchronousTestCase, port: int, ledger: Ledger) -> None:
        self.ledger = ledger
        self._subscriber: Program = mosquitto_sub(test, port, "v1/gateway/telemetry")

    def until_all(self, seconds: float = SECONDS) -> None:
        """Until everything that was accepted has arrived; `Ledger.check` says what is missing."""
        end = time.monotonic() + seconds
        while self.ledger.lost and time.monotonic() < end:
            try:
                line = self._subscriber.take(1, max(0.1, end - time.monotonic()))[0]
            except AssertionError:
                return
            topic, _, payload = line.partition(" ")
            if topic == "v1/gateway/telemetry":
                self.ledger.arrive(ids_in(payload))


class Ext4:
    """A small ext4 in a file, loop-mounted, whose power can be cut."""

    def __init__(self, test: SynchronousTestCase, mebibytes: int = 64) -> None:
        base = Path(test.mktemp()).absolute()
        self.path = base / "mount"
        self.path.mkdir(parents=True)
        self._image = base / "image"
        with self._image.open("wb") as file:
            file.truncate(mebibytes << 20)
        if os.getuid() != 0:
            raise SkipTest("a power cut needs root, for a loop mount and the ioctl that cuts it")
        self._run("mkfs.ext4", "-q", "-F", str(self._image))
        self._mounted = False
        self.mount()
        test.addCleanup(self.unmount)

    @staticmethod
    def _run(*command: str) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        try:
            ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
        except FileNotFoundError:
            raise SkipTest(f"{command[0]} is not installed") from None
        if ran.returncode:
            raise SkipTest(f"{' '.join(command)} is not allowed here: {ran.stderr.strip()}")

    def mount(self) -> None:
        """As the next boot would: the journal is replayed."""
        self._run("mount", "-o", "loop", str(self._image), str(self.path))
        self._mounted = True

    def unmount(self) -> None:
        """Nobody may have a file open on it."""
        if self._mounted:
            subprocess.run(["umount", str(self.path)], check=True, capture_output=True)
            self._mounted = False

    def cut(self) -> None:
        """From now on nothing reaches the image, and every access fails with EIO."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        except OSError as error:
            raise SkipTest(f"EXT4_IOC_SHUTDOWN is not allowed here: {error}") from error
        finally:
            os.close(descriptor)


class Tmpfs:
    """A file system of a given size."""

    def __init__(self, test: SynchronousTestCase, options: str) -> None:
        self.path = Path(test.mktemp()).absolute()
        self.path.mkdir(parents=True)
        try:
            made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path)], capture_output=True)
        except FileNotFoundError:
            raise SkipTest("mount is not installed") from None
        if made.returncode:
            raise SkipTest("mounting a tmpfs is not allowed here")
        test.addCleanup(subprocess.run, ["umount", "-l", str(self.path)], check=True)

    def grow(self, options: str) -> None:
        """Give it more room."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)
