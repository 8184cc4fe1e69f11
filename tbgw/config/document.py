# -*- test-case-name: tests.config.test_document -*-
"""A JSON text as a tree that remembers where each value stands. Pure: bytes in, `Node`s out.

Invariants:

* Every node knows its file, its line and its path, so that a fault found much later is still reported exactly.
* What is accepted is RFC 8259 and nothing more, except a byte order mark before it: no comments, no NaN, no
  trailing comma, no half surrogate pairs. The first fault of syntax ends the reading of that file.
* Whatever the bytes are, the answer is a `Document` or a `DocumentError`; size, depth and length of numbers have caps.
* Of a key that occurs twice in one object the last one counts, as with Python's `json` and so with the
  reference gateway; it is not silent: `Document.repeated` lists every such key.
* The path of a node is a chain of shared steps, made into text only for a message: one long key above many values
  costs its length once.
* A node never shows its value in its `repr`: it may hold a secret.

Dropped: `json.loads` with hooks, which tells no positions; a second pass that looks for the text of a key, which
finds the wrong one as soon as a key occurs twice. Strings are scanned by the standard library's own C function.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from json import JSONDecodeError, JSONDecoder
from math import isinf
from typing import Any

from tbgw.errors import GatewayError

MAX_FILE_BYTES = 4 * 1024 * 1024
"""Largest configuration file: room for some 10,000 devices, and read within seconds on a small board."""
MAX_DEPTH = 32
"""Deepest nesting; the deepest known configuration has 7."""
MAX_NUMBER_LENGTH = 64
"""Longest number in characters; Python takes quadratic time for thousands of digits."""

_STRINGS = JSONDecoder()
"""Asked for single strings only."""
_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_TOKEN = re.compile(r"[^\s,:\[\]{}\"]{1,20}")
_WORDS = {"true": True, "false": False, "null": None}
_FOREIGN_WORDS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false", "None": "null"}


Trail = tuple["Trail", "str | int"] | None
"""How a value is reached: a key, or a position in a list, behind the trail to what holds it."""


class DocumentError(GatewayError):
    """The text is not JSON, or beyond a cap. `line` counts from 1; the text shows no value of the file."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


@dataclass(frozen=True, slots=True, repr=False)
class Node:
    """One JSON value and where it stands."""

    value: Any
    """A str, int, float, bool or None; a tuple of nodes; or a dict of str to node."""
    file: str
    """Name of the file, as a message shows it."""
    line: int
    """Line on which the value begins, from 1; 0 for what did not come from a file."""
    trail: Trail = None
    """The last step that led here, and the trail before it; None at the top."""

    @property
    def path(self) -> str:
        """Keys that lead here, such as `devices[2].telemetry[0].key`; empty at the top. Without control characters."""
        return trail_text(self.trail)

    @property
    def kind(self) -> str:
        """What it is, in words for a message."""
        value = self.value
        if isinstance(value, Mapping):
            return "an object {...}"
        if isinstance(value, tuple):
            return "a list [...]"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return "a text"
        return "null" if value is None else "a number"

    def member(self, key: str) -> Node | None:
        """The value under `key`; None if there is none, if it is null, or if this is no object."""
        child = self.value.get(key) if isinstance(self.value, Mapping) else None
        return None if child is None or child.value is None else child

    def plain(self) -> Any:
        """The value without places, for a comparison."""
        if isinstance(self.value, Mapping):
            return {key: child.plain() for key, child in self.value.items()}
        return [child.plain() for child in self.value] if isinstance(self.value, tuple) else self.value

    def with_member(self, key: str, child: Node) -> Node:
        """A copy of this object in which `child` stands under `key`."""
        return replace(self, value={**self.value, key: child})

    def without(self, *keys: str) -> Node:
        """A copy of this object that lacks `keys`."""
        return replace(self, value={key: child for key, child in self.value.items() if key not in keys})

    def __repr__(self) -> str:
        return f"<Node {self.path or '(top)'} {self.kind} {self.file}:{self.line}>"


@dataclass(frozen=True, slots=True)
class Document:
    """A whole file."""

    root: Node
    repeated: tuple[Node, ...]
    """For each key that occurs again in the same object: the later value."""


def trail_text(trail: Trail) -> str:
    """The trail as a path. Long keys are cut: they are there to be recognised."""
    steps: list[str] = []
    while trail is not None:
        trail, step = trail
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            steps.append("." + printable(step))
    return "".join(reversed(steps)).removeprefix(".")


def trail_steps(trail: Trail) -> tuple[str | int, ...]:
    """The keys and positions that lead to a value, from the top."""
    steps: list[str | int] = []
    while trail is not None:
        trail, step = trail
        steps.append(step)
    return tuple(reversed(steps))


