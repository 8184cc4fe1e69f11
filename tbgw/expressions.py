# -*- test-case-name: tests.test_expressions -*-
"""`${...}` over JSON messages (spec reference-gateway, A14), compiled once, evaluated for each message. Pure.

    compile_template("${sensor.id}: ${temp}")({"sensor": {"id": 7}, "temp": 21.5})    ->  "7: 21.5"
    compile_template("${temp}")({"temp": 21.5})                                       ->  21.5
    compile_template("${other}")({})                                                  ->  MISSING

What holds:

* A template that is one `${...}` alone gives the value as it is; any other gives a text, in which a text stands as it
  is and everything else as JSON (`true`, not Python's `True`). If one expression of it finds nothing, it gives
  `MISSING`: what is unresolved is left out, and never sent as the text of the expression.
* Within the braces stands a path: `a.b`, `a[0].b`, `[*]`, `[1:3]`, `['x y']`, `..`, with or without `$.` in front. A
  key of the outermost object that is spelt like the whole path comes first (`${deep.key}`, `${name with space}`). A
  segment with blanks or other signs needs no quotes (`${nest.c d.e}`).
* Of several values a single one is given as it is, more as a list; or the first one alone, if `first` is asked for.
* With `spellings`, a key may stand in the message under other names too: the first of them that is there counts.
* No message can make an expression fail: what does not fit is `MISSING`.

jsonpath-rw is the grammar only: it is asked once for each expression (3 to 8 ms). Its own evaluation takes 3 us for
`a.b` and 40 to 65 us for the meter values of a charging station, and raises for half of what devices send; the closures
here take a tenth of that. Its rarer operators (`|`, `where`, `&`) are left to its own `find`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from tbgw.errors import GatewayError
from tbgw.model import Value


class _Missing:
    """The type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final[Any] = _Missing()
"""What an expression gives that finds nothing. Not None: null is a value."""

MAX_EXPRESSION_CHARACTERS = 500
MAX_MATCHES = 1000
"""Values that one expression may find in one message."""
MAX_VISITED = 100_000
"""Values that `..` looks at in one message."""

_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Evaluate = Callable[[Any], Any]
"""A message's JSON to a value, or `MISSING`. Never raises."""

Spellings = Callable[[str], tuple[str, ...]]
"""A key as an expression has it to all keys of a message that it may mean, the likeliest first."""


def _as_written(name: str) -> tuple[str, ...]:
    return (name,)


_Walk = Callable[[list[Any]], list[Any]]
_TAG = re.compile(r"\$\{([^}]*)\}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_SEGMENT = re.compile(r"""(?P<open>\[[^\]]*\]|'[^']*'|"[^"]*")|(?P<dots>\.+)|(?P<name>[^.\[\]'"]+)|(?P<other>.)""")
_SAFE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\*")


class ExpressionError(GatewayError):
    """An expression that cannot be understood; the text says which and why."""


def compile_template(template: str, spellings: Spellings = _as_written, first: bool = False) -> Evaluate:
    """See the module. Raises ExpressionError."""
    parts = [
        compile_path(text, spellings, first) if is_tag else text for is_tag, text in split_template(template)
    ]
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    if all(isinstance(part, str) for part in parts):
        text = "".join(part for part in parts if isinstance(part, str))
        return lambda _: text

    def evaluate(message: Any) -> Any:
        found = []
        for part in parts:
            if isinstance(part, str):
                found.append(part)
                continue
            value = part(message)
            if value is MISSING:
                return MISSING
            found.append(text_of(value))
        return "".join(found)

    return evaluate


def is_template(text: str) -> bool:
    """Whether there is any `${...}` in it."""
    return _TAG.search(text) is not None


def split_template(template: str) -> list[tuple[bool, str]]:
    """(is an expression, text between the braces or around them), in order. Raises ExpressionError."""
    if len(template) > MAX_EXPRESSION_CHARACTERS:
        raise ExpressionError(f"an expression has at most {MAX_EXPRESSION_CHARACTERS} characters")
    parts: list[tuple[bool, str]] = []
    end = 0
    for match in _TAG.finditer(template):
        if match.start() > end:
            parts.append((False, template[end : match.start()]))
        parts.append((True, match[1].strip()))
        end = match.end()
    if end < len(template):
        parts.append((False, template[end:]))
    for is_tag, text in parts:
        if is_tag and not text:
            raise ExpressionError(f"{template!r}: there is nothing between ${{ and }}")
        if not is_tag and "${" in text:
            raise ExpressionError(f"{template!r}: a ${{ is not closed with }}")
    return parts


