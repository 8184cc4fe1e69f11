"""The Twisted half of `session`: one session, one piece of work, and the end of the process.

Whatever hinders the session ends it: a command does not try again, it says what is wrong.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet import defer
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from tbgw.config.gateway import GatewayConfig
from tbgw.errors import GatewayError
from tbgw.internal_events import Event, Events
from tbgw.link import Link
from tbgw.metrics import Counters
from tbgw.model import SessionLimits
from tbgw.uplink.enrolment import credentials
from tbgw.uplink.fanout import FanOut
from tbgw.uplink.internal_events import CredentialsRefused, LinkFailed, LinkLost, SessionTakenOver
from tbgw.uplink.keeping import CredentialsKeeper
from tbgw.uplink.own_device import OwnDevice

if TYPE_CHECKING:
    from tbgw.cli.session import Work

_ENDS = (CredentialsRefused, LinkFailed, LinkLost, SessionTakenOver)
"""What the gateway would try again after."""


class _LinkDown(GatewayError):  # noqa: N818 - says what is
    """The session did not come about, or ended."""


class _Ended(Events):
    """Tells the first event that ends the session; says warnings and worse, and counts the rest."""

    def __init__(self, over: Deferred[None]) -> None:
        super().__init__(Counters(), time.monotonic)
        self._over = over

    def emit(self, event: Event) -> None:
        if isinstance(event, _ENDS):
            if not self._over.called:
                self._over.errback(_LinkDown(event.line().partition("; next try")[0]))
        elif event.level in (LogLevel.warn, LogLevel.error, LogLevel.critical):
            print(event.line(), file=sys.stderr)


class _Ready:
    """Fires once a session is there."""

    def __init__(self, ready: Deferred[None]) -> None:
        self._ready = ready

    def link_up(self, limits: SessionLimits) -> None:
        if not self._ready.called:
            self._ready.callback(None)

    def link_down(self, code: int | None = None) -> None:
        """The events have told."""


def run(config: GatewayConfig, seconds: float, subscriptions: Sequence[str], work: Work) -> int:
    """Do `work` in a session, all within `seconds`; the exit status. Raises GatewayError before anything is opened."""
    from twisted.internet import reactor as global_reactor

    reactor: Any = global_reactor
    over: Deferred[None] = Deferred()
    events = _Ended(over)
    link = Link(config.thingsboard, reactor, events, lambda: _sandbox_token(config))
    uplink = link.uplink(subscriptions)
    if config.thingsboard.provisioning is not None:
        login = CredentialsKeeper(config.data_dir, config.config_dir).load()
        if login is None:
            raise GatewayError("the gateway was not provisioned yet: start it once")
        uplink.redirect(link.endpoint(login.certificate, login.private_key), link.where, credentials(login))
    own = OwnDevice(
        uplink.publish,
        events,
        reactor,
        lambda: time.time_ns() // 1_000_000,
        config.thingsboard.max_payload_bytes,
    )
    ready: Deferred[None] = Deferred()
    uplink.set_listener(FanOut([own, _Ready(ready)], [own.message_received], lambda topic, payload: None))
    outcome: list[int] = []

    async def session() -> None:
        await ready
        await work(own, uplink)

    def ended(result: Any) -> None:
        if outcome:
            return
        outcome.append(0)
        if isinstance(result, Failure):
            outcome[0] = 1
            error = result.value
            expected = isinstance(error, GatewayError | OSError | ValueError | defer.TimeoutError)
            told = f"not done within {seconds:g} s" if isinstance(error, defer.TimeoutError) else str(error)
            print(told if expected else result.getTraceback(), file=sys.stderr)
        maybeDeferred(uplink.stopService).addBoth(lambda _: reactor.stop())

    def begin() -> None:
        uplink.startService()
        done = Deferred.fromCoroutine(session())
        done.addTimeout(seconds, reactor)
        done.addBoth(ended)
        over.addErrback(ended)

    reactor.callWhenRunning(begin)
    reactor.run()
    return outcome[0] if outcome else 130  # ended by Ctrl-C, as a shell tells that


def _sandbox_token(config: GatewayConfig) -> str:
    """The token of the sandbox's own file, which is not there before its first start."""
    path = config.thingsboard.security.access_token_file
    try:
        return path.read_text().strip() if path is not None else ""
    except OSError as error:
        raise GatewayError(f"{path}: {error.strerror}; start the gateway once") from None
