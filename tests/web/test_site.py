"""The page's URLs, who may ask, and the service around them."""

from __future__ import annotations

import http.client
import json
import re
import time
from pathlib import Path

from twisted.internet import reactor, threads
from twisted.internet.address import IPv4Address
from twisted.internet.defer import inlineCallbacks
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial import unittest

import tbgw.web
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.web.resources import MAX_CONNECTIONS, MAX_DRAWN_POINTS, MAX_LISTED_DEVICES, host_allowed
from tbgw.web.site import WebSite
from tbgw.web.stream import MAX_STREAMS
from tests.web.fakes import NOW, FakeStatus, FakeView, device


class BusyReactor(MemoryReactorClock):
    """A reactor whose port may be in use."""

    busy = False

    def listenTCP(self, port, factory, backlog=50, interface=""):
        if self.busy:
            raise CannotListenError(interface, port, OSError(98, "Address already in use"))
        return super().listenTCP(port, factory, backlog, interface)


class Answer:
    """One HTTP response, taken apart."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.code = int(status.split(" ")[1])
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def json(self):
        return json.loads(self.body)


class Connection:
    """One HTTP connection in memory."""

    def __init__(self, factory, peer: str = "127.0.0.1") -> None:
        self.protocol = factory.buildProtocol(IPv4Address("TCP", peer, 5))
        self.transport = StringTransport(IPv4Address("TCP", "127.0.0.1", 8080), IPv4Address("TCP", peer, 5))
        self.protocol.makeConnection(self.transport)

    def send(self, data: bytes) -> bytes:
        self.protocol.dataReceived(data)
        answer: bytes = self.transport.value()
        self.transport.clear()
        return answer

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))


class SiteTests(unittest.SynchronousTestCase):
    """A running page without a network."""

    def setUp(self):
        self.reactor = BusyReactor()
        self.counters = Counters()
        self.view = FakeView(device("Gateway", gateway=True), device("Pump 1", t=1), device("<b>x</b>"))
        self.site = self.make()

    def make(self, address="127.0.0.1"):
        return WebSite(
            self.reactor,
            address,
            8080,
            self.view,
            [FakeStatus(spool={"rows": 3}), FakeStatus(uplink={"connected": True})],
            Events(self.counters, self.reactor.seconds),
            lambda: NOW,
            hint="echo 1 | nc 127.0.0.1 5000",
        )

    @property
    def factory(self):
        if not self.reactor.tcpServers:
            self.site.startService()
        return self.reactor.tcpServers[0][1]

    def ask(self, path, method="GET", host="127.0.0.1:8080", headers=(), body=b"") -> Answer:
        lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else []), *headers, "Connection: close"]
        return Answer(Connection(self.factory).send("\r\n".join(lines).encode() + b"\r\n\r\n" + body))


class AccessTests(SiteTests):
    """Who may ask for what."""

    def test_host_names(self):
        """Only names of this machine are served; a name that leads here by DNS is not."""
        for host, allowed in {
            "127.0.0.1:8080": True,
            "127.0.0.1": True,
            "localhost:9000": True,
            "LOCALHOST": True,
            "[::1]:8080": True,
            "127.8.8.8": True,
            "evil.example": False,
            "evil.example:8080": False,
            "127.0.0.1.evil.example": False,
            "localhost.evil.example:8080": False,
            "192.168.1.5:8080": False,
            "127.0.0.1:80:80": False,
            "localhost:x": False,
            "": False,
            ":8080": False,
        }.items():
            self.assertIs(host_allowed(host, "127.0.0.1"), allowed, host)
        self.assertTrue(host_allowed("192.168.1.5:8080", "192.168.1.5"))
        self.assertTrue(host_allowed("192.168.1.5:8080", "0.0.0.0"))
        self.assertFalse(host_allowed("evil.example:8080", "0.0.0.0"))

    def test_foreign_host(self):
        """A foreign or missing Host gets 421 and nothing of the page, and is counted."""
        for path in ("/", "/api/devices", "/api/events"):
            answer = self.ask(path, host="evil.example:8080")
            self.assertEqual((answer.code, answer.json()), (421, {"error": "foreign host name"}))
        self.assertEqual(self.counters.get("web_requests_refused", "foreign host name"), 3)
        data = Connection(self.factory).send(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(Answer(data).code, 421)

    def test_methods(self):
        """Only GET and HEAD; a body is thrown away, however it is announced."""
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
            answer = self.ask("/api/devices", method, headers=["Content-Length: 5"], body=b"hello")
            self.assertEqual((answer.code, answer.headers["allow"]), (405, "GET, HEAD"))
        form = ["Content-Type: application/x-www-form-urlencoded", "Content-Length: 8"]
        self.assertEqual(self.ask("/", "POST", headers=form, body=b"filter=x").code, 405)
        self.assertEqual(self.ask("/", "GET", headers=["Content-Length: 5"], body=b"hello").code, 200)

    def test_large_body_is_not_kept(self):
        """A body of many megabytes is accepted by nobody and kept nowhere."""
        connection = Connection(self.factory)
        connection.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n")
        request = connection.protocol.wrappedProtocol._channel.requests[-1]
        for _ in range(50):
            connection.send(b"x" * 65536)
        self.assertEqual(len(request.content.getvalue()), 0)

    def test_security_headers(self):
        """Every answer bears the policy headers, errors too."""
        for answer in (self.ask("/"), self.ask("/api/devices"), self.ask("/x"), self.ask("/", host="evil.example")):
            self.assertIn("default-src 'self'", answer.headers["content-security-policy"])
            self.assertIn("frame-ancestors 'none'", answer.headers["content-security-policy"])
            self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
            self.assertEqual(answer.headers["x-frame-options"], "DENY")
            self.assertNotIn("access-control-allow-origin", answer.headers)

    def test_other_sites(self):
        """A browser that says that another site asks gets no data and takes no stream."""
        for path in ("/api/devices", "/api/history", "/api/status", "/api/events"):
            for site in ("cross-site", "same-site"):
                self.assertEqual(self.ask(path, headers=[f"Sec-Fetch-Site: {site}"]).code, 403)
        self.assertEqual(self.ask("/api/devices", headers=["Sec-Fetch-Site: same-origin"]).code, 200)
        self.assertEqual(self.ask("/", headers=["Sec-Fetch-Site: cross-site"]).code, 200)

    def test_nothing_else(self):
        """Other paths are not found, whatever they look like."""
        for path in (
            "/x",
            "//",
            "/../site.py",
            "/static/app.js",
            "/app.js/",
            "/api/",
            "/%2e%2e/site.py",
            "/api/devices/",
        ):
            self.assertEqual(self.ask(path).code, 404, path)

    def test_connections_are_bounded(self):
        """Beyond the cap connections are closed at once, and a place that gets free is taken."""
        connections = [Connection(self.factory) for _ in range(MAX_CONNECTIONS)]
        self.assertIsNone(self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 6)))
        connections[0].lose()
        self.assertIsNotNone(self.factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 6)))


class ContentTests(SiteTests):
    """What is served."""

    def test_page(self):
        """The page and all that it refers to are served, from here only."""
        page = self.ask("/")
        self.assertEqual(page.headers["content-type"], "text/html; charset=utf-8")
        references = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
        self.assertTrue({"/app.js", "/style.css", "/icon.svg"} <= set(references))
        scripts = [path for path in references if path.endswith(".js")] + ["/chart.js"]
        for path in {*references, *scripts}:
            self.assertEqual(self.ask(path).code, 200, path)
        self.assertIn('from "/chart.js"', self.ask("/app.js").body.decode())

    def test_no_markup_from_data(self):
        """Nothing in the scripts turns text into markup or code, and nothing comes from elsewhere (P-20)."""
        for path in (Path(tbgw.web.__file__).parent / "static").iterdir():
            text = path.read_text()
            for forbidden in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function"):
                self.assertNotIn(forbidden, text, path.name)
            links = set(re.findall(r"https?://[^\s\"'`)]+", text))
            self.assertEqual(links - {"http://www.w3.org/2000/svg"}, set(), path.name)

    def test_cached(self):
        """A page that is known already is not sent again."""
        first = self.ask("/app.js")
        again = self.ask("/app.js", headers=[f"If-None-Match: {first.headers['etag']}"])
        self.assertEqual((again.code, again.body), (304, b""))

    def test_head(self):
        """HEAD has the headers of GET and no body; on the stream it ends at once."""
        for path in ("/", "/api/devices", "/api/events"):
            answer = self.ask(path, "HEAD")
            self.assertEqual((answer.code, answer.body), (200, b""))
        self.assertEqual(self.ask("/", "HEAD").headers["content-length"], str(len(self.ask("/").body)))

    def test_devices(self):
        """All devices, or those whose names contain something; never more than so many."""
        answer = self.ask("/api/devices")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertEqual(answer.json(), {"now": NOW, "total": 3, "devices": self.view.list})
        found = self.ask("/api/devices?filter=PUMP").json()
        self.assertEqual(([d["name"] for d in found["devices"]], found["total"]), (["Pump 1"], 3))
        self.view.list = [device(f"D{n}") for n in range(MAX_LISTED_DEVICES + 5)]
        answer = self.ask("/api/devices").json()
        self.assertEqual((len(answer["devices"]), answer["total"]), (MAX_LISTED_DEVICES, MAX_LISTED_DEVICES + 5))

    def test_history(self):
        """The points of one key since a moment, thinned to what a line can show."""
        self.view.points = [(1, 1.5), (2, "x")]
        answer = self.ask("/api/history?device=Pump%201&key=a%2Fb%26%C3%A4&since=5")
        self.assertEqual(answer.json(), {"now": NOW, "points": [[1, 1.5], [2, "x"]]})
        self.assertEqual(self.view.asked, [("Pump 1", "a/b&ä", 5)])
        self.view.points = [(n, n) for n in range(MAX_DRAWN_POINTS * 3)]
        self.assertLessEqual(len(self.ask("/api/history?device=a&key=b").json()["points"]), MAX_DRAWN_POINTS)

    def test_bad_queries(self):
        """A query that is missing something, doubled, too long or no text is refused before anything is looked up."""
        for query in (
            "",
            "?device=a",
            "?key=a",
            "?device=a&key=b&device=c",
            "?device=a&key=b&since=-1",
            "?device=a&key=b&since=1e3",
            "?device=a&key=b&since=" + "9" * 19,
            "?device=a&key=" + "k" * 1025,
            "?device=%ff&key=b",
        ):
            self.assertEqual(self.ask("/api/history" + query).code, 400, query)
        self.assertEqual(self.view.asked, [])
        self.assertEqual(self.ask("/api/devices?filter=" + "x" * 1025).code, 400)

    def test_status(self):
        """The pictures of all sources in one."""
        self.assertEqual(self.ask("/api/status").json(), {"spool": {"rows": 3}, "uplink": {"connected": True}})

    def test_stream(self):
        """The stream stays open, begins with the hint, and ends with the connection."""
        connection = Connection(self.factory)
        data = connection.send(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = Answer(data)
        self.assertEqual((answer.code, answer.headers["content-type"]), (200, "text/event-stream; charset=utf-8"))
        self.assertIn(b"echo 1 | nc 127.0.0.1 5000", answer.body)
        self.reactor.advance(0)
        self.assertIn(b"event: devices", connection.transport.value())
        self.reactor.advance(300)
        self.assertFalse(connection.transport.disconnecting)
        self.assertEqual(len(self.view.observers), 1)
        connection.lose()
        self.assertEqual(self.view.observers, [])

    def test_too_many_streams(self):
        """Beyond the cap a stream is refused, to be tried again later."""
        request = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
        connections = [Connection(self.factory) for _ in range(MAX_STREAMS)]
        for connection in connections:
            self.assertEqual(Answer(connection.send(request)).code, 200)
        answer = Answer(Connection(self.factory).send(request))
        self.assertEqual((answer.code, answer.headers["retry-after"]), (503, "10"))
        connections[0].lose()
        self.assertEqual(Answer(Connection(self.factory).send(request)).code, 200)


class ServiceTests(SiteTests):
    """Start, stop, and a port in use."""

    def test_start_and_stop(self):
        """It listens where it is told, and leaves nothing behind."""
        self.site.startService()
        [(port, _, _, interface)] = self.reactor.tcpServers
        self.assertEqual((interface, port), ("127.0.0.1", 8080))
        connection = Connection(self.factory)
        connection.send(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.successResultOf(self.site.stopService())
        self.assertTrue(connection.transport.disconnected or connection.transport.disconnecting)
        connection.lose()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_idle_timers(self):
        """A page that nobody looks at needs no timer at all."""
        self.site.startService()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_port_in_use(self):
        """A port in use is tried again after 5, 10, 20, 40, 60 and 60 seconds, and counted."""
        self.reactor.busy = True
        self.site.startService()
        for number, seconds in enumerate((5, 10, 20, 40, 60, 60), 1):
            self.assertEqual(self.counters.get("web_listen_failed"), number)
            self.reactor.advance(seconds)
        self.assertIsNone(self.site.port)
        self.reactor.busy = False
        self.reactor.advance(60)
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.successResultOf(self.site.stopService())

    def test_stopped_while_in_use(self):
        """Once stopped it does not try again."""
        self.reactor.busy = True
        self.site.startService()
        self.successResultOf(self.site.stopService())
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class SocketTests(unittest.TestCase):
    """Over a real socket, with a foreign client."""

    timeout = 20

    @inlineCallbacks
    def test_real_client(self):
        """The page, the data and the stream reach http.client."""
        view = FakeView(device("A", t=1))
        site = WebSite(reactor, "127.0.0.1", 0, view, [], Events(Counters(), time.monotonic), lambda: NOW)
        site.startService()
        self.addCleanup(site.stopService)
        port = site.port

        def session():
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            client.request("GET", "/")
            page = client.getresponse().read()
            client.request("GET", "/api/devices")
            devices = json.loads(client.getresponse().read())
            client.request("GET", "/api/events")
            stream = client.getresponse()
            data = b""
            while b"event: devices" not in data or not data.endswith(b"\n\n"):
                data += stream.read1(65536)
            client.close()
            return page, devices, data

        page, devices, data = yield threads.deferToThread(session)
        self.assertIn(b"<!doctype html>", page)
        self.assertEqual(devices["devices"], view.list)
        self.assertIn(b'"name":"A"', data)
