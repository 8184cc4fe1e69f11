# -*- test-case-name: tests.connectors.socket.test_commands -*-
"""The way from ThingsBoard to the devices of a socket connector: attribute updates, answers to attribute requests,
commands, and polls.

What is written goes over the live connection, or to the last address with UDP and from the bound port (S-10); where the
filter of a device is one address and port, a device that is not there is dialled, as one that listens. Every text is
encoded as its entry says, or as its device (S-24), so that there are bytes on the wire and nothing else (S-01).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from tbgw.connectors.socket.config import AttributeUpdate, Poll, Rpc, SocketDevice
from tbgw.connectors.socket.converter import compile_matcher
from tbgw.connectors.socket.desk import GONE, Desk, Exchange
from tbgw.connectors.socket.internal_events import AttributesNotAnswered, WriteFailed
from tbgw.connectors.socket.naming import Peer
from tbgw.connectors.socket.presence import Link, Presence
from tbgw.connectors.socket.requests import AttributeRequest, ClaimRequest, Request, RpcRequest
from tbgw.connectors.socket.reserved import SetCommand, parse_set
from tbgw.connectors.socket.routes import Routes
from tbgw.connectors.socket.values import Message, Skipped, compile_field, decoder, encoder
from tbgw.errors import CommandFailed, LinkDown, NoAnswer, UnknownDevice
from tbgw.expressions import MISSING, Evaluate, compile_template, text_of
from tbgw.interfaces import IDownlink
from tbgw.internal_events import Events
from tbgw.model import Value
from tbgw.thingsboard import payloads


class Wire(Protocol):
    """What the connector's transport does for us."""

    def send_to(self, peer: Peer, data: bytes) -> None:
        """A datagram from the bound port. Raises CommandFailed."""

    def connect(self, peer: Peer) -> Deferred[Link]:
        """Connect to a device that listens, as one of our connections. Fails with CommandFailed."""

    def deliver(self, peer: Peer, data: bytes) -> Deferred[None]:
        """Write to whatever listens there, or is connected from there. Fails with CommandFailed."""


class _Template:
    """Text with `${...}` over a few names, in an encoding."""

    def __init__(self, template: str, encoding: str) -> None:
        self._evaluate: Evaluate = compile_template(template)
        self._encode = encoder(encoding)
        self._encoding = encoding

    def bytes_for(self, names: Mapping[str, Value]) -> bytes:
        """Raises CommandFailed."""
        value = self._evaluate(names)
        if value is MISSING:
            raise CommandFailed("bad parameters: something that valueExpression names is not there")
        return self.encode("" if value is None else text_of(value))

    def encode(self, text: str) -> bytes:
        """Raises CommandFailed."""
        try:
            return self._encode(text)
        except ValueError:
            raise CommandFailed(f"bad parameters: cannot be written in {self._encoding}") from None


class _Command:
    """One entry of `serverSideRpc`, compiled."""

    def __init__(self, rpc: Rpc, device: SocketDevice) -> None:
        encoding = rpc.encoding or device.encoding
        self.rpc = rpc
        self._template = _Template(rpc.value, encoding)
        self._decode = decoder(encoding)
        self._encoding = encoding
        expression = rpc.response_expression
        self._matches = compile_matcher(expression, "${" in expression) if expression is not None else None
        self._extract = compile_field(rpc.response, self._decode) if rpc.response is not None else None

    def data(self, names: Mapping[str, Value]) -> bytes:
        """What is written. Raises CommandFailed."""
        data = self._template.bytes_for(names)
        if not data:
            raise CommandFailed("bad parameters: there is nothing to write")
        return data

    def exchange(self, data: bytes | None) -> Exchange:
        """The command as one that waits for an answer."""
        rpc = self.rpc
        return Exchange(data, self._matches, self._value, rpc.response_is_data, rpc.timeout_ms / 1000)

    def _value(self, message: bytes) -> Value:
        if self._extract is not None:
            value = self._extract(Message(message, self._decode))
            if isinstance(value, Skipped):
                raise CommandFailed(f"the device's answer has no such value: {value.value}")
            return value
        try:
            return self._decode(message)
        except UnicodeError:
            raise CommandFailed(f"the device's answer is no {self._encoding}") from None


