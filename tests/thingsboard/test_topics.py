"""Topics with a number in them."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tbgw.thingsboard import topics


class RequestIdTests(SynchronousTestCase):
    """`request_id`."""

    def test_numbers(self):
        """Plain decimal numbers are understood."""
        for number in (0, 7, 65536, 10**17):
            self.assertEqual(
                topics.request_id(f"{topics.DEVICE_RPC_REQUEST}{number}", topics.DEVICE_RPC_REQUEST), number
            )

    def test_anything_else(self):
        """Anything else is no request: signs, spaces, other digits, more levels, endless numbers, other topics."""
        for tail in ("", "-1", "+1", " 1", "1 ", "1/2", "٣", "²", "0x1", "1.0", "9" * 19, "9" * 5000):
            self.assertIsNone(topics.request_id(topics.DEVICE_RPC_REQUEST + tail, topics.DEVICE_RPC_REQUEST), tail)
        self.assertIsNone(topics.request_id(topics.RPC, topics.DEVICE_RPC_REQUEST))
