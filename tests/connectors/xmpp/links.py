"""Links for tests: a listener that notes everything, and the link made as the connector makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import defer, reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from twisted.words.xish.domish import Element
from zope.interface import implementer

from tbgw.config.findings import Reporter
from tbgw.connectors.xmpp import backoff
from tbgw.connectors.xmpp.interfaces import IXMPPListener
from tbgw.connectors.xmpp.link import XMPPLink
from tbgw.connectors.xmpp.server_config import XMPPServer, read_server
from tbgw.internal_events import Event, Events
from tbgw.metrics import Counters
from tests.config.fakes import tree
from tests.xmppservers import XMPPServer as RunningServer

SECONDS = 30.0


class NotedEvents(Events):
    """Keeps what was told, and counts it."""

    def __init__(self) -> None:
        super().__init__(Counters(), lambda: 0.0)
        self.told: list[Event] = []

    def emit(self, event: Event) -> None:
        self.told.append(event)
        self.counters.add(event.counter, amount=event.amount()) if event.counter else None

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


def message(to: str, text: str, **attributes: str) -> Element:
    """A chat message with a body."""
    element = Element((None, "message"))
    element["to"], element["type"] = to, "chat"
    for name, value in attributes.items():
        element[name] = value
    element.addElement("body", content=text)
    return element


def presence(**attributes: str) -> Element:
    element = Element((None, "presence"))
    for name, value in attributes.items():
        element[name] = value
    return element


def body(element: Element) -> str:
    return next((str(one) for one in element.elements() if one.name == "body"), "")


@implementer(IXMPPListener)
class Listener:
    """Notes what comes; `answer(element)` says what `stanza_received` returns."""

    def __init__(self, link: XMPPLink, events: NotedEvents) -> None:
        self.link = link
        self.events = events
        self.stanzas: list[Element] = []
        self.ups: list[str] = []
        self.downs: list[str] = []
        self.answer: Callable[[Element], Deferred[None] | None] = lambda element: None
        self.available = True
        self._waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def link_up(self, own_jid: str) -> None:
        self.ups.append(own_jid)
        if self.available and not self.link.is_component:
            self.link.send(presence())
        self._look()

    def link_down(self, reason: str) -> None:
        self.downs.append(reason)
        self._look()

    def stanza_received(self, element: Element) -> Deferred[None] | None:
        self.stanzas.append(element)
        answer = self.answer(element)
        self._look()
        return answer

    @property
    def bodies(self) -> list[str]:
        return [text for one in self.stanzas if one.name == "message" and (text := body(one))]

    def _look(self) -> None:
        for condition, told in list(self._waiting):
            if (found := condition()) and not told.called:
                self._waiting.remove((condition, told))
                told.callback(found)

    async def until(self, condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """The first true value of `condition`, which is looked at whenever something happened here."""
        if found := condition():
            return found
        told: Deferred[Any] = Deferred()
        self._waiting.append((condition, told))
        try:
            return await told.addTimeout(seconds, reactor)
        except defer.TimeoutError:
            told_lines = "\n".join(event.line() for event in self.events.told)
            raise AssertionError(f"not in {seconds:g} s; {dict(self.link.status())}; told:\n{told_lines}") from None

    async def next_up(self, count: int = 1) -> str:
        """Until the link was up for the `count`th time."""
        await self.until(lambda: len(self.ups) >= count)
        return self.ups[-1]

    async def until_bodies(self, count: int) -> list[str]:
        await self.until(lambda: len(self.bodies) >= count)
        return self.bodies


async def pause(seconds: float) -> None:
    """Let the reactor run, where a test has to see that nothing happens."""
    told: Deferred[None] = Deferred()
    reactor.callLater(seconds, told.callback, None)
    await told


class LinkCase(TestCase):
    """Makes links and stops them in the end."""

    timeout = 120

    def setUp(self) -> None:
        # The delays are tested by themselves; here they only cost time.
        self.patch(backoff, "FIRST_SECONDS", 0.1)

    def settings(self, server: RunningServer, user: str = "gateway", **keys: Any) -> XMPPServer:
        """The section `server` for a user of a running server, as a file would say it."""
        section: dict[str, Any] = {
            "jid": f"{user}@{server.domain}/{user}",
            "password": server.users.get(user),
            "host": "127.0.0.1",
            "port": server.port,
            "tls": {"caCert": str(server.ca)},
            **keys,
        }
        section = {key: value for key, value in section.items() if value is not None}
        reporter = Reporter(Path("/nonexistent"), Path("/nonexistent"))
        read = read_server(tree(section, "xmpp.json"), reporter)
        self.assertFalse(reporter.faulty, reporter.findings())
        return read

    def link(self, settings: XMPPServer, **options: Any) -> tuple[XMPPLink, Listener, NotedEvents]:
        events = NotedEvents()
        link = XMPPLink("Line 4", settings, events, reactor, jitter=lambda: 0.5, **options)
        listener = Listener(link, events)
        link.set_listener(listener)
        link.startService()

        def end() -> Deferred[None] | None:
            listener.answer = lambda element: None  # stopping waits for what it answers
            return link.stopService() if link.running else None

        self.addCleanup(end)
        return link, listener, events

    async def up(self, server: RunningServer, user: str = "gateway", **keys: Any) -> Any:
        """A link that is up."""
        link, listener, events = self.link(self.settings(server, user, **keys))
        await listener.next_up()
        return link, listener, events

    async def told(self, events: NotedEvents, kind: Any, count: int = 1, seconds: float = 20.0) -> None:
        end = reactor.seconds() + seconds
        while len(events.of(kind)) < count:
            self.assertLess(reactor.seconds(), end, [event.line() for event in events.told])
            await pause(0.02)
