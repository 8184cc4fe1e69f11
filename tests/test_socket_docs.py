"""The examples in docs/socket.md can be used as they stand, and every key is in it."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tbgw.config.document import read_document
from tbgw.config.findings import Reporter, Severity
from tbgw.config.schema import settings_of
from tbgw.connectors.socket import config, fields, links

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "socket.md").read_text()


class DocsTests(SynchronousTestCase):
    """docs/socket.md"""

    def test_examples(self):
        """Each example is read without a fault or a doubt; only the certificates of one are not there."""
        examples = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
        self.assertGreater(len(examples), 10)
        for example in examples:
            reporter = Reporter(Path(self.mktemp()), Path(self.mktemp()))
            root = read_document(example.encode(), "example").root
            config.parse(root, reporter)
            lines = [str(one) for one in reporter.findings() if one.severity in (Severity.FAULT, Severity.DOUBT)]
            self.assertEqual([line for line in lines if "socket.tls" not in line], [], example)

    def test_every_key(self):
        """No key that the connector reads is missing."""
        sections = (
            *(config._Listener, config.SocketDevice, config.AttributeRequest, config.AttributeUpdate, config.Rpc),
            *(config.Poll, fields.Datapoint, fields.Timestamp, links.TLS, links._Framing),
        )
        known = {item.keys[0] for section in sections for item in settings_of(section).values()}
        for key in sorted(known - {"attributeNameExpressionSource"}):
            self.assertTrue(re.search(rf"\b{key}\b", TEXT), key)
