# -*- test-case-name: tests.uplink.test_enrolment -*-
"""Gets the gateway its credentials from ThingsBoard, keeps them, and then lets the uplink begin.

What devices send is accepted and stored meanwhile, as without a link. A run that finds kept credentials uses them and
asks nobody. Refusals hold long, since only a human can mend them: the delay grows from a minute to an hour.

A connection for provisioning is not one for data: user name `provision`, no other topic (spec thingsboard-mqtt, 5.2).
The server is verified as on the data link, because it is told the profile's secret (the reference does not, C-21).
"""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, NamedTuple, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbgw.errors import ConfigurationError
from tbgw.internal_events import Events
from tbgw.mqtt import ClientOptions, VersionChoice
from tbgw.uplink.certificates import make_pair
from tbgw.uplink.client import LONGEST_RETRY_SECONDS, OTHER_VERSION_SECONDS, RETRY_FACTOR, Credentials, Uplink
from tbgw.uplink.exchange import Exchange
from tbgw.uplink.internal_events import (
    CredentialsAssumed,
    CredentialsUnusable,
    Provisioned,
    ProvisioningFailed,
    ProvisioningRefused,
)
from tbgw.uplink.keeping import CredentialsKeeper
from tbgw.uplink.provisioning import Login, Plan, Refusal, parse_response, request

T = TypeVar("T")

REFUSED_RETRY_SECONDS = 60.0
LONGEST_REFUSED_RETRY_SECONDS = 3600.0

DISK_RETRY_SECONDS = 60.0

WAITS = "a new one waits to be put into the device's credentials in ThingsBoard: it is in the attribute newCertificate"

Dial = Callable[[Login | None], tuple[IStreamClientEndpoint, str]]
"""Where ThingsBoard is, and its name in log lines; with the certificate of a login, if that has one."""


class _Asked(NamedTuple):
    """What is asked for, and what of it was on its way before."""

    login: Login
    certificate_pem: str
    maybe_granted: bool
    """Whether an earlier request for the same may have been granted without our hearing of it."""


class _Failed(NamedTuple):
    """An attempt had no answer."""

    why: str
    maybe_granted: bool


def credentials(login: Login) -> Credentials:
    """What CONNECT says of a login. ThingsBoard's token is the user name, without a password."""
    if login.type == "ACCESS_TOKEN":
        return Credentials(username=login.token)
    if login.type == "MQTT_BASIC":
        return Credentials(
            login.client_id, login.username or None, login.password.encode() if login.password else None
        )
    return Credentials()


