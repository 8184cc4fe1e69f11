"""The page's URLs, on twisted.web. Imported only when a page is served.

What only shows is asked for by GET and HEAD; what changes the sandbox is a POST of a JSON object to `/api/sandbox/` and
the command's name. No cookies, no forms. What keeps strangers out:

- The Host header has to name this machine, so that a foreign name that leads to 127.0.0.1 (DNS rebinding) gets nothing.
- A browser that says that another site asks (`Sec-Fetch-Site`) gets no data and no stream.
- The policy headers allow scripts and styles of this server only, and no framing.
- A command has to come from this machine, and from a program of the user that runs the gateway, or of root
  (`tbgw.web.peer`): the sandbox commands devices, and other users of the machine are not to. It has to be
  `application/json`, which no page of another origin can send without being allowed to, and nobody is; and where a
  browser names the origin of the page that asks, it has to be this page's own.
- Bodies are discarded as they arrive, but for those of commands; connections, streams, names and lengths are bounded.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web import http, resource, server

from tbgw.interfaces import ISandboxControl, ISandboxView, IStatusSource
from tbgw.internal_events import Events
from tbgw.web.internal_events import CommandFailed, PageRequestRefused, SandboxCommanded
from tbgw.web.peer import OwnerOf
from tbgw.web.stream import Updates, encode, for_page
from tbgw.web.thinning import thin

MAX_CONNECTIONS = 64
"""HTTP connections at one time: the streams, six for each browser, and some to spare."""
IDLE_SECONDS = 60
"""A connection that asks for nothing is closed after so long."""
MAX_COMMAND_BYTES = 64 * 1024
"""A command's body."""
MAX_UPLOAD_BYTES = 24 * 1024 * 1024
"""The same of a package of 16 MiB in base64; one at a time."""
MAX_NAME_BYTES = 1024
"""Longest device name or key in a query: 255 characters of four bytes."""
MAX_LISTED_DEVICES = 500
MAX_DRAWN_POINTS = 2000
"""A line has no more pixels than that."""

_STATIC = Path(__file__).with_name("static")
_STATIC_FILES = {
    b"/": ("index.html", b"text/html; charset=utf-8"),
    b"/style.css": ("style.css", b"text/css; charset=utf-8"),
    b"/app.js": ("app.js", b"text/javascript; charset=utf-8"),
    b"/chart.js": ("chart.js", b"text/javascript; charset=utf-8"),
    b"/manage.js": ("manage.js", b"text/javascript; charset=utf-8"),
    b"/icon.svg": ("icon.svg", b"image/svg+xml"),
}

_SECURITY_HEADERS = (
    (
        b"Content-Security-Policy",
        b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
)


MAX_COMMAND_CHARS = 40

_COMMANDS = b"/api/sandbox/"


class BadQuery(Exception):  # noqa: N818 - says what is
    """A query parameter is missing, doubled, too long or no number."""


def host_allowed(host: str, address: str) -> bool:
    """
    Whether a Host header names this machine: `localhost`, a loopback address, the address that is listened on, or, when
    that is all addresses, any literal address. A literal address cannot be a name that somebody else points here.
    """
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):
        name = host
    elif not (port.isascii() and port.isdigit()):
        return False
    if name.lower() in ("localhost", address.lower()):
        return True
    try:
        literal = ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return literal.is_loopback or address in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


