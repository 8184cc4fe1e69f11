"""What the tests of this room stand on: an ingest that remembers, builders, and a reactor in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTime, IReactorUDP
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, LogEvent, Logger
from zope.interface import implementer

from tbgw.connectors.socket.addresses import parse_filter
from tbgw.connectors.socket.config import (
    AttributeRequest,
    AttributeUpdate,
    Datapoint,
    Framing,
    Rpc,
    SocketConfig,
    SocketDevice,
)
from tbgw.interfaces import IIngest, IPausable, IReceipt
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Device, Reading


@implementer(IReceipt)
class StoredAtOnce:
    """A receipt of what is stored already."""

    def when_stored(self) -> Deferred[None]:
        return succeed(None)


@implementer(IIngest)
class RecordingIngest:
    """Takes everything, and remembers it in order."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.log: list[tuple[str, str]] = []
        """("accept" or "disconnected", device name), in order."""
        self.sources: list[IPausable] = []
        self.behind = False
        self.accepted: Callable[[], None] = lambda: None
        """Called after each reading."""

    def accept(self, reading: Reading) -> IReceipt:
        self.readings.append(reading)
        self.log.append(("accept", reading.device.name))
        self.accepted()
        return StoredAtOnce()

    def disconnected(self, device: Device) -> None:
        self.log.append(("disconnected", device.name))

    def add_source(self, source: IPausable) -> None:
        self.sources.append(source)
        if self.behind:
            source.pause_reading()

    def remove_source(self, source: IPausable) -> None:
        if source in self.sources:
            self.sources.remove(source)

    def values(self, key: str) -> list[Any]:
        """The values of one time series, in order."""
        return [values[key] for reading in self.readings for _, values in reading.telemetry if key in values]


class Lines:
    """The events of one test: counters and, by kind, the log lines."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.now = 0.0
        self.events = Events(self.counters, lambda: self.now)
        self.written: list[LogEvent] = []
        self.events._log = Logger(namespace="test", observer=cast(ILogObserver, self.written.append))

    def of(self, kind: str) -> list[str]:
        return [event["line"] for event in self.written if event["event"] == kind]


RAW = (Datapoint("raw"),)


def make_device(
    address: str = "*:*",
    name: str = "Line 4",
    encoding: str = "utf-8",
    telemetry: tuple[Datapoint, ...] = RAW,
    attributes: tuple[Datapoint, ...] = (),
    requests: tuple[AttributeRequest, ...] = (),
    updates: tuple[AttributeUpdate, ...] = (),
    rpcs: tuple[Rpc, ...] = (),
    profile: str = "default",
    **more: Any,
) -> SocketDevice:
    return SocketDevice(
        filter=parse_filter(address),
        name=name,
        profile=profile,
        encoding=encoding,
        telemetry=telemetry,
        attributes=attributes,
        attribute_requests=requests,
        attribute_updates=updates,
        rpcs=rpcs,
        report=None,
        **more,
    )


def request(expression: str, source: Any = "expression") -> AttributeRequest:
    return AttributeRequest("shared", expression, source, "[3:]", "expression")


def with_model(*devices: SocketDevice) -> list[tuple[SocketDevice, Device]]:
    return [(device, Device(device.name, device.profile, "c", "socket")) for device in devices]


def make_config(
    *devices: SocketDevice,
    transport: Any = "TCP",
    address: str = "127.0.0.1",
    port: int = 50000,
    buffer_bytes: int = 1024,
    max_connections: int = 1000,
    max_per_address: int = 1000,
    delimiter: bytes | None = None,
    **more: Any,
) -> SocketConfig:
    if delimiter is not None:
        more["framing"] = Framing("delimiter", delimiter=delimiter)
    return SocketConfig(
        transport=transport,
        address=address,
        port=port,
        buffer_bytes=buffer_bytes,
        devices=devices,
        report=None,
        max_connections=max_connections,
        max_per_address=max_per_address,
        **more,
    )


class DeviceTransport(StringTransport):
    """A connection's transport that remembers how it was used."""

    def __init__(self, host: str = "10.0.0.7", port: int = 6100) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, port))
        self.keep_alive = False
        self.options: dict[int, int] = {}
        self.bufferSize = 65536
        self.dataBuffer = b""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = bool(enabled)

    def getHandle(self) -> DeviceTransport:
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[option] = value


class FakeDatagramPort:
    """Stands for Twisted's UDP port: hands datagrams over while it reads and its turn lasts, as the real one does."""

    def __init__(self, reactor: MemoryDevicesReactor, port: int, protocol: Any, interface: str, size: int) -> None:
        self.maxThroughput = 256 * 1024
        self.reading = False
        self.connected = True
        self.max_packet_bytes = size
        self.options: Mapping[Any, Any] = {}
        self.waiting: list[tuple[bytes, tuple[str, int]]] = []
        """What the kernel holds."""
        self.written: list[tuple[bytes, tuple[str, int]]] = []
        self._reactor = reactor
        self._address = IPv4Address("UDP", interface, port or 40000)
        self._protocol = protocol
        protocol.makeConnection(self)
        self.startReading()

    def getHandle(self) -> FakeDatagramPort:
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options = {**self.options, option: value}

    def getHost(self) -> IPv4Address:
        return self._address

    def startReading(self) -> None:
        self.reading = True

    def write(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.written.append((datagram, addr))

    def stopReading(self) -> None:
        self.reading = False

    def do_read(self) -> None:
        """One turn of the reactor."""
        read = 0
        while self.reading and self.waiting and read < self.maxThroughput:
            datagram, addr = self.waiting.pop(0)
            datagram = datagram[: self.max_packet_bytes]
            read += len(datagram)
            self._protocol.datagramReceived(datagram, addr)

    def stopListening(self) -> Deferred[None]:
        self.stopReading()
        stopped: Deferred[None] = Deferred()
        self._reactor.callLater(0, self.lose, stopped)
        return stopped

    def lose(self, stopped: Deferred[None] | None = None) -> None:
        self.connected = False
        self.maxThroughput = -1
        self._protocol.doStop()
        if stopped is not None:
            stopped.callback(None)


@implementer(IReactorTime, IReactorUDP)
class MemoryDevicesReactor(MemoryReactorClock):
    """A reactor in memory, with UDP, names, and addresses that cannot be opened."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[OSError] = []
        """Each makes one attempt to listen fail."""
        self.names: dict[str, Deferred[str]] = {}
        self.udp: list[FakeDatagramPort] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if self.refusals:
            raise CannotListenError(interface, port, self.refusals.pop(0))
        listening = super().listenTCP(port, factory, backlog, interface)
        factory.doStart()
        return listening

    def listenUDP(self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192) -> Any:
        if self.refusals:
            raise CannotListenError(interface, port, self.refusals.pop(0))
        self.udp.append(FakeDatagramPort(self, port, protocol, interface, maxPacketSize))
        return self.udp[-1]

    def resolve(self, name: str, timeout: Any = 10) -> Deferred[str]:
        return self.names.setdefault(name, Deferred())


@implementer(IReactorTime)
class RealSocketsFakeTime(MemoryReactorClock):
    """Real sockets of the real reactor, while time stands still until the test moves it."""

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.listenTCP = reactor.listenTCP  # type: ignore[method-assign]  # the point of this class
        self.listenUDP = reactor.listenUDP