class Enrolment(Service):
    """
    Starts `uplink` as soon as there are credentials, and stops it. `in_thread` runs what touches the disk, one job
    after the other; `now` is the wall clock.
    """

    name = "enrolment"

    def __init__(
        self,
        uplink: Uplink,
        plan: Plan,
        keeper: CredentialsKeeper,
        dial: Dial,
        *,
        clock: IReactorTime,
        events: Events,
        jitter: Callable[[], float],
        in_thread: Callable[[Callable[[], None]], Deferred[None]],
        now: Callable[[], datetime.datetime],
        versions: Callable[[], VersionChoice] = VersionChoice,
    ) -> None:
        self._uplink = uplink
        self._plan = plan
        self._keeper = keeper
        self._dial = dial
        self._clock = clock
        self._events = events
        self._jitter = jitter
        self._in_thread = in_thread
        self._now = now
        self._new_versions = versions
        self._work: Deferred[None] | None = None
        self._renewal: Deferred[Any] | None = None
        self._log = Logger()
        self._next: Login | None = None
        self._former: Login | None = None
        """Of the two logins between which there is a choice while a new certificate waits, the one that was first."""
        self.successor = ""
        """In PEM: the certificate that waits for ThingsBoard to take it; empty when none does."""
        uplink.login_accepted = self._accepted
        uplink.login_refused = self._refused
        self.login: Login | None = None
        """The credentials in use; None before there are any."""
        self.started: Callable[[], None] = _nothing
        """Called whenever other credentials are in use."""

    # IService

    def startService(self) -> None:
        super().startService()
        self._begin(self._run())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        work, self._work = self._work, None
        if work is not None:
            work.cancel()
        if self._renewal is not None:
            self._renewal.cancel()
        return self._uplink.stopService() if self._uplink.running else succeed(None)

    # What others ask of it.

    def forget(self) -> Deferred[bool]:
        """
        Remove the kept credentials: the next start provisions again. Fires with whether there were any; fails with
        OSError. The session that is there goes on.
        """
        return Deferred.fromCoroutine(self._disk(self._keeper.forget))

    def again(self) -> None:
        """Forget the kept credentials and provision now. The session that is there ends."""
        if self.running:
            if self._work is not None:
                self._work.cancel()
            self._begin(self._again())

    def renew(self) -> Deferred[str]:
        """
        Ask for the same device with a new key and certificate, and use them if that is granted. Fires with an empty
        text, or with words that say why everything stays as it is; never fails. In that case the new pair is kept as
        the `successor`, and used as soon as ThingsBoard takes it and not the old one any more.
        """
        self._renewal = Deferred.fromCoroutine(self._renew())
        return self._renewal.addErrback(_stopped)

    # Inside.

    def _begin(self, work: Any) -> None:
        self._work = Deferred.fromCoroutine(work).addErrback(self._ended)

    def _ended(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("the gateway gets no credentials", failure=failure)

    async def _disk(self, job: Callable[..., T], *arguments: Any) -> T:
        done: list[T] = []
        await self._in_thread(lambda: done.append(job(*arguments)))
        return done[0]

    async def _run(self) -> None:
        try:
            login = await self._disk(self._keeper.load)
        except ValueError as error:
            self._events.emit(CredentialsUnusable(fault=str(error)))
            return
        if login is None:
            login = await self._provision()
        elif login.certificate is not None:
            following = await self._disk(self._keeper.next)
            # The same after a crash in the middle of going over to it.
            self._next = following if following != login else None
            self.successor = await self._certificate_text(self._next) if self._next is not None else ""
        self._use(login)

    async def _again(self) -> None:
        await self._disk(self._keeper.forget)
        self._no_successor()
        if self._uplink.running:
            await self._uplink.stopService()
        self._use(await self._provision())

    def _use(self, login: Login) -> None:
        try:
            endpoint, where = self._dial(login)
        except ConfigurationError as error:
            self._events.emit(CredentialsUnusable(fault=str(error)))
            return
        self.login = login
        self._uplink.redirect(endpoint, where, credentials(login))
        if not self._uplink.running:
            self._uplink.startService()
        self.started()

    async def _provision(self) -> Login:
        """Ask until it is granted, and it is kept."""
        login = await self._insist(self._ask, _digest(self._plan))
        await self._insist(self._disk, self._keeper.keep, login)
        self._events.emit(Provisioned(name=login.device_name, type=login.type))
        return login

    async def _insist(self, step: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Do it until the disk lets us."""
        while True:
            try:
                return await step(*arguments)
            except OSError as error:
                why = f"they cannot be kept on the disk: {error.strerror or error}"
                self._events.emit(ProvisioningFailed(why=why, retry_seconds=DISK_RETRY_SECONDS))
            await deferLater(self._clock, DISK_RETRY_SECONDS)

    async def _ask(self, basis: str) -> Login:
        """Ask until it is granted. Raises OSError."""
        asked = await self._ask_what(basis)
        versions = self._new_versions()
        failures = refusals = 0
        while True:
            came = await self._attempt(asked, versions)
            if isinstance(came, Refusal) and came.status == "FAILURE" and asked.maybe_granted and _chosen(asked.login):
                # Only a request of ours can have taken the name, and what it asked for is here.
                self._events.emit(CredentialsAssumed(name=asked.login.device_name))
                came = asked.login
            if isinstance(came, Login):
                return came
            if isinstance(came, Refusal):
                delay = REFUSED_RETRY_SECONDS * 2.0 ** min(refusals, 10)
                delay = min(delay, LONGEST_REFUSED_RETRY_SECONDS) * (0.75 + self._jitter() / 2)
                refusals += 1
                self._events.emit(
                    ProvisioningRefused(
                        status=came.status, why=came.message, hint=_hint(came.status), retry_seconds=delay
                    )
                )
            else:
                asked = asked._replace(maybe_granted=asked.maybe_granted or came.maybe_granted)
                delay = min(LONGEST_RETRY_SECONDS, RETRY_FACTOR ** min(failures, 20)) * (0.75 + self._jitter() / 2)
                failures += 1
                if came.why == _OTHER_VERSION:
                    delay = OTHER_VERSION_SECONDS
                else:
                    self._events.emit(ProvisioningFailed(why=came.why, retry_seconds=delay))
            await deferLater(self._clock, delay)

    async def _ask_what(self, basis: str) -> _Asked:
        """What an earlier run asked for and had no answer to, or something new, which is kept first."""
        login = await self._disk(self._keeper.asked, basis)
        found = login is not None
        if login is None:
            login = await self._new_login(self._plan.device_name or f"Gateway {secrets.token_hex(4)}")
            await self._disk(self._keeper.ask, login, basis)
        return _Asked(login, await self._certificate_text(login), found)

    async def _new_login(self, name: str) -> Login:
        plan = self._plan
        if plan.type == "X509_CERTIFICATE":
            certificate, key = await self._disk(self._keeper.write_pair, *make_pair(name, self._now()))
            return Login(plan.type, certificate=certificate, private_key=key, device_name=name)
        if plan.type == "MQTT_BASIC":
            if plan.client_id or plan.username:
                return Login(
                    plan.type,
                    client_id=plan.client_id or "",
                    username=plan.username or "",
                    password=plan.password or "",
                    device_name=name,
                )
            return Login(
                plan.type,
                client_id=f"tbgw-{secrets.token_hex(8)}",
                username=secrets.token_hex(8),
                password=secrets.token_hex(16),
                device_name=name,
            )
        token = plan.token or ("" if plan.type == "AUTO" else secrets.token_hex(10))
        return Login("ACCESS_TOKEN", token=token, device_name=name)

    async def _certificate_text(self, login: Login) -> str:
        path = login.certificate
        return await self._disk(path.read_text) if path is not None else ""

    async def _renew(self) -> str:
        old = self.login
        if old is None or old.certificate is None or self._plan.type != "X509_CERTIFICATE" or not old.device_name:
            return "the certificate was not made by provisioning"
        if self._next is not None:
            return WAITS
        try:
            new = await self._new_login(old.device_name)
            text = await self._certificate_text(new)
            came = await self._attempt(_Asked(new, text, False), self._new_versions())
            if not isinstance(came, Login):
                await self._disk(self._keeper.keep_next, new)
                self._next, self.successor = new, text
                why = came.why if isinstance(came, _Failed) else f"{came.status}: {came.message}"
                return f"{why}; {WAITS}"
            await self._disk(self._keeper.keep, new)
        except OSError as error:
            return str(error)
        self._use(new)
        return ""

    def _refused(self) -> bool:
        """ThingsBoard does not know the certificate: it may have been given the successor meanwhile, so take turns."""
        if self._next is None or self.login is None:
            return False
        if self.login is self._next:
            other = self._former or self.login
        else:
            self._former, other = self.login, self._next
        try:
            endpoint, where = self._dial(other)
        except ConfigurationError as error:
            self._events.emit(CredentialsUnusable(fault=str(error)))
            return False
        self.login = other
        self._uplink.aim(endpoint, where, credentials(other))
        return other is self._next

    def _accepted(self) -> None:
        """ThingsBoard lets us in; if that is with the successor, it is what counts from now on."""
        new = self._next
        if new is None or self.login is not new:
            return
        self._no_successor()
        self._renewal = Deferred.fromCoroutine(self._insist(self._disk, self._keeper.keep, new)).addErrback(_stopped)
        self.started()

    def _no_successor(self) -> None:
        self._next = self._former = None
        self.successor = ""

    async def _attempt(self, asked: _Asked, versions: VersionChoice) -> Login | Refusal | _Failed:
        """One connection."""
        options = ClientOptions(client_id="provision", username="provision", protocol_version=versions.next())
        try:
            endpoint, _ = self._dial(None)
        except ConfigurationError as error:
            return _Failed(str(error), False)
        exchange = Exchange(request(self._plan, asked.login, asked.certificate_pem), options, self._clock)
        exchange.begin(endpoint)
        came = await exchange.answer
        if exchange.accepted:
            versions.accepted()
        if isinstance(came, bytes):
            try:
                return parse_response(came, asked.login, asked.certificate_pem)
            except ValueError as error:
                return Refusal("UNUSABLE", str(error))
        if versions.failed(came):
            return _Failed(_OTHER_VERSION, exchange.asked)
        return _Failed(str(came) or type(came).__name__, exchange.asked)


_OTHER_VERSION = "the server does not take MQTT 5"


def _nothing() -> None:
    """Nobody wants to know."""


def _stopped(failure: Failure) -> str:
    failure.trap(CancelledError)
    return "the gateway is being stopped"


def _chosen(login: Login) -> bool:
    """Whether the credentials were ours to choose, so that they are known without an answer."""
    return login.type != "ACCESS_TOKEN" or bool(login.token)


def _digest(plan: Plan) -> str:
    """What an earlier request has to have been made under to be gone on with; tells nothing of the secrets in it."""
    return hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()


def _hint(status: str) -> str:
    """What the operator can do about a refusal (spec thingsboard-mqtt, 5.2)."""
    if status == "NOT_FOUND":
        return "check provisionDeviceKey and provisionDeviceSecret, and that provisioning is on in the device profile"
    if status == "FAILURE":
        return (
            "a device of that name is there already (give another deviceName), or was provisioned before (remove its "
            "server attribute provisionState), or is not there and only existing ones are allowed"
        )
    return "look at the device and its profile in ThingsBoard"
