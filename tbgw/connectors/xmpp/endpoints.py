# -*- test-case-name: tests.connectors.xmpp.test_endpoints -*-
"""How the server is reached: by the host and port of the configuration, or by the SRV records of the JID's domain
(RFC 6120, 3.2, and XEP-0368 for direct TLS).

The certificate is verified for the JID's domain in either case, so a forged DNS answer leads to a refusal and no
further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from tbgw.connectors.xmpp.errors import LoginFailed

MAX_TARGETS = 10
"""Of all SRV records, so many of the best are tried in one attempt."""
LOOKUP_SECONDS = (1, 2, 4)
"""How long each try of the lookup may take."""


def fixed(reactor: Any, host: str, port: int, timeout_seconds: float) -> IStreamClientEndpoint:
    """A host that is given. Its name may be an IP address."""
    return HostnameEndpoint(reactor, host, port, timeout=timeout_seconds)


@implementer(IStreamClientEndpoint)
class ServiceEndpoint:
    """The hosts that SRV records name, best first, until one answers; without records the domain itself."""

    def __init__(
        self,
        reactor: Any,
        domain: str,
        service: str,
        default_port: int,
        timeout_seconds: float,
        jitter: Callable[[], float],
        resolver: Any = None,
    ) -> None:
        """`service` is `xmpp-client` or `xmpps-client`. `resolver`: an IResolver; None takes the system's servers."""
        self._reactor = reactor
        self._name = f"_{service}._tcp.{domain}"
        self._domain = domain
        self._default_port = default_port
        self._timeout = timeout_seconds
        self._jitter = jitter
        self._resolver = resolver

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """As IStreamClientEndpoint. Fails with what the last of the hosts failed with."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        targets = await self._targets()
        for host, port in targets[:-1]:
            try:
                return await fixed(self._reactor, host, port, self._timeout).connect(factory)
            except ConnectError:
                continue
        host, port = targets[-1]
        return await fixed(self._reactor, host, port, self._timeout).connect(factory)

    async def _targets(self) -> Sequence[tuple[str, int]]:
        from twisted.internet.defer import TimeoutError as DeferredTimeout
        from twisted.names import client, dns
        from twisted.names.error import DNSQueryTimeoutError, DomainError, ResolverError

        resolver = self._resolver
        if resolver is None:
            # Not Twisted's reading of the file: that leaves a timer behind.
            resolver = client.Resolver(None, [(one, dns.PORT) for one in name_servers()], reactor=self._reactor)
        try:
            answers, _, _ = await resolver.lookupService(self._name, LOOKUP_SECONDS)
        except (DomainError, ResolverError, DNSQueryTimeoutError, DeferredTimeout, OSError):
            answers = []
        records = [one.payload for one in answers if one.type == dns.SRV]
        if len(records) == 1 and str(records[0].target) in (".", ""):
            raise LoginFailed(f"the domain says that it offers no such service ({self._name})")
        if not records:
            return [(self._domain, self._default_port)]
        ordered = ordered_by_weight([(r.priority, r.weight, str(r.target), r.port) for r in records], self._jitter)
        return ordered[:MAX_TARGETS]


def name_servers(file: Path = Path("/etc/resolv.conf")) -> list[str]:
    """Addresses of the name servers that the system asks; the one on this machine when there are none."""
    try:
        lines = [line.split() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    return [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"] or ["127.0.0.1"]


def ordered_by_weight(
    records: Sequence[tuple[int, int, str, int]], jitter: Callable[[], float]
) -> list[tuple[str, int]]:
    """(host, port) of SRV records (priority, weight, host, port) in the order of RFC 2782. `jitter()` is in [0, 1)."""
    left = sorted(records, key=lambda record: (record[0], record[1]))
    ordered = []
    while left:
        group = [record for record in left if record[0] == left[0][0]]
        mark = jitter() * sum(record[1] for record in group)
        reached = 0
        for record in group:
            reached += record[1]
            if reached >= mark:
                break
        left.remove(record)
        ordered.append((record[2], record[3]))
    return ordered


def with_tls(endpoint: IStreamClientEndpoint, creator: Any) -> IStreamClientEndpoint:
    """TLS from the first byte."""
    wrapped: IStreamClientEndpoint = wrapClientTLS(creator, endpoint)
    return wrapped
