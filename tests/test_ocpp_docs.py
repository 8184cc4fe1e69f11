"""The examples in docs/ocpp.md can be used as they stand, and every key and every answered message is in it."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import read_document
from tbgw.config.findings import Reporter, Severity
from tbgw.config.schema import settings_of
from tbgw.connectors.ocpp import config, policy, report_events
from tbgw.internal_events import Event
from tbgw.ocpp.actions import station_actions
from tbgw.ocpp.versions import Version

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "ocpp.md").read_text()


class DocsTests(SynchronousTestCase):
    """docs/ocpp.md"""

    def test_examples(self):
        """Each example is read without a fault or a doubt."""
        examples = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
        self.assertGreaterEqual(len(examples), 3)
        for example in examples:
            reporter = Reporter(Path(self.mktemp()), Path(self.mktemp()))
            config.parse(read_document(example.encode(), "example").root, reporter)
            lines = [str(one) for one in reporter.findings() if one.severity in (Severity.FAULT, Severity.DOUBT)]
            self.assertEqual(lines, [], example)

    def test_every_key(self):
        """No key of what this page is about is missing."""
        sections = (
            *(policy.Boot, policy.Authorization, policy.Tag, policy.Transactions, policy.Vendor, policy.DataTransfer),
            *(policy.DefaultMapping, config.ChargePointPoint),
        )
        for key in sorted({item.keys[0] for section in sections for item in settings_of(section).values()}):
            self.assertTrue(re.search(rf"\b{key}\b", TEXT), key)

    def test_every_counter(self):
        """What is counted can be looked up."""
        kinds = [kind for kind in vars(report_events).values() if isinstance(kind, type) and issubclass(kind, Event)]
        for kind in kinds:
            self.assertIn(kind.counter, TEXT)

    def test_every_message(self):
        """What each message is answered can be looked up."""
        for version in Version:
            for action in station_actions(version):
                self.assertTrue(re.search(rf"\b{action}\b", TEXT), action)
