"""What ThingsBoard sends down. In this version every command is answered with a named error; passing them to devices is
the next step, and what comes in is already understood here.

A gateway that stays silent makes ThingsBoard, and whoever waits behind it, run into a time-out; so even "not yet" is an
answer (the reference leaves unknown methods and unknown devices unanswered, S-17). A plain broker in ThingsBoard's
place echoes what we publish on these topics ourselves; an echo has another shape than a command, and is let go.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from tbgw.errors import LinkDown
from tbgw.internal_events import Events
from tbgw.pipeline.internal_events import CommandUnanswerable, MessageIgnored
from tbgw.thingsboard import payloads, topics

NOT_HERE = "commands are not passed to devices in this version of tbgw"


class Downlink:
    """Reads what comes from ThingsBoard; `publish(topic, payload)` sends the answers."""

    def __init__(self, publish: Callable[[str, bytes], Deferred[int]], events: Events) -> None:
        self._publish = publish
        self._events = events

    def message_received(self, topic: str, payload: bytes) -> None:
        """Take one message. Never raises for what is in it."""
        if topic == topics.RPC:
            self._child_command(payload)
            return
        request = topics.request_id(topic, topics.DEVICE_RPC_REQUEST)
        if request is not None:
            self._own_command(request, payload)
            return
        self._events.emit(MessageIgnored(topic=topic))

    def _child_command(self, payload: bytes) -> None:
        command = _object(payload)
        device, data = command.get("device"), command.get("data")
        if isinstance(device, str) and isinstance(data, dict):
            method, number = data.get("method"), data.get("id")
            if isinstance(method, str) and isinstance(number, int):
                self._events.emit(CommandUnanswerable(device=device, method=method))
                answer = payloads.encode({"device": device, "id": number, "data": {"error": NOT_HERE}})
                self._publish(topics.RPC, answer).addErrback(_unanswered)
                return
        self._events.emit(MessageIgnored(topic=topics.RPC))  # a broker's echo of an answer has no method

    def _own_command(self, request: int, payload: bytes) -> None:
        command = _object(payload)
        method = command.get("method")
        if not isinstance(method, str):
            self._events.emit(MessageIgnored(topic=topics.DEVICE_RPC_REQUEST))
            return
        self._events.emit(CommandUnanswerable(device="", method=method))
        topic = f"{topics.DEVICE_RPC_RESPONSE}{request}"
        self._publish(topic, payloads.encode({"error": NOT_HERE})).addErrback(_unanswered)


def _object(payload: bytes) -> dict[str, object]:
    """The JSON object in `payload`; an empty one when there is none."""
    try:
        value = payloads.decode(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _unanswered(failure: Failure) -> None:
    """The session ended before the answer was through; ThingsBoard has given the command up with it."""
    failure.trap(LinkDown)
