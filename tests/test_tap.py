"""What twistd's face sets for the process."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from tbgw.tap import collect_garbage_seldom


class GarbageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(700, 10, 10)

    def test_seldom(self) -> None:
        """Everything is looked at after millions of objects, and young garbage still after thousands."""
        collect_garbage_seldom()
        young, middle, old = gc.get_threshold()
        self.assertTrue(700 < young <= 10_000)
        self.assertGreater(young * middle * old, 1_000_000)
        self.assertTrue(gc.isenabled())
