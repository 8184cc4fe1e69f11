"""`${...}` over JSON: the table of the specification, and that no message can make an expression fail."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.expressions import MISSING, ExpressionError, compile_path, compile_template, is_template

BODY: dict[str, Any] = {
    "sn": "A7",
    "temp": 21.5,
    "on": True,
    "nul": None,
    "name with space": "x y",
    "nest": {"a": {"b": 7}, "c d": {"e": 9}},
    "arr": [{"v": 1}, {"v": 2}],
    "deep.key": 5,
    "obj": {"k": 1},
    "метка": 8,
}


class ExpressionTests(SynchronousTestCase):
    """`compile_template` and `compile_path`."""

    def test_examples(self) -> None:
        """What each form gives."""
        for template, expected in {
            "${sn}": "A7",
            "pre-${sn}-post": "pre-A7-post",
            "${temp}": 21.5,
            "${on}": True,
            "${on} ${temp}": "true 21.5",
            "${nul}": None,
            "${obj}": {"k": 1},
            "x${obj}": 'x{"k":1}',
            "${nest.a.b}": 7,
            "x${nest.a.b}y": "x7y",
            "${arr[*].v}": [1, 2],
            "${arr[:].v}": [1, 2],
            "${arr[0].v}": 1,
            "${arr[-1].v}": 2,
            "${$.temp}": 21.5,
            "${nest.c d.e}": 9,
            "${nest['c d'].e}": 9,
            "${name with space}": "x y",
            "${deep.key}": 5,
            "${метка}": 8,
            "${$..v}": [1, 2],
            "plain": "plain",
        }.items():
            self.assertEqual(compile_template(template)(BODY), expected, template)

    def test_first(self) -> None:
        """Of several values the first, if that is asked for; a list that is a value stays one."""
        found = {"${arr[*].v}": 1, "${$..v}": 1, "${arr}": BODY["arr"], "${none[*]}": MISSING}
        for template, expected in found.items():
            self.assertEqual(compile_template(template, first=True)(BODY), expected, template)

    def test_spellings(self) -> None:
        """A key may stand in the message under other names; the first that is there counts, everywhere in a path."""

        def spellings(name: str) -> tuple[str, ...]:
            return (name, name.upper())

        body = {"A": 1, "b": {"C": 2, "c": 3}, "L": [{"X": 4}, {"x": 5}], "p.q": 6}
        for template, expected in {
            "${a}": 1,
            "${b.c}": 3,
            "${B.c}": MISSING,
            "${l[*].x}": [4, 5],
            "${l[0].x}": 4,
            "${$..x}": [4, 5],
            "${p.q}": 6,
            "${b.d}": MISSING,
            "${a.b}": MISSING,
        }.items():
            self.assertEqual(compile_template(template, spellings)(body), expected, template)

    def test_missing(self) -> None:
        """What finds nothing is MISSING, also within a text, and never the text of the expression."""
        for template in ("${x}", "a${x}b", "${sn.x}", "${arr[9].v}", "${arr[-9].v}", "${temp[0]}", "${nest.a.b.c}"):
            self.assertIs(compile_template(template)(BODY), MISSING, template)
        self.assertFalse(MISSING)

    def test_faults(self) -> None:
        """An expression that cannot be understood is a fault at the start."""
        for template in ("${}", "${a[}", "${", "x${a", "${a[?(@.x>1)]}", "${" + "a" * 600 + "}"):
            self.assertRaises(ExpressionError, compile_template, template)

    def test_is_template(self) -> None:
        """A constant is told from a template."""
        self.assertTrue(is_template("a${b}"))
        self.assertFalse(is_template("a$b}"))

    @given(
        st.sampled_from(["a", "a.b", "a[0]", "a[*].b", "$..b", "*", "a[-3:2]", "['a b']", "a.b[0].c", "a|b"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "a b"]), inner),
            max_leaves=12,
        ),
    )
    @settings(max_examples=400, deadline=None)
    def test_any_message(self, path: str, message: Any) -> None:
        """No message ends in an exception."""
        compile_path(path)(message)

    @given(st.text("${}[]().*'\"ab0: |?@,$", max_size=20))
    @settings(max_examples=200, deadline=None)
    def test_any_expression(self, template: str) -> None:
        """Any text is a template or a fault of the one kind."""
        try:
            evaluate = compile_template(template)
        except ExpressionError:
            return
        evaluate(BODY)