class Page(resource.Resource):
    """All URLs of the page."""

    isLeaf = True

    def __init__(
        self,
        address: str,
        view: ISandboxView,
        status: Sequence[IStatusSource],
        events: Events,
        now_ms: Callable[[], int],
        updates: Updates,
        greeting: Mapping[str, Any],
        control: ISandboxControl | None,
        owner_of: OwnerOf,
    ) -> None:
        super().__init__()
        self._address = address
        self._view = view
        self._status = status
        self._events = events
        self._now_ms = now_ms
        self._updates = updates
        self._greeting = greeting
        self._control = control
        self._owner_of = owner_of
        self._files = {
            path: (content, media_type, hashlib.sha256(content).hexdigest()[:32].encode())
            for path, (name, media_type) in _STATIC_FILES.items()
            for content in [(_STATIC / name).read_bytes()]
        }

    def render(self, request: server.Request) -> bytes | int:
        """Answer one request."""
        for name, value in _SECURITY_HEADERS:
            request.setHeader(name, value)
        host = request.getHeader("host")
        if host is None or not host_allowed(host, self._address):
            return self._refuse(request, 421, "foreign host name")
        if request.method == b"POST" and request.path.startswith(_COMMANDS) and self._control is not None:
            request.setHeader(b"Cache-Control", b"no-store")
            return self._command(request, self._control)
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"Allow", b"GET, HEAD")
            return self._refuse(request, http.NOT_ALLOWED, "method")
        if request.path in self._files:
            content, media_type, tag = self._files[request.path]
            request.setHeader(b"Content-Type", media_type)
            request.setHeader(b"Cache-Control", b"no-cache")
            if request.setETag(tag) is http.CACHED:
                return b""
            return _body(request, content)
        request.setHeader(b"Cache-Control", b"no-store")
        if request.getHeader("sec-fetch-site") in ("cross-site", "same-site"):
            return self._refuse(request, http.FORBIDDEN, "another site asked")
        try:
            if request.path == b"/api/devices":
                return self._devices(request)
            if request.path == b"/api/history":
                return self._history(request)
            if request.path == b"/api/status":
                merged: dict[str, Any] = {}
                for source in self._status:
                    merged.update(source.status())
                return _json(request, merged)
            if request.path == b"/api/events":
                return self._stream(request)
        except BadQuery as error:
            return _error(request, http.BAD_REQUEST, str(error))
        return _error(request, http.NOT_FOUND, "there is nothing here")

    def _refuse(self, request: server.Request, code: int, why: str) -> bytes:
        self._events.emit(PageRequestRefused(why=why))
        return _error(request, code, why)

    def _command(self, request: server.Request, control: ISandboxControl) -> bytes | int:
        stranger = self._stranger(request)
        if stranger is not None:
            return self._refuse(request, http.FORBIDDEN, stranger)
        content = request.content
        if (request.getHeader("content-type") or "").partition(";")[0].strip().lower() != "application/json":
            return self._refuse(request, http.UNSUPPORTED_MEDIA_TYPE, "not application/json")
        if content is None or isinstance(content, _NoContent):
            return self._refuse(request, http.REQUEST_ENTITY_TOO_LARGE, "body too long, or of unknown length")
        try:
            arguments = json.loads(content.read())
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            return _error(request, http.BAD_REQUEST, "the body is a JSON object")
        name = request.path[len(_COMMANDS) :].decode("ascii", "replace")[:MAX_COMMAND_CHARS]
        gone = False

        def left(_: object) -> None:
            nonlocal gone
            gone = True

        request.notifyFinish().addBoth(left)

        def answer(result: tuple[int, Any]) -> None:
            code, value = result
            self._events.emit(SandboxCommanded(command=name, status=code))
            if not gone:
                request.setResponseCode(code)
                request.write(_json(request, value))
                request.finish()

        def failed(failure: Failure) -> None:
            self._events.emit(CommandFailed(command=name, why=failure.getErrorMessage()))
            answer((http.INTERNAL_SERVER_ERROR, {"error": "the command failed; the log says why"}))

        control.command(name, arguments).addCallback(answer).addErrback(failed)
        return server.NOT_DONE_YET

    def _stranger(self, request: server.Request) -> str | None:
        """Why whoever asks may not command; None when it may."""
        if request.getHeader("sec-fetch-site") not in (None, "same-origin"):
            return "another site asked"
        origin = request.getHeader("origin")
        if origin is not None and origin != f"http://{request.getHeader('host')}":
            return "another site asked"
        peer, here = request.getClientAddress(), request.getHost()
        if not isinstance(peer, IPv4Address | IPv6Address) or not ipaddress.ip_address(peer.host).is_loopback:
            return "not from this machine"
        owner = self._owner_of((peer.host, peer.port), (here.host, here.port))
        if owner is None or owner not in (0, os.geteuid()):
            return "not the user that runs the gateway, nor root"
        return None

    def _devices(self, request: server.Request) -> bytes:
        wanted = (_parameter(request, b"filter") or "").lower()
        devices = self._view.devices()
        found = [device for device in devices if wanted in device["name"].lower()] if wanted else devices
        return _json(
            request,
            {
                "now": self._now_ms(),
                "total": len(devices),
                "devices": [for_page(device) for device in found[:MAX_LISTED_DEVICES]],
            },
        )

    def _history(self, request: server.Request) -> bytes:
        device, key = _parameter(request, b"device"), _parameter(request, b"key")
        since = _parameter(request, b"since") or "0"
        if device is None or key is None:
            raise BadQuery("device and key are needed")
        if not (since.isascii() and since.isdigit() and len(since) <= 18):
            raise BadQuery("since is a number of milliseconds")
        points = thin(self._view.history(device, key, int(since)), MAX_DRAWN_POINTS)
        return _json(request, {"now": self._now_ms(), "points": points})

    def _stream(self, request: server.Request) -> bytes | int:
        if self._updates.full:
            request.setHeader(b"Retry-After", b"10")
            return self._refuse(request, http.SERVICE_UNAVAILABLE, "too many pages are open")
        request.setHeader(b"Content-Type", b"text/event-stream; charset=utf-8")
        if request.method == b"HEAD":
            return b""
        stream = self._updates.open(request, self._greeting)
        request.notifyFinish().addBoth(lambda _: self._updates.close(stream))
        request.registerProducer(stream, True)
        return server.NOT_DONE_YET


