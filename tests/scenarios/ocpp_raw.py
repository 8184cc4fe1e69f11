"""A charge point of bare frames, on Autobahn's own client: for what no library would send."""

from __future__ import annotations

import base64
import json
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from tests.scenarios.ocpp_rig import reactor


class RawStation(WebSocketClientProtocol):
    """Sends CALLs, answers those that come with what `replies` has for their action, and remembers everything."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: Deferred[RawStation] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.over = False
        self.results: dict[str, Any] = {}
        """Message id to the payload of its CALLRESULT."""
        self.errors: dict[str, Any] = {}
        self.told: list[tuple[str, Any]] = []
        self.replies: dict[str, Any] = {}
        """Action to the payload of the answer; None: no answer."""
        self.count = 0

    def onOpen(self) -> None:
        self.opened.callback(self)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        kind, number, *rest = json.loads(payload)
        if kind == 3:
            self.results[number] = rest[0]
        elif kind == 4:
            self.errors[number] = rest
        elif kind == 2:
            action, told = rest
            self.told.append((action, told))
            reply = self.replies.get(action, {"status": "Accepted"})
            if reply is not None:
                self.sendMessage(json.dumps([3, number, reply]).encode())

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:
        self.over = True
        if not self.opened.called:
            self.opened.errback(ConnectionRefusedError(reason))
        if not self.ended.called:
            self.ended.callback(None)

    def call(self, action: str, payload: Any, number: str = "") -> str:
        """Send a CALL; its message id."""
        self.count += 1
        number = number or f"{id(self)}-{self.count}"
        self.sendMessage(json.dumps([2, number, action, payload]).encode())
        return number


async def connect(
    port: int, path: str = "CP_1", protocol: str = "ocpp1.6", password: bytes | None = None
) -> RawStation:
    """A connected one. Raises ConnectionRefusedError, with the HTTP status in its text."""
    headers = {}
    if password is not None:
        login = base64.b64encode(path.rpartition("/")[2].encode() + b":" + password).decode()
        headers["Authorization"] = f"Basic {login}"
    factory = WebSocketClientFactory(f"ws://127.0.0.1:{port}/{path}", protocols=[protocol], headers=headers)
    factory.protocol = RawStation
    factory.noisy = False
    station: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
    opened: RawStation = await station.opened
    return opened
