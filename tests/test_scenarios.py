"""docs/scenarios.md tells the truth: every row of the catalogue is there, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent
PAGE = ROOT.parent / "docs" / "scenarios.md"

ROWS = 168
"""Of the catalogue, section 8 of the specification."""

_ROW = re.compile(r"^\| (\d+) \| (.*) \| (.*) \| (.*) \|$")
_NAME = re.compile(r"`((?:[a-z_0-9]+\.)+[A-Z]\w+\.test_\w+)`")
_REASON = re.compile(r"\([^()]{8,}\)")


def tests_of(module: str) -> set[str]:
    """`Class.test` of everything in a test module; empty where there is none."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not path.exists():
        return set()
    return {
        f"{one.name}.{method.name}"
        for one in ast.parse(path.read_text()).body
        if isinstance(one, ast.ClassDef)
        for method in one.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
    }


class PageTests(SynchronousTestCase):
    """The table."""

    def setUp(self):
        self.rows = [match.groups() for line in PAGE.read_text().splitlines() if (match := _ROW.match(line))]

    def test_every_row(self):
        """All rows, each once, in order."""
        self.assertEqual([int(number) for number, *_ in self.rows], list(range(1, ROWS + 1)))

    def test_every_cell(self):
        """Each side of each row names a test, or says in parentheses why there is none."""
        bare = [
            (number, cell)
            for number, _, *cells in self.rows
            for cell in cells
            if not (_NAME.search(cell) or _REASON.search(cell))
        ]
        self.assertEqual(bare, [])

    def test_every_name(self):
        """Every test that is named exists."""
        missing = set()
        for _, _, *cells in self.rows:
            for cell in cells:
                for name in re.findall(r"`([^`]+)`", cell) if not cell.startswith("(") else []:
                    if not _NAME.fullmatch(f"`{name}`"):
                        continue
                    module, kind, test = name.rsplit(".", 2)
                    if f"{kind}.{test}" not in tests_of(module):
                        missing.add(name)
        self.assertEqual(missing, set())
