"""What the tests of the XMPP connector's data side stand on: a link in memory, elements from text, and builders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element, elementStream
from zope.interface import implementer

from tbgw.config.findings import Reporter
from tbgw.config.schema import read_section
from tbgw.connectors.xmpp.connector import XMPPConnector
from tbgw.connectors.xmpp.device_config import XMPPDevice
from tbgw.connectors.xmpp.errors import LinkGone, RequestTimedOut, StanzaRefused, StanzaTooLarge
from tbgw.connectors.xmpp.interfaces import IXMPPLink, IXMPPListener
from tbgw.connectors.xmpp.stanzas import error_of
from tbgw.model import Device, Reading
from tests.config.fakes import tree
from tests.connectors.socket.fakes import Lines, RecordingIngest

NOW_MS = 1_790_000_000_000
ALL_PLUGINS = ("xep_0030", "xep_0323", "xep_0325")
SENSOR, CONTROL = "urn:xmpp:iot:sensordata", "urn:xmpp:iot:control"


def element(xml: str) -> Element:
    """A stanza as it comes from a client's stream."""
    found: list[Element] = []
    stream: Any = elementStream()
    stream.DocumentStartEvent = lambda root: None
    stream.ElementEvent = found.append
    stream.DocumentEndEvent = lambda: None
    stream.parse(b"<stream xmlns='jabber:client'>" + xml.encode())
    (one,) = found
    return one


def message(sender: str, body: str = "", inner: str = "", **attributes: str) -> Element:
    """A message; `inner` is XML beside the body."""
    made = element(f"<message>{inner}</message>")
    made["from"] = sender
    for name, value in attributes.items():
        made[name] = value
    if body:
        made.addElement(("jabber:client", "body"), content=body)
    return made


@implementer(IXMPPLink)
class FakeLink(Service):
    """See `IXMPPLink`: keeps what is sent, and answers as the test says."""

    def __init__(self, clock: Clock) -> None:
        self.connected = False
        self.jid = "gateway@example.org/tbgw"
        self.resumed = False
        self.is_component = False
        self.sent: list[Element] = []
        self.requests: list[tuple[Element, Deferred[Element]]] = []
        self.features: list[str] = []
        self.paused = False
        self.limit_bytes = 200_000
        self._clock = clock
        self.listener: Any = None

    def set_listener(self, listener: IXMPPListener) -> None:
        assert self.listener is None
        assert IXMPPListener.providedBy(listener)
        self.listener = listener

    def send(self, element: Element) -> None:
        if not self.connected:
            raise LinkGone("there is no session with the XMPP server")
        size = len(element.toXml().encode())
        if size > self.limit_bytes:
            raise StanzaTooLarge(size, self.limit_bytes)
        self.sent.append(element)

    def request(self, iq: Element, timeout_seconds: float) -> Deferred[Element]:
        answer: Deferred[Element] = Deferred()
        if not self.connected:
            answer.errback(LinkGone("there is no session with the XMPP server"))
            return answer
        self.requests.append((iq, answer))

        def overdue() -> None:
            if not answer.called:
                answer.errback(RequestTimedOut("no answer came"))

        timer = self._clock.callLater(timeout_seconds, overdue)

        def ended(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        return answer.addBoth(ended)

    def advertise(self, features: Iterable[str]) -> None:
        self.features += features

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def status(self) -> Mapping[str, Any]:
        return {}

    def stopService(self) -> Deferred[None]:
        """As the real one: whoever still waits is told."""
        super().stopService()
        self.connected = False
        for _, answer in self.requests:
            if not answer.called:
                answer.errback(LinkGone("the connector stopped"))
        return succeed(None)

    # What the test does.

    def up(self, resumed: bool = False) -> None:
        """The session is ready; the roster is empty."""
        self.connected, self.resumed = True, resumed
        self.listener.link_up(self.jid)

    def down(self) -> None:
        self.connected = False
        self.listener.link_down("cut")

    def take(self) -> list[Element]:
        """What was sent since the last look."""
        sent, self.sent = self.sent, []
        return sent

    def request_of(self, name: str, uri: str) -> tuple[Element, Element, Deferred[Element]]:
        """(iq, payload, answer) of the oldest request with this payload that has no answer."""
        for iq, answer in self.requests:
            payload = iq.firstChildElement()
            if payload is not None and (payload.uri, payload.name) == (uri, name) and not answer.called:
                return iq, payload, answer
        raise AssertionError(f"no request {name}: {[iq.toXml() for iq, _ in self.requests]}")

    def answer(self, name: str, uri: str, xml: str = "", kind: str = "result") -> Element:
        """Answer the oldest open request of this kind; the request's payload."""
        iq, payload, answer = self.request_of(name, uri)
        reply = element(f"<iq type='{kind}' from='{iq['to'] if iq.hasAttribute('to') else ''}'>{xml}</iq>")
        if kind == "result":
            answer.callback(reply)
        else:
            answer.errback(StanzaRefused(*error_of(reply), reply))
        return payload


def device(**entry: Any) -> XMPPDevice:
    """An entry of `devices`, as a file would say it, without fault."""
    reporter = Reporter(Path(), Path())
    content = {"jid": "pump@example.org", "deviceNameExpression": "Pump", **entry}
    made = read_section(XMPPDevice, tree(content, "xmpp.json"), reporter)
    assert not reporter.findings(), [str(one) for one in reporter.findings()]
    return made


class ConnectorCase(SynchronousTestCase):
    """A connector on a fake link, with a clock, started and logged in."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = FakeLink(self.clock)
        self.ingest = RecordingIngest()
        self.told = Lines()
        self.now_ms = NOW_MS

    def make(
        self,
        *entries: dict[str, Any],
        plugins: Iterable[str] = ALL_PLUGINS,
        up: bool = True,
        max_devices: int = 100,
        jitter: Callable[[], float] = lambda: 0.0,
    ) -> XMPPConnector:
        """The connector with these entries, logged in unless told not to be."""
        devices = [
            (one, Device(one.name, one.profile, "Site", "xmpp")) for one in (device(**entry) for entry in entries)
        ]
        self.connector = XMPPConnector(
            "Site",
            devices,
            self.link,
            tuple(plugins),
            self.ingest,
            self.told.events,
            self.clock,
            lambda: self.now_ms,
            max_devices,
            jitter,
        )
        self.connector.startService()
        if up:
            self.link.up()
            if not self.link.is_component:
                self.link.answer("query", "jabber:iq:roster", "<query xmlns='jabber:iq:roster'/>")
            self.link.take()
        return self.connector

    def say(self, body: str, sender: str = "pump@example.org/a", inner: str = "", **attributes: str) -> Any:
        """The device writes; what `stanza_received` gives."""
        return self.connector.stanza_received(message(sender, body, inner, **attributes))

    def come(self, sender: str = "pump@example.org/a", inner: str = "") -> None:
        self.connector.stanza_received(element(f"<presence from='{sender}'>{inner}</presence>"))

    def go(self, sender: str = "pump@example.org/a") -> None:
        self.connector.stanza_received(element(f"<presence from='{sender}' type='unavailable'/>"))

    @property
    def readings(self) -> list[Reading]:
        return self.ingest.readings

    def attributes(self, key: str) -> list[Any]:
        """The values of one attribute, in order."""
        return [one.attributes[key] for one in self.readings if key in one.attributes]

    def count(self, counter: str, label: str = "Site") -> int:
        """How often something was counted."""
        return self.told.counters.get(counter, label)

    def failure_of(self, answer: Deferred[Any]) -> str:
        """The words of a command that failed."""
        return str(self.failureResultOf(answer).value)
