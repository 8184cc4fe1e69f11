"""The central systems that are measured, one per process: `python -m bench.centrals library|ocpp PORT [OPTION ...]`.

library: `tbgw.ocpp` alone, its user answering everything at once; each payload is validated and its keys turned to
snake case, as the gateway does. ocpp: the PyPI package's ChargePoint on websockets, as its documentation shows it, with
handlers that answer at once. Options: tls=FOLDER, with cert.pem and key.pem; rate=N connections a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any


def now() -> str:
    """The time in the form that OCPP wants."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def library(port: int, options: dict[str, str]) -> None:
    """`tbgw.ocpp`."""
    from twisted.internet import reactor as installed
    from twisted.internet.endpoints import TCP4ServerEndpoint
    from twisted.logger import globalLogBeginner, textFileLogObserver
    from zope.interface import implementer

    from tbgw.ocpp.central_system import CentralSystemFactory, listen
    from tbgw.ocpp.interfaces import Admission, Handshake, ICentralSystem, IStation
    from tbgw.ocpp.options import CentralSystemOptions
    from tbgw.ocpp.schemas import snake

    reactor: Any = installed
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)

    @implementer(ICentralSystem)
    class Answers:
        def admit(self, handshake: Handshake) -> Admission:
            return Admission()

        def connected(self, station: IStation) -> None:
            pass

        def call_received(
            self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]
        ) -> dict[str, Any]:
            snake(station.version, payload)
            return {"currentTime": now()} if action == "Heartbeat" else {}

        def send_received(self, station: IStation, action: str, payload: dict[str, Any], faults: Sequence[str]) -> None:
            pass

        def disconnected(self, station: IStation, reason: str) -> None:
            pass

    limits = CentralSystemOptions(
        max_connections=20_000, connections_per_second=float(options.get("rate", 0)), connection_burst=400
    )
    factory = CentralSystemFactory(limits, Answers(), reactor)
    tls = None
    if "tls" in options:
        from twisted.internet import ssl

        with open(f"{options['tls']}/key.pem") as key, open(f"{options['tls']}/cert.pem") as cert:
            tls = ssl.PrivateCertificate.loadPEM(key.read() + cert.read()).options()
    endpoint = TCP4ServerEndpoint(reactor, port, backlog=4096, interface="127.0.0.1")
    listen(endpoint, factory, tls, reactor)
    reactor.run()


def ocpp(port: int) -> None:
    """The package `ocpp` with websockets."""
    import asyncio
    import logging

    from ocpp.routing import on
    from ocpp.v16 import ChargePoint, call_result
    from websockets.asyncio.server import serve
    from websockets.typing import Subprotocol

    logging.getLogger("ocpp").setLevel(logging.WARNING)

    class Station(ChargePoint):
        @on("MeterValues")  # type: ignore[untyped-decorator] # it has no types
        def meter_values(self, **_: Any) -> Any:
            return call_result.MeterValues()

        @on("Heartbeat")  # type: ignore[untyped-decorator] # it has no types
        def heartbeat(self, **_: Any) -> Any:
            return call_result.Heartbeat(current_time=now())

    async def connected(socket: Any) -> None:
        await Station(socket.request.path.strip("/"), socket).start()

    async def run() -> None:
        async with serve(connected, "127.0.0.1", port, subprotocols=[Subprotocol("ocpp1.6")], backlog=4096):
            await asyncio.get_running_loop().create_future()

    asyncio.run(run())


if __name__ == "__main__":
    given = dict(option.split("=", 1) for option in sys.argv[3:])
    if sys.argv[1] == "library":
        library(int(sys.argv[2]), given)
    else:
        ocpp(int(sys.argv[2]))
