# -*- test-case-name: tests.uplink.test_enrolment -*-
"""One connection for provisioning: it asks once, and ends (spec thingsboard-mqtt, 5.2)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from tbgw.errors import LinkDown, NoAnswer
from tbgw.mqtt import ClientOptions, ConnAck, IClientListener, MQTTClientProtocol, MQTTError, Publish
from tbgw.thingsboard import topics

ANSWER_SECONDS = 60.0
"""How long one attempt may take, from dialling to the answer; as in the reference."""


@implementer(IClientListener)
class Exchange:
    """
    One connection that asks once. `answer` fires with the payload of the answer, or with what ended it before; it never
    fails, and may be cancelled.
    """

    def __init__(self, payload: bytes, options: ClientOptions, clock: IReactorTime) -> None:
        self._payload = payload
        self._protocol = MQTTClientProtocol(options, self, clock)
        self._timer = clock.callLater(ANSWER_SECONDS, self._overdue)
        self._dialled: Deferred[Any] | None = None
        self._over = False
        self.accepted = False
        """Whether CONNACK said yes."""
        self.asked = False
        """Whether the request may have reached ThingsBoard."""
        self.answer: Deferred[bytes | Exception] = Deferred(lambda _: self._close())

    def begin(self, endpoint: IStreamClientEndpoint) -> None:
        """Dial."""
        self._dialled = endpoint.connect(_Factory(self._protocol))
        self._dialled.addErrback(self._not_dialled)

    def _not_dialled(self, failure: Failure) -> None:
        error = failure.value
        self._end(error if isinstance(error, Exception) else LinkDown(str(error)))

    def connected(self, protocol: MQTTClientProtocol, connack: ConnAck) -> None:
        """See `IClientListener.connected`."""
        self.accepted = self.asked = True
        protocol.subscribe([(topics.PROVISION_RESPONSE, 1)]).addErrback(_over)
        protocol.publish(topics.PROVISION_REQUEST, self._payload, qos=1).addCallbacks(self._taken, _over)

    def _taken(self, code: int) -> None:
        if code >= 0x80:
            self._end(MQTTError(f"ThingsBoard refused the request with reason code {code:#x}"))

    def message_received(self, protocol: MQTTClientProtocol, publish: Publish) -> None:
        """See `IClientListener.message_received`."""
        if publish.topic == topics.PROVISION_RESPONSE:
            self._end(publish.payload)

    def disconnected(self, protocol: MQTTClientProtocol, reason: Exception) -> None:
        """See `IClientListener.disconnected`."""
        self._end(reason)

    def _overdue(self) -> None:
        self._end(NoAnswer(f"no answer within {ANSWER_SECONDS:g} s"))

    def _end(self, result: bytes | Exception) -> None:
        if not self._over:
            self._close()
            self.answer.callback(result)

    def _close(self) -> None:
        self._over = True
        if self._timer.active():
            self._timer.cancel()
        if self._dialled is not None:
            self._dialled.cancel()
        if self.accepted:
            self._protocol.disconnect()
        else:
            self._protocol.abort()


def _over(failure: Failure) -> None:
    """The connection ended; `disconnected` has told, or is about to."""


class _Factory(Factory):
    noisy = False

    def __init__(self, protocol: MQTTClientProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: Any) -> MQTTClientProtocol:
        return self._protocol
