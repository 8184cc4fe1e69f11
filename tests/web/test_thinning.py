"""Fewer points for the same drawing."""

from __future__ import annotations

import random

from twisted.trial import unittest

from tbgw.web.thinning import thin


class ThinTests(unittest.SynchronousTestCase):
    """`thin`."""

    def test_few_points_stay(self):
        """Up to the limit nothing is left out."""
        points = [(n, n) for n in range(10)]
        self.assertEqual(thin(points, 10), points)
        self.assertEqual(thin([], 10), [])

    def test_many_points(self):
        """Never more than the limit, in order, all of them real, with first, last, least and greatest."""
        chance = random.Random(1)
        for count, limit in ((11, 10), (1000, 10), (1001, 100), (20_000, 2000), (5, 4)):
            points = [(ts, chance.random()) for ts in range(count)]
            thinned = thin(points, limit)
            self.assertLessEqual(len(thinned), limit)
            self.assertGreaterEqual(len(thinned), limit // 2)
            self.assertEqual(thinned, sorted(set(thinned)))
            self.assertTrue(set(thinned) <= set(points))
            self.assertEqual((thinned[0], thinned[-1]), (points[0], points[-1]))
            for pick in (min, max):
                extreme = pick(points, key=lambda point: point[1])
                self.assertIn(extreme, thinned)

    def test_other_values(self):
        """Values that are no numbers are thinned too, without comparing them."""
        points = [(n, "x" if n % 3 else n) for n in range(1000)]
        thinned = thin(points, 100)
        self.assertTrue(50 <= len(thinned) <= 100)
        self.assertEqual(thinned, sorted(thinned, key=lambda point: point[0]))

    def test_tiny_limits(self):
        """A limit too small for a line gives the last points."""
        points = [(n, n) for n in range(10)]
        self.assertEqual(thin(points, 3), points[-3:])
        self.assertEqual(thin(points, 0), [])
