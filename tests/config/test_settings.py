"""Tests of declared sections: defaults, spellings, faults, and that every setting is explained."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

import tbgw.config
import tbgw.connectors
from tbgw.config.settings import (
    config_section,
    flag,
    integer,
    one_of,
    read_section,
    section,
    sections,
    settings_of,
    text,
)
from tbgw.config.values import Refused
from tests.config.fakes import FolderCase, tree


@config_section
class Inner:
    name: str = text("name", doc="d")
    size: int = integer("size", minimum=1, maximum=9, default=5, unit="bytes", doc="d")


@config_section
class Outer:
    on: bool = flag("on", default=True, doc="d")
    wait_seconds: int = integer("wait", "wait_time", minimum=0, maximum=60, default=7, unit="seconds", doc="d")
    kind: str = one_of("kind", choices=("red", "green"), default="red", doc="d")
    inner: Inner | None = section(Inner, "inner", default=None, doc="d")
    many: tuple[Inner, ...] = sections(Inner, "many", default=(), doc="d")
    shade: int | None = integer("shade", minimum=0, maximum=9, default=None, unit="steps", doc="d", later="not yet")

    INERT: ClassVar[Mapping[str, str]] = {"old": "never did anything"}


class ReadSectionTests(FolderCase):
    """An object becomes a section, and what is wrong with it is reported whole."""

    def read(self, value: Any) -> Outer:
        return read_section(Outer, tree(value), self.reporter)

    def test_defaults(self):
        """An empty object gives the defaults and nothing to report."""
        self.assertEqual(self.read({}), Outer(True, 7, "red", None, (), None))
        self.assertEqual(self.lines(), [])

    def test_values(self):
        """All kinds of settings are read."""
        found = self.read(
            {"on": False, "wait": 0, "kind": "green", "inner": {"name": "x", "size": 9}, "many": [{"name": "y"}]}
        )
        self.assertEqual(found, Outer(False, 0, "green", Inner("x", 9), (Inner("y", 5),), None))
        self.assertEqual(self.lines(), [])

    def test_null_is_absent(self):
        """null gives the default, as if the key were not there."""
        self.assertEqual(self.read({"wait": None, "inner": None, "many": None}), Outer())

    def test_digits_in_quotes(self):
        """A whole number may be a text of digits, or a float without fraction; nothing else is one."""
        self.assertEqual(self.read({"wait": "42"}).wait_seconds, 42)
        self.assertEqual(self.read({"wait": 42.0}).wait_seconds, 42)
        self.assertEqual(self.faults(), [])
        wrong: Any
        for wrong in ("4x", 4.5, True, "", [], {}, "²"):
            self.assertEqual(self.read({"wait": wrong}).wait_seconds, 7)
        self.assertEqual(len(self.faults()), 7)

    def test_bounds(self):
        """Numbers at the bounds are taken, one beyond is a fault that tells them."""
        self.assertEqual((self.read({"wait": 0}).wait_seconds, self.read({"wait": 60}).wait_seconds), (0, 60))
        self.assertEqual(self.faults(), [])
        self.read({"wait": 61})
        self.read({"wait": -1})
        self.assertEqual(
            self.faults(),
            [
                "some.json:2: wait: is 61, must be a whole number from 0 to 60",
                "some.json:2: wait: is -1, must be a whole number from 0 to 60",
            ],
        )

    def test_second_spelling(self):
        """Each spelling of a setting is read."""
        self.assertEqual(self.read({"wait_time": 3}).wait_seconds, 3)
        self.assertEqual(self.lines(), [])

    def test_spellings_that_agree(self):
        """Two spellings with the same value are nothing to report: the reference's own samples have that."""
        self.assertEqual(self.read({"wait": 3, "wait_time": 3}).wait_seconds, 3)
        self.assertEqual(self.lines(), [])

    def test_spellings_that_differ(self):
        """Of two spellings that differ the first one known counts, and it is said."""
        self.assertEqual(self.read({"wait_time": 4, "wait": 3}).wait_seconds, 3)
        self.assertEqual(
            self.lines(), ["some.json:2: wait_time: wait_time and wait mean the same and differ; wait counts"]
        )

    def test_choice(self):
        """A word that is not allowed is a fault with all words and the nearest."""
        self.read({"kind": "Green"})
        self.assertEqual(
            self.faults(), ['some.json:2: kind: is "Green", must be one of red, green; did you mean green?']
        )

    def test_unknown_key(self):
        """An unknown key is a doubt with the nearest known one, whatever its case and underscores."""
        self.read({"Wait_Time": 3, "colour": 1})
        self.assertEqual(
            self.lines(),
            ["some.json:2: Wait_Time: unknown key; did you mean wait_time?", "some.json:3: colour: unknown key"],
        )
        self.assertEqual(self.faults(), [])

    def test_without_effect(self):
        """Known keys that do nothing are notices, one line for each reason however often they occur."""
        self.read({"old": 1, "shade": 3})
        self.read({"old": 1})
        self.assertEqual(self.lines(), ["some.json:2: old: never did anything", "some.json:3: shade: not yet"])

    def test_all_faults_at_once(self):
        """A fault does not keep those after it from being found, also inside lists."""
        found = self.read({"on": "yes", "wait": 99, "inner": {"size": 10}, "many": [{"name": "a"}, {"name": ""}, 3]})
        self.assertEqual(found.many, (Inner("a"),))
        self.assertEqual(
            self.faults(),
            [
                "some.json:2: on: is a text, must be true or false, without quotes",
                "some.json:3: wait: is 99, must be a whole number from 0 to 60",
                "some.json:4: inner.name: is missing: d",
                "some.json:5: inner.size: is 10, must be a whole number from 1 to 9",
                "some.json:12: many[1].name: is empty",
                "some.json:14: many[2]: is a number, must be an object {...}",
            ],
        )

    def test_wrong_kind(self):
        """A section that is no object is refused."""
        refusal = self.assertRaises(Refused, self.read, [1])
        self.assertIn("is a list [...], must be an object", str(refusal))


class EverySettingTests(FolderCase):
    """The settings document themselves."""

    def all_sections(self) -> list[type]:
        modules = [
            importlib.import_module(found.name)
            for package in (tbgw.config, tbgw.connectors)
            for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
            if package is tbgw.config or found.name.endswith((".config", ".templates"))
        ]
        return sorted(
            {
                of
                for module in modules
                for _, of in inspect.getmembers(module, inspect.isclass)
                if hasattr(of, "__dataclass_fields__") and settings_of(of)
            },
            key=lambda of: of.__qualname__,
        )

    def test_each_is_explained(self):
        """Every field has a meaning, and every number a unit."""
        found = self.all_sections()
        self.assertGreater(len(found), 20)
        for of in found:
            for name, item in settings_of(of).items():
                where = f"{of.__qualname__}.{name}"
                self.assertTrue(item.keys and all(item.keys), where)
                self.assertTrue(item.doc.endswith(".") and len(item.doc) > 4, where)
                annotation = of.__annotations__.get(name) or next(
                    base.__annotations__[name] for base in of.__mro__ if name in getattr(base, "__annotations__", {})
                )
                if annotation.startswith("int") and name != "commands":
                    self.assertTrue(item.unit, f"{where} has no unit")

    def test_no_key_means_two_things(self):
        """Within a section no key is claimed by two settings."""
        for of in self.all_sections():
            keys = [key for item in settings_of(of).values() for key in item.keys]
            self.assertEqual(len(keys), len(set(keys)), of.__qualname__)
            self.assertFalse(set(keys) & set(getattr(of, "INERT", {})), of.__qualname__)
