"""The way down to devices: what is written where, and what goes back; each fault of the reference by its number."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tbgw.connectors.socket.config import AttributeRequest, AttributeUpdate, Datapoint, Field, Poll, Rpc
from tbgw.connectors.socket.connector import SocketConnector
from tbgw.connectors.socket.desk import MAX_WAITING
from tbgw.connectors.socket.requests import ClaimRequest, RpcRequest
from tbgw.errors import CommandFailed, LinkDown, NoAnswer, UnknownDevice
from tbgw.interfaces import IDownlink
from tbgw.model import Device
from tests.connectors.socket.fakes import (
    DeviceTransport,
    Lines,
    MemoryDevicesReactor,
    RecordingIngest,
    make_config,
    make_device,
    with_model,
)


@implementer(IDownlink)
class FakeDownlink:
    """Answers questions for attributes as the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, list[str]]] = []
        self.answer: Any = lambda: succeed({})

    def request_attributes(self, device: Device, scope: Any, keys: Any) -> Deferred[dict[str, Any]]:
        self.asked.append((device.name, scope, list(keys)))
        answer: Deferred[dict[str, Any]] = self.answer()
        return answer

    def rpc(self, device: Device, method: str, params: Any) -> Deferred[Any]:
        self.asked.append((device.name, method, params))
        answer: Deferred[Any] = self.answer()
        return answer

    def claim(self, device: Device, secret_key: str | None = None, duration_ms: int | None = None) -> Deferred[None]:
        self.asked.append((device.name, "claim", [str(secret_key), str(duration_ms)]))
        answer: Deferred[None] = self.answer()
        return answer


class CommandCase(SynchronousTestCase):
    """A connector on a reactor in memory."""

    def setUp(self) -> None:
        self.ingest = RecordingIngest()
        self.lines = Lines()
        self.reactor = MemoryDevicesReactor()
        self.downlink = FakeDownlink()

    def start(self, *devices: Any, **options: Any) -> SocketConnector:
        config = make_config(*devices, **options)
        self.connector = SocketConnector(
            "c", config, with_model(*devices), self.ingest, self.lines.events, self.reactor, lambda: 1000, self.downlink
        )
        self.connector.startService()
        return self.connector

    def connect(self, host: str = "10.0.0.7", port: int = 6100) -> tuple[Any, DeviceTransport]:
        factory: Any = self.reactor.tcpServers[-1][1]
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        transport = DeviceTransport(host, port)
        protocol.makeConnection(transport)
        return protocol, transport

    def error(self, answer: Deferred[Any]) -> str:
        return str(self.failureResultOf(answer, CommandFailed).value)


