"""The examples in docs/xmpp-link.md can be used as they stand, and every key of `server` is in it."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import read_document
from tbgw.config.findings import Reporter, Severity
from tbgw.config.schema import settings_of
from tbgw.connectors.xmpp import config, server_config

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "xmpp-link.md").read_text()


class DocsTests(SynchronousTestCase):
    """docs/xmpp-link.md"""

    def test_examples(self):
        """Each example is read without a fault or a doubt; only the files that it names are not there."""
        examples = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
        self.assertEqual(len(examples), 2)
        for example in examples:
            reporter = Reporter(Path(self.mktemp()), Path(self.mktemp()))
            config.parse(read_document(example.encode(), "example").root, reporter)
            lines = [str(one) for one in reporter.findings() if one.severity in (Severity.FAULT, Severity.DOUBT)]
            self.assertEqual([line for line in lines if "cannot read" not in line], [], example)

    def test_every_key(self):
        """No key that is read is missing."""
        for section in (server_config.XMPPServer, server_config.XMPPTLS):
            for item in settings_of(section).values():
                self.assertTrue(re.search(rf"\b{item.keys[0]}\b", TEXT), item.keys[0])
