# ruff: noqa: T201 - its output is its product
"""A Central System in one file, answering heartbeats: `python docs/examples/ocpp_central_system.py PORT`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from zope.interface import implementer

from tbgw.ocpp.central_system import CentralSystemFactory, listen
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.interfaces import Admission, Handshake, ICentralSystem, IStation, Refusal
from tbgw.ocpp.options import CentralSystemOptions


@implementer(ICentralSystem)
class Central:
    """Lets in whose id begins with CP."""

    def admit(self, handshake: Handshake) -> Admission | Refusal:
        return Admission() if handshake.identity.startswith("CP") else Refusal(404, "unknown")

    def connected(self, station: IStation) -> None:
        station.call("TriggerMessage", {"requestedMessage": "Heartbeat"}, 30).addBoth(print)

    def call_received(
        self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]
    ) -> dict[str, Any]:
        print(station.identity, action, payload, faults, flush=True)
        if action == "Heartbeat":
            return {"currentTime": "2026-01-01T00:00:00Z"}
        raise CallRefused("NotSupported", "only heartbeats here")

    def send_received(self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> None:
        print(station.identity, action, payload)

    def disconnected(self, station: IStation, reason: str) -> None:
        print(station.identity, reason, flush=True)


factory = CentralSystemFactory(CentralSystemOptions(), Central(), reactor, notice=print)
listen(TCP4ServerEndpoint(reactor, int(sys.argv[1]), interface="127.0.0.1"), factory)
print("listening", flush=True)
reactor.run()
