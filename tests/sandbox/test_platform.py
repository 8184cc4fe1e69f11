"""Devices, sessions and bounds of the in-process ThingsBoard."""

from __future__ import annotations

from twisted.trial import unittest

from tbgw.sandbox.outcomes import Refusal
from tbgw.sandbox.platform import Platform, SandboxLimits

NOW = 1_700_000_000_000


class SessionTests(unittest.SynchronousTestCase):
    """Who is connected as what."""

    def setUp(self):
        self.platform = Platform(SandboxLimits(child_inactivity_ms=600_000))
        self.platform.add_credentials("token", "Gateway", gateway=True)

    def connect(self):
        accepted = self.platform.connect("token", b"any", "any", 4)
        assert isinstance(accepted, tuple)
        return accepted

    def test_token_is_enough(self):
        """The token as user name lets in, whatever password and client id say."""
        for password, client_id in ((None, ""), (b"random", "x")):
            accepted = self.platform.connect("token", password, client_id, 5)
            assert isinstance(accepted, tuple)
            self.assertTrue(accepted[0].gateway)

    def test_refused(self):
        """Nothing else lets in."""
        for username in (None, "", "Token", "token ", "\ud800", "provision"):
            self.assertIsInstance(self.platform.connect(username, None, "c", 4), Refusal)
        self.assertRaises(ValueError, self.platform.add_credentials, "", "Gateway")

    def test_newer_session_evicts_the_older(self):
        """A device has one session; the older one is given back and its children are gone."""
        first, nobody = self.connect()
        self.assertIsNone(nobody)
        self.platform.child(first, "A", NOW)
        second, older = self.connect()
        self.assertIs(older, first)
        self.assertFalse(self.shown("A")["connected"])
        self.platform.disconnect(first)
        self.assertTrue(self.shown("Gateway")["connected"])
        self.platform.disconnect(second)
        self.assertFalse(self.shown("Gateway")["connected"])

    def test_child_of_two_gateways(self):
        """A child belongs to the gateway that spoke of it last."""
        self.platform.add_credentials("other", "Gateway 2", gateway=True)
        first, _ = self.connect()
        accepted = self.platform.connect("other", None, "c", 4)
        assert isinstance(accepted, tuple)
        self.platform.child(first, "A", NOW)
        self.platform.child(accepted[0], "A", NOW)
        self.platform.disconnect(first)
        self.assertTrue(self.shown("A")["connected"])

    def test_children_expire(self):
        """A child without data for ten minutes leaves silently; data keeps it, and brings it back."""
        session, _ = self.connect()
        a = self.platform.child(session, "A", NOW)
        self.platform.child(session, "B", NOW)
        self.platform.active(a, NOW + 1000)
        self.assertEqual(self.platform.expire(NOW + 1000), NOW + 600_000)
        self.assertEqual(self.platform.expire(NOW + 600_000), NOW + 601_000)
        self.assertEqual(set(session.children), {"A"})
        self.assertIsNone(self.platform.expire(NOW + 601_000))
        self.platform.child(session, "B", NOW + 700_000)
        self.assertTrue(self.shown("B")["connected"])

    def test_subscriptions(self):
        """Only the fixed filters are granted, at QoS 1 at most, and only those can be given up."""
        session, _ = self.connect()
        for topic_filter, qos, code in (
            ("v1/devices/me/attributes", 0, 0),
            ("v1/gateway/rpc", 2, 1),
            ("v1/devices/me/rpc/response/+", 1, 1),
            ("v1/devices/me/#", 1, 0x8F),
            ("#", 1, 0x8F),
            ("$share/g/v1/devices/me/attributes", 1, 0x8F),
            ("v1/gateway/disconnect", 1, 0x8F),
            ("v2/fw/response/+", 1, 0x8F),
        ):
            self.assertEqual(self.platform.subscribe(session, topic_filter, qos), code, topic_filter)
        self.assertEqual(self.platform.unsubscribe(session, "v1/gateway/rpc"), 0)
        self.assertEqual(self.platform.unsubscribe(session, "v1/gateway/rpc"), 0x11)

    def shown(self, name):
        return next(device for device in self.platform.shown() if device["name"] == name)


