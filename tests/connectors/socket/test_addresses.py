"""Tests of the address filters."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.socket.addresses import CACHED_PEERS, AddressFilter, AddressTable, parse_filter


class ParseFilterTests(SynchronousTestCase):
    """`parse_filter`."""

    def assert_parsed(self, text: str, networks: tuple[object, ...] | None, ports: tuple[int, int]) -> None:
        parsed = parse_filter(text)
        self.assertEqual((parsed.networks, (parsed.first_port, parsed.last_port)), (networks, ports))
        self.assertEqual(str(parsed), text)

    def test_documented_forms(self) -> None:
        """The four forms of the documentation: each half literal or `*`."""
        host = (IPv4Network("10.0.0.7/32"),)
        self.assert_parsed("10.0.0.7:6100", host, (6100, 6100))
        self.assert_parsed("*:6100", None, (6100, 6100))
        self.assert_parsed("10.0.0.7:*", host, (0, 65535))
        self.assert_parsed("*:*", None, (0, 65535))

    def test_alias_of_everyone(self) -> None:
        """`*.*`, the default in the reference's table, is `*:*`; blanks around a filter do not matter."""
        self.assertEqual(parse_filter("*.*"), parse_filter("*:*"))
        self.assertEqual(parse_filter(" 10.0.0.7:* "), parse_filter("10.0.0.7:*"))

    def test_networks(self) -> None:
        """Networks of both versions, the prefix length inside or behind the brackets."""
        self.assert_parsed("10.0.0.0/24:*", (IPv4Network("10.0.0.0/24"),), (0, 65535))
        self.assert_parsed("[fe80::/10]:*", (IPv6Network("fe80::/10"),), (0, 65535))
        self.assert_parsed("[fe80::]/10:7", (IPv6Network("fe80::/10"),), (7, 7))
        self.assert_parsed("[2001:db8::1]:50000", (IPv6Network("2001:db8::1/128"),), (50000, 50000))

    def test_whole_octets(self) -> None:
        """A `*` for whole octets at the end becomes a network."""
        self.assert_parsed("192.168.*:*", (IPv4Network("192.168.0.0/16"),), (0, 65535))
        self.assert_parsed("192.168.*.*:6100", (IPv4Network("192.168.0.0/16"),), (6100, 6100))
        self.assert_parsed("192.168.1.*:*", (IPv4Network("192.168.1.0/24"),), (0, 65535))
        self.assert_parsed("*.*.*.*:*", (IPv4Network("0.0.0.0/0"),), (0, 65535))

    def test_port_range(self) -> None:
        """A range of ports has both ends in it."""
        self.assert_parsed("*:6000-6010", None, (6000, 6010))
        self.assertEqual(parse_filter("*:6000-6000"), parse_filter("*:6000"))

    def test_mapped_addresses(self) -> None:
        """A filter written as an IPv4-mapped IPv6 address is the IPv4 filter."""
        self.assertEqual(parse_filter("[::ffff:10.0.0.1]:*"), parse_filter("10.0.0.1:*"))
        self.assertEqual(parse_filter("[::ffff:10.0.0.0/120]:5"), parse_filter("10.0.0.0/24:5"))

    def test_localhost(self) -> None:
        """`localhost`, the one name that is possible, is the loopback address of both versions."""
        table = AddressTable([parse_filter("localhost:*")])
        self.assertEqual([table.find(ip, 1) for ip in ("127.0.0.1", "::1", "127.0.0.2")], [0, 0, None])

    def test_refusals_say_what_is_wrong_and_what_is_allowed(self) -> None:
        """Everything else is refused with a text that names the fault, the filter and the allowed form."""
        for text, what in [
            ("192.16*:*", "whole octets"),
            ("192.16*.1.1:*", "whole octets"),
            ("10.*.3.*:*", "whole octets"),
            ("*.1:*", "whole octets"),
            ("1.2.3.4.*:*", "whole octets"),
            ("300.*:*", "0 to 255"),
            ("1..*:*", "0 to 255"),
            ("10.0.0.5/24:*", "the whole network is 10.0.0.0/24"),
            ("10.0.0.7", "write 10.0.0.7:* for any port"),
            ("", "no port"),
            ("plc1:50", "use the address"),
            ("plc1.example.org:*", "use the address"),
            (":50", "use the address"),
            ("010.0.0.1:*", "use the address"),
            ("1.2.3.4/33:*", "use the address"),
            ("\u0661\u0660.0.0.1:*", "use the address"),
            ("fe80::1:5", "in brackets"),
            ("[fe80::1%eth0]:5", "zone"),
            ("[fe80::1:5", "not closed"),
            ("[fe80::1]x:5", "'x'"),
            ("[10.0.0.1]:5", "brackets are for IPv6"),
            ("[2001:db8::1]", "no port"),
            ("*:0", "within 1 to 65535"),
            ("*:65536", "within 1 to 65535"),
            ("*:9-8", "rising"),
            ("*:", "no port"),
            ("*:x", "'x' is no port"),
            ("*:6*", "'6*' is no port"),
            ("*:-5", "no port"),
            ("*:5-", "no port"),
            ("*:\uff15", "no port"),
        ]:
            error = self.assertRaises(ValueError, parse_filter, text)
            self.assertIn(what, str(error), text)
            self.assertIn("allowed is <ip>:<port>", str(error))
            self.assertIn(repr(text.strip()), str(error))

    @given(st.text(max_size=30) | st.text("0123456789.*:[]/-af", max_size=30))
    @settings(max_examples=500, deadline=None)
    def test_any_text_is_a_filter_or_a_value_error(self, text: str) -> None:
        """No text ends in anything but a filter or ValueError."""
        try:
            parsed = parse_filter(text)
        except ValueError:
            return
        self.assertIsInstance(parsed, AddressFilter)


