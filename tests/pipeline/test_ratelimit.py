"""Token buckets, against a straightforward simulation and against the server they must not overrun."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import RateLimit, SessionLimits
from tbgw.pipeline.ratelimit import SHARE, Budget, RateLimiter
from tbgw.thingsboard import topics


class Server:
    """ThingsBoard's side: a greedy bucket of the whole capacity, in exact arithmetic."""

    def __init__(self, limit: RateLimit) -> None:
        self.size = Fraction(limit.capacity)
        self.rate = Fraction(limit.capacity) / Fraction(limit.seconds)
        self.tokens = self.size
        self.at = Fraction(0)

    def take(self, cost: int, now: float) -> bool:
        moment = Fraction(now)
        self.tokens = min(self.size, self.tokens + (moment - self.at) * self.rate)
        self.at = moment
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True


LIMITS = st.builds(RateLimit, st.integers(1, 200), st.sampled_from([0.5, 1.0, 10.0, 60.0, 600.0]))


class RateLimiterTests(SynchronousTestCase):
    """`RateLimiter`."""

    def test_without_limits(self):
        """Without limits nothing waits, and the limiter is false."""
        limiter = RateLimiter((), 0.0)
        self.assertFalse(limiter)
        limiter.spend(10**9, 0.0)
        limiter.drain(0.0)
        self.assertEqual(limiter.wait_seconds(10**9, 0.0), 0.0)
        self.assertTrue(RateLimiter([RateLimit(1, 1.0)], 0.0))

    def test_burst_then_wait(self):
        """A full bucket gives its share at once; then one waits for what is missing."""
        limiter = RateLimiter([RateLimit(10, 1.0)], 0.0)
        for _ in range(8):
            self.assertEqual(limiter.wait_seconds(1, 0.0), 0.0)
            limiter.spend(1, 0.0)
        self.assertAlmostEqual(limiter.wait_seconds(1, 0.0), 1 / 8)
        self.assertAlmostEqual(limiter.wait_seconds(4, 0.25), 0.25)
        self.assertEqual(limiter.wait_seconds(4, 0.5), 0.0)

    def test_all_buckets_hold(self):
        """The slowest bucket decides."""
        limiter = RateLimiter([RateLimit(10, 1.0), RateLimit(20, 100.0)], 0.0)
        limiter.spend(8, 0.0)
        self.assertAlmostEqual(limiter.wait_seconds(8, 0.0), 1.0)
        limiter.spend(8, 1.0)
        self.assertAlmostEqual(limiter.wait_seconds(8, 10.0), (8 - 0.16 * 10) / 0.16)

    def test_cost_above_the_bucket(self):
        """A cost above the bucket waits for the full bucket and leaves it in debt: the mean rate holds."""
        limiter = RateLimiter([RateLimit(10, 1.0)], 0.0)
        self.assertEqual(limiter.wait_seconds(80, 0.0), 0.0)
        limiter.spend(80, 0.0)
        self.assertAlmostEqual(limiter.wait_seconds(1, 0.0), 73 / 8)
        self.assertAlmostEqual(limiter.wait_seconds(80, 0.0), 10.0)

    def test_drain(self):
        """A drained bucket starts from nothing; one in debt keeps its debt."""
        limiter = RateLimiter([RateLimit(10, 1.0)], 0.0)
        limiter.drain(0.0)
        self.assertAlmostEqual(limiter.wait_seconds(4, 0.0), 0.5)
        limiter.spend(8, 0.0)
        limiter.drain(0.0)
        self.assertAlmostEqual(limiter.wait_seconds(1, 0.0), 9 / 8)

    def test_capacity_one(self):
        """Also a limit of one message keeps its reserve: the mean rate is the share, not the whole."""
        limiter = RateLimiter([RateLimit(1, 1.0)], 0.0)
        limiter.spend(1, 0.0)
        self.assertAlmostEqual(limiter.wait_seconds(1, 0.0), 1 / SHARE)

    def test_clock_set_back(self):
        """A clock that is set back a year keeps nobody waiting for a year."""
        limiter = RateLimiter([RateLimit(10, 1.0)], 3e7)
        limiter.spend(8, 3e7)
        self.assertAlmostEqual(limiter.wait_seconds(4, 0.0), 0.5)
        self.assertAlmostEqual(limiter.wait_seconds(4, 0.5), 0.0)

    def test_clock_set_forward(self):
        """A clock that is set forward gives one full bucket, and no more."""
        limiter = RateLimiter([RateLimit(10, 1.0)], 0.0)
        limiter.spend(8, 0.0)
        self.assertEqual(limiter.wait_seconds(8, 3e7), 0.0)
        limiter.spend(8, 3e7)
        self.assertAlmostEqual(limiter.wait_seconds(8, 3e7), 1.0)

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(LIMITS, min_size=1, max_size=3),
        st.lists(st.tuples(st.integers(1, 60), st.floats(0, 5)), max_size=40),
        st.floats(0, 1e9),
    )
    def test_never_over_the_server(self, limits, wishes, start):
        """
        Whoever waits as told may then spend at once (the wait is never a hair too short, which would spin), and the
        server, with its own exact buckets, refuses none of it as long as each cost fits our bucket.
        """
        limiter = RateLimiter(limits, start)
        servers = [Server(limit) for limit in limits]
        smallest = min(max(1.0, limit.capacity * SHARE) for limit in limits)
        now = start
        for cost, idle in wishes:
            now += idle
            cost = max(1, min(cost, int(smallest)))
            wait = limiter.wait_seconds(cost, now)
            now += wait
            if wait:
                left = limiter.wait_seconds(cost, now)
                self.assertLess(left, 1e-5)
            limiter.spend(cost, now)
            for server in servers:
                self.assertTrue(server.take(cost, now - start))

    @settings(max_examples=150, deadline=None)
    @given(LIMITS, st.lists(st.tuples(st.integers(1, 300), st.floats(0, 5)), min_size=1, max_size=40))
    def test_against_a_simulation(self, limit, wishes):
        """The waits are those of a bucket that is filled in exact arithmetic."""
        limiter = RateLimiter([limit], 0.0)
        size = max(Fraction(1), Fraction(limit.capacity) * Fraction(SHARE))
        rate = Fraction(limit.capacity) * Fraction(SHARE) / Fraction(limit.seconds)
        tokens, at, now = size, Fraction(0), 0.0
        for cost, idle in wishes:
            now += idle
            tokens = min(size, tokens + (Fraction(now) - at) * rate)
            at = Fraction(now)
            expected = float(max(Fraction(0), (min(Fraction(cost), size) - tokens) / rate))
            wait = limiter.wait_seconds(cost, now)
            self.assertAlmostEqual(wait, expected, delta=1e-6 * max(1.0, float(1 / rate)) + 1e-9)
            now += wait
            tokens = min(size, tokens + (Fraction(now) - at) * rate) - cost
            at = Fraction(now)
            limiter.spend(cost, now)


