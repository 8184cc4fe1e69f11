"""Tests of the framings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.framing import Delimited, Framer, Framing, Silent, WholeReads, framer_maker


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


class AnyFramingTests(SynchronousTestCase):
    """All framings alike: the cuts of the stream make no difference, and nothing grows."""

    FRAMINGS = (
        Framing("delimiter", delimiter=b"\r\n"),
        Framing("fixed", length_bytes=5),
        Framing("length", prefix_bytes=1),
        Framing("length", prefix_order="little", prefix_offset=1, prefix_counts="all", keep_prefix=True),
        Framing("length", prefix_bytes=1, prefix_counts="field", prefix_adds=2),
        Framing("markers", start=b"<", end=b">"),
        Framing("markers", start=b"<<", end=b">", keep_marks=True),
        Framing("markers", end=b"ab"),
        Framing("markers", start=b"~", end=b"~"),
        Framing("markers", start=b"aa", end=b"b"),
    )

    @given(
        st.sampled_from(FRAMINGS),
        st.binary(max_size=60) | st.text("ab<>~\r\n\0\1\2\5", max_size=60).map(str.encode),
        st.lists(st.integers(0, 60), max_size=8),
    )
    @settings(max_examples=1500, deadline=None)
    def test_any_stream_any_cuts(self, framing: Framing, stream: bytes, cuts: list[int]) -> None:
        """The same messages, drops and state for the whole, cut anywhere, and byte by byte; held bytes are bounded."""
        results = []
        edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        for chunks in (
            [stream],
            [stream[start:stop] for start, stop in pairwise(edges)],
            [stream[at : at + 1] for at in range(len(stream))],
        ):
            framer = framer_maker(framing, 6)()
            messages: list[bytes] = []
            for chunk in chunks:
                messages += framer.feed(chunk)
                self.assertLessEqual(framer.held, 6 + 12)
            messages += framer.finish()
            results.append((messages, framer.dropped, framer.lost))
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])
        cap = 6 + (len(framing.start + framing.end) if framing.keep_marks else 0)
        self.assertTrue(all(0 < len(message) <= cap for message in results[0][0]))

    def split(self, framing: Framing, stream: bytes, cap: int = 100) -> list[bytes]:
        framer = framer_maker(framing, cap)()
        found = [*framer.feed(stream), *framer.finish()]
        self.dropped, self.lost = framer.dropped, framer.lost
        return found

    def test_fixed(self) -> None:
        """Messages of one length; a rest is none."""
        self.assertEqual(self.split(Framing("fixed", length_bytes=3), b"abcdefgh"), [b"abc", b"def"])

    def test_length(self) -> None:
        """What the number counts, its size, its order, its place, a trailer, and whether the head is kept."""
        for framing, stream, found in (
            (Framing("length"), b"\0\3abc\0\0\0\1x", [b"abc", b"x"]),
            (Framing("length", prefix_order="little"), b"\3\0abc", [b"abc"]),
            (Framing("length", prefix_bytes=1, prefix_counts="field"), b"\4abc", [b"abc"]),
            (Framing("length", prefix_bytes=1, prefix_offset=1, prefix_counts="all"), b"h\5abc", [b"abc"]),
            (Framing("length", prefix_bytes=1, prefix_offset=1, keep_prefix=True), b"h\3abc", [b"h\3abc"]),
            (Framing("length", prefix_bytes=1, prefix_adds=2), b"\1aCC\1bCC", [b"aCC", b"bCC"]),
        ):
            self.assertEqual(self.split(framing, stream), found)

    def test_length_above_the_cap(self) -> None:
        """A message that is too long is passed over by its own length; the next one is whole."""
        framing = Framing("length", prefix_bytes=1)
        self.assertEqual(self.split(framing, b"\x09123456789\2ok", cap=4), [b"ok"])
        self.assertEqual((self.dropped, self.lost), (1, False))

    def test_contradictory_length(self) -> None:
        """A whole that is shorter than its head leaves nothing to go by."""
        framing = Framing("length", prefix_bytes=1, prefix_counts="all")
        self.assertEqual(self.split(framing, b"\4abc\0\4abc"), [b"abc"])
        self.assertTrue(self.lost)

    def test_marks(self) -> None:
        """Noise is passed over, a message that is begun anew counts once, shared flags are one."""
        self.assertEqual(self.split(Framing("markers", start=b"<", end=b">"), b"x<a><b<c>y>d<"), [b"a", b"c"])
        self.assertEqual(self.dropped, 1)
        self.assertEqual(self.split(Framing("markers", start=b"~", end=b"~"), b"x~a~b~~c~"), [b"a", b"b", b"c"])
        self.assertEqual(self.split(Framing("markers", end=b";"), b"a;b;;c"), [b"a", b"b"])
        keeping = Framing("markers", start=b"<", end=b">", keep_marks=True)
        self.assertEqual(self.split(keeping, b"<a><>"), [b"<a>", b"<>"])

    def test_silence(self) -> None:
        """What comes without a pause is one message; one that is too long ends with the next silence."""
        framer = Silent(4)
        self.assertEqual((framer.feed(b"ab"), framer.feed(b"cd"), framer.gap()), ((), (), (b"abcd",)))
        framer.feed(b"abc")
        framer.feed(b"de")
        framer.feed(b"fg")
        self.assertEqual((framer.gap(), framer.dropped, framer.held), ((), 1, 0))
        framer.feed(b"ok")
        self.assertEqual(framer.gap(), (b"ok",))
