"""Tests of the entries of `devices` in an XMPP connector's file."""

from __future__ import annotations

from typing import Any

from tbgw.config.findings import Severity
from tbgw.connectors.xmpp.config import XMPPConfig, parse
from tests.config.fakes import FolderCase, tree

SERVER = {"jid": "gateway@example.org", "password": "canary-9"}
DEVICE = {"jid": "device@example.org", "deviceNameExpression": "${sn}"}


class DeviceConfigTests(FolderCase):
    """Keys of our own, and what is refused."""

    def parse(self, plugins: tuple[str, ...] = ("xep_0323", "xep_0325"), **device: Any) -> XMPPConfig:
        content = {"server": {**SERVER, "plugins": list(plugins)}, "devices": [{**DEVICE, **device}]}
        return parse(tree(content, "xmpp.json"), self.reporter)

    def test_everything(self):
        """All keys are read."""
        (device,) = self.parse(
            jid="*@sensors.example.org/x",
            bodyFormat="pairs",
            timestampExpression="${when}",
            presence=False,
            requestPresence=True,
            statusAttributes=False,
            attributeUpdates=[
                {"attributeOnThingsBoard": "a", "send": "control", "parameter": "p", "parameterType": "double"}
            ],
            serverSideRpc=[
                {
                    "methodRPC": "m", "responseTimeoutMs": 9, "correlateBy": "thread", "response": "${a}",
                    "responseAsTelemetry": True, "messageType": "headline",
                }
            ],
            readout={
                "periodSeconds": 5, "timeoutMs": 6, "fieldTypes": ["all"], "nodes": ["n"], "fields": ["f"],
                "keyExpression": "${node}", "nodeNameExpression": "${node}", "units": False, "datapoints": "configured",
            },
        ).devices  # fmt: skip
        found = (device.jid, device.body_format, device.timestamp)
        self.assertEqual(found, ("*@sensors.example.org/x", "pairs", "${when}"))
        self.assertEqual((device.presence, device.request_presence, device.status_attributes), (False, True, False))
        self.assertEqual((device.attribute_updates[0].send, device.attribute_updates[0].parameter), ("control", "p"))
        (rpc,) = device.rpcs
        answer = (rpc.timeout_ms, rpc.correlate, rpc.response, rpc.response_is_data)
        self.assertEqual(answer, (9, "thread", "${a}", True))
        assert device.readout is not None
        self.assertEqual((device.readout.period_seconds, device.readout.field_types), (5, ("all",)))
        self.assertEqual((device.readout.data_points, device.readout.units), ("configured", False))
        self.assertEqual(self.lines(), [])

    def test_defaults(self):
        """What is left out: presence counts, nothing is read out, an answer is a reading only by its place."""
        (device,) = self.parse(serverSideRpc=[{"methodRPC": "m"}]).devices
        self.assertEqual((device.presence, device.status_attributes, device.readout), (True, True, None))
        self.assertIsNone(device.rpcs[0].response_is_data)
        self.assertEqual(self.parse(readout={}).devices[0].readout.period_seconds, 60)  # type: ignore[union-attr] # it was given

    def test_faults(self):
        """Every expression is understood before the start, and every word is one of its list."""
        for change in (
            {"jid": "*"}, {"jid": "a*@b"}, {"jid": "*@*"}, {"jid": "a@b/"}, {"jid": "a b@c"}, {"jid": "a@."},
            {"deviceNameExpression": "${from.name}"}, {"deviceNameExpression": "${a[}"},
            {"timeseries": [{"key": "a", "value": "${a[}"}]}, {"bodyFormat": "xml"}, {"presence": 1},
            {"serverSideRpc": [{"methodRPC": "m", "responseTimeoutMs": 0}]},
            {"serverSideRpc": [{"methodRPC": "m", "send": "pigeon"}]},
            {"readout": {"fieldTypes": ["odd"]}}, {"readout": {"periodSeconds": -1}},
            {"attributeUpdates": [{"attributeOnThingsBoard": "a", "parameterType": "odd"}]},
        ):  # fmt: skip
            before = len(self.faults())
            self.parse(**change)
            self.assertEqual(len(self.faults()), before + 1, change)

    def test_plugins(self):
        """A plugin that nobody knows is a warning; a read-out or control without its plugin a doubt."""
        self.parse(plugins=("xep_0030", "xep_9999"))
        self.assertEqual(len(self.lines(Severity.WARNING)), 1)
        self.assertEqual(self.lines(Severity.DOUBT), [])
        self.parse(plugins=("xep_0030",), readout={}, serverSideRpc=[{"methodRPC": "m", "send": "control"}])
        self.assertEqual(len(self.lines(Severity.DOUBT)), 2)