class UpdateTests(CommandCase):
    """Attribute updates."""

    def test_s01_live_connection(self):
        """S-01: an update of a connected TCP device arrives as bytes on its connection."""
        self.start(make_device(updates=(AttributeUpdate("tare", None),)))
        _, transport = self.connect()
        texts = ((0.35, b"0.35"), ("é", "é".encode()), (True, b"true"), (0, b"0"), ({"a": 1}, b'{"a":1}'))
        for value, written in texts:
            self.connector.attributes_changed("Line 4", {"tare": value, "other": 1}, [])
            self.assertEqual(transport.value(), written)
            transport.clear()

    def test_s24_encoding_of_the_entry(self):
        """S-24: the entry's encoding counts, then the device's; hex means bytes."""
        updates = (AttributeUpdate("a", "utf-16-le"), AttributeUpdate("b", None), AttributeUpdate("c", "hex"))
        self.start(make_device(updates=updates, encoding="latin-1"))
        _, transport = self.connect()
        self.connector.attributes_changed("Line 4", {"a": "é", "b": "é", "c": "01ff"}, [])
        self.assertEqual(transport.value(), "é".encode("utf-16-le") + b"\xe9\x01\xff")

    def test_value_expression(self):
        """What is sent can have text around it, such as a line end."""
        update = AttributeUpdate("a", None, "${attributeKey}=${attributeValue}\r\n")
        self.start(make_device(updates=(update,)))
        _, transport = self.connect()
        self.connector.attributes_changed("Line 4", {"a": 5}, [])
        self.assertEqual(transport.value(), b"a=5\r\n")

    def test_s23_no_updates_configured(self):
        """S-23: a device without the section, an unknown device, and a deletion write nothing and break nothing."""
        self.start(make_device(), make_device("10.9.9.9:*", "other", updates=(AttributeUpdate("a", None),)))
        _, transport = self.connect()
        self.connector.attributes_changed("Line 4", {"a": 1}, [])
        self.connector.attributes_changed("nobody", {"a": 1}, [])
        self.connector.attributes_changed("other", {}, ["a"])
        self.assertEqual(transport.value(), b"")

    def test_all_connections_of_a_device(self):
        """Each open connection of the name gets the update; a lost one does not (S-07)."""
        self.start(make_device(updates=(AttributeUpdate("a", None),)))
        first, second, third = self.connect(), self.connect(port=1), self.connect(port=2)
        second[0].connectionLost(Failure(OSError("ECONNRESET")))
        self.connector.attributes_changed("Line 4", {"a": 1}, [])
        self.assertEqual([t.value() for _, t in (first, second, third)], [b"1", b"", b"1"])

    def test_value_that_cannot_be_written(self):
        """What the encoding has no form for, and a device that is not there, are counted and told."""
        self.start(make_device(updates=(AttributeUpdate("a", "ascii"),)))
        self.connector.attributes_changed("Line 4", {"a": 1}, [])
        self.connect()
        self.connector.attributes_changed("Line 4", {"a": "é"}, [])
        self.assertEqual(self.lines.counters.get("writes_failed", "c"), 2)

    def test_s09_s10_udp(self):
        """S-09, S-10: over UDP, to the last address, from the bound port; before anybody spoke, the one given."""
        self.start(
            make_device(updates=(AttributeUpdate("a", None),)),
            make_device("10.0.0.9:7000", "fixed", updates=(AttributeUpdate("a", None),)),
            transport="UDP",
        )
        port = self.reactor.udp[-1]
        self.connector.attributes_changed("Line 4", {"a": 1}, [])
        for source in (("10.0.0.7", 1), ("10.0.0.7", 2)):
            port._protocol.datagramReceived(b"x", source)
        self.connector.attributes_changed("Line 4", {"a": 2}, [])
        self.connector.attributes_changed("fixed", {"a": 3}, [])
        self.assertEqual(port.written, [(b"2", ("10.0.0.7", 2)), (b"3", ("10.0.0.9", 7000))])
        self.assertEqual(self.reactor.tcpClients, [])


