"""An operator's program: run without a shell, watched, its words kept."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tbgw.uplink import command
from tbgw.uplink.command import MAX_OUTPUT_BYTES, run_command


class CommandTests(TestCase):
    """Real programs."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir(parents=True)

    def run_python(self, source: str, *arguments: str, seconds: float = 30.0) -> Deferred[str]:
        argv = [sys.executable, "-c", source, *arguments]
        return run_command(reactor, argv, {"TBGW_PACKAGE_TITLE": "a b"}, str(self.folder), seconds)

    async def test_good(self) -> None:
        """Arguments arrive as they are, the folder and the variables are there, our own environment is not."""
        self.patch(os, "environ", {**os.environ, "CANARY": "secret"})
        source = (
            "import os, sys; open('out', 'w').write(repr((sys.argv[1:], os.environ['TBGW_PACKAGE_TITLE'],"
            " 'CANARY' in os.environ)))"
        )
        self.assertEqual(await self.run_python(source, "$(id); x"), "")
        self.assertEqual((self.folder / "out").read_text(), "(['$(id); x'], 'a b', False)")

    async def test_bad(self) -> None:
        """The exit status, and the last line of what it said, however much that was."""
        source = f"import sys; print('x' * {MAX_OUTPUT_BYTES * 40}); sys.exit('no such board')"
        self.assertEqual(await self.run_python(source), "exit status 1: no such board")
        self.assertEqual(await self.run_python("import os; os.kill(os.getpid(), 9)"), "signal 9")

    async def test_too_long(self) -> None:
        """A program that takes too long is ended, also one that does not want to."""
        self.patch(command, "KILL_SECONDS", 0.2)
        source = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None)\nwhile True: time.sleep(60)"
        self.assertEqual(await self.run_python(source, seconds=0.5), "it took more than 0.5 s")

    async def test_something_left_in_the_background(self) -> None:
        """Its end is the end, though what it left running holds its output open."""
        source = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, file=open('pid', 'w'))"
        self.addCleanup(lambda: os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL))
        self.assertEqual(await self.run_python(source, seconds=20.0), "")
        os.kill(int((self.folder / "pid").read_text()), 0)

    async def test_none(self) -> None:
        """What is no program is said in words."""
        failed = await run_command(reactor, ["/nonexistent/x"], {}, str(self.folder), 1.0)
        self.assertEqual(failed, "/nonexistent/x cannot be run")
