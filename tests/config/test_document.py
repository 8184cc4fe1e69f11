"""Tests of the JSON reader that keeps places."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import MAX_DEPTH, MAX_FILE_BYTES, DocumentError, Node, read_document

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def walk(node: Node) -> list[Node]:
    """The node and all below it."""
    found = [node]
    if isinstance(node.value, dict | tuple):
        for child in node.value.values() if isinstance(node.value, dict) else node.value:
            found += walk(child)
    return found


class ReadDocumentTests(SynchronousTestCase):
    """What is JSON becomes a tree, and everything in it has its place."""

    def test_places(self):
        """Each value knows its own line and the path that leads to it."""
        root = read_document(b'{\n "a": [1,\n  {"b":\n   true}],\n "c": "x"\n}\n', "f.json").root
        places = {(node.path, node.line) for node in walk(root)}
        self.assertEqual(places, {("", 1), ("a", 2), ("a[0]", 2), ("a[1]", 3), ("a[1].b", 4), ("c", 5)})
        self.assertEqual({node.file for node in walk(root)}, {"f.json"})

    def test_line_ends(self):
        """Lines are counted the same with Windows line ends."""
        root = read_document(b'{\r\n"a": 1,\r\n"b": 2}', "f").root
        self.assertEqual([child.line for child in root.value.values()], [2, 3])

    def test_byte_order_mark(self):
        """A file that an editor of Windows has saved is read."""
        self.assertEqual(read_document(b"\xef\xbb\xbf[1]", "f").root.plain(), [1])

    def test_repeated_key(self):
        """A key that occurs twice is listed, with the line of the later one, which counts."""
        document = read_document(b'{"a": {"k": 1,\n"k": 2,\n"k": 3}, "k": 4}', "f")
        self.assertEqual([(node.path, node.line) for node in document.repeated], [("a.k", 2), ("a.k", 3)])
        self.assertEqual(document.root.plain(), {"a": {"k": 3}, "k": 4})

    def test_repr_hides_the_value(self):
        """A node may hold a secret, so it shows its place only."""
        node = read_document(b'{"password": "canary"}', "f.json").root.value["password"]
        self.assertEqual(repr(node), "<Node password a text f.json:1>")

    def test_path_is_printable(self):
        """Keys with control characters and very long ones come out on one short line."""
        root = read_document(json.dumps({"a\nb": {"x" * 500: 1}}).encode(), "f").root
        deepest = walk(root)[-1].path
        self.assertTrue(deepest.isprintable())
        self.assertTrue(deepest.startswith("a\\nb.xxx"))
        self.assertLess(len(deepest), 100)

    @given(JSON_VALUES, st.sampled_from([None, 1, 4]))
    @settings(max_examples=60, deadline=None)
    def test_agrees_with_the_standard_library(self, value: Any, indent: int | None):
        """Whatever `json` writes is read as `json` reads it."""
        text = json.dumps(value, indent=indent, ensure_ascii=indent == 1)
        self.assertEqual(read_document(text.encode(), "f").root.plain(), json.loads(text))

    @given(st.binary(max_size=60) | st.text("[]{}\",:0123456789.-+eEtruefalsn \n\\u'/#", max_size=60).map(str.encode))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes(self, data: bytes):
        """Any bytes give a document, or a DocumentError with a line of the file."""
        try:
            read_document(data, "f")
        except DocumentError as error:
            self.assertIn(error.line, range(1, data.count(b"\n") + 2))


class SyntaxTests(SynchronousTestCase):
    """What is not JSON is refused with the line and in words that help."""

    def refused(self, data: bytes, line: int, *words: str) -> None:
        error = self.assertRaises(DocumentError, read_document, data, "f")
        self.assertEqual(error.line, line, str(error))
        for word in words:
            self.assertIn(word, str(error))

    def test_missing_comma(self):
        """A missing comma is blamed on the line where it belongs, not on the next."""
        self.refused(b'{\n"a": 1\n\n"b": 2}', 2, '"," or "}"')
        self.refused(b'["a"\n"b"]', 1, '"," or "]"')

    def test_comma_too_many(self):
        """A comma before the closing bracket is named, with its own line."""
        self.refused(b'{"a": 1,\n}', 1, "comma", "}")
        self.refused(b"[1,\n2,\n\n]", 2, "comma", "]")

    def test_comments(self):
        """Comments of three kinds are called by their name."""
        self.refused(b'{\n// x\n"a": 1}', 2, "comments")
        self.refused(b'{"a": 1 /* x */}', 1, "comments")
        self.refused(b'{"a": 1,\n\n# x\n"b": 2}', 3, "comments")

    def test_not_closed(self):
        """Of a bracket that is never closed the line where it was opened is told."""
        self.refused(b'{\n"a": [1,\n2\n', 4, "line 2", "[")
        self.refused(b'{"a": {"b": 1}\n', 2, "line 1", "{")
        self.refused(b'{"a": 1,', 1, "{", "not closed")
        self.refused(b'{"a":\n"x', 2, "closing quote")

    def test_python_and_javascript(self):
        """Words and quotes of other languages bring the right ones to mind."""
        self.refused(b'{"a": True}', 1, "did you mean true")
        self.refused(b"{'a': 1}", 1, "double quotes")
        self.refused(b"{a: 1}", 1, "key in double quotes")

    def test_numbers(self):
        """Numbers that JSON does not know are refused, and those that no machine can hold."""
        for text in (b"NaN", b"-Infinity", b"01", b"1.", b".5", b"+1", b"0x10", b"1e999", b"-", b"1" * 65):
            self.refused(b"[\n" + text + b"]", 2)

    def test_texts(self):
        """Raw line ends, bad escapes and half characters in texts are refused where they stand."""
        self.refused(b'{"a": "x\ny"}', 1, "line end")
        self.refused(b'{\n"a": "C:\\temp\\qq"}', 2, "backslash")
        self.refused(b'["\\ud800"]', 1, "surrogate")

    def test_encodings(self):
        """UTF-16 and Latin-1 files are told apart from broken JSON."""
        self.refused('{"a": 1}'.encode("utf-16"), 1, "UTF-16")
        self.refused(b'{\n"a": "\xe4"}', 2, "UTF-8")

    def test_nothing_and_too_much(self):
        """An empty file and text behind the end are refused."""
        self.refused(b" \n ", 1, "empty")
        self.refused(b"{}\n}", 2, "after the end")

    def test_caps(self):
        """Size and depth are refused one above their limits, and taken at them."""
        self.refused(b" " * (MAX_FILE_BYTES + 1), 1, str(MAX_FILE_BYTES))
        read_document(b"1" + b" " * (MAX_FILE_BYTES - 1), "f")
        self.refused(b"[" * (MAX_DEPTH + 1), 1, "nested")
        read_document(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "f")

    def test_every_truncation(self):
        """A file cut off at any byte is an error, never a wrong tree or another exception."""
        data = '{"a": [1, -2.5e3, true, null, "x\\u00e4\\n"], "bé": {"c": {}}}'.encode()
        for end in range(len(data)):
            self.assertRaises(DocumentError, read_document, data[:end], "f")
