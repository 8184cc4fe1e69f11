"""Every value of every known file replaced by values of every kind: whatever stands there, reading ends in findings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tbgw.config.environment import TARGETS
from tbgw.connectors.parsers import PARSERS
from tests.config.fakes import TOKEN, FolderCase, tree

ROOT = Path(__file__).resolve().parent.parent.parent
REFERENCE = ROOT / "tests" / "data" / "reference-config"
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 10**60, 1.5, 1e300, "", " ", "x", "a\0b", "${", "\\", "(", "..", "/", "é\ud7ff" * 9, "9" * 40,
    [], {}, [[]], [{}], {"": {}},
)  # fmt: skip


def damaged(value: Any) -> Iterator[Any]:
    """The value with each part of it in turn replaced by each odd value, and with each key in turn left out."""
    yield from ODD
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {other: kept for other, kept in value.items() if other != key}
            for odd in damaged(inner):
                yield {**value, key: odd}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            for odd in damaged(inner):
                yield [*value[:index], odd, *value[index + 1 :]]


class DamageTests(FolderCase):
    """No file, however wrong, ends in anything but findings."""

    def read_all(self, name: str, value: Any, **environ: str) -> int:
        """Examine the folder with each damage to this file in turn; how many of them were found fault with."""
        faulty = 0
        for broken in damaged(value):
            self.write(name, broken)
            examined = self.examine(environ, **PARSERS)
            for finding in examined.findings:
                self.assertTrue(str(finding).isprintable(), str(finding))
                self.assertLess(len(str(finding)), 1500)
            self.assertEqual(examined.config is None, bool(self.faults(examined.findings)))
            faulty += examined.config is None
        return faulty

    def test_general_files(self):
        """tb_gateway.json, the reference's and ours."""
        self.write("list.json", {})
        for folder in (REFERENCE, ROOT / "etc"):
            value = json.loads((folder / "tb_gateway.json").read_text())
            value["connectors"] = []
            self.assertGreater(self.read_all("tb_gateway.json", value, TB_GW_ACCESS_TOKEN=TOKEN), 100)

    def test_connector_files(self):
        """The files of the three connectors."""
        for kind in PARSERS:
            self.write_gateway(connectors=[{"type": kind, "name": "x", "configuration": f"{kind}.json"}])
            value = json.loads((REFERENCE / f"{kind}.json").read_text())
            self.assertGreater(self.read_all(f"{kind}.json", value), 100)

    def test_environment(self):
        """Every variable with every odd text."""
        self.write_gateway()
        for name in TARGETS:
            for odd in ODD:
                if isinstance(odd, str):
                    examined = self.examine({name: odd})
                    self.assertEqual(examined.config is None, bool(self.faults(examined.findings)), (name, odd))

    def test_tree_is_sound(self):
        """The damage is what it claims to be."""
        self.assertIn({"a": [None]}, list(damaged({"a": [1]})))
        self.assertEqual(tree({"a": [1]}).plain(), {"a": [1]})