def _parameter(request: server.Request, name: bytes) -> str | None:
    given: list[bytes] | None = (request.args or {}).get(name)
    if given is None:
        return None
    if len(given) != 1 or len(given[0]) > MAX_NAME_BYTES:
        raise BadQuery("a parameter is given twice or too long")
    try:
        return given[0].decode("utf-8")
    except UnicodeDecodeError:
        raise BadQuery("a parameter is not UTF-8") from None


def _json(request: server.Request, value: Any) -> bytes:
    request.setHeader(b"Content-Type", b"application/json")
    return _body(request, encode(value))


def _error(request: server.Request, code: int, why: str) -> bytes:
    request.setResponseCode(code)
    return _json(request, {"error": why})


def _body(request: server.Request, content: bytes) -> bytes:
    request.setHeader(b"Content-Length", b"%d" % len(content))
    return content


class _NoContent(BytesIO):
    """Where a request's body goes: nowhere. twisted.web would keep it in memory, or in a file without limit."""

    def write(self, data: Any, /) -> int:
        return len(data)


class _Request(server.Request):
    def gotLength(self, length: int | None) -> None:
        """Only what says that it is JSON, and how long it is, is kept; of long ones only one at a time."""
        site = self.channel.site  # type: ignore[attr-defined] # given by Site.buildProtocol
        kind = self.getHeader("content-type") or ""
        self.content = _NoContent()
        if not kind.lower().startswith("application/json") or length is None or length > MAX_UPLOAD_BYTES:
            return
        if length > MAX_COMMAND_BYTES:
            if site.uploading:
                return
            site.uploading = True
            self.notifyFinish().addBoth(lambda _: setattr(site, "uploading", False))
        self.content = BytesIO()


class _Site(server.Site):
    """Without access log, and so without the timer that keeps the log's time of day."""

    requestFactory = _Request
    uploading = False
    """A long body comes in."""

    def startFactory(self) -> None:
        pass

    def stopFactory(self) -> None:
        pass

    def log(self, request: http.Request) -> None:
        pass


class _Bounded(WrappingFactory):
    """At most `MAX_CONNECTIONS` connections; others are closed at once."""

    noisy = False

    def buildProtocol(  # type: ignore[override]  # the base forgets that a factory may refuse
        self, addr: IAddress | None
    ) -> ProtocolWrapper | None:
        if len(self.protocols) >= MAX_CONNECTIONS:
            return None
        return super().buildProtocol(addr)

    def abort_all(self) -> None:
        """Close every connection now."""
        for connection in list(self.protocols):
            connection.transport.abortConnection()


def make_factory(page: Page, reactor: IReactorTime) -> _Bounded:
    """What to listen with for `page`."""
    site = _Site(page, reactor=reactor, timeout=IDLE_SECONDS)
    site.noisy = False
    return _Bounded(site)
