"""What can go wrong, by whose fault it is. The wire's error code is on the class or the instance (spec ocpp, 1.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OCPPError(Exception):
    """Everything that this library raises."""


class CallRefused(OCPPError):  # noqa: N818 - says what is
    """
    Raised by `ICentralSystem.call_received`, or its Deferred: answer the station's Call with a CALLERROR. `code` in
    the 2.x spelling; the library writes the one of the negotiated version.
    """

    def __init__(self, code: str, description: str = "", details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code
        self.description = description
        self.details = dict(details or {})


class CallFailed(OCPPError):  # noqa: N818 - says what is
    """A Call of ours had no result. One child for each way in which that happens."""


class CallErrorReceived(CallFailed):
    """The station answered with a CALLERROR."""

    def __init__(self, code: str, description: str, details: Mapping[str, Any]) -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code
        self.description = description
        self.details = dict(details)


class CallTimedOut(CallFailed):
    """The station did not answer in time, or the time was over before the Call could be sent."""


class CallQueueFull(CallFailed):
    """Too many Calls wait for this station already."""


class StationGone(CallFailed):
    """The connection ended before the result came; whether the station acted on the Call is unknown."""


class StationReplaced(StationGone):
    """The same station connected again, and the newer connection counts."""


class PayloadInvalid(CallFailed):
    """The payload breaks the schema of its message, so it was not sent."""


class ResultInvalid(CallFailed):
    """The station's answer is no result, or in strict mode breaks its schema; whether it acted is unknown."""
