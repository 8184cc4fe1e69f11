"""The versions of OCPP-J that are spoken, by the name that the WebSocket handshake negotiates (spec ocpp, 1.2)."""

from __future__ import annotations

from enum import StrEnum


class Version(StrEnum):
    """A version is a property of a connection, never of a charge point."""

    V16 = "ocpp1.6"
    V201 = "ocpp2.0.1"
    V21 = "ocpp2.1"

    @property
    def is_2(self) -> bool:
        """Whether it is one of the 2.x family, which has EVSEs, TransactionEvent and a device model."""
        return self is not Version.V16