class RequestTests(CommandCase):
    """Attribute requests of devices."""

    def ask(self, message: bytes, request: AttributeRequest, **device: Any) -> bytes:
        self.start(make_device(requests=(request,), **device))
        protocol, transport = self.connect()
        protocol.dataReceived(message)
        written: bytes = transport.value()
        return written

    def test_s01_s11_answer_goes_to_who_asked(self):
        """S-01, S-11: the answer is the value as text in the device's encoding, falsy ones too, on the asker's line."""
        for value, text in ((0, "0"), (False, "false"), ("", ""), ("on", "on"), (21.5, "21.5"), (None, "")):
            self.downlink.answer = lambda value=value: succeed({"limit": value})
            written = self.ask(b"atr limit ", AttributeRequest())
            self.assertEqual(written, text.encode(), value)
        self.assertEqual(self.downlink.asked[-1], ("Line 4", "shared", ["limit"]))
        self.assertEqual(self.ingest.readings, [])

    def test_several_names(self):
        """Several names are answered as one JSON object, with null for what there is not."""
        self.downlink.answer = lambda: succeed({"sharedAttribute": 5})
        request = AttributeRequest("client", name_expression="[4:19][20:]")
        written = self.ask(b"atr sharedAttribute sharedAttribute1", request)
        self.assertEqual(written, b'{"sharedAttribute":5,"sharedAttribute1":null}')
        self.assertEqual(self.downlink.asked, [("Line 4", "client", ["sharedAttribute", "sharedAttribute1"])])

    def test_not_found(self):
        """What ThingsBoard does not have is answered, too, as configured."""
        self.assertEqual(self.ask(b"atrx", AttributeRequest()), b"null")
        self.assertEqual(self.ask(b"atrx", AttributeRequest(not_found="none", answer="${values}\n")), b"none\n")
        self.assertEqual(self.ask(b"atrx", AttributeRequest(not_found="")), b"")

    def test_s24_sources(self):
        """S-24: both ...Source keys count: a constant beginning, a constant name."""
        self.downlink.answer = lambda: succeed({"limit": 7})
        request = AttributeRequest("shared", "limit?", "constant", "limit", "constant")
        self.assertEqual(self.ask(b"limit?", request), b"7")

    def test_s25_no_link(self):
        """S-25: without a session the question is not answered and counted, and data is taken as ever."""
        for why in (LinkDown("there is no session"), NoAnswer("time-out")):
            self.downlink.answer = lambda why=why: fail(why)
            self.assertEqual(self.ask(b"atrx", AttributeRequest()), b"")
        protocol, _ = self.connect()
        protocol.dataReceived(b"21.5")
        self.assertEqual(self.ingest.values("raw"), ["21.5"])
        self.assertEqual(self.lines.counters.get("attribute_requests_failed", "c"), 2)

    def test_s05_question_that_is_no_text(self):
        """S-05: a question whose name is no text, or is empty, is counted; the next message is taken."""
        self.assertEqual(self.ask(b"atr\xff\xfe", AttributeRequest()), b"")
        self.assertEqual(self.ask(b"atr  ", AttributeRequest()), b"")
        self.assertEqual(self.downlink.asked, [])
        self.assertEqual(self.lines.counters.get("attribute_requests_failed", "c"), 2)

    def test_rpc(self) -> None:
        """`clientSideRpc`: method and parameters out of the message, the answer as configured, none as configured."""
        request = RpcRequest("rpc ", name_expression="[4:11]", params="[12:]", answer="${response.t}\n", no_answer="?")
        for params, value in ((b'{"a":1}', {"a": 1}), (b"text", "text"), (b"", {})):
            self.downlink.answer = lambda: succeed({"t": 5})
            self.start(make_device(rpc_requests=(request,)))
            protocol, transport = self.connect()
            protocol.dataReceived(b"rpc getTime " + params)
            self.assertEqual((self.downlink.asked[-1], transport.value()), (("Line 4", "getTime", value), b"5\n"))
        self.downlink.answer = lambda: fail(NoAnswer("nobody"))
        transport.clear()
        protocol.dataReceived(b"rpc getTime ")
        self.assertEqual((transport.value(), self.ingest.readings), (b"?", []))
        self.downlink.answer = lambda: succeed({"other": 5})
        transport.clear()
        protocol.dataReceived(b"rpc getTime ")
        self.assertEqual(transport.value(), b"", "an answer without what the configuration wants of it")
        protocol.dataReceived(b"rpc ")
        self.assertEqual(self.lines.counters.get("attribute_requests_failed", "c"), 3)

    def test_claim(self) -> None:
        """`claimRequests`: the secret out of the message, or none; what is written once it is taken or not."""
        for request, message, asked in (
            (ClaimRequest("clm", name_expression="[3:]", duration_ms=60_000, answer="ok"), b"clm s3cret ", "s3cret"),
            (ClaimRequest("clm", answer="${ok"), b"clm", "None"),
        ):
            self.downlink.answer = lambda: succeed(None)
            self.start(make_device(claim_requests=(request,)))
            protocol, transport = self.connect()
            protocol.dataReceived(message)
            self.assertEqual(self.downlink.asked[-1], ("Line 4", "claim", [asked, str(request.duration_ms)]))
            self.assertEqual(transport.value(), request.answer.encode())
        self.downlink.answer = lambda: fail(LinkDown("no session"))
        transport.clear()
        protocol.dataReceived(b"clm")
        self.assertEqual(transport.value(), b"")

    def test_asker_is_gone(self):
        """An answer that comes after the asker left goes nowhere else."""
        waiting: Deferred[Any] = Deferred()
        self.downlink.answer = lambda: waiting
        self.start(make_device(requests=(AttributeRequest(),)))
        asker, other = self.connect(), self.connect(port=2)
        asker[0].dataReceived(b"atrx")
        asker[0].connectionLost(Failure(ConnectionDone()))
        waiting.callback({"x": 1})
        self.assertEqual((asker[1].value(), other[1].value()), (b"", b""))