def printable(text: str, limit: int = 60) -> str:
    """A text from a file for a message: on one line, no control characters, not longer than `limit`."""
    text = text if len(text) <= limit else text[:limit] + "..."
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def read_document(data: bytes, file: str) -> Document:
    """Read one file's bytes. Raises DocumentError at the first fault of syntax."""
    if len(data) > MAX_FILE_BYTES:
        raise DocumentError(1, f"the file has {len(data)} bytes, at most {MAX_FILE_BYTES} are read")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DocumentError(1, "the file is UTF-16 text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DocumentError(line, "there is a byte that is not UTF-8; save the file as UTF-8") from None
    return _Reader(text, file).read()


class _Reader:
    """One pass over one text. Positions are offsets into it."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._repeated: list[Node] = []

    def read(self) -> Document:
        start = self._skip(0)
        if start == len(self._text):
            raise DocumentError(1, "the file is empty")
        root, end = self._value(start, None, 1)
        end = self._skip(end)
        if end != len(self._text):
            raise self._wrong(end, "there is something after the end of the outermost value")
        return Document(root, tuple(self._repeated))

    def _line(self, position: int) -> int:
        return bisect_right(self._newlines, position - 1) + 1

    def _skip(self, position: int) -> int:
        match = _BLANK.match(self._text, position)
        return match.end() if match else position

    def _wrong(self, position: int, text: str, blame: int | None = None) -> DocumentError:
        """The error for what stands at `position`; `blame` is where it was caused, if elsewhere."""
        if self._text.startswith(("//", "/*", "#"), position):
            return DocumentError(self._line(position), "JSON has no comments; take this one out")
        if self._text.startswith("'", position):
            return DocumentError(self._line(position), "texts and keys stand in double quotes, not in single ones")
        return DocumentError(self._line(position if blame is None else blame), text)

    def _ended(self, opened: int, bracket: str) -> DocumentError:
        return DocumentError(
            self._line(len(self._text)),
            f"the file ends, but the {bracket} opened on line {self._line(opened)} is not closed",
        )

    def _value(self, start: int, trail: Trail, depth: int) -> tuple[Node, int]:
        first = self._text[start : start + 1]
        value: Any
        if first == '"':
            value, end = self._string(start)
        elif first in ("{", "["):
            if depth > MAX_DEPTH:
                raise self._wrong(start, f"nested deeper than {MAX_DEPTH} levels")
            value, end = (self._object if first == "{" else self._list)(start, trail, depth)
        else:
            value, end = self._plain(start)
        return Node(value, self._file, self._line(start), trail), end

    def _object(self, start: int, trail: Trail, depth: int) -> tuple[dict[str, Node], int]:
        members: dict[str, Node] = {}
        position = self._skip(start + 1)
        if self._text.startswith("}", position):
            return members, position + 1
        while True:
            if position >= len(self._text):
                raise self._ended(start, "{")
            if not self._text.startswith('"', position):
                raise self._wrong(position, "there must be a key in double quotes here")
            key, after = self._string(position)
            colon = self._skip(after)
            if not self._text.startswith(":", colon):
                raise self._wrong(colon, 'there is no ":" between key and value')
            child, end = self._value(self._skip(colon + 1), (trail, key), depth + 1)
            if key in members:
                self._repeated.append(child)
            members[key] = child
            position, done = self._separator(start, end, "{", "}")
            if done:
                return members, position

    def _list(self, start: int, trail: Trail, depth: int) -> tuple[tuple[Node, ...], int]:
        items: list[Node] = []
        position = self._skip(start + 1)
        if self._text.startswith("]", position):
            return (), position + 1
        while True:
            if position >= len(self._text):
                raise self._ended(start, "[")
            child, end = self._value(position, (trail, len(items)), depth + 1)
            items.append(child)
            position, done = self._separator(start, end, "[", "]")
            if done:
                return tuple(items), position

    def _separator(self, start: int, end: int, opening: str, closing: str) -> tuple[int, bool]:
        """Where it goes on after a value that ended at `end`, and whether the bracket was closed."""
        position = self._skip(end)
        found = self._text[position : position + 1]
        if found == closing:
            return position + 1, True
        if found == ",":
            following = self._skip(position + 1)
            if self._text.startswith(closing, following):
                raise self._wrong(position, f"the comma before the closing {closing} is one too many")
            return following, False
        if not found:
            raise self._ended(start, opening)
        # The comma belongs behind the value, so that line is named, not the one where the reading stopped.
        raise self._wrong(position, f'there is no "," or "{closing}" after this value', blame=end - 1)

    def _string(self, start: int) -> tuple[str, int]:
        value: str
        end: int
        try:
            value, end = _STRINGS.raw_decode(self._text, start)
        except JSONDecodeError as error:
            if error.msg.startswith("Unterminated"):
                raise self._wrong(start, "the text that begins here has no closing quote") from None
            if error.msg.startswith("Invalid control character"):
                raise self._wrong(
                    error.pos, "a line end or control character inside a text; write it as \\n or \\u00xx"
                ) from None
            raise self._wrong(error.pos, 'a bad \\ escape in a text; a backslash itself is written "\\\\"') from None
        if not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                raise self._wrong(start, "half of a surrogate pair (\\ud8xx) in a text") from None
        return value, end

    def _plain(self, start: int) -> tuple[Any, int]:
        match = _NUMBER.match(self._text, start)
        if match and _TOKEN.match(self._text, match.end()) is None:
            if match.end() - start > MAX_NUMBER_LENGTH:
                raise self._wrong(start, f"a number of more than {MAX_NUMBER_LENGTH} characters")
            if match.group(1) is None and match.group(2) is None:
                return int(match.group()), match.end()
            number = float(match.group())
            if isinf(number):
                raise self._wrong(start, "a number that is too large")
            return number, match.end()
        token = _TOKEN.match(self._text, start)
        word = token.group() if token else ""
        if word in _WORDS:
            return _WORDS[word], start + len(word)
        if word in _FOREIGN_WORDS:
            raise self._wrong(start, f"this is no JSON word; did you mean {_FOREIGN_WORDS[word]}?")
        if start >= len(self._text):
            raise DocumentError(self._line(start), "the file ends where a value is needed")
        raise self._wrong(start, "here is no value; a text stands in double quotes")
