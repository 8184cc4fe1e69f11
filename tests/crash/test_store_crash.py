"""kill -9, power cut, full disk and I/O errors: what was answered as stored is delivered, in order."""

from __future__ import annotations

import errno
import random
import re
import signal
import socket
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.ledger import Id, Ledger, ids_in
from tests.crash.rig import CrashFolder, Driver, Ext4, Tmpfs, Watch, rounds, say
from tests.programs import SECONDS, GatewayFolder, free_port, mosquitto

SEED = 20261121
STRIDE = 1_000_000
"""Distance of the numbers of two rounds: more than one round sends."""


class KillTests(SynchronousTestCase):
    """SIGKILL at random moments."""

    timeout = 900
    kind = "sqlite"

    def test_kill_while_accepting_and_delivering(self):
        """Killed again and again while it takes and delivers; everything that was answered arrives."""
        source = random.Random(SEED)
        ledger = Ledger()
        port = free_port()
        mosquitto(self, port)
        watch = Watch(self, port, ledger)
        folder = CrashFolder(self, self.kind)
        count = rounds(5, 200)
        away = free_port()
        for number in range(count):
            folder.configure(port if source.random() < 0.7 else away)  # in some rounds the broker is away
            driver = folder.driver(number * STRIDE)
            driver.read(source.randrange(1, 600))
            driver.read_for(source.random() * 0.03)
            driver.kill()
            ledger.accept(driver.ids)
        ledger.accept(folder.stored())  # committed, though the answer had no time to be printed
        folder.configure(port)
        last = folder.driver(-1)
        watch.until_all(120)
        say(self, f"{count} kills: {ledger}")
        ledger.check(count)
        self.assertEqual(last.finish(100), 0, last.log)
        self.assertEqual(folder.stored(), [])

    def test_the_harness_can_fail(self):
        """With answers given before the commit, a kill does lose: the ledger would see it."""
        source = random.Random(SEED)
        folder = CrashFolder(self, self.kind)
        folder.configure(free_port())
        for number in range(40):
            driver = folder.driver(number * STRIDE, "--early")
            driver.read(source.randrange(1, 300))
            driver.kill()
            if set(driver.ids) - set(folder.stored()):
                say(self, f"answers before the commit: lost in round {number + 1}")
                return
        self.fail("40 kills with answers before the commit, and nothing lost")


class TwistdKillTests(SynchronousTestCase):
    """SIGKILL of the whole `twistd tbgw` under TCP load."""

    timeout = 900

    def test_kill(self):
        """
        What the store held at the kill, and all that came before it, arrives; each line without a gap. Plain TCP has no
        answer, so accepted is what was committed.
        """
        source = random.Random(SEED)
        ledger = Ledger()
        mqtt, tcp = free_port(), free_port()
        mosquitto(self, mqtt)
        watch = Watch(self, mqtt, ledger)
        own = CrashFolder(self)
        folder = GatewayFolder(self)
        self.configure(folder, own, mqtt, tcp)
        count = rounds(2, 30)
        for number in range(count):
            gateway = folder.start()
            sent = Sender(tcp, number)
            sent.wait(source.randrange(50, 4000))
            gateway.kill()
            sent.stop()
            ledger.accept(own.stored())
        last = folder.start()
        watch.until_all(60)
        say(self, f"{count} kills of twistd: {ledger}")
        ledger.check(count)
        for number in range(count):
            for letter in "abcd":
                line = [n for own_line, n in ledger.arrived if own_line == f"{letter}{number:03d}"]
                self.assertEqual(sorted(line), list(range(len(line))))
        self.assertEqual(last.stop(), -signal.SIGTERM)

    def configure(self, folder: GatewayFolder, own: CrashFolder, mqtt: int, tcp: int) -> None:
        """A TCP connector for lines `a0000012345`: line, then number."""
        security = {"type": "accessToken", "accessToken": "a1b2c3"}
        content = {
            "thingsboard": {"host": "127.0.0.1", "port": mqtt, "security": security},
            "storage": {"type": "sqlite", "data_file_path": str(own.store) + "/"},
            "connectors": [{"type": "socket", "name": "TCP", "configuration": "tcp.json"}],
        }
        folder.write("tb_gateway.json", content)
        telemetry = [{"key": "line", "byteFrom": 0, "byteTo": 4}, {"key": "n", "byteFrom": 4, "byteTo": 10}]
        device = {"address": "*:*", "deviceName": "Lines", "encoding": "utf-8", "telemetry": telemetry}
        framing = {"type": "delimiter", "delimiter": "\n"}
        listener = {"type": "TCP", "address": "127.0.0.1", "port": tcp, "bufferSize": 1024, "framing": framing}
        folder.write("tcp.json", {"socket": listener, "devices": [{**device, "attributes": []}]})