class RpcTests(CommandCase):
    """Commands."""

    def test_s14_s16_write_without_response(self):
        """S-14, S-16: methodProcessing may be left out; without response the write itself is the success."""
        self.start(make_device(rpcs=(Rpc("open", with_response=False, encoding="utf-16-le"),)))
        _, transport = self.connect()
        for params, text in (("now", "now"), (5, "5"), (0, "0"), (False, "false"), ({"a": 1}, '{"a":1}')):
            answer = self.connector.command("Line 4", "open", params)
            self.assertEqual(self.successResultOf(answer), {"success": True})
            self.assertEqual(transport.value(), text.encode("utf-16-le"))
            transport.clear()

    def test_s16_response_is_the_devices(self):
        """S-16: with response, what the device sends next is the answer, and no telemetry."""
        self.start(make_device(rpcs=(Rpc("get"),)))
        protocol, transport = self.connect()
        protocol.dataReceived(b"before")
        answer = self.connector.command("Line 4", "get", "volts?")
        self.assertEqual(transport.value(), b"volts?")
        self.assertNoResult(answer)
        protocol.dataReceived(b"230")
        self.assertEqual(self.successResultOf(answer), "230")
        protocol.dataReceived(b"after")
        self.assertEqual(self.ingest.values("raw"), ["before", "after"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_response_is_correlated(self):
        """With an expression only a message that fits is the answer; it can be telemetry as well, and typed."""
        rpc = Rpc(
            "get",
            value="Q${params}\n",
            response_expression="${[0]==A}",
            response=Field(byte_from=1, type="uint16", scale=0.1),
            response_is_data=True,
        )
        self.start(make_device(rpcs=(rpc,), telemetry=(Datapoint("kind", 0, 1),)))
        protocol, transport = self.connect()
        answer = self.connector.command("Line 4", "get", 7)
        self.assertEqual(transport.value(), b"Q7\n")
        protocol.dataReceived(b"T21.5")
        self.assertNoResult(answer)
        protocol.dataReceived(b"A\x00\xd7")
        self.assertEqual(self.successResultOf(answer), 21.5)
        self.assertEqual(self.ingest.values("kind"), ["T", "A"])

    def test_read(self):
        """`read` writes nothing and waits for the device's next message."""
        self.start(make_device(rpcs=(Rpc("next", processing="read"),)))
        protocol, transport = self.connect()
        answer = self.connector.command("Line 4", "next", None)
        protocol.dataReceived(b"22")
        self.assertEqual((self.successResultOf(answer), transport.value()), ("22", b""))

    def test_time_out(self):
        """A device that does not answer in the configured time: a named error, and its late answer is telemetry."""
        self.start(make_device(rpcs=(Rpc("get", timeout_ms=700),)))
        protocol, _ = self.connect()
        answer = self.connector.command("Line 4", "get", "x")
        self.reactor.advance(0.69)
        self.assertNoResult(answer)
        self.reactor.advance(0.02)
        self.assertIn("time-out", self.error(answer))
        protocol.dataReceived(b"late")
        self.assertEqual(self.ingest.values("raw"), ["late"])

    def test_one_after_the_other(self):
        """Commands that wait for an answer take turns; each gets its own."""
        self.start(make_device(rpcs=(Rpc("get"),)))
        protocol, transport = self.connect()
        answers = [self.connector.command("Line 4", "get", text) for text in "abc"]
        self.assertEqual(transport.value(), b"a")
        for text in (b"A", b"B", b"C"):
            protocol.dataReceived(text)
        self.assertEqual([self.successResultOf(answer) for answer in answers], ["A", "B", "C"])
        self.assertEqual(transport.value(), b"abc")

    def test_bounded(self):
        """Not more than a few wait for one device."""
        self.start(make_device(rpcs=(Rpc("get"),)))
        self.connect()
        answers = [self.connector.command("Line 4", "get", "x") for _ in range(MAX_WAITING + 2)]
        self.assertIn("refused", self.error(answers[-1]))
        for answer in answers[:-1]:
            self.assertNoResult(answer)
            answer.addErrback(lambda failure: failure.trap(CommandFailed))
        self.reactor.advance(5)

    def test_s17_every_command_ends(self):
        """S-17: gone, unknown method, unknown device, bad parameters, connection lost, stop: each is a named error."""
        self.start(make_device(rpcs=(Rpc("get", encoding="hex"), Rpc("put", value="${params.x}"))))
        self.assertIn("gone", self.error(self.connector.command("Line 4", "get", "00")))
        protocol, _ = self.connect()
        self.assertIn("unknown method", self.error(self.connector.command("Line 4", "reboot", None)))
        self.failureResultOf(self.connector.command("nobody", "get", None), UnknownDevice)
        for method, params in (("get", "xyz"), ("get", None), ("get", ""), ("put", {"y": 1}), ("put", 5)):
            self.assertIn("bad parameters", self.error(self.connector.command("Line 4", method, params)))
        lost = self.connector.command("Line 4", "get", "00")
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertIn("gone", self.error(lost))
        self.connect()
        stopped = [self.connector.command("Line 4", "get", "00") for _ in range(2)]
        self.connector.stopService()
        for answer in stopped:
            self.assertIn("gone", self.error(answer))

    def test_s15_method_is_matched_as_method(self):
        """S-15: parameters that equal a method's name call nothing."""
        self.start(make_device(rpcs=(Rpc("open", with_response=False),)))
        _, transport = self.connect()
        self.assertIn("unknown method", self.error(self.connector.command("Line 4", "x", "open")))
        self.assertEqual(transport.value(), b"")

    def test_s12_wildcard_filter(self):
        """S-12: of several connections the one that spoke last is written to; only its answer counts."""
        self.start(make_device(rpcs=(Rpc("get"),)))
        first, second = self.connect(port=1), self.connect(port=2)
        first[0].dataReceived(b"x")
        answer = self.connector.command("Line 4", "get", "q")
        self.assertEqual((first[1].value(), second[1].value()), (b"q", b""))
        second[0].dataReceived(b"y")
        self.assertNoResult(answer)
        first[0].dataReceived(b"z")
        self.assertEqual(self.successResultOf(answer), "z")
        self.assertEqual(self.ingest.values("raw"), ["x", "y"])

    def test_s07_lost_connection_is_no_target(self):
        """S-07: after a reset, a command goes to the connection that is there, or is told gone."""
        self.start(make_device(rpcs=(Rpc("put", with_response=False),)))
        old, new = self.connect(port=1), self.connect(port=2)
        old[0].dataReceived(b"x")
        old[0].connectionLost(Failure(OSError("ECONNRESET")))
        self.successResultOf(self.connector.command("Line 4", "put", "q"))
        self.assertEqual((old[1].value(), new[1].value()), (b"", b"q"))
        new[0].connectionLost(Failure(ConnectionDone()))
        self.assertIn("gone", self.error(self.connector.command("Line 4", "put", "q")))

    def test_udp_response(self):
        """S-16: over UDP, the answer is waited for as well, from the address that was asked."""
        self.start(make_device(rpcs=(Rpc("get"),)), transport="UDP")
        port = self.reactor.udp[-1]
        port._protocol.datagramReceived(b"x", ("10.0.0.7", 5))
        answer = self.connector.command("Line 4", "get", "q")
        self.assertEqual(port.written, [(b"q", ("10.0.0.7", 5))])
        port._protocol.datagramReceived(b"y", ("10.0.0.8", 5))
        port._protocol.datagramReceived(b"z", ("10.0.0.7", 5))
        self.assertEqual(self.successResultOf(answer), "z")
        self.assertEqual(self.ingest.values("raw"), ["x", "y"])

    def test_named_by_message(self):
        """A device whose name is in its messages is written to on the connection that it last spoke from."""
        self.start(make_device(name="${[0:2]}", rpcs=(Rpc("get"),), telemetry=(Datapoint("v", 2, None),)))
        one, two = self.connect(port=1), self.connect(port=2)
        one[0].dataReceived(b"P1x")
        two[0].dataReceived(b"P2y")
        answer = self.connector.command("P2", "get", "q")
        self.assertEqual((one[1].value(), two[1].value()), (b"", b"q"))
        one[0].dataReceived(b"P1z")
        two[0].dataReceived(b"P2!")
        self.assertEqual(self.successResultOf(answer), "P2!")
        self.assertEqual([reading.device.name for reading in self.ingest.readings], ["P1", "P2", "P1"])
        two[0].connectionLost(Failure(ConnectionDone()))
        self.assertIn("gone", self.error(self.connector.command("P2", "get", "q")))


class ReservedTests(CommandCase):
    """`set` and `socket_set`."""

    def test_s18_set_over_the_live_connection(self):
        """S-18: a value with = and ; goes out whole, to the connection from exactly that address."""
        self.start(make_device())
        _, transport = self.connect(port=7001)
        for params, written in (
            ("address=10.0.0.7;port=7001;value=open;", b"open"),
            ("address=10.0.0.7;port=7001;value=a=1;b=2;", b"a=1;b=2"),
            ("value=x;address=10.0.0.7;port=7001", b"x"),
            ({"address": "10.0.0.7", "port": "7001", "value": {"a": 1}}, b'{"a":1}'),
            ({"address": "10.0.0.7", "port": 7001, "value": 0}, b"0"),
            ("value=live", b"live"),
        ):
            answer = self.connector.command("Line 4", "set", params)
            self.assertEqual(self.successResultOf(answer), {"result": "ok"}, params)
            self.assertEqual(transport.value(), written)
            transport.clear()

    def test_s19_socket_set(self):
        """S-19: the documented order, blanks in the name, and an object; the device decides the encoding."""
        self.start(make_device(name="Pump 4", encoding="utf-16-le"))
        _, transport = self.connect(port=7001)
        for params in (
            "device=Pump 4 address=10.0.0.7;port=7001;value=é;",
            "device=Pump 4;address=10.0.0.7;port=7001;value=é",
            {"device": "Pump 4", "address": "10.0.0.7", "port": 7001, "value": "é"},
            {"device": "Pump 4", "value": "é"},
        ):
            self.assertEqual(self.successResultOf(self.connector.own_command("set", params)), {"result": "ok"})
            self.assertEqual(transport.value(), "é".encode("utf-16-le"), params)
            transport.clear()

    def test_bad_set(self):
        """What is not understood is a named error each time, and nothing is written."""
        self.start(make_device("10.0.0.7:*"))
        _, transport = self.connect(port=7001)
        for params in (
            None,
            5,
            "",
            "open",
            "address=10.0.0.7;value=x",
            "address=10.0.0.7;port=99999;value=x",
            "address=10.0.0.7;port=7001",
            {"address": "10.0.0.7", "port": True, "value": "x"},
            {"address": "10.0.0.7", "port": 7001, "value": "x", "encoding": "nonsense"},
            {"address": "10.0.0.7", "port": 7001, "value": ""},
        ):
            self.assertIn("bad parameters", self.error(self.connector.command("Line 4", "set", params)), params)
        for params in ("address=10.0.0.8;port=7001;value=x", "address=example.org;port=80;value=x"):
            self.assertIn("refused", self.error(self.connector.command("Line 4", "set", params)))
        self.failureResultOf(self.connector.own_command("set", "device=nobody;value=x"), UnknownDevice)
        self.assertIn("bad parameters", self.error(self.connector.own_command("set", "value=x")))
        self.assertIn("unknown method", self.error(self.connector.own_command("fly", "value=x")))
        self.assertEqual((transport.value(), self.reactor.tcpClients), (b"", []))

    def test_s01_set_to_a_device_that_listens(self):
        """S-01: where nobody is connected from there, the value is written over a connection of our own."""
        self.start(make_device())
        answer = self.connector.command("Line 4", "set", "address=10.0.0.7;port=7001;value=open;")
        host, port, factory, _, _ = self.reactor.tcpClients[-1]
        factory = cast(Any, factory)
        self.assertEqual((host, port), ("10.0.0.7", 7001))
        protocol = factory.buildProtocol(IPv4Address("TCP", host, port))
        transport = DeviceTransport(host, port)
        protocol.makeConnection(transport)
        self.assertEqual((transport.value(), transport.disconnecting), (b"open", True))
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(answer), {"result": "ok"})

    def test_set_is_refused(self):
        """A device that does not take the connection: a named error."""
        self.start(make_device())
        answer = self.connector.command("Line 4", "set", "address=10.0.0.7;port=7001;value=open;")
        factory: Any = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError("no")))
        self.assertIn("refused", self.error(answer))

    def test_s10_set_over_udp(self):
        """S-10: over UDP it leaves from the bound port."""
        self.start(make_device(), transport="UDP")
        answer = self.connector.command("Line 4", "set", "address=10.0.0.7;port=7001;value=open;")
        self.assertEqual(self.successResultOf(answer), {"result": "ok"})
        self.assertEqual(self.reactor.udp[-1].written, [(b"open", ("10.0.0.7", 7001))])

    def test_configured_method_of_that_name(self):
        """A configured method called set is the configured one."""
        self.start(make_device(rpcs=(Rpc("set", with_response=False),)))
        _, transport = self.connect()
        self.assertEqual(self.successResultOf(self.connector.command("Line 4", "set", "x")), {"success": True})
        self.assertEqual(transport.value(), b"x")


