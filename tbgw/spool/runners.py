"""Where the store's calls are run: in a thread of their own, or right away."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeAlias

from twisted.internet.interfaces import IReactorFromThreads

from tbgw.errors import StoreError

_Job: TypeAlias = tuple[Callable[[], Any], Callable[[Any, Exception | None], None]]


class Runner(Protocol):
    """Where the store's calls are run: one at a time, in the order given."""

    def run(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """Run `job`; then call `done(result, None)` or `done(None, error)` in the reactor's thread."""
        ...

    def stop(self) -> None:
        """Nothing runs any more, and nothing will."""
        ...


class StoreThread:
    """
    One worker thread, started at its first job. `reactor` brings the results back.

    Not a `ThreadPool` of one: a team, a coordinator, contexts and a queue in Python for what a `SimpleQueue` does with
    one lock. That is less code to run for a row; beside the wait for the disk the difference was too small to measure.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: Thread | None = None

    def run(self, job: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """See `Runner`."""
        if self._thread is None:
            # A daemon: does not keep alive a process that ends without `Spool.close`; for the store that is a kill.
            self._thread = Thread(target=self._work, name="spool", daemon=True)
            self._thread.start()
        self._jobs.put((job, done))

    def _work(self) -> None:  # in the worker thread
        while (given := self._jobs.get()) is not None:
            job, done = given
            try:
                result = job()
            except Exception as error:  # noqa: BLE001 - handed on to `done`, which tells it
                self._reactor.callFromThread(done, None, error)
            except BaseException as error:  # noqa: BLE001 - a job that wants to end the thread must not leave `done` unsaid
                self._reactor.callFromThread(done, None, StoreError(f"the store's thread ended: {error!r}"))
            else:
                self._reactor.callFromThread(done, result, None)
                del result
            del given, job, done  # what it holds is not kept until the next job comes

    def stop(self) -> None:
        """See `Runner`. Waits for the thread's end, which is at once, as nothing runs."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()


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
