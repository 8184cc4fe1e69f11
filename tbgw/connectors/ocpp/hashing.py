# -*- test-case-name: tests.connectors.ocpp.test_security -*-
"""Checks passwords against their hashes in one thread of its own: each takes some 50 ms, in which the reactor goes on
(scrypt lets the interpreter go)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from tbgw.connectors.ocpp.passwords import PasswordHash

MAX_WAITING = 200
"""Logins that wait for their check at one time: some ten seconds' work. More are told to come again."""


class _DaemonThread(Thread):
    """Does not keep alive a process that ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class _DaemonPool(ThreadPool):
    threadFactory = _DaemonThread


class Hashing:
    """See the module. The thread starts with the first check and ends with `stop`."""

    def __init__(self, reactor: IReactorFromThreads, max_waiting: int = MAX_WAITING) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._waiting = 0
        self._max_waiting = max_waiting

    def first(self, candidates: Sequence[tuple[PasswordHash, bytes]]) -> Deferred[PasswordHash | bool | None]:
        """The hash that is the one of its password, False if none is, None if there is too much to do."""

        def check() -> PasswordHash | bool:
            found: PasswordHash | bool = False
            for made, password in candidates:
                if self._pool is None:
                    break  # it is being stopped
                if made.matches(password) and found is False:
                    found = made
            return found

        return self._run(check)

    def make(self, password: bytes, make: Callable[[bytes], PasswordHash]) -> Deferred[PasswordHash | None]:
        """A hash of a new password; None if there is too much to do."""
        return self._run(lambda: make(password))

    def _run(self, job: Callable[[], Any]) -> Deferred[Any]:
        if self._waiting >= self._max_waiting:
            return succeed(None)
        if self._pool is None:
            self._pool = _DaemonPool(1, 1, name="ocpp passwords")
            self._pool.start()
        self._waiting += 1

        def ended(result: Any) -> Any:
            self._waiting -= 1
            return result

        return deferToThreadPool(self._reactor, self._pool, job).addBoth(ended)

    def stop(self) -> None:
        """No check runs any more. Waits for the one that does; those behind it find nothing."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
