"""Which version of MQTT the next connection speaks: 5 first, and 3.1.1 when the server refuses it.

A server refuses 5 by CONNACK 0x84, by return code 1 of 3.1.1, or by closing without a CONNACK. The last may also be a
broken network. So it leads to 3.1.1 only while 5 was never accepted, and back to 5 when 3.1.1 is closed in the same
way; the two then take turns. What was accepted once is spoken until the server says that it does not know it.
"""

from __future__ import annotations

from typing import Final, Literal

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost

from tbgw.mqtt.errors import ConnectionRefused
from tbgw.mqtt.reason_codes import ConnectReturnCode, ReasonCode

Version = Literal[4, 5]

_REFUSALS: Final = (ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, ConnectReturnCode.UNACCEPTABLE_PROTOCOL_VERSION)


class VersionChoice:
    """
    One for all connections to one server. `next()` before each connection; `accepted()` from `connected` and
    `failed(reason)` from `disconnected` of its listener. `fixed` is a version that is spoken whatever happens.
    """

    def __init__(self, fixed: Version | None = None) -> None:
        self._fixed = fixed
        self._version: Version = 5 if fixed is None else fixed
        self._accepted: Version | None = None
        self._open = False

    def next(self) -> Version:
        """The version for the connection that begins now."""
        self._open = True
        return self._version

    def accepted(self) -> None:
        """The server said yes."""
        self._open = False
        self._accepted = self._version

    def failed(self, reason: Exception) -> bool:
        """
        The connection ended with `reason`. Answers whether that speaks of the version alone, so that the next attempt
        in the other version need not wait.
        """
        was_open, self._open = self._open, False
        if self._fixed is not None or not was_open:
            return False
        if isinstance(reason, ConnectionRefused):
            if reason.connack.reason_code not in _REFUSALS:
                return False
            self._accepted = None
        elif (
            not isinstance(reason, ConnectionDone | ConnectionLost)
            or isinstance(reason, ConnectionAborted)  # that was we
            or self._accepted == self._version
        ):
            return False
        self._version = 4 if self._version == 5 else 5
        return self._version == 4
