"""The one small page on which the sandbox shows its devices, as a service.

twisted.web is imported when the service starts, so that a gateway without the page does not carry it. A port that is in
use costs one clear line and is tried again, from 5 seconds on growing to a minute; the gateway runs on meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort

from tbgw.interfaces import ISandboxControl, ISandboxView, IStatusSource
from tbgw.internal_events import Events
from tbgw.web.internal_events import PagePortTaken, PageReady
from tbgw.web.peer import OwnerOf, owner_of

if TYPE_CHECKING:
    from tbgw.web.resources import _Bounded

FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 60.0


class WebSite(Service):
    """
    The page, on `address` and `port` (0: any free one). `reactor` provides IReactorTCP and IReactorTime; `now_ms` gives
    the wall-clock time in ms; `hint` is the command that the page shows while there is no device. With `control` the
    page can also change the sandbox, for those whom `owner_of` knows as the user that runs it, or as root.
    """

    name = "page"

    def __init__(
        self,
        reactor: Any,
        address: str,
        port: int,
        view: ISandboxView,
        status: Sequence[IStatusSource],
        events: Events,
        now_ms: Callable[[], int],
        hint: str = "",
        control: ISandboxControl | None = None,
        owner_of: OwnerOf = owner_of,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._wanted_port = port
        self._view = view
        self._status = status
        self._events = events
        self._now_ms = now_ms
        self._hint = hint
        self._control = control
        self._owner_of = owner_of
        self._factory: _Bounded | None = None
        self._listening: IListeningPort | None = None
        self._retry: IDelayedCall | None = None
        self._retry_seconds = FIRST_RETRY_SECONDS

    @property
    def port(self) -> int | None:
        """The port that is really listened on; None when there is none."""
        if self._listening is None:
            return None
        host = self._listening.getHost()
        assert isinstance(host, IPv4Address | IPv6Address)  # noqa: S101 - what listenTCP listens on
        return host.port

    def startService(self) -> None:
        """Begin to serve; returns at once, also when the port is in use."""
        super().startService()
        from tbgw.web.resources import Page, make_factory
        from tbgw.web.stream import Updates

        updates = Updates(self._reactor, self._view, self._now_ms)
        page = Page(
            self._address,
            self._view,
            self._status,
            self._events,
            self._now_ms,
            updates,
            {"hint": self._hint, "control": self._control is not None},
            self._control,
            self._owner_of,
        )
        self._factory = make_factory(page, self._reactor)
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._listen()

    def _listen(self) -> None:
        self._retry = None
        try:
            self._listening = self._reactor.listenTCP(self._wanted_port, self._factory, interface=self._address)
        except CannotListenError as error:
            why = error.socketError.strerror or str(error.socketError)
            self._events.emit(
                PagePortTaken(address=self._address, port=self._wanted_port, why=why, retry_seconds=self._retry_seconds)
            )
            self._retry = self._reactor.callLater(self._retry_seconds, self._listen)
            self._retry_seconds = min(LAST_RETRY_SECONDS, self._retry_seconds * 2)
        else:
            self._events.emit(PageReady(address=self._address, port=self.port or 0))

    def stopService(self) -> Deferred[None]:
        """End all connections; fires when the port is free."""
        super().stopService()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        listening, self._listening = self._listening, None
        stopped = maybeDeferred(listening.stopListening) if listening is not None else maybeDeferred(lambda: None)
        if self._factory is not None:
            self._factory.abort_all()
        return stopped.addCallback(lambda _: None)
