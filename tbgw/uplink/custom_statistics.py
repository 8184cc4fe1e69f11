# -*- test-case-name: tests.uplink.test_custom_statistics -*-
"""What an operator's commands print, as telemetry of the gateway (`thingsboard.statistics.commands`).

A command is a program and its arguments; there is no shell (the reference hands a list to /bin/sh, so that its own
samples fail, C-46). One runs at a time, for its own time at most, and of what it prints `MAX_OUTPUT_BYTES` are read.
Commands come from the machine's own files only: `remote_config` refuses them from ThingsBoard.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tbgw.internal_events import Events
from tbgw.model import Value
from tbgw.uplink.command import OUTPUT_SECONDS
from tbgw.uplink.internal_events import StatisticsCommandFailed

MAX_OUTPUT_BYTES = 4096
"""What is read of an output: the value of a time series, and no file."""

SHORTEST_SECONDS = 10
"""Shortest period."""

_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")
"""All that a command gets to see of ours: secrets may stand in the rest."""


class Command(Protocol):
    """As in the configuration."""

    @property
    def command(self) -> Sequence[str]:
        """Program and arguments."""

    @property
    def key(self) -> str:
        """Key of the telemetry."""

    @property
    def timeout_seconds(self) -> int:
        """How long it may run."""


class _Output(ProcessProtocol):
    """
    Collects what one process prints. `done` fires with (bytes, whether it ended well): when its output is closed, or a
    moment after its end, since what it left running in the background may hold that open for ever.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._timer: IDelayedCall | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self.done: Deferred[tuple[bytes, bool]] = Deferred()

    def outReceived(self, data: bytes) -> None:
        if self._size < MAX_OUTPUT_BYTES:
            self._parts.append(data[: MAX_OUTPUT_BYTES - self._size])
            self._size += len(self._parts[-1])

    def processExited(self, reason: Failure) -> None:
        self._timer = self._reactor.callLater(OUTPUT_SECONDS, self.processEnded, reason)

    def processEnded(self, reason: Failure) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if not self.done.called:
            self.done.callback((b"".join(self._parts), reason.check(ProcessDone) is not None))


class CustomStatistics(Service):
    """`say(values)` sends telemetry; `connected()` says whether somebody could hear it."""

    name = "custom statistics"

    def __init__(
        self,
        reactor: Any,
        period_seconds: int,
        commands: Sequence[Command],
        connected: Callable[[], bool],
        say: Callable[[Mapping[str, Value]], object],
        events: Events,
    ) -> None:
        self._reactor = reactor
        self._period_seconds = max(SHORTEST_SECONDS, period_seconds)
        self._commands = commands
        self._connected = connected
        self._say = say
        self._events = events
        self._timer: IDelayedCall | None = None
        self._round: Deferred[None] | None = None
        self._process: Any = None

    def startService(self) -> None:
        super().startService()
        self._timer = self._reactor.callLater(self._period_seconds, self._due)

    def stopService(self) -> None:
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._kill()
        if self._round is not None:
            self._round.cancel()

    def _due(self) -> None:
        self._timer = self._reactor.callLater(self._period_seconds, self._due)
        if self._connected() and self._round is None:
            self._round = Deferred.fromCoroutine(self._run_all())
            self._round.addBoth(self._over)

    def _over(self, result: object) -> None:
        self._round = None
        if isinstance(result, Failure):
            result.trap(CancelledError)

    async def _run_all(self) -> None:
        for command in self._commands:
            value = await self._run(command)
            if value is not None:
                self._say({command.key: value})

    async def _run(self, command: Command) -> Value:
        """The value of its output; None when it failed."""
        output = _Output(self._reactor)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        program = command.command[0]
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._process = self._reactor.spawnProcess(
                output, program, list(command.command), env=environment, childFDs={0: nothing, 1: "r", 2: nothing}
            )
        except OSError as error:
            self._events.emit(StatisticsCommandFailed(program=program, why=str(error)))
            return None
        finally:
            os.close(nothing)
        overdue = self._reactor.callLater(command.timeout_seconds, self._kill)
        try:
            printed, good = await output.done
        finally:
            self._process = None
            if overdue.active():
                overdue.cancel()
        if not good:
            self._events.emit(StatisticsCommandFailed(program=program, why="it ended with an error, or took too long"))
            return None
        return as_value(printed)

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessExitedAlready):
                self._process.signalProcess("KILL")


def as_value(printed: bytes) -> Value:
    """A number if it reads as one, else the text without the blanks around it."""
    text = printed.decode("utf-8", "replace").strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
