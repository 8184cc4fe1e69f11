# -*- test-case-name: tests.uplink.test_remote_logging -*-
"""Log lines as telemetry of the gateway, where ThingsBoard's own page looks for them (spec reference-gateway, A11;
configuration-and-apis, 8.3).

The shared attribute `RemoteLoggingLevel` says from which level on lines of the gateway are sent; those of a connector
are where its `enableRemoteLogging` is on, from its `logLevel` on. Keys: `SERVICE_LOGS`, `CONNECTION_LOGS`,
`STORAGE_LOGS`, `EXTENSION_LOGS`, each with the same line under `LOGS`; `<connector>_LOGS` without.

It can never become a load on the link that it reports on:

- One line is under way at a time, and they are `SPACING_SECONDS` apart at least; the gateway's own rate limits hold.
- What waits is bounded, and a line is cut at `MAX_CHARACTERS`. The newest is left out when there is no room, and a line
  says how many were.
- A line that comes about because a line is sent is not sent, nor is any that tells of such a line's fate.
- Nothing waits beyond the end of the process, and nothing goes through the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from zope.interface import implementer

from tbgw.model import Value

LEVEL = "RemoteLoggingLevel"
"""The shared attribute, which is shown again as a client attribute."""

MAX_WAITING = 500
MAX_CHARACTERS = 1000
SPACING_SECONDS = 0.2

_ORDER = ["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "NONE"]
_WORDS = {
    LogLevel.debug: "DEBUG",
    LogLevel.info: "INFO",
    LogLevel.warn: "WARNING",
    LogLevel.error: "ERROR",
    LogLevel.critical: "CRITICAL",
}
_KEYS = {
    "uplink": "CONNECTION_LOGS",
    "mqtt": "CONNECTION_LOGS",
    "spool": "STORAGE_LOGS",
    "connectors": "EXTENSION_LOGS",
}
_OF_SENDING = frozenset({"OwnMessageDropped"})
"""Events that tell what became of a line that was sent."""


@implementer(ILogObserver)
class RemoteLog:
    """
    An observer of log events. `say(values, ts_ms)` sends one instant of telemetry, and fires when that is over;
    `in_loop` calls a function in the reactor's thread, since the store's thread logs, too.
    """

    def __init__(
        self,
        clock: IReactorTime,
        say: Callable[[Mapping[str, Value], int], Deferred[str]],
        in_loop: Callable[[Callable[[], None]], object],
    ) -> None:
        self._clock = clock
        self._in_loop = in_loop
        self._say = say
        self._level = "NONE"
        self._connectors: dict[str, str] = {}
        self._waiting: deque[tuple[int, dict[str, Value]]] = deque()
        self._left_out = 0
        self._under_way = False
        self._sending = False
        self._timer: IDelayedCall | None = None
        self.errors = 0
        """Lines of level error or above, sent or not."""

    @property
    def level(self) -> str:
        """The word that holds for lines of the gateway itself."""
        return self._level

    def set_level(self, value: Value) -> bool:
        """The shared attribute was set. False when it is no level; then nothing has changed."""
        word = {"WARN": "WARNING"}.get(value.upper(), value.upper()) if isinstance(value, str) else ""
        if word not in _ORDER:
            return False
        self._level = word
        return True

    def set_connectors(self, levels: Mapping[str, str]) -> None:
        """Connectors whose lines are sent, with the level from which on."""
        self._connectors = dict(levels)

    def stop(self) -> None:
        """Nothing is sent any more."""
        self._waiting.clear()
        self._level, self._connectors = "NONE", {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __call__(self, event: LogEvent) -> None:
        """Take one log event, from any thread."""
        word = _WORDS.get(event.get("log_level", LogLevel.info), "INFO")
        if word in ("ERROR", "CRITICAL"):
            self.errors += 1
        if self._level == "NONE" and not self._connectors:
            return
        if self._sending or event.get("event") in _OF_SENDING or event.get("log_namespace") == "log_legacy":
            return
        connector = event.get("connector") or ""
        if connector:
            least, key = self._connectors.get(connector, "NONE"), f"{connector}_LOGS"
        else:
            room = event.get("room") or event.get("log_namespace", "").removeprefix("tbgw.").partition(".")[0]
            least, key = self._level, _KEYS.get(room, "SERVICE_LOGS")
        if _ORDER.index(word) < _ORDER.index(least):
            return
        if len(self._waiting) >= MAX_WAITING:
            self._left_out += 1
            return
        line = _line(event, word)
        values: dict[str, Value] = {key: line} if connector else {key: line, "LOGS": line}
        self._waiting.append((int(event["log_time"] * 1000), values))
        self._in_loop(self._pump)

    def _pump(self) -> None:
        if self._under_way or self._timer is not None or not self._waiting:
            return
        ts_ms, values = self._waiting.popleft()
        if self._left_out and len(self._waiting) < MAX_WAITING // 2:
            values = {key: f"{line} ({self._left_out} lines were left out)" for key, line in values.items()}
            self._left_out = 0
        self._under_way = self._sending = True
        try:
            self._say(values, ts_ms).addCallback(self._sent)
        finally:
            self._sending = False

    def _sent(self, _: str) -> None:
        self._under_way = False
        self._timer = self._clock.callLater(SPACING_SECONDS, self._turn_came)

    def _turn_came(self) -> None:
        self._timer = None
        self._pump()


def _line(event: LogEvent, word: str) -> str:
    """As ThingsBoard's page takes it apart: the level between bars, then what begins with a bracket."""
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    stamp = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"
    text = f"{stamp} - |{word}| - [{event.get('log_namespace', '-')}] - {formatEvent(event)}"
    failure = event.get("log_failure")
    if failure is not None:
        text += f" ({failure.type.__name__})"
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."