class AddressTableTests(SynchronousTestCase):
    """`AddressTable`."""

    def assert_winner(self, filters: list[str], ip: str, port: int, winner: int | None) -> None:
        self.assertEqual(AddressTable([parse_filter(text) for text in filters]).find(ip, port), winner)

    def test_whole_octets_only(self) -> None:
        """P-09: `192.16.*` does not admit 192.168.1.5, which the reference's regular expression does."""
        self.assert_winner(["192.16.*:*"], "192.168.1.5", 7, None)
        self.assert_winner(["192.16.*:*"], "192.16.8.15", 7, 0)
        self.assert_winner(["10.0.0.1:*"], "10.0.0.11", 7, None)
        self.assert_winner(["10.0.0.1:*"], "10a0b0.1", 7, None)
        self.assert_winner(["*:610"], "10.0.0.1", 6100, None)

    def test_most_specific_wins(self) -> None:
        """Exact address before longer prefix before any; then exact port before range before any."""
        filters = ["*:*", "*:7", "10.0.0.0/8:*", "10.1.0.0/16:*", "10.1.1.1:*", "10.1.1.1:5-9", "10.1.1.1:7"]
        for ip, port, winner in [
            ("10.1.1.1", 7, 6),
            ("10.1.1.1", 8, 5),
            ("10.1.1.1", 10, 4),
            ("10.1.1.2", 7, 3),
            ("10.2.0.1", 7, 2),
            ("11.0.0.1", 7, 1),
            ("11.0.0.1", 8, 0),
            ("2001:db8::1", 7, 1),
        ]:
            self.assert_winner(filters, ip, port, winner)

    def test_specific_address_with_other_ports_hides_nothing(self) -> None:
        """When the ports of the most specific address do not fit, the next filter is asked."""
        self.assert_winner(["*:*", "10.0.0.1:5"], "10.0.0.1", 6, 0)

    def test_ties_by_order(self) -> None:
        """Filters that are equally specific are taken in their order."""
        self.assert_winner(["*:5-9", "*:1-7"], "10.0.0.1", 6, 0)
        for port, winner in [(4, None), (5, 0), (6, 0), (7, 1), (9, 1), (10, None)]:
            self.assert_winner(["*:5-6", "*:6-9"], "10.0.0.1", port, winner)
        self.assert_winner(["10.0.0.1:5", "10.0.0.1:5"], "10.0.0.1", 5, 0)
        self.assert_winner(["10.0.0.1:*", "10.0.0.1/32:*"], "10.0.0.1", 5, 0)
        self.assert_winner(["*:*", "*:*"], "10.0.0.1", 5, 0)

    def test_mapped_peers(self) -> None:
        """An IPv4 peer on a socket for both versions is matched by IPv4 filters, and not by IPv6 ones."""
        self.assert_winner(["[::/0]:*", "10.0.0.1:*"], "::ffff:10.0.0.1", 5, 1)
        self.assert_winner(["[::/0]:*"], "::ffff:10.0.0.1", 5, None)

    def test_peer_with_zone(self) -> None:
        """The zone that the system adds to a link-local peer's address does not matter."""
        self.assert_winner(["[fe80::/10]:*"], "fe80::1%eth0", 5, 0)

    def test_no_address_is_refused(self) -> None:
        """What is no IP address is refused by every filter."""
        for ip in ("", "localhost", "10.0.0", "10.0.0.1.2", "*", "\u0661\u0660.0.0.1"):
            self.assert_winner(["*:*"], ip, 5, None)

    def test_no_filters(self) -> None:
        """Without filters nobody is admitted."""
        self.assert_winner([], "127.0.0.1", 5, None)

    def test_cache_is_bounded(self) -> None:
        """However many addresses strangers come from, the number of remembered ones is limited."""
        table = AddressTable([parse_filter("10.0.0.1:*")])
        for number in range(CACHED_PEERS + 100):
            table.find(str(IPv6Address(number)), 5)
        self.assertEqual(table._rules_for.cache_info().currsize, CACHED_PEERS)

    def test_cost_does_not_grow_with_the_rules(self) -> None:
        """A look-up that is not cached asks once for each prefix length, not for each rule."""
        texts = [f"10.{n // 250}.{n % 250}.7:{6000 + n}" for n in range(1000)]
        table = AddressTable([parse_filter(text) for text in texts])
        self.assertEqual([len(lengths) for lengths in table._prefixes.values()], [1, 0])
        self.assertEqual(len(table._look_up("10.1.3.7")), 1)
        self.assertEqual(table.find("10.1.3.7", 6253), 253)


