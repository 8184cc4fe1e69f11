"""Where the store's calls are run: in a thread of their own, or right away."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, Protocol

from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from tbgw.errors import StoreError


class Runner(Protocol):
    """Where the store's calls are run: one at a time, in the order given."""

    def run(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """Run `job`; then call `done(result, None)` or `done(None, error)` in the reactor's thread."""
        ...

    def stop(self) -> None:
        """Nothing runs any more, and nothing will."""
        ...


class _DaemonThread(Thread):
    """Does not keep alive a process that ends without `Spool.close`; for the store that is like a kill."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class _DaemonPool(ThreadPool):
    threadFactory = _DaemonThread


class StoreThread:
    """One worker thread, started at its first job. `reactor` brings the results back."""

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._pool = _DaemonPool(1, 1, name="spool")

    def run(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """See `Runner`."""
        if not self._pool.started:
            self._pool.start()

        def ended(success: bool, result: Any) -> None:  # in the worker thread
            error = None if success else _exception_of(result)
            self._reactor.callFromThread(done, result if success else None, error)

        self._pool.callInThreadWithCallback(ended, job)

    def stop(self) -> None:
        """See `Runner`. Waits for the thread's end, which is at once, as nothing runs."""
        if self._pool.started:
            self._pool.stop()


class CallDirectly:
    """No thread: for a store that never blocks."""

    def run(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """See `Runner`."""
        try:
            result = job()
        except Exception as error:  # noqa: BLE001 - handed on to `done`, which tells it
            done(None, error)
        else:
            done(result, None)

    def stop(self) -> None:
        """See `Runner`."""


def _exception_of(failure: Failure) -> Exception:
    value = failure.value
    return value if isinstance(value, Exception) else StoreError(f"the store's thread ended: {value!r}")
