"""What commands print, with real programs."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NamedTuple

from twisted.internet import reactor as real_reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.uplink.custom_statistics import MAX_OUTPUT_BYTES, CustomStatistics, as_value

reactor: Any = real_reactor


class Command(NamedTuple):
    """As in the configuration."""

    command: tuple[str, ...]
    key: str
    timeout_seconds: int = 10


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-c", code


class ProgramTests(TestCase):
    """`CustomStatistics` on the real reactor."""

    timeout = 60

    def setUp(self) -> None:
        self.said: dict[str, Any] = {}
        self.counters = Counters()

    def statistics(self, *commands: Command) -> CustomStatistics:
        events = Events(self.counters, reactor.seconds)
        return CustomStatistics(reactor, 60, commands, lambda: True, self.said.update, events)

    async def run_all(self, *commands: Command) -> None:
        await self.statistics(*commands)._run_all()

    async def test_c46_outputs(self) -> None:
        """C-46: a list of words is a program and its arguments; numbers become numbers, long outputs are cut."""
        await self.run_all(
            Command(python("print(21.5)"), "number"),
            Command(("echo", "a b", "$HOME;ls"), "text"),
            Command(python("print('x' * 100000)"), "long"),
            Command(python("import sys; sys.exit(3)"), "bad"),
            Command(("/nowhere/program",), "missing"),
            Command(python("import os; print('TB_SECRET' in os.environ)"), "environment"),
        )
        self.assertEqual(self.said["number"], 21.5)
        self.assertEqual(self.said["text"], "a b $HOME;ls")
        self.assertEqual(len(self.said["long"]), MAX_OUTPUT_BYTES)
        self.assertEqual(self.said["environment"], "False")
        self.assertEqual(set(self.said), {"number", "text", "long", "environment"})
        self.assertEqual(self.counters.total("statistics_commands_failed"), 2)

    async def test_time(self) -> None:
        """A program that does not end is ended, and the others have their turn."""
        await self.run_all(
            Command(python("import time; time.sleep(100)"), "slow", 1), Command(python("print(1)"), "next")
        )
        self.assertEqual(self.said, {"next": 1.0})

    async def test_something_left_in_the_background(self) -> None:
        """It holds the program's output open, and holds up nobody."""
        source = "import subprocess, sys; print(subprocess.Popen(['sleep', '600'], stderr=2).pid)"
        await self.run_all(Command(python(source), "pid"), Command(python("print(1)"), "next"))
        os.kill(int(self.said["pid"]), signal.SIGKILL)
        self.assertEqual(self.said["next"], 1.0)

    async def test_stop(self) -> None:
        """A stop ends what runs."""
        statistics = self.statistics(Command(python("import time; time.sleep(100)"), "slow", 60))
        statistics.startService()
        statistics._timer.reset(0)  # type: ignore[union-attr] # it was just armed
        await deferLater(reactor, 0.2, lambda: None)
        process = statistics._process
        statistics.stopService()
        while process.pid is not None:
            await deferLater(reactor, 0.02, lambda: None)
        self.assertEqual(self.said, {})


class ValueTests(SynchronousTestCase):
    """The value of an output."""

    def test_values(self) -> None:
        """A number if it reads as one that JSON has; else text, whatever the bytes."""
        for printed, value in (
            (b"5\n", 5.0), (b" -1e3 ", -1000.0), (b"nan", "nan"), (b"inf", "inf"), (b"a\nb\n", "a\nb"), (b"", ""),
            (b"\xff", "\ufffd"),
        ):
            self.assertEqual(as_value(printed), value)