class RecordTests(unittest.SynchronousTestCase):
    """Latest values and their bounds."""

    def setUp(self):
        self.platform = Platform(SandboxLimits(max_series=3, max_long_value_chars=1000))
        self.device = self.platform.add_credentials("token", "Gateway", gateway=True)
        self.platform.take_changes()

    def latest(self):
        return {key: series.value for key, series in self.device.telemetry.items()}

    def test_late_points(self):
        """A point older than the latest goes to the history only, one of the same time replaces it."""
        for ts, value in ((10, 1), (5, 2), (10, 3)):
            self.platform.record_telemetry(self.device, [(ts, [("k", value)])], NOW)
        self.assertEqual(self.latest(), {"k": 3})
        self.assertEqual([point[1:] for point in self.platform.take_changes().points], [(10, 1), (5, 2), (10, 3)])

    def test_series_bound(self):
        """Beyond the bound new keys are left out and counted; known keys go on."""
        self.platform.record_telemetry(self.device, [(1, [("a", 1), ("b", 1)])], NOW)
        self.platform.record_attributes(self.device, [("c", 1), ("d", 1)], NOW)
        self.platform.record_telemetry(self.device, [(2, [("e", 1), ("a", 2), ("x" * 256, 1)])], NOW)
        self.assertEqual(self.latest(), {"a": 2, "b": 1})
        self.assertEqual(list(self.device.attributes), ["c"])
        self.assertEqual(self.platform.values_left_out, 3)

    def test_long_values_bound(self):
        """Long values share a bounded room, and give it back when they are replaced."""
        record = self.platform.record_telemetry
        record(self.device, [(1, [("a", "x" * 600), ("b", "y" * 600)])], NOW)
        self.assertEqual(list(self.latest()), ["a"])
        record(self.device, [(2, [("a", "short")])], NOW)
        record(self.device, [(3, [("b", "y" * 600)])], NOW)
        self.assertEqual(self.latest(), {"a": "short", "b": "y" * 600})
        self.platform.record_attributes(self.device, [("c", "z" * 600), ("c", "z" * 300)], NOW)
        self.assertEqual([len(str(value)) for _, value in self.device.attributes.values()], [300])
        self.assertEqual(self.platform.values_left_out, 2)

    def test_shown(self):
        """The view has every device, gateways first, with JSON values and times."""
        self.platform = Platform(SandboxLimits())
        self.platform.add_credentials("token", "Gateway", gateway=True)
        session = self.platform.connect("token", None, "c", 4)
        assert isinstance(session, tuple)
        child = self.platform.child(session[0], "A", NOW, "thermo")
        self.platform.record_telemetry(child, [(5, [("t", 1.5), ("j", b'{"x":1}'), ("b", b"true")])], NOW + 1)
        self.platform.record_attributes(child, [("m", "DHT")], NOW + 2)
        gateway, shown = self.platform.shown()
        self.assertEqual((gateway["name"], gateway["gateway"], gateway["connected"]), ("Gateway", True, True))
        self.assertEqual(
            shown,
            {
                "name": "A",
                "profile": "thermo",
                "gateway": False,
                "connected": True,
                "telemetry": {
                    "t": {"ts": 5, "value": 1.5},
                    "j": {"ts": 5, "value": {"x": 1}},
                    "b": {"ts": 5, "value": True},
                },
                "attributes": {"m": {"ts": NOW + 2, "value": "DHT"}},
                "shared": {},
                "lastActivity": NOW + 2,
            },
        )
        self.platform.child_gone(session[0], "A")
        self.assertFalse(self.platform.shown()[1]["connected"])
