"""Log lines as readable text, or as one JSON object a line. twistd's own text is readable too; these add what it lacks:

    twistd -n --logger tbgw.logs.text tbgw -c etc/
    twistd -n --logger tbgw.logs.json_lines tbgw -c etc/

Both write to standard output, which is where systemd and containers want it, and both leave out what is below the level
in the environment variable TBGW_LOG_LEVEL (debug, info, warn, error, critical; info unless set). Twisted's own
stock JSON observer writes the flattened inside of its events, which no log collector makes sense of.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    InvalidLogLevelError,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from zope.interface import implementer

TOLD_BETTER = ("twisted.application._client_service", "log_legacy")
"""Namespaces of Twisted whose ordinary lines say again, with less in them, what ours say: diallings, ports opened and
closed. Their warnings and errors are kept."""

_LEVELS = [LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical]


def text(stream: TextIO | None = None) -> ILogObserver:
    """`2026-11-21T10:00:00.000Z info  tbgw.uplink  connected to ...`, then the traceback if there is one."""

    def line(event: LogEvent) -> str:
        level = event.get("log_level", LogLevel.info).name
        namespace = event.get("log_namespace", "-")
        return f"{_time(event)} {level:<8} {namespace}  {formatEvent(event)}{_traceback(event)}"

    return _observer(stream or sys.stdout, line)


def json_lines(stream: TextIO | None = None) -> ILogObserver:
    """`{"time", "level", "namespace", "event"?, "message", "traceback"?}`, one object a line."""

    def line(event: LogEvent) -> str:
        entry = {
            "time": _time(event),
            "level": event.get("log_level", LogLevel.info).name,
            "namespace": event.get("log_namespace", "-"),
        }
        if isinstance(event.get("event"), str):
            entry["event"] = event["event"]
        entry["message"] = formatEvent(event)
        if "log_failure" in event:
            entry["traceback"] = _traceback(event).strip()
        return json.dumps(entry)

    return _observer(stream or sys.stdout, line)


def _time(event: LogEvent) -> str:
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return "\n" + failure.getTraceback() if failure is not None else ""


def _observer(stream: TextIO, line: Callable[[LogEvent], str]) -> ILogObserver:
    @implementer(ILogObserver)
    class Lines:
        def __call__(self, event: LogEvent) -> None:
            # One write for a line and its end, so that lines of two threads never mix.
            written = line(event) + "\n"
            try:
                stream.write(written)
            except UnicodeEncodeError:  # a lone surrogate, or a stream that is not UTF-8
                encoding = stream.encoding or "ascii"
                stream.write(written.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()

    word = os.environ.get("TBGW_LOG_LEVEL", "info").lower()
    try:
        level = LogLevel.levelWithName(word)
    except InvalidLogLevelError:
        level = LogLevel.info
        sys.stderr.write(f"TBGW_LOG_LEVEL={word!r} is not debug, info, warn, error or critical; using info\n")
    predicate = LogLevelFilterPredicate(defaultLogLevel=level)
    for namespace in TOLD_BETTER:
        predicate.setLogLevelForNamespace(namespace, max(level, LogLevel.warn, key=_LEVELS.index))
    return FilteringLogObserver(Lines(), [predicate])
