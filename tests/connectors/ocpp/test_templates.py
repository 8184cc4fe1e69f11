"""`valueExpression` on the way down: JSON stays JSON, whatever is in the values."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.templates import for_rpc, for_update, payload_of
from tbgw.errors import CommandFailed

json_values = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**53), 2**53) | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=6,
)


class TemplateTests(SynchronousTestCase):
    """`for_rpc` and `for_update`."""

    def test_reference(self):
        """What the existing gateway makes of an RPC's parameters (spec ocpp, 3.1)."""
        for template, params, expected in (
            ("${params}", "a", '"a"'),
            ("${params}", {"b": {"c": 1}}, '{"b": {"c": 1}}'),
            ("${params.b.c}", {"b": {"c": 1}}, "1"),
            ('{"x":${params}}', {"b": True}, '{"x":{"b": true}}'),
            ("state", None, "state"),
            ("${params}", 5, "5"),
        ):
            self.assertEqual(for_rpc(template).text({"params": params}), expected, template)

    def test_nothing(self):
        """No parameters are nothing to send; a missing one is refused and not sent as `${...}`."""
        self.assertIsNone(for_rpc("${params}").text({"params": None}))
        error = self.assertRaises(CommandFailed, for_rpc("${params.amps}").text, {"params": {}})
        self.assertIn("params.amps", str(error))

    def test_within_quotes(self):
        """Within quotes a value is written with JSON's escapes, also behind an escaped quote."""
        made = for_update(r'{"a": "say \"${attributeValue}\"", "${attributeKey}": ${attributeValue}}')
        text = made.text({"attributeKey": 'k"ey', "attributeValue": 'a "b"\n'})
        self.assertEqual(json.loads(text or ""), {"a": 'say "a "b"\n"', 'k"ey': 'a "b"\n'})

    @given(json_values, some.text())
    def test_always_json(self, value: Any, key: str) -> None:
        """Whatever the value, the documented default gives one key with one text."""
        template = for_update('{"${attributeKey}":"${attributeValue}"}')
        text = template.text({"attributeKey": key, "attributeValue": value})
        found = json.loads(text or "")
        self.assertEqual(list(found), [key])
        if isinstance(value, str):
            self.assertEqual(found[key], value)
        else:
            self.assertEqual(json.loads(found[key]), value)

    def test_no_json(self):
        """An update that is no JSON takes values as they are."""
        self.assertEqual(for_update("L=${attributeValue};").text({"attributeValue": 'a"b'}), 'L=a"b;')
        self.assertEqual(for_update("${attributeValue}").text({"attributeValue": {"a": 1}}), '{"a":1}')

    def test_payload(self):
        """A payload is a JSON object, or a text that is one; nothing is an empty one."""
        self.assertEqual(payload_of('{"a": 1}'), {"a": 1})
        self.assertEqual(payload_of(json.dumps('{"a": 1}')), {"a": 1})
        self.assertEqual([payload_of(None), payload_of("")], [{}, {}])
        for text in ("5", "[1]", '"a"', "{", "nothing", json.dumps(json.dumps('{"a": 1}'))):
            self.assertRaises(CommandFailed, payload_of, text)