def text_of(value: Value) -> str:
    """A value within a text: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else _as_json(value)


def compile_path(path: str, spellings: Spellings = _as_written, first: bool = False) -> Evaluate:
    """What stands between `${` and `}`. Raises ExpressionError."""
    path = path.strip()
    if len(path) > MAX_EXPRESSION_CHARACTERS:
        raise ExpressionError(f"an expression has at most {MAX_EXPRESSION_CHARACTERS} characters")
    if _PLAIN.fullmatch(path):
        return _plain(path, [spellings(key) for key in path.split(".")])
    walk = _parse(path, spellings)

    def evaluate(message: Any) -> Any:
        if isinstance(message, dict) and path in message:
            return message[path]
        found = walk([message])
        if len(found) == 1 or (first and found):
            return found[0]
        return found if found else MISSING

    return evaluate


def _plain(path: str, keys: list[tuple[str, ...]]) -> Evaluate:
    """`a` and `a.b.c`, by far the most frequent."""
    if len(keys) == 1 and len(keys[0]) == 1:
        return lambda message: message.get(path, MISSING) if isinstance(message, dict) else MISSING

    def evaluate(message: Any) -> Any:
        if not isinstance(message, dict):
            return MISSING
        if path in message:
            return message[path]
        value: Any = message
        for names in keys:
            if not isinstance(value, dict):
                return MISSING
            for name in names:
                if name in value:
                    value = value[name]
                    break
            else:
                return MISSING
        return value

    return evaluate


def _parse(path: str, spellings: Spellings) -> _Walk:
    from jsonpath_rw import parse
    from jsonpath_rw.lexer import JsonPathLexerError

    prepared = _prepared(path)
    try:
        return _walk(parse(prepared), spellings)
    except ExpressionError:
        raise
    except JsonPathLexerError as error:
        raise ExpressionError(f"${{{path}}} cannot be understood: {error}") from None
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a parse error
        raise ExpressionError(f"${{{path}}} cannot be understood: {error}") from None


def _prepared(path: str) -> str:
    """The path with quotes around segments that the grammar would not take bare."""
    if path.startswith("$"):
        head, rest = "$", path[1:]
    else:
        head, rest = "", path
    made = head
    for match in _SEGMENT.finditer(rest):
        name = match["name"]
        if name is None:
            made += match[0]
        elif _SAFE_NAME.fullmatch(name.strip()):
            made += name.strip()
        elif any(sign in name for sign in "|&?()") or " where " in name:
            made += name
        else:
            made += f"'{name.strip()}'"
    return made


def _walk(node: Any, spellings: Spellings) -> _Walk:
    """The closure for one node of jsonpath-rw's tree: all present values to all next ones."""
    from jsonpath_rw import jsonpath

    if isinstance(node, (jsonpath.Root, jsonpath.This)):
        return lambda values: values
    if isinstance(node, jsonpath.Child):
        left, right = _walk(node.left, spellings), _walk(node.right, spellings)
        return lambda values: right(left(values))
    if isinstance(node, jsonpath.Fields):
        names = tuple(node.fields)
        if "*" in names:
            return lambda values: [
                inner for value in values if isinstance(value, dict) for inner in value.values()
            ][:MAX_MATCHES]
        choices = [spellings(name) for name in names]
        if any(len(choice) > 1 for choice in choices):
            return lambda values: [
                value[name]
                for value in values
                if isinstance(value, dict)
                for choice in choices
                if (name := next((one for one in choice if one in value), None)) is not None
            ]
        return lambda values: [
            value[name] for value in values if isinstance(value, dict) for name in names if name in value
        ]
    if isinstance(node, jsonpath.Index):
        index = int(node.index)
        return lambda values: [
            value[index] for value in values if isinstance(value, list) and -len(value) <= index < len(value)
        ]
    if isinstance(node, jsonpath.Slice):
        part = slice(node.start, node.end, node.step)
        return lambda values: [inner for value in values if isinstance(value, list) for inner in value[part]][
            :MAX_MATCHES
        ]
    if isinstance(node, jsonpath.Descendants):
        left, right = _walk(node.left, spellings), _walk(node.right, spellings)
        return lambda values: _descend(left(values), right)
    if hasattr(node, "find"):
        return lambda values: _library_find(node, values)
    raise ExpressionError(f"{node} is not possible here")


def _descend(values: list[Any], right: _Walk) -> list[Any]:
    """What `right` finds at these values and everywhere below, outer ones first."""
    found: list[Any] = []
    waiting = list(reversed(values))
    visited = 0
    while waiting and visited < MAX_VISITED and len(found) < MAX_MATCHES:
        value = waiting.pop()
        visited += 1
        found += right([value])
        below = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        waiting += reversed(list(below))
    return found[:MAX_MATCHES]


def _library_find(node: Any, values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        try:
            found += [match.value for match in node.find(value)]
        except Exception:  # noqa: BLE001, S112 - it raises KeyError, TypeError and others for what does not fit
            continue
    return found[:MAX_MATCHES]
