# -*- test-case-name: tests.test_link -*-
"""Makes the link to ThingsBoard from the section `thingsboard`: where to dial, who we are, how the uplink begins.

Used by the one builder, `service`, and by commands of `cli` with a session of their own. Twisted's endpoints are
imported late: they load OpenSSL, and whether that is left out is settled after this module is (`tap.leave_out_tls`).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from twisted.internet.defer import Deferred, DeferredLock

from tbgw.config.thingsboard import PackagesSection, ThingsBoardSection
from tbgw.interfaces import IOwnDevice
from tbgw.internal_events import Events
from tbgw.mqtt.versions import VersionChoice
from tbgw.thingsboard import topics
from tbgw.uplink.client import Credentials, Uplink
from tbgw.uplink.command import run_command
from tbgw.uplink.internal_events import ServerUnverified
from tbgw.uplink.packages import Package
from tbgw.uplink.updates import Rules, Updates
from tbgw.version import VERSION

_MQTT_VERSIONS: Mapping[str, Literal[4, 5] | None] = {"auto": None, "5": 5, "3.1.1": 4}


class Link:
    """What can be made of one section. `token` gives the access token where the configuration names the sandbox's."""

    def __init__(
        self,
        section: ThingsBoardSection,
        reactor: Any,
        events: Events,
        token: Callable[[], str] | None = None,
    ) -> None:
        self._section = section
        self._reactor = reactor
        self._events = events
        self._token = token

    @property
    def where(self) -> str:
        """The server's name in log lines."""
        section = self._section
        return f"{section.host}:{section.port}{' (TLS)' if section.security.tls else ''}"

    def endpoint(self, certificate: Path | None = None, private_key: Path | None = None) -> Any:
        """
        What dials. With TLS the server is verified, and is shown our certificate. Raises ConfigurationError for files
        that cannot be used.
        """
        section = self._section
        security = section.security
        if section.proxy_host is not None:
            from tbgw.mqtt.proxy import HTTPConnectEndpoint

            proxy = self._dialling(section.proxy_host, section.proxy_port)
            endpoint: Any = HTTPConnectEndpoint(proxy, section.host, section.port, clock=self._reactor)
        else:
            endpoint = self._dialling(section.host, section.port)
        if not security.tls:
            return endpoint
        from twisted.internet.endpoints import wrapClientTLS

        from tbgw.tls import ClientTLS, client_creator

        tls = ClientTLS(
            section.host,
            ca_cert=security.ca_cert,
            certificate=certificate or security.cert,
            private_key=private_key or security.private_key,
            accept_any_server=security.accept_any_server,
        )
        return wrapClientTLS(client_creator(tls), endpoint)

    def _dialling(self, host: str, port: int) -> Any:
        """A TCP endpoint. An address needs no resolver, and so none of the threads that one costs."""
        from twisted.internet.abstract import isIPAddress, isIPv6Address
        from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint

        if isIPAddress(host):
            return TCP4ClientEndpoint(self._reactor, host, port)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self._reactor, host, port)
        self._reactor.suggestThreadPoolSize(1)  # for the system's resolver; few others use that pool
        return HostnameEndpoint(self._reactor, host.encode("idna"), port)

    def credentials(self) -> Credentials:
        """What the configuration says of us; nothing where that is provisioned."""
        security = self._section.security
        if self._section.provisioning is not None:
            return Credentials()
        password = None
        if security.access_token is not None:
            username: str | None = security.access_token.reveal()
        elif security.access_token_file is not None and self._token is not None:
            username = self._token()  # the sandbox's own file, which did not exist at the check
        else:
            username = security.username
            password = security.password.reveal().encode() if security.password is not None else None
        return Credentials(security.client_id or "", username, password)

    def versions(self) -> VersionChoice:
        """Which version of MQTT is tried when."""
        return VersionChoice(_MQTT_VERSIONS[self._section.mqtt_version])

    def uplink(self, subscriptions: Sequence[str] | None = None) -> Uplink:
        """The uplink, not started. `subscriptions` takes the place of what a gateway subscribes to."""
        if subscriptions is None:
            packages = self._section.firmware.enabled or self._section.software.enabled
            subscriptions = topics.GATEWAY_SUBSCRIPTIONS + (topics.PACKAGE_SUBSCRIPTIONS if packages else ())
        if self._section.security.tls and self._section.security.accept_any_server:
            self._events.emit(ServerUnverified())
        return Uplink(
            self.endpoint(),
            self.where,
            self.credentials(),
            clock=self._reactor,
            events=self._events,
            jitter=jitter,
            keep_alive_seconds=self._section.keep_alive_seconds,
            versions=self.versions(),
            subscriptions=subscriptions,
            short_topics=self._section.short_topics,
        )

    def enrolment(
        self,
        uplink: Uplink,
        data_dir: Path,
        config_dir: Path,
        in_thread: Callable[[Callable[[], None]], Deferred[None]],
    ) -> Any:
        """What begins `uplink` once there are credentials; the uplink itself where the configuration has them."""
        section = self._section.provisioning
        if section is None:
            return uplink
        from tbgw.uplink.enrolment import Enrolment
        from tbgw.uplink.keeping import CredentialsKeeper
        from tbgw.uplink.provisioning import Plan

        plan = Plan(
            section.type,
            section.device_key.reveal() if section.device_key is not None else "",
            section.device_secret.reveal() if section.device_secret is not None else "",
            section.device_name,
            section.access_token.reveal() if section.access_token is not None else None,
            section.client_id,
            section.username,
            section.password.reveal() if section.password is not None else None,
        )
        return Enrolment(
            uplink,
            plan,
            CredentialsKeeper(data_dir, config_dir),
            lambda login: (
                self.endpoint(login.certificate, login.private_key) if login is not None else self.endpoint(),
                self.where,
            ),
            clock=self._reactor,
            events=self._events,
            jitter=jitter,
            in_thread=in_thread,
            now=utc_now,
            versions=self.versions,
        )


    def updates(
        self,
        own_device: IOwnDevice,
        publish: Callable[[str, bytes], Deferred[int]],
        folder: Path,
        in_thread: Callable[[Callable[[], None]], Deferred[None]],
    ) -> list[Updates]:
        """Those who take up firmware and software for the gateway, as far as that is on; not started."""
        from twisted.internet.threads import deferToThreadPool

        reactor = self._reactor
        one_at_a_time = DeferredLock()

        def make(kind: str, name: str, section: PackagesSection, own: tuple[str, str]) -> Updates:
            return Updates(
                kind,
                Rules(section.command, section.command_timeout_seconds, section.max_bytes, section.chunk_bytes),
                Package(folder, name),
                own_device,
                publish,
                clock=reactor,
                events=self._events,
                in_thread=in_thread,
                in_other_thread=lambda job: deferToThreadPool(reactor, reactor.getThreadPool(), job),
                run=lambda *run: run_command(reactor, *run),
                one_at_a_time=one_at_a_time,
                own=own,
            )

        firmware, software = self._section.firmware, self._section.software
        made = [make("fw", "firmware", firmware, ("", ""))] if firmware.enabled else []
        return made + ([make("sw", "software", software, ("tbgw", VERSION))] if software.enabled else [])


def utc_now() -> datetime.datetime:
    """The wall clock, for dates of certificates."""
    return datetime.datetime.now(datetime.UTC)


def jitter() -> float:
    """From 0 up to 1."""
    import random

    return random.random()  # noqa: S311 - spreads reconnections, guards nothing
