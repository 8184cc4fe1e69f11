"""The errors that cross a module's border.

Every one of them says, in words that an operator can use, what was wrong and where. Protocol libraries (`tbgw.mqtt`)
have errors of their own; those never leave the room that talks the protocol.
"""

from __future__ import annotations

from typing import Any


class GatewayError(Exception):
    """Parent of all errors of the gateway. The text is meant for the operator."""


class ConfigurationError(GatewayError):
    """One or more faults in the configuration files; `faults` has one ready line for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class StoreError(GatewayError):
    """The store cannot be opened, read or written. Nothing is accepted any more until it works again."""


class StoreFull(GatewayError):  # noqa: N818 - says what is, as queue.Full does
    """The store is at its cap and its drop policy refuses what is new. What was accepted before is untouched."""


class LinkDown(GatewayError):  # noqa: N818 - a state of the link, not a mistake
    """The session to ThingsBoard ended before an answer came; whether the message arrived is not known."""


class NoAnswer(GatewayError):  # noqa: N818 - says what is
    """ThingsBoard did not answer a question within the time."""


class CommandFailed(GatewayError):  # noqa: N818 - says what is
    """
    A command could not be carried out. The text goes back to ThingsBoard as the answer's `error`, or `answer` in its
    place: a JSON value that says more, and never less. `code`, if there is one, goes beside it, as the reference does
    for commands to the gateway itself.
    """

    def __init__(self, text: str = "", code: int | None = None, *, answer: Any = None) -> None:
        super().__init__(text)
        self.code = code
        self.answer = answer


class UnknownDevice(CommandFailed):
    """The device is none of this connector's."""
