"""The examples in docs/ocpp.md and docs/ocpp-commands.md can be used as they stand, and every key is in one of them."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import read_document
from tbgw.config.findings import Reporter, Severity
from tbgw.config.schema import settings_of
from tbgw.connectors.ocpp import access, aliases, config, failures, policy, report_events
from tbgw.internal_events import Event
from tbgw.ocpp.actions import station_actions
from tbgw.ocpp.versions import Version

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = "\n".join((DOCS / name).read_text() for name in ("ocpp.md", "ocpp-commands.md"))


class DocsTests(SynchronousTestCase):
    """Both pages."""

    def test_examples(self):
        """Each example is read without a fault or a doubt; only the certificates of one are not there."""
        examples = [text for text in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL) if '"centralSystem"' in text]
        self.assertGreater(len(examples), 4)
        for example in examples:
            reporter = Reporter(Path(self.mktemp()), Path(self.mktemp()))
            config.parse(read_document(example.encode(), "example").root, reporter)
            lines = [str(one) for one in reporter.findings() if one.severity in (Severity.FAULT, Severity.DOUBT)]
            self.assertEqual([line for line in lines if ".pem" not in line and ".key" not in line], [], example)

    def test_every_key(self):
        """No key that the connector reads is missing."""
        sections = (
            *(config.CentralSystem, config.ChargePoint, config.ChargePointPoint),
            *(config.ChargePointUpdate, config.ChargePointRpc, access.Connection, access.KeyPair, access.Login),
            *(access.Credential, access.Validation, policy.Boot, policy.Authorization, policy.Transactions),
            *(policy.DataTransfer, policy.DefaultMapping, policy.Tag, policy.Vendor),
        )
        known = {item.keys[0] for section in sections for item in settings_of(section).values()}
        for key in sorted(known):
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

    def test_every_alias_and_error(self):
        """No alias and no name of an error is missing."""
        named = re.findall(r"^\| `(\w+)`", failures.__doc__ or "", re.MULTILINE)
        self.assertGreater(len(named), 8)
        for word in (*aliases.ALIASES, *named):
            self.assertIn(f"`{word}`", TEXT)