class Sender:
    """Four TCP connections that send as fast as they are read, until the gateway dies."""

    def __init__(self, port: int, number: int) -> None:
        self._links = [socket.create_connection(("127.0.0.1", port), timeout=SECONDS) for _ in range(4)]
        self._number = number
        self._sent = 0
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for count in range(20_000):
                for letter, link in zip("abcd", self._links, strict=True):
                    link.sendall(f"{letter}{self._number:03d}{count:06d}\n".encode())
                if count % 10 == 0:
                    time.sleep(0.001)  # a device's pace, so that there is a middle to be killed in
                with self._moved:
                    self._sent += 4
                    self._moved.notify()
        except OSError:
            return

    def wait(self, count: int) -> None:
        """Until so many were sent."""
        with self._moved:
            if not self._moved.wait_for(lambda: self._sent >= count, SECONDS):
                raise AssertionError(f"only {self._sent} of {count} sent")

    def stop(self) -> None:
        """The gateway is gone."""
        for link in self._links:
            link.close()
        self._thread.join(SECONDS)


class PowerCutTests(SynchronousTestCase):
    """A file system that stops in the middle, without its journal's last entries."""

    timeout = 900
    kind = "sqlite"

    def cut(self, disk: Ext4, folder: CrashFolder, first: int, source: random.Random, *options: str) -> Ledger:
        """One round; a ledger with what was answered, and with what the store has after the next boot."""
        driver = folder.driver(first, *options)
        driver.read(source.randrange(1, 500))
        driver.read_for(0.001 + source.random() * 0.02)
        ledger = Ledger()
        ledger.accept(self.power_cut(disk, driver))
        ledger.arrive(folder.stored())
        return ledger

    def power_cut(self, disk: Ext4, driver: Driver) -> list[Id]:
        """
        Cut the power; the ids that were answered before. A real cut ends the process in the same instant. Here it
        goes on for some milliseconds, and an fsync that is under way in the kernel while the file system goes down can
        come back without an error: what was answered then was answered after the end.
        """
        answered = len(driver.ids)
        disk.cut()
        driver.kill()
        disk.unmount()
        disk.mount()
        return driver.ids[:answered]

    def test_power_cut(self):
        """Everything that was answered as stored is in the store after each power cut, and is delivered in order."""
        source = random.Random(SEED)
        disk = Ext4(self)
        folder = CrashFolder(self, self.kind, disk.path / "store")
        away = free_port()
        port = free_port()
        mosquitto(self, port)
        ledger = Ledger()
        watch = Watch(self, port, ledger)
        count = rounds(2, 50)
        for number in range(count):
            folder.configure(away)
            found = self.cut(disk, folder, number * STRIDE, source)
            assert not found.lost, f"round {number}: {found}"
            assert not found.disorder
            assert not found.duplicates
            ledger.accept(found.accepted)
            if number % 5 == 1:  # deliver, and cut the power in the middle of the deletes
                folder.configure(port)
                driver = folder.driver(number * STRIDE + STRIDE // 2)
                driver.read(source.randrange(50, 500))
                ledger.accept(self.power_cut(disk, driver))
        ledger.accept(folder.stored())  # committed, though the answer had no time to be printed
        folder.configure(port)
        last = folder.driver(-1)
        watch.until_all(120)
        say(self, f"{count + (count + 3) // 5} power cuts: {ledger}")
        ledger.check(count)
        self.assertEqual(last.finish(100), 0, last.log)
        self.assertEqual(folder.stored(), [])

    def test_the_harness_can_fail(self):
        """The same cut with SQLite's sync left out loses rows: the cut is real."""
        disk = Ext4(self)
        source = random.Random(SEED)
        outcomes = {}
        for level in ("OFF", "NORMAL"):
            folder = CrashFolder(self, self.kind, disk.path / level)
            folder.configure(free_port())
            losing = 0
            for number in range(rounds(1, 10)):
                losing += bool(self.cut(disk, folder, number * STRIDE, source, "--synchronous", level).lost)
            outcomes[level] = losing
        say(self, f"rounds of {rounds(1, 10)} that lost, by synchronous: {outcomes}")
        self.assertTrue(all(outcomes.values()), outcomes)


class ErrorTests(SynchronousTestCase):
    """The disk is full, or fails: said once, the process ends with a failure, and the store opens again."""

    timeout = 120
    kind = "sqlite"

    def again(self, folder: CrashFolder, ledger: Ledger, words: str, log: str) -> None:
        """The failure was said once; the next start delivers everything that was answered, and takes new data."""
        self.assertEqual(len(re.findall(words, log)), 1, log)
        self.assertNotIn("Traceback", log)
        port = free_port()
        mosquitto(self, port)
        watch = Watch(self, port, ledger)
        folder.configure(port)
        driver = folder.driver(STRIDE)
        driver.read(100)
        self.assertEqual(driver.stop(), 0, driver.log)
        ledger.accept(driver.ids)
        watch.until_all()
        say(self, str(ledger))
        ledger.check(1)

    def test_full_disk(self):
        """A tmpfs of 1 MiB is filled to the brim; with more room the gateway goes on."""
        disk = Tmpfs(self, "size=1m")
        folder = CrashFolder(self, self.kind, disk.path / "store")
        folder.configure(free_port())
        driver = folder.driver(0, "--padding", "200")
        self.assertEqual(driver.finish(), 1, driver.log)
        self.assertGreater(len(driver.ids), 300)
        ledger = Ledger()
        ledger.accept(driver.ids)
        log = driver.log
        disk.grow("size=16m")
        self.again(folder, ledger, "disk full", log)

    def test_input_output_error(self):
        """A file system that answers EIO from the kernel to every write."""
        disk = Ext4(self, 16)
        folder = CrashFolder(self, self.kind, disk.path / "store")
        folder.configure(free_port())
        driver = folder.driver(0)
        driver.read(200)
        disk.cut()
        self.assertEqual(driver.finish(), 1, driver.log)
        ledger = Ledger()
        ledger.accept(driver.ids)
        log = driver.log
        disk.unmount()
        disk.mount()
        self.again(folder, ledger, "The store broke.*([Ii]nput/output error|read-only)", log)


class FullDiskTests(SynchronousTestCase):
    """A full disk that nobody makes larger: the restart delivers what there is, once, and goes on."""

    timeout = 120

    def filled(self, disk: Tmpfs, other: bool) -> tuple[CrashFolder, Ledger]:
        """A store that ended on a full disk; filled by itself, or by another program."""
        folder = CrashFolder(self, "sqlite", disk.path / "store")
        folder.configure(free_port())
        driver = folder.driver(0, "--padding", "200")
        if other:
            driver.read(3000)
            fill(disk.path / "other")
        self.assertEqual(driver.finish(), 1, driver.log)
        self.assertEqual(driver.log.count("disk full"), 1, driver.log)
        ledger = Ledger()
        ledger.accept(driver.ids)
        return folder, ledger

    def freed(self, other: bool) -> None:
        """The next start delivers all of it, takes new data and does not end."""
        disk = Tmpfs(self, "size=3m")
        folder, ledger = self.filled(disk, other)
        port = free_port()
        mosquitto(self, port)
        watch = Watch(self, port, ledger)
        folder.configure(port)
        driver = folder.driver(STRIDE)
        driver.read(100)
        self.assertEqual(driver.stop(), 0, driver.log)
        ledger.accept(driver.ids)
        watch.until_all()
        ledger.check(0)

    def test_filled_by_the_store(self):
        """Its own rows took the room."""
        self.freed(other=False)

    def test_filled_by_another(self):
        """Another program took the room, and keeps it."""
        self.freed(other=True)

    def test_away_broker(self):
        """Without a broker it neither ends nor takes more: said, counted, and what it has stays."""
        disk = Tmpfs(self, "size=3m")
        folder, ledger = self.filled(disk, other=False)
        driver = folder.driver(STRIDE, "--padding", "200")
        driver.read_for(3)
        self.assertIsNone(driver.process.poll(), driver.log)
        self.assertEqual(driver.stop(), 0, driver.log)
        self.assertEqual(driver.log.count("nothing is accepted until"), 1, driver.log)
        self.assertEqual(driver.ids, [])
        self.assertLessEqual(set(ledger.accepted), set(folder.stored()))


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("ab", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC


class FileKillTests(KillTests):
    """The same with the file store."""

    kind = "file"


class FilePowerCutTests(PowerCutTests):
    """The same with the file store."""

    kind = "file"


class FileErrorTests(ErrorTests):
    """The same with the file store."""

    kind = "file"


class LedgerTests(SynchronousTestCase):
    """The ledger itself sees what it is for."""

    def test_ids(self):
        """A payload's readings in order, by device or by line."""
        payload = '{"A":[{"ts":1,"values":{"n":3}},{"ts":2,"values":{"n":"04","line":"x"}}],"B":[{"ts":1,"values":{}}]}'
        self.assertEqual(list(ids_in(payload)), [("A", 3), ("x", 4)])

    def test_loss_order_and_duplicates(self):
        """What is missing, what is late, and what came twice."""
        ledger = Ledger()
        ledger.accept([("A", n) for n in range(5)])
        ledger.arrive([("A", 0), ("A", 1), ("A", 0), ("A", 1), ("A", 3), ("B", 0)])
        self.assertEqual(ledger.lost, {("A", 2), ("A", 4)})
        self.assertEqual((ledger.duplicates, dict(ledger.restarts), ledger.disorder), (2, {"A": 1}, []))
        self.assertRaises(AssertionError, ledger.check, 1)
        ledger.arrive([("A", 4)])
        ledger.arrive([("A", 2)])
        self.assertEqual((ledger.lost, ledger.disorder), (set(), [("A", 2)]))
        self.assertRaises(AssertionError, ledger.check, 9)

    def test_unexplained_duplicates(self):
        """More replays than breaks are a fault."""
        ledger = Ledger()
        ledger.accept([("A", 0)])
        ledger.arrive([("A", 0), ("A", 0)])
        ledger.check(1)
        self.assertRaises(AssertionError, ledger.check, 0)
