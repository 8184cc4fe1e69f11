"""Whatever a stanza holds, nothing is raised and nothing grows without bound (P-21)."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.words.xish.domish import Element

from tests.connectors.xmpp.fakes import CONTROL, SENSOR, ConnectorCase

NAMES = (
    *("message", "presence", "iq", "body", "thread", "fields", "node", "timestamp", "numeric", "boolean", "int"),
    *("done", "failure", "error", "started", "req", "accepted", "set", "query", "item", "x", "delay", "show", "status"),
    *("priority", "paramError", "text", "item-not-found", "odd"),
)
URIS = (
    "jabber:client", SENSOR, CONTROL, "jabber:x:data", "urn:xmpp:delay", "jabber:iq:roster",
    "urn:ietf:params:xml:ns:xmpp-stanzas", "urn:xmpp:receipts", "",
)  # fmt: skip
ATTRIBUTES = (
    "type",
    "id",
    "seqnr",
    "nodeId",
    "value",
    "name",
    "stamp",
    "done",
    "momentary",
    "identity",
    "jid",
    "unit",
    "var",
)
WORDS = (
    "",
    "1",
    "true",
    "error",
    "get",
    "set",
    "result",
    "subscribe",
    "unavailable",
    "2026-01-01T00:00:00Z",
    "NaN",
    "a" * 300,
)
JIDS = ("pump@example.org/a", "pump@example.org", "x@y/z", "@@", "", "example.org", "pump@example.org/" + "r" * 200)

texts = st.sampled_from((*WORDS, '{"v": 1}', '{"v": {"v": []}}', "v=1;w=x", "[1]")) | st.text(max_size=10)
elements = st.recursive(
    st.tuples(
        st.sampled_from(NAMES), st.sampled_from(URIS), st.dictionaries(st.sampled_from(ATTRIBUTES), texts), texts
    ),
    lambda inner: st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from(URIS),
        st.dictionaries(st.sampled_from(ATTRIBUTES), texts),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


def build(plan: Any, uri: str | None = None) -> Element:
    name, own, attributes, content = plan
    made = Element((uri or own, name), attribs=dict(attributes))
    if isinstance(content, str):
        made.addContent(content)
    else:
        for child in content:
            made.addChild(build(child))
    return made


class AnyStanza(ConnectorCase):
    """A device, or anyone, sends what it wants."""

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(("message", "presence", "iq")), st.sampled_from(JIDS), elements, elements),
            max_size=8,
        )
    )
    def test_any(self, stanzas: Any) -> None:
        """Nothing is raised, every request is answered, and what the device said in between is still heard."""
        self.setUp()
        self.make(
            {
                "timeseries": [{"key": "v", "value": "${v}"}],
                "serverSideRpc": [{"methodRPC": "do"}],
                "readout": {"periodSeconds": 1},
            }
        )
        answers = [self.connector.command("Pump", "do", 1), self.connector.command("Pump", "xmpp_read", None)]
        for answer in answers:
            answer.addBoth(lambda _: None)
        for name, jid, first, second in stanzas:
            stanza = build((name, "", first[2], [first, second]), "jabber:client")
            if jid:
                stanza["from"] = jid
            if name == "iq":
                stanza["type"] = "get"
                self.link.take()
            self.connector.stanza_received(stanza)
            if name == "iq":
                self.assertEqual(len(self.link.take()), 1)
            self.clock.advance(0.5)
        before = len(self.readings)
        self.say('{"v": 5}')
        self.assertGreater(len(self.readings), before)
        self.connector.stopService()
        for answer in answers:
            self.assertTrue(answer.called)
