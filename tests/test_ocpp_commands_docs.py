"""The examples in docs/ocpp-commands.md can be used as they stand; every key is there or in docs/ocpp.md."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import read_document
from tbgw.config.findings import Reporter, Severity
from tbgw.config.schema import settings_of
from tbgw.connectors.ocpp import access, aliases, config, failures, policy

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = (DOCS / "ocpp-commands.md").read_text()
BOTH = TEXT + (DOCS / "ocpp.md").read_text()


class DocsTests(SynchronousTestCase):
    """docs/ocpp-commands.md"""

    def test_examples(self):
        """Each example is read without a fault or a doubt; only the certificates of one are not there."""
        examples = [text for text in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL) if '"centralSystem"' in text]
        self.assertGreater(len(examples), 2)
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
            self.assertTrue(re.search(rf"\b{key}\b", BOTH), key)

    def test_every_alias_and_error(self):
        """No alias and no name of an error is missing."""
        named = re.findall(r"^\| `(\w+)`", failures.__doc__ or "", re.MULTILINE)
        self.assertGreater(len(named), 8)
        for word in (*aliases.ALIASES, *named):
            self.assertIn(f"`{word}`", TEXT)