class _Entry:
    """What goes down to the devices of one entry of the configuration, compiled."""

    def __init__(self, device: SocketDevice) -> None:
        self.device = device
        self.commands = {rpc.method: _Command(rpc, device) for rpc in reversed(device.rpcs)}
        self.updates: dict[str, list[tuple[AttributeUpdate, _Template]]] = {}
        for update in device.attribute_updates:
            template = _Template(update.value, update.encoding or device.encoding)
            self.updates.setdefault(update.attribute, []).append((update, template))
        requests: tuple[Request, ...] = (*device.attribute_requests, *device.rpc_requests, *device.claim_requests)
        self.answers = {
            id(request): _Template(
                "fixed" if isinstance(request, ClaimRequest) else request.answer, request.encoding or device.encoding
            )
            for request in requests
        }
        self.polls = [
            (poll, _Template("x", poll.encoding or device.encoding).encode(poll.request)) for poll in device.polls
        ]


class Commands:
    """See the module. One for each connector."""

    def __init__(
        self,
        connector: str,
        routes: Routes,
        wire: Wire,
        downlink: IDownlink | None,
        clock: IReactorTime,
        events: Events,
    ) -> None:
        """Raises CommandFailed when a poll cannot be said in its encoding."""
        self._connector = connector
        self._routes = routes
        self._wire = wire
        self._downlink = downlink
        self._clock = clock
        self._events = events
        self._entries = {id(intake.configured): _Entry(intake.configured) for intake in routes.intakes}
        self._desks: dict[Presence, Desk] = {}
        self._polls: dict[Link, list[IDelayedCall]] = {}
        for intake in routes.intakes:
            intake.ask = self._ask

    # ThingsBoard's side.

    def attributes_changed(self, device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """See `IConnector`. A deletion is nothing that could be written."""
        presence = self._routes.presences.get(device)
        if presence is None:
            return
        updates = self._entry(presence).updates
        for key, value in values.items():
            for _, template in updates.get(key, ()):
                try:
                    data = template.bytes_for({"attributeKey": key, "attributeValue": value, "deviceName": device})
                except CommandFailed as error:
                    self._not_written(presence, str(error))
                    continue
                if data:
                    self._update(presence, data)

    def _update(self, presence: Presence, data: bytes) -> None:
        links = tuple(presence.links())
        for link in links:
            if not self._write(presence, link, data):
                self._not_written(presence, GONE)
        if not links:
            self._reach(presence).addCallbacks(
                lambda link: self._write(presence, link, data),
                lambda failure: self._not_written(presence, _words(failure)),
            )

    def command(self, device: str, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector.command`."""
        presence = self._routes.presences.get(device)
        if presence is None:
            return fail(UnknownDevice("the device is not known here"))
        command = self._entry(presence).commands.get(method)
        if command is not None:
            return self._configured(presence, command, method, params)
        if method == "set":
            try:
                return self._set(presence, parse_set(params))
            except CommandFailed as error:
                return fail(error)
        return fail(CommandFailed(f"unknown method: {method[:100]}"))

    def own_command(self, method: str, params: Value) -> Deferred[Value]:
        """See `IConnector.own_command`."""
        if method != "set":
            if isinstance(params, dict) and isinstance(params.get("device"), str):
                return self.command(params["device"], method, params.get("params"))
            return fail(CommandFailed(f'unknown method: {method[:100]}, or no "device" in the parameters'))
        try:
            parsed = parse_set(params)
            if parsed.device is not None:
                presence = self._routes.presences.get(parsed.device)
                if presence is None:
                    raise UnknownDevice("the device is not known here")
                return self._set(presence, parsed)
            if parsed.address is None:
                raise CommandFailed("bad parameters: neither a device nor an address is named")
            if not self._routes.admits(parsed.address):
                raise UnknownDevice("refused: no device's address filter admits this address")
            return self._set(None, parsed)
        except CommandFailed as error:
            return fail(error)

    def _configured(self, presence: Presence, command: _Command, method: str, params: Value) -> Deferred[Value]:
        rpc = command.rpc
        names = {"params": params, "methodName": method, "deviceName": presence.device.name}
        try:
            data = command.data(names) if rpc.processing == "write" else None
        except CommandFailed as error:
            return fail(error)
        reached = self._reach(presence)
        if data is None or rpc.with_response:
            return reached.addCallback(lambda _: self._desk(presence).submit(command.exchange(data)))
        written = data
        return reached.addCallback(lambda link: self._written(presence, link, written))

    def _written(self, presence: Presence, link: Link, data: bytes) -> Value:
        if not self._write(presence, link, data):
            raise CommandFailed(GONE)
        return {"success": True}

    def _set(self, presence: Presence | None, parsed: SetCommand) -> Deferred[Value]:
        own = presence.configured.encoding if presence is not None else "utf-8"
        try:
            data = encoder(parsed.encoding or own)(parsed.value)
        except (ValueError, LookupError):
            raise CommandFailed("bad parameters: value cannot be written in this encoding") from None
        if not data:
            raise CommandFailed("bad parameters: value is empty")
        if parsed.address is not None and parsed.port is not None:
            if not self._routes.admits(parsed.address):
                raise CommandFailed("refused: no device's address filter admits this address")
            done = self._wire.deliver((parsed.address, parsed.port), data)
        elif presence is not None:
            live = presence
            reached = self._reach(live)
            done = reached.addCallback(lambda link: self._written(live, link, data)).addCallback(lambda _: None)
        else:
            raise CommandFailed("bad parameters: address and port are missing")
        return done.addCallback(lambda _: {"result": "ok"})

    # The devices' side.

    def _ask(self, presence: Presence, request: Request, names: list[str], link: Link | None) -> None:
        """A device asks for attributes, for the rule chain's answer, or for a claim."""
        if not names and not isinstance(request, ClaimRequest):
            what = "attribute" if isinstance(request, AttributeRequest) else "method"
            self._not_answered(presence, f"it names no {what}")
        elif self._downlink is None or link is None:
            self._not_answered(presence, "there is nobody to ask")
        elif isinstance(request, RpcRequest):
            method, params = names
            call = self._downlink.rpc(presence.device, method, _as_json(params))
            call.addCallback(lambda value: {"response": value, "method": method, "device": presence.device.name})
            self._tell(call, presence, request, link)
        elif isinstance(request, ClaimRequest):
            secret = "".join(names) or None
            claimed = self._downlink.claim(presence.device, secret, request.duration_ms)
            self._tell(claimed.addCallback(lambda _: {}), presence, request, link)
        else:
            answer = self._downlink.request_attributes(presence.device, request.scope, names)
            answer.addCallbacks(
                self._found,
                self._not_found,
                callbackArgs=(presence, request, names, link),
                errbackArgs=(presence,),
            )

    def _tell(
        self, came: Deferred[dict[str, Value]], presence: Presence, request: RpcRequest | ClaimRequest, link: Link
    ) -> None:
        """Write what the configuration says about the outcome, if that is anything."""
        template = self._entry(presence).answers[id(request)]

        def good(names: dict[str, Value]) -> bytes:
            return template.encode(request.answer) if isinstance(request, ClaimRequest) else template.bytes_for(names)

        def bad(failure: Failure) -> bytes:
            failure.trap(LinkDown, NoAnswer)
            self._not_answered(presence, str(failure.value))
            return template.encode(request.no_answer)

        def unfit(failure: Failure) -> bytes:
            failure.trap(CommandFailed)
            self._not_answered(presence, str(failure.value))
            return b""

        def write(data: bytes) -> None:
            if data and not self._write(presence, link, data):
                self._not_answered(presence, GONE)

        came.addCallbacks(good, bad).addErrback(unfit).addCallback(write)

    def _found(
        self, values: dict[str, Value], presence: Presence, request: AttributeRequest, names: list[str], link: Link
    ) -> None:
        if len(names) > 1:
            answer: Value = {name: values.get(name) for name in names}
        elif names[0] in values:
            answer = values[names[0]]  # also 0, false and "" (S-11)
        elif not request.not_found:
            return
        else:
            answer = request.not_found
        template = self._entry(presence).answers[id(request)]
        try:
            data = template.bytes_for({"values": answer, "device": presence.device.name, "names": names})
        except CommandFailed as error:
            self._not_answered(presence, str(error))
            return
        if not self._write(presence, link, data):
            self._not_answered(presence, GONE)

    def _not_found(self, failure: Failure, presence: Presence) -> None:
        failure.trap(LinkDown, NoAnswer)
        self._not_answered(presence, str(failure.value))

    # Polls.

    def opened(self, link: Link, configured: SocketDevice, presence: Presence | None) -> None:
        """A connection is open, or a target is known: begin to poll. `presence`: when its device is known."""
        polls = self._entries[id(configured)].polls
        if not polls or (isinstance(link, tuple) and link in self._polls):
            return  # a port that was opened again polls on
        calls = self._polls.setdefault(link, [])
        for number, (poll, data) in enumerate(polls):
            # Several begin one after the other, so that their answers do not mix from the start.
            first = min(poll.period_ms, poll.timeout_ms) * number / 1000
            calls.append(self._clock.callLater(first, self._poll, link, presence, poll, data, len(calls)))

    def closed(self, link: Link) -> None:
        """The connection is gone."""
        for call in self._polls.pop(link, ()):
            if call.active():
                call.cancel()

    def _poll(self, link: Link, presence: Presence | None, poll: Poll, data: bytes, slot: int) -> None:
        calls = self._polls.get(link)
        if calls is None:
            return
        delay = poll.period_ms / 1000
        desk = self._desk(presence) if presence is not None else None
        if desk is not None and desk.busy:
            delay = min(delay, 0.05)  # a command, or another poll, waits for its answer
        elif self._send(link, data) and desk is not None:
            desk.polled(min(poll.timeout_ms, poll.period_ms) / 1000)
        calls[slot] = self._clock.callLater(delay, self._poll, link, presence, poll, data, slot)

    # Writing.

    def close(self) -> None:
        """The connector stops."""
        for link in tuple(self._polls):
            self.closed(link)
        desks, self._desks = self._desks, {}
        for desk in desks.values():
            desk.close()

    def _entry(self, presence: Presence) -> _Entry:
        return self._entries[id(presence.configured)]

    def _desk(self, presence: Presence) -> Desk:
        desk = self._desks.get(presence)
        if desk is None:
            desk = self._desks[presence] = Desk(presence, self._clock, self._write)
        return desk

    def _reach(self, presence: Presence) -> Deferred[Link]:
        """Where the device can be written to; it is dialled if it is not there. Fails with CommandFailed."""
        link = presence.link()
        if link is not None:
            return succeed(link)
        single = presence.configured.filter.single
        if single is None:
            return fail(CommandFailed(GONE))

        def connected(link: Link) -> Link:
            if isinstance(link, tuple):
                presence.last = link
            elif presence.link() is None:
                raise CommandFailed(GONE)  # it was taken for another device's, or ended at once
            return link

        def not_connected(failure: Failure) -> Any:
            raise CommandFailed(f"{GONE}, and does not listen: {_words(failure)}")

        return self._wire.connect(single).addErrback(not_connected).addCallback(connected)

    def _write(self, presence: Presence, link: Link, data: bytes) -> bool:
        return self._send(link, data)

    def _send(self, link: Link, data: bytes) -> bool:
        if not isinstance(link, tuple):
            return link.send(data)
        try:
            self._wire.send_to(link, data)
        except CommandFailed:
            return False
        return True

    def _not_written(self, presence: Presence, why: str) -> None:
        self._events.emit(WriteFailed(self._connector, presence.device.name, why))

    def _not_answered(self, presence: Presence, why: str) -> None:
        self._events.emit(AttributesNotAnswered(self._connector, presence.device.name, why))


def _as_json(text: str) -> Value:
    """Parameters that a device wrote: JSON, else a text; nothing is no parameters."""
    if not text:
        return {}
    try:
        return payloads.decode(text.encode())
    except ValueError:
        return text


def _words(failure: Failure) -> str:
    return failure.getErrorMessage().rstrip(".")


