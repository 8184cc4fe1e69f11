"""Names in snake case find the keys of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.spelling import spellings
from tbgw.ocpp.actions import station_actions
from tbgw.ocpp.keys import snake_key
from tbgw.ocpp.schemas import schema
from tbgw.ocpp.versions import Version


def keys(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("properties"), dict):
            yield from part["properties"]
        for inner in part.values():
            yield from keys(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from keys(inner)


class SpellingTests(SynchronousTestCase):
    """`spellings`."""

    def test_every_key_of_the_standard(self):
        """The snake form of each key, by the rule of the package `ocpp`, finds that key again."""
        seen = set()
        for version in Version:
            for action in station_actions(version):
                for key in keys(schema(version, action)):
                    seen.add(key)
                    self.assertIn(key, spellings(snake_key(key)), (version, action))
        self.assertGreater(len(seen), 300)

    def test_itself_first(self):
        """A key that is spelt like the name comes before what the wire makes of it."""
        self.assertEqual(spellings("meter_value"), ("meter_value", "meterValue"))
        self.assertEqual(spellings("connectorId"), ("connectorId",))
        self.assertEqual(spellings("limit_l2"), ("limit_l2", "limit_L2"))
        self.assertEqual(spellings("_"), ("_",))
