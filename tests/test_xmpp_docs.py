"""The examples in docs/xmpp.md can be used as they stand, and every key and counter is in it."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import read_document
from tbgw.config.findings import Reporter
from tbgw.config.schema import settings_of
from tbgw.connectors.xmpp import config, device_config, device_events

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "xmpp.md").read_text()


class DocsTests(SynchronousTestCase):
    """docs/xmpp.md"""

    def test_examples(self):
        """Each example is read with nothing to say about it."""
        examples = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
        self.assertGreaterEqual(len(examples), 3)
        for example in examples:
            reporter = Reporter(Path(self.mktemp()), Path(self.mktemp()))
            config.parse(read_document(example.encode(), "example").root, reporter)
            self.assertEqual([str(one) for one in reporter.findings()], [], example)

    def test_every_key(self):
        """No key that the connector reads is missing; those of `server` are in docs/xmpp-link.md."""
        sections = (
            *(config.XMPPConfig, device_config.XMPPDevice, device_config.XMPPPoint, device_config.XMPPUpdate),
            *(device_config.XMPPRpc, device_config.ReadOutPlan),
        )
        known = {item.keys[0] for section in sections for item in settings_of(section).values()}
        for key in sorted(known):
            self.assertTrue(re.search(rf"\b{key}\b", TEXT), key)

    def test_every_counter(self):
        """Counters that a stranger or a device can move are named."""
        limited = [one for one in vars(device_events).values() if getattr(one, "limited", False)]
        for event in limited:
            if event.counter != "messages_ignored":
                self.assertIn(f"`{event.counter}`", TEXT)