class PollTests(CommandCase):
    """Polls."""

    def test_poll(self):
        """Each connection is asked on the period, from its beginning to its end; answers are messages."""
        self.start(make_device(polls=(Poll("R?", period_ms=1000),)))
        protocol, transport = self.connect()
        for _ in range(3):
            self.reactor.advance(1)
            protocol.dataReceived(b"5")
        self.assertEqual(transport.value(), b"R?R?R?")
        self.assertEqual(self.ingest.values("raw"), ["5"] * 3)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_polls_and_commands_do_not_mix(self):
        """A command waits for the answer to a poll, and a poll for the answer to a command."""
        self.start(make_device(polls=(Poll("R?", period_ms=1000),), rpcs=(Rpc("get"),)))
        protocol, transport = self.connect()
        self.reactor.advance(0)
        answer = self.connector.command("Line 4", "get", "V?")
        self.assertEqual(transport.value(), b"R?")
        protocol.dataReceived(b"polled")
        self.assertEqual(transport.value(), b"R?V?")
        self.reactor.advance(1.5)
        self.assertEqual(transport.value(), b"R?V?")
        protocol.dataReceived(b"answered")
        self.assertEqual(self.successResultOf(answer), "answered")
        self.reactor.advance(0.1)
        self.assertEqual(transport.value(), b"R?V?R?")
        self.assertEqual(self.ingest.values("raw"), ["polled"])

    def test_poll_without_answer(self):
        """A device that does not answer a poll keeps commands waiting no longer than configured."""
        self.start(make_device(polls=(Poll("R?", period_ms=5000, timeout_ms=300),), rpcs=(Rpc("get"),)))
        _, transport = self.connect()
        self.reactor.advance(0)
        self.connector.command("Line 4", "get", "V?").addErrback(lambda failure: failure.trap(CommandFailed))
        self.reactor.advance(0.29)
        self.assertEqual(transport.value(), b"R?")
        self.reactor.advance(0.02)
        self.assertEqual(transport.value(), b"R?V?")
        self.connector.stopService()

    def test_stop(self):
        """A stop ends all polls."""
        self.start(make_device(polls=(Poll("R?"), Poll("S?"))))
        protocol, _ = self.connect()
        self.reactor.advance(3)
        stopped = self.connector.stopService()
        protocol.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
