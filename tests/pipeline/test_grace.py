"""The grace after a PUBACK that may stand for a refusal (MQTT 3.1.1)."""

from __future__ import annotations

from tbgw.model import SessionLimits
from tbgw.pipeline import forwarder as module
from tbgw.pipeline.announcements import ANNOUNCE_SECONDS
from tbgw.pipeline.grace import GRACE_SECONDS
from tests.pipeline.test_forwarder import Base

DOUBTFUL = SessionLimits(doubtful_pubacks=True)


class GraceTests(Base):
    """When a row is deleted, and when it goes again."""

    def begin(self, *known: str) -> None:
        self.bench.start(*known, limits=DOUBTFUL)

    def acknowledge(self, number: int) -> None:
        self.bench.uplink.acknowledge(self.bench.waiting(number))

    def test_deleted_when_the_session_lives_on(self):
        """A row is deleted `GRACE_SECONDS` after its PUBACK, and counts as delivered then; idle is idle before that."""
        bench = self.bench
        self.begin("A")
        (row,) = bench.say()
        self.acknowledge(1)
        self.assertTrue(bench.forwarder.idle)
        bench.clock.advance(GRACE_SECONDS - 0.1)
        self.assertEqual((bench.spool.deleted, bench.forwarder.delivered_rows), ([], 0))
        bench.clock.advance(0.1)
        self.assertEqual((bench.spool.deleted, bench.forwarder.delivered_rows), ([row.seq], 1))

    def test_deleted_when_something_later_is_acknowledged(self):
        """The PUBACK for what was sent after a row's PUBACK settles it at once; one for what was under way does not."""
        bench = self.bench
        self.begin("A")
        bench.say(2)
        self.acknowledge(1)
        self.acknowledge(2)
        self.assertEqual(bench.spool.deleted, [])
        bench.say()
        self.acknowledge(3)
        self.assertEqual(bench.spool.deleted, [1, 2])

    def test_goes_again_when_the_session_ends(self):
        """What was acknowledged right before the end goes again, first and in order, marked as a duplicate."""
        bench = self.bench
        self.begin("A")
        bench.say(4)
        for number in (1, 3, 2):
            self.acknowledge(number)
        bench.restart_session()
        self.assertEqual(bench.numbers(2), [1, 2, 3, 4])
        self.assertEqual([sent.dup for sent in bench.uplink.data(2)], [True] * 4)
        self.assertEqual(bench.spool.deleted, [])
        bench.uplink.acknowledge_all()
        bench.clock.advance(GRACE_SECONDS)
        self.assertEqual(bench.spool.deleted, [1, 2, 3, 4])

    def test_held_behind_another(self):
        """A row held behind one without PUBACK goes again, too, whichever device it speaks of."""
        bench = self.bench
        self.begin("A", "B")
        bench.say()
        bench.say(1, ("B",))
        self.acknowledge(2)
        bench.restart_session()
        self.assertEqual(bench.numbers(2), [1, 2])

    def test_no_grace_where_refusals_have_a_code(self):
        """On MQTT 5 a row is deleted at its PUBACK; so in the next session, if that is one."""
        bench = self.bench
        self.begin("A")
        bench.uplink.down()
        bench.uplink.up(SessionLimits())
        bench.uplink.acknowledge_announcements()
        bench.say()
        bench.uplink.acknowledge()
        self.assertEqual(bench.spool.deleted, [1])

    def test_bounded(self):
        """While rows in their grace take `HELD_BYTES` of memory nothing is sent; it goes on when they are settled."""
        self.patch(module, "HELD_BYTES", 1000)
        bench = self.bench
        self.begin("A")
        bench.say(4, size=300)
        bench.uplink.acknowledge_all()
        bench.say()
        self.assertEqual(bench.numbers(), [1, 2, 3, 4])
        bench.clock.advance(GRACE_SECONDS)
        self.assertEqual(bench.numbers(), [1, 2, 3, 4, 5])
        self.assertEqual((bench.spool.deleted, bench.forwarder._grace.bytes), ([1, 2, 3, 4], 0))

    def test_closes_behind_pubacks_slow_down(self):
        """When the session ends again and again right behind the same row's PUBACK, the pauses grow."""
        bench = self.bench
        self.begin("A")
        bench.say()
        pauses = []
        for _ in range(3):
            bench.uplink.acknowledge()
            bench.uplink.down()
            bench.uplink.up()
            began = bench.clock.seconds()
            while not bench.uplink.data(bench.uplink.session):
                bench.uplink.acknowledge_announcements()
                bench.clock.advance(0.5)
                self.assertLess(bench.clock.seconds(), began + ANNOUNCE_SECONDS)
            pauses.append(bench.clock.seconds() - began)
        self.assertEqual(pauses, sorted(pauses))
        self.assertGreater(pauses[-1], pauses[0])
