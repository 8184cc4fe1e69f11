# -*- test-case-name: tests.uplink.test_command -*-
"""Runs an operator's program: a list of arguments, no shell, a time, and no more of its output than fits a message."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

KILL_SECONDS = 10.0
"""Time between SIGTERM and SIGKILL for a program that took too long."""

OUTPUT_SECONDS = 1.0
"""How long the rest of its output may take after its end. What it left running in the background may hold the pipe open
for ever, and is read from, unheard, for as long: to close it could end that by SIGPIPE."""

MAX_OUTPUT_BYTES = 4096
"""What is kept of its output, from the end."""

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")
"""What a program sees of our environment: credentials may stand in the rest."""


class _Watcher(ProcessProtocol):
    """One run."""

    def __init__(self, reactor: Any, timeout_seconds: float) -> None:
        self._reactor = reactor
        self._timeout_seconds = timeout_seconds
        self._timer: IDelayedCall | None = None
        self._overdue = False
        self._said: dict[int, bytes] = {}
        """The end of what it wrote, by descriptor."""
        self.outcome: Deferred[str] = Deferred(lambda _: self._signal(signal.SIGTERM))

    def connectionMade(self) -> None:
        if self.transport is not None:
            self.transport.closeStdin()
        self._timer = self._reactor.callLater(self._timeout_seconds, self._too_long)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._said[childFD] = (self._said.get(childFD, b"") + data)[-MAX_OUTPUT_BYTES:]

    def processExited(self, reason: Failure) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self._reactor.callLater(OUTPUT_SECONDS, self.processEnded, reason)

    def processEnded(self, reason: Failure) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self.outcome.called:
            return
        if self._overdue:
            self.outcome.callback(f"it took more than {self._timeout_seconds:g} s")
        elif reason.check(ProcessDone) is not None:
            self.outcome.callback("")
        else:
            self.outcome.callback(self._how_it_failed(reason))

    def _how_it_failed(self, reason: Failure) -> str:
        error = reason.value
        how = "it failed"
        if isinstance(error, ProcessTerminated):
            how = f"signal {error.signal}" if error.signal is not None else f"exit status {error.exitCode}"
        words = self._said.get(2, b"").strip() or self._said.get(1, b"").strip()  # what is on stderr is the reason
        lines = words.decode("utf-8", "replace").splitlines()
        return f"{how}: {lines[-1].strip()[:200]}" if lines else how

    def _too_long(self) -> None:
        self._overdue = True
        self._signal(signal.SIGTERM)
        self._timer = self._reactor.callLater(KILL_SECONDS, self._signal, signal.SIGKILL)

    def _signal(self, number: int) -> None:
        try:
            if self.transport is not None:
                self.transport.signalProcess(number)
        except ProcessExitedAlready:
            pass


def run_command(
    reactor: Any, argv: Sequence[str], variables: Mapping[str, str], folder: str, timeout_seconds: float
) -> Deferred[str]:
    """
    Run `argv` in `folder` with `variables` in its environment. Fires with an empty text when it exited with 0, else
    with words: status or signal and the last line of its output, the time that it took too long, or why it could not
    be started. Never fails; cancelled, it asks the program to end.
    """
    watcher = _Watcher(reactor, timeout_seconds)
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | dict(variables)
    if not os.access(argv[0], os.X_OK):
        watcher.outcome.callback(f"{argv[0]} cannot be run")
        return watcher.outcome
    try:
        reactor.spawnProcess(watcher, argv[0], list(argv), env=env, path=folder)
    except OSError as error:
        watcher.outcome.callback(f"{argv[0]} cannot be run: {error.strerror}")
    return watcher.outcome
