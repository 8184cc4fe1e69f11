"""Pauses after ThingsBoard said "later", or closed without a word."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbgw.pipeline.pauses import EXPLAINED_SECONDS, PUSHED_BACK_SECONDS, Pauses


class PausesTests(SynchronousTestCase):
    """How they grow, and when they begin anew."""

    def test_later(self):
        """Each "later" after the last pause makes a longer one, up to a bound; what is taken after it ends the row."""
        pauses, now, seen = Pauses(), 100.0, []
        for _ in range(8):
            seen.append(pauses.said_later(now))
            self.assertEqual(pauses.said_later(now), 0.0)
            now = pauses.resume_at
        self.assertEqual(seen, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0])
        pauses.acknowledged(now - 1)
        self.assertEqual(pauses.said_later(now), PUSHED_BACK_SECONDS[1])
        pauses.acknowledged(pauses.resume_at)
        self.assertEqual(pauses.said_later(pauses.resume_at), PUSHED_BACK_SECONDS[0])

    def test_closes(self):
        """The first close costs nothing, each further one more, until something is taken."""
        pauses, seen = Pauses(), []
        for now in (100.0, 200.0, 300.0, 400.0):
            pauses.closed(now)
            seen.append(max(0.0, pauses.resume_at - now))
        self.assertEqual(seen, [0.0, 1.0, 2.0, 4.0])
        pauses.taken()
        pauses.closed(500.0)
        self.assertLess(pauses.resume_at, 500.0)

    def test_explained(self):
        """Some codes explain a close, and so does an answer shortly before it."""
        pauses = Pauses()
        self.assertTrue(pauses.explains(0x97, 100.0))
        self.assertFalse(pauses.explains(None, 100.0))
        self.assertFalse(pauses.explains(0x8B, 100.0))
        pauses.explained(100.0)
        self.assertTrue(pauses.explains(None, 100.0 + EXPLAINED_SECONDS - 1))
        self.assertFalse(pauses.explains(None, 100.0 + EXPLAINED_SECONDS))
