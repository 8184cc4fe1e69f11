"""How the server is found: SRV records from a real name server in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import error, reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.names import client, dns, server
from twisted.names.common import ResolverBase
from twisted.names.error import DNSNameError
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tbgw.connectors.xmpp.endpoints import ServiceEndpoint, name_servers, ordered_by_weight
from tbgw.connectors.xmpp.errors import LoginFailed
from tests.connectors.xmpp.links import LinkCase
from tests.programs import free_port
from tests.xmppservers import DOMAIN, start


class Zone(ResolverBase):
    """Answers SRV questions from a table: service name to (priority, weight, host, port)."""

    def __init__(self, table: dict[str, list[tuple[int, int, str, int]]]) -> None:
        super().__init__()
        self.table = table
        self.asked: list[str] = []

    def lookupService(self, name: Any, timeout: Any = None) -> Deferred[Any]:
        name = name.decode() if isinstance(name, bytes) else name
        self.asked.append(name)
        if name not in self.table:
            return fail(DNSNameError(dns.Message(rCode=dns.ENAME)))
        return succeed(
            (
                [
                    dns.RRHeader(name, dns.SRV, dns.IN, 60, dns.Record_SRV(priority, weight, port, host))
                    for priority, weight, host, port in self.table[name]
                ],
                [],
                [],
            )
        )


class ServiceTests(TestCase):
    """Which host is dialled."""

    def setUp(self) -> None:
        self.accepted: list[int] = []
        self.ports: list[Any] = []

    def listen(self) -> int:
        """A port that accepts."""
        case = self

        class Accepts(Protocol):
            def connectionMade(self) -> None:
                case.accepted.append(self.transport.getHost().port)  # type: ignore[union-attr] # it is connected

        factory: Any = Factory.forProtocol(Accepts)
        factory.noisy = False
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.ports.append(port)
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    def name_server(self, table: dict[str, list[tuple[int, int, str, int]]]) -> client.Resolver:
        """A resolver that asks a name server with this table, over UDP."""
        self.zone = Zone(table)
        factory = server.DNSServerFactory(clients=[self.zone])
        factory.noisy = False
        protocol = dns.DNSDatagramProtocol(factory)
        protocol.noisy = False
        port: Any = reactor.listenUDP(0, protocol, interface="127.0.0.1")  # type: ignore[attr-defined] # every reactor of ours does UDP
        self.addCleanup(port.stopListening)
        return client.Resolver(None, [("127.0.0.1", port.getHost().port)], reactor=reactor)

    async def dial(self, endpoint: ServiceEndpoint) -> None:
        factory = Factory.forProtocol(Protocol)
        factory.noisy = False
        protocol: Any = await endpoint.connect(factory)
        done: Deferred[None] = Deferred()
        protocol.connectionLost = lambda reason: done.callback(None)
        protocol.transport.loseConnection()
        await done

    def endpoint(self, resolver: Any, default: int = 1, service: str = "xmpp-client") -> ServiceEndpoint:
        return ServiceEndpoint(reactor, "localhost", service, default, 5.0, lambda: 0.5, resolver)

    async def test_best_first(self):
        """The best record is dialled, the next when that does not answer; direct TLS has a name of its own."""
        good, dead = self.listen(), free_port()
        name = "_xmpps-client._tcp.localhost"
        records = [(20, 0, "localhost", self.listen()), (5, 0, "localhost", dead), (10, 0, "localhost", good)]
        await self.dial(self.endpoint(self.name_server({name: records}), service="xmpps-client"))
        self.assertEqual((self.accepted, self.zone.asked), ([good], [name]))

    async def test_all_dead(self):
        """When none answers, the attempt fails as any other."""
        name = "_xmpp-client._tcp.localhost"
        resolver = self.name_server({name: [(5, 0, "localhost", free_port()), (6, 0, "localhost", free_port())]})
        attempt: Deferred[None] = Deferred.fromCoroutine(self.dial(self.endpoint(resolver)))
        await self.assertFailure(attempt, error.ConnectionRefusedError)

    async def test_no_records(self):
        """Without records it is the domain itself, at the usual port."""
        port = self.listen()
        await self.dial(self.endpoint(self.name_server({}), port))
        self.assertEqual(self.accepted, [port])

    async def test_not_offered(self):
        """A domain that says it has no such service is believed."""
        resolver = self.name_server({"_xmpp-client._tcp.localhost": [(0, 0, "", 0)]})
        attempt: Deferred[None] = Deferred.fromCoroutine(self.dial(self.endpoint(resolver)))
        await self.assertFailure(attempt, LoginFailed)


class SRVLoginTests(LinkCase):
    """The whole way: SRV record, another port, certificate of the domain."""

    async def test_login(self):
        """The link finds prosody by SRV; the certificate is verified for the JID's domain, whatever DNS says."""
        running = start("prosody", self, {"gateway": "secret"})
        zone = Zone({f"_xmpp-client._tcp.{DOMAIN}": [(1, 1, "localhost", running.port)]})
        endpoint = ServiceEndpoint(reactor, DOMAIN, "xmpp-client", 5222, 5.0, lambda: 0.5, zone)
        link, listener, _ = self.link(self.settings(running, host=None, port=None), endpoint=endpoint)
        await listener.next_up()
        self.assertEqual((link.where, link.status()["encryption"]), (DOMAIN, "TLSv1.3"))


class OrderTests(SynchronousTestCase):
    """RFC 2782."""

    def test_priority(self):
        """Lower priorities come first, whatever the weight."""
        records = [(2, 100, "c", 1), (1, 0, "a", 1), (1, 0, "b", 1)]
        self.assertEqual([host for host, _ in ordered_by_weight(records, lambda: 0.0)], ["a", "b", "c"])

    def test_weight(self):
        """Within a priority the weight is the share of first places."""
        draws = iter([number / 100 for number in range(100) for _ in range(2)])
        firsts = [ordered_by_weight([(1, 75, "a", 1), (1, 25, "b", 1)], lambda: next(draws))[0][0] for _ in range(100)]
        self.assertIn(firsts.count("a"), range(73, 78))

    def test_name_servers(self):
        """The system's file is read; without one, this machine is asked."""
        folder = Path(self.mktemp())
        folder.mkdir()
        file = folder / "resolv.conf"
        file.write_text("# x\nsearch y\nnameserver 10.0.0.1\nnameserver\nnameserver fe80::1\n")
        self.assertEqual(name_servers(file), ["10.0.0.1", "fe80::1"])
        self.assertEqual(name_servers(folder / "missing"), ["127.0.0.1"])
