"""Tests of the framings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.framing import Delimited, Framer, Framing, WholeReads, framer_maker


def run(framer: Framer, chunks: Sequence[bytes]) -> tuple[list[bytes], int]:
    """All messages, the end of the stream included, and how many were dropped."""
    messages = [message for chunk in chunks for message in framer.feed(chunk)]
    return messages + list(framer.finish()), framer.dropped


class WholeReadsTests(SynchronousTestCase):
    """One read is one message."""

    def test_reads_are_messages(self) -> None:
        """Each read comes out as it went in, nothing is joined or held back."""
        self.assertEqual(run(WholeReads(8), [b"ab", b"\n", b"c\nd"]), ([b"ab", b"\n", b"c\nd"], 0))

    def test_cap(self) -> None:
        """P-14: a read at the limit is a message, one byte more is dropped and counted."""
        self.assertEqual(run(WholeReads(3), [b"abc", b"abcd", b"e"]), ([b"abc", b"e"], 1))


class DelimitedTests(SynchronousTestCase):
    """Messages that end with a delimiter."""

    def assert_messages_however_split(
        self, make: Callable[[], Framer], stream: bytes, messages: list[bytes], dropped: int = 0
    ) -> None:
        """At every one cut, at every two cuts, and byte by byte, the result is the same."""
        cuts = [[stream], [stream[at : at + 1] for at in range(len(stream))]]
        for first, second in combinations_with_replacement(range(len(stream) + 1), 2):
            cuts += [[stream[:first], stream[first:second], stream[second:]]]
        for chunks in cuts:
            self.assertEqual(run(make(), chunks), (messages, dropped), chunks)

    def test_fragments_and_coalesced_writes(self) -> None:
        """Messages come out whole, however TCP cut and joined them; the last is ended by the close."""
        self.assert_messages_however_split(
            lambda: Delimited(b"\r\n", 16), b"one\r\ntwo\rx\r\n\nthree", [b"one", b"two\rx", b"\nthree"]
        )

    def test_empty_messages(self) -> None:
        """Delimiters in a row, in front and at the end make no empty messages."""
        self.assert_messages_however_split(lambda: Delimited(b"\n", 16), b"\n\na\n\n\nb\n", [b"a", b"b"])

    def test_delimiter_that_overlaps_itself(self) -> None:
        """The first place where the delimiter fits is where it stands."""
        self.assert_messages_however_split(lambda: Delimited(b"aa", 16), b"xaaaya", [b"x", b"aya"])
        self.assert_messages_however_split(lambda: Delimited(b"aba", 16), b"xababay", [b"x", b"bay"])

    def test_cap(self) -> None:
        """P-14: a message at the limit passes, one byte more is dropped, its neighbours stay."""
        self.assert_messages_however_split(lambda: Delimited(b"\r\n", 4), b"abcd\r\nabcde\r\nf\r\n", [b"abcd", b"f"], 1)
        self.assert_messages_however_split(lambda: Delimited(b"\n", 2), b"abc\nd\nabcdefgh\ne", [b"d", b"e"], 2)

    def test_cap_at_the_end(self) -> None:
        """The unfinished last message is held to the limit too, also when it ends like a delimiter begins."""
        self.assert_messages_however_split(lambda: Delimited(b"\r\n", 3), b"a\r\nabc\r", [b"a"], 1)
        self.assert_messages_however_split(lambda: Delimited(b"\r\n", 4), b"a\r\nabc\r", [b"a", b"abc\r"], 0)

    def test_delimiter_inside_an_oversized_message(self) -> None:
        """The stream is taken up at the next delimiter, even if its bytes come apart while skipping."""
        self.assert_messages_however_split(lambda: Delimited(b"--", 3), b"abcdef-g-h--i--", [b"i"], 1)

    def test_held_back_bytes_are_bounded(self) -> None:
        """A stream without a delimiter does not fill the memory, and is one dropped message."""
        framer = Delimited(b"\r\n", 1000)
        for _ in range(5000):
            self.assertEqual(list(framer.feed(b"x" * 997)), [])
            self.assertLessEqual(len(framer._pending), 1001)
        self.assertEqual(framer.feed(b"\r\nok\r\n"), [b"ok"])
        self.assertEqual(framer.dropped, 1)

    def test_single_bytes_are_searched_once(self) -> None:
        """A long message that comes byte by byte is not searched from its beginning each time."""

        class CountingBytes(bytearray):
            searched = 0

            def find(self, what, start=0, *end):
                self.searched += len(self) - start
                return super().find(what, start, *end)

        framer = Delimited(b"\r\n", 100_000)
        framer._pending = pending = CountingBytes()
        for _ in range(3000):
            framer.feed(b"x")
        self.assertLessEqual(pending.searched, 3000 * 3)

    def test_empty_delimiter(self) -> None:
        """An empty delimiter cannot end anything and is refused."""
        self.assertRaises(ValueError, Delimited, b"", 10)

    @given(
        st.sampled_from([b"\n", b"\r\n", b"aa", b"aba"]),
        st.integers(1, 6),
        st.text("ab\r\n", max_size=40).map(str.encode),
        st.lists(st.integers(0, 40), max_size=10),
    )
    @settings(max_examples=500, deadline=None)
    def test_any_stream_any_cuts(self, delimiter: bytes, cap: int, stream: bytes, cuts: list[int]) -> None:
        """For any stream, cut anyhow, the messages are those of a plain split of the whole."""
        whole = [part for part in stream.split(delimiter) if part]
        expected = [part for part in whole if len(part) <= cap]
        edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        chunks = [stream[start:stop] for start, stop in pairwise(edges)]
        self.assertEqual(run(Delimited(delimiter, cap), chunks), (expected, len(whole) - len(expected)))


class FramerMakerTests(SynchronousTestCase):
    """`framer_maker`."""

    def test_choice(self) -> None:
        """Without a delimiter reads are messages; with one each connection has a state of its own."""
        self.assertIsInstance(framer_maker(Framing(), 10)(), WholeReads)
        make = framer_maker(Framing("delimiter"), 10)
        one, other = make(), make()
        one.feed(b"unfinished")
        self.assertEqual(other.feed(b"x\n"), [b"x"])
