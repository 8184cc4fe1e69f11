"""The sandbox as the fake ThingsBoard of other tests: no network, no disk, and a clock that the test holds.

    class MyTests(JoinedTests):
        def test_something(self):
            uplink = Uplink(self.dial, "memory", Credentials("", "gateway-token"), clock=self.clock, ...)

`self.dial` is an endpoint that leads to the sandbox's own server code, `self.settle` carries bytes until nothing moves,
`self.pass_time` lets both sides' timers run, and `self.control` is the operator.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as TCPRefused
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from tests.mqtt.memory import Wire
from tests.sandbox.operated import OperatedTests


@implementer(IStreamClientEndpoint)
class Dial:
    """Every dialling makes a connection to the sandbox in memory, or fails while `refusing`."""

    def __init__(self, test: JoinedTests) -> None:
        self._test = test
        self.refusing = False
        self.wires: list[Wire] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        """As in the interface."""
        server = self._test.endpoint.admit("memory")
        if self.refusing or server is None:
            return fail(TCPRefused())
        client = factory.buildProtocol(None)
        wire = Wire(client, server)
        wire.client_transport.carried = bytearray()
        self.wires.append(wire)
        return succeed(client)


class JoinedTests(OperatedTests):
    """A sandbox to dial, and an operator."""

    def setUp(self) -> None:
        super().setUp()
        self.dial = Dial(self)

    def settle(self) -> None:
        """Carry everything that is on its way, with what either side does in the same instant."""
        for _ in range(10):
            for wire in self.dial.wires:
                wire.pump()
            self.clock.advance(0)

    def pass_time(self, seconds: float, step_seconds: float = 1.0) -> None:
        """Time goes by, and whatever falls due is done."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 1e-9:
            self.clock.advance(min(step_seconds, end - self.clock.seconds()))
            self.settle()
