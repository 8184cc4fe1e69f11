"""Ends of the process, with real ones."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import Program

ROOT = Path(__file__).parent.parent

SCRIPT = """
import os, sys
from tbgw import process
print("begun", os.getpid(), os.getcwd(), sys.argv[1], flush=True)
os.chdir("/")
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    {what}
else:
    process.end_with(7)
"""


class ProcessTests(SynchronousTestCase):
    """`tbgw.process` in a program of its own."""

    def run_script(self, what: str) -> tuple[Program, int]:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)
        script = folder / "script.py"
        script.write_text(SCRIPT.format(what=what))
        path = os.environ["PATH"]
        program = Program(
            self,
            [sys.executable, "-u", str(script), str(folder / "a name; with $signs")],
            env={"PYTHONPATH": str(ROOT), "PATH": f"{folder}:{path}"},
        )
        return program, program.finish()

    def test_begun_anew(self) -> None:
        """The same command in the same folder, as the same process; what was printed before is not lost."""
        program, status = self.run_script("process.begin_anew()")
        first, second = [line for line in program.lines if line.startswith("begun")]
        self.assertEqual(first, second)
        self.assertEqual(status, 7)

    def test_status(self) -> None:
        """The status that was asked for."""
        self.assertEqual(self.run_script("process.end_with(3)")[1], 3)

    def test_restart_of_the_machine(self) -> None:
        """The system's own command is run; where it is not found that is said, and the process ends all the same."""
        program, status = self.run_script("os.environ.__setitem__('PATH', '/nowhere') or process.restart_machine()")
        self.assertIn("shutdown cannot be run", program.output)
        self.assertEqual(status, 0)