class BudgetTests(SynchronousTestCase):
    """What may be spent of all limits together."""

    def spend(self, budget: Budget, topic: str, times: int = 100, points: int = 1, **more: Any) -> int:
        """How often such a payload may be sent at once."""
        return sum(budget.send(topic, 1, points, 0.0, **more) == 0 for _ in range(times))

    def test_each_kind_from_its_own_limits(self):
        """Children's data, children's other messages, and the gateway's own data and messages do not share."""
        limits = SessionLimits(
            own_messages=(RateLimit(10, 1e6),),
            own_telemetry=(RateLimit(20, 1e6),),
            own_points=(RateLimit(100, 1e6),),
            messages=(RateLimit(30, 1e6),),
            telemetry=(RateLimit(40, 1e6),),
            points=(RateLimit(200, 1e6),),
        )
        budget = Budget(limits, 0.0)
        self.assertEqual(self.spend(budget, topics.TELEMETRY), 32)
        self.assertEqual(self.spend(budget, topics.DISCONNECT), 24)
        self.assertEqual(self.spend(budget, topics.DEVICE_TELEMETRY), 16)
        self.assertEqual(self.spend(budget, topics.DEVICE_RPC_RESPONSE + "1"), 8)
        for topic in (topics.ATTRIBUTES, topics.RPC, topics.DEVICE_ATTRIBUTES):
            self.assertEqual(self.spend(budget, topic), 0, topic)
        self.assertGreater(budget.announce(0.0), 0)
        budget = Budget(limits, 0.0)
        self.assertEqual(self.spend(budget, topics.TELEMETRY, points=20), 8)
        self.assertEqual(self.spend(budget, topics.DEVICE_TELEMETRY, points=20), 4)

    def test_all_pairs_together(self):
        """The tightest of several pairs counts, now and later."""
        budget = Budget(SessionLimits(telemetry=(RateLimit(10, 1.0), RateLimit(60, 60.0))), 0.0)
        self.assertEqual(self.spend(budget, topics.TELEMETRY), 8)
        sent = 8
        for tick in range(1, 6001):
            sent += budget.send(topics.TELEMETRY, 1, 1, tick / 10) == 0
        self.assertLessEqual(sent, 48 + 600 * 0.8 + 1)
        self.assertGreaterEqual(sent, 48 + 600 * 0.8 - 2)

    def test_nothing_is_spent_in_vain(self):
        """What one limit refuses costs nothing of the others."""
        budget = Budget(SessionLimits(telemetry=(RateLimit(100, 1e6),), points=(RateLimit(10, 1.0),)), 0.0)
        self.spend(budget, topics.TELEMETRY, times=1000, points=8)
        sent = 1
        for second in range(1, 100):
            sent += budget.send(topics.TELEMETRY, 1, 8, float(second)) == 0
        self.assertEqual(sent, 80)

    def test_first_contact(self):
        """An announcement costs two messages."""
        budget = Budget(SessionLimits(messages=(RateLimit(10, 1e6),)), 0.0)
        self.assertEqual(sum(budget.announce(0.0) == 0 for _ in range(10)), 4)

    def test_backlog_share(self):
        """Backlog takes its share at most, and leaves the rest to what is fresh; fresh data alone may take all."""
        limits = SessionLimits(telemetry=(RateLimit(100, 1e6),))
        budget = Budget(limits, 0.0, 0.25)
        self.assertEqual(self.spend(budget, topics.TELEMETRY, backlog=True), 20)
        self.assertEqual(self.spend(budget, topics.TELEMETRY), 60)
        self.assertEqual(self.spend(Budget(limits, 0.0, 0.25), topics.TELEMETRY), 80)

    def test_commands(self):
        """A command that comes costs two messages, of the children's or the gateway's own, also into debt."""
        limits = SessionLimits(messages=(RateLimit(10, 10.0),), own_messages=(RateLimit(10, 10.0),))
        for topic, spent in ((topics.RPC, topics.DISCONNECT), (topics.DEVICE_RPC_REQUEST + "7", "v1/devices/me/rpc/x")):
            budget = Budget(limits, 0.0)
            for _ in range(5):
                budget.received(topic, 0.0)
            self.assertAlmostEqual(budget.send(spent, 1, 0, 0.0), 3 / 0.8)
            self.assertEqual(budget.send(topics.TELEMETRY, 1, 1, 0.0), 0)

    def test_drain(self):
        """When ThingsBoard says that a limit is reached the children's data waits for new tokens."""
        budget = Budget(SessionLimits(telemetry=(RateLimit(10, 10.0),), messages=(RateLimit(10, 10.0),)), 0.0, 0.5)
        budget.drain(0.0)
        self.assertAlmostEqual(budget.send(topics.TELEMETRY, 1, 1, 0.0), 1 / 0.8)
        self.assertAlmostEqual(budget.send(topics.TELEMETRY, 1, 1, 0.0, backlog=True), 1 / 0.4)
        self.assertEqual(budget.announce(0.0), 0)