# Few distinct values, so that filters and peers meet and overlap.
_octet = st.sampled_from([0, 1, 16, 168, 255])
_ipv4 = st.builds("{}.{}.{}.{}".format, st.sampled_from([10, 192]), _octet, _octet, _octet)
_ipv6 = st.builds("2001:db8:{:x}::{:x}".format, st.sampled_from([0, 1, 0x8000]), st.sampled_from([0, 1, 0xFFFF]))
_port = st.sampled_from([1, 5, 6, 7, 8, 9, 6100, 65534, 65535])
_ports = st.one_of(
    st.just("*"),
    _port.map(str),
    st.tuples(_port, _port).map(lambda pair: f"{min(pair)}-{max(pair)}"),
)


def _network(address: str, prefix: int) -> str:
    if ":" in address:
        return f"[{IPv6Network((address, prefix), strict=False)}]"
    return str(IPv4Network((address, min(prefix, 32)), strict=False))


_hosts = st.one_of(
    st.just("*"),
    _ipv4,
    _ipv6.map("[{}]".format),
    st.builds(_network, _ipv4 | _ipv6, st.sampled_from([0, 1, 8, 15, 16, 24, 31, 32, 33, 48, 127, 128])),
    st.tuples(_ipv4, st.integers(1, 3)).map(lambda pair: ".".join(pair[0].split(".")[: pair[1]]) + ".*"),
)
_filters = st.lists(st.builds("{}:{}".format, _hosts, _ports), max_size=12)
_peers = _ipv4 | _ipv6 | _ipv4.map("::ffff:{}".format)


def _oracle(filters: list[str], ip: str, port: int) -> int | None:
    """The documented rule in the slow and obvious way, from the text on."""
    address = ip_address(ip)
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    candidates = []
    for index, text in enumerate(filters):
        host, _, ports = text.rpartition(":")
        host = host.strip("[]")
        if host == "*":
            host_rank = -1
        else:
            if host.endswith(".*"):
                known = host.split(".")[:-1]
                host = ".".join(known + ["0"] * (4 - len(known))) + f"/{8 * len(known)}"
            network = IPv6Network(host) if ":" in host else IPv4Network(host)
            if address not in network:
                continue
            host_rank = network.prefixlen
        if ports == "*":
            port_rank = 0
        else:
            low, _, high = ports.partition("-")
            if not int(low) <= port <= int(high or low):
                continue
            port_rank = 2 if int(low) == int(high or low) else 1
        candidates.append((-host_rank, -port_rank, index))
    return min(candidates)[2] if candidates else None


class OracleTests(SynchronousTestCase):
    """The table against the rule."""

    @given(_filters, st.lists(st.tuples(_peers, _port | st.just(0)), min_size=1, max_size=8))
    @settings(max_examples=800, deadline=None)
    def test_agrees_with_brute_force(self, filters: list[str], peers: list[tuple[str, int]]) -> None:
        """For any filters and peers the table finds what trying them all finds, also the second time."""
        table = AddressTable([parse_filter(text) for text in filters])
        for ip, port in peers + peers:
            self.assertEqual(table.find(ip, port), _oracle(filters, ip, port), (filters, ip, port))
