"""What the web page tells."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import LogLevel

from tbgw.internal_events import Event


@dataclass(frozen=True)
class PageReady(Event):
    """The page can be opened."""

    address: str
    port: int
    text = "the page is on http://{address}:{port}/"


@dataclass(frozen=True)
class PagePortTaken(Event):
    """The page's port cannot be listened on; it is tried again."""

    address: str
    port: int
    why: str
    retry_seconds: float
    level = LogLevel.error
    counter = "web_listen_failed"
    text = "the page cannot use {address}:{port} ({why}); trying again in {retry_seconds:g} s"


@dataclass(frozen=True)
class PageRequestRefused(Event):
    """A request that the page does not serve: a foreign host name or origin, a method, too many streams."""

    why: str
    level = LogLevel.warn
    counter = "web_requests_refused"
    label = "why"
    limited = True
    text = "a request for the page was refused: {why}"


@dataclass(frozen=True)
class SandboxCommanded(Event):
    """Somebody changed the sandbox, or tried to: the page, or `tbgw sandbox`."""

    command: str
    status: int
    counter = "sandbox_commands"
    label = "status"
    limited = True
    text = "the sandbox was commanded to {command!r}: {status}"


@dataclass(frozen=True)
class CommandFailed(Event):
    """A command met a fault of the program."""

    command: str
    why: str
    level = LogLevel.error
    counter = "sandbox_commands_failed"
    text = "the command {command!r} failed: {why}"
