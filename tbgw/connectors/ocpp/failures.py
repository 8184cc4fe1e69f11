# -*- test-case-name: tests.connectors.ocpp.test_commands -*-
"""The names of everything that can become of a command, in one shape: `{"error": {"type": ..., "message": ...}}`.

| type | what happened |
| --- | --- |
| `Offline` | the charge point is not connected, or its connection ended before it answered |
| `Superseded` | its connection was replaced by a newer one before it answered |
| `Timeout` | it did not answer in time, or its turn did not come |
| `QueueFull` | too many Calls wait for it already |
| `Validation` | the parameters do not make a Call that its version of OCPP allows; nothing was sent |
| `NotAccepted` | its boot is not accepted, and OCPP does not allow this Call before |
| `UnknownMethod` | neither configured, nor an action of its version, nor an alias |
| `UnknownDevice` | no charge point of this connector has this name |
| `NoTransaction` | there is no transaction, or more than one, that could be meant |
| `ResultInvalid` | its answer is no result, or in strict mode breaks its schema; it may have acted |
| `CallError` | it answered with a CALLERROR, whose `code`, `description` and `details` come along |
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from tbgw.errors import CommandFailed, UnknownDevice
from tbgw.ocpp.errors import (
    CallErrorReceived,
    CallFailed,
    CallQueueFull,
    CallTimedOut,
    PayloadInvalid,
    ResultInvalid,
    StationGone,
    StationReplaced,
)


def failed(kind: str, message: str, **more: Any) -> CommandFailed:
    """The error of a command, with its name."""
    return CommandFailed(f"{kind}: {message}", answer={"type": kind, "message": message, **more})


def bad_parameters(message: str) -> CommandFailed:
    """What was asked for cannot be said."""
    return failed("Validation", message)


def unknown_device(message: str) -> UnknownDevice:
    """It is none of this connector's."""
    return UnknownDevice(message, answer={"type": "UnknownDevice", "message": message})


def offline() -> CommandFailed:
    """The charge point is not there."""
    return failed("Offline", "the charge point is not connected")


def named(failure: Failure) -> Failure:
    """What the library says, in our words. For `addErrback`: what is nothing of the library's passes through."""
    error = failure.value
    if not isinstance(error, CallFailed) or isinstance(error, CancelledError):
        return failure
    return Failure(_named(error))


def _named(error: CallFailed) -> CommandFailed:
    if isinstance(error, CallErrorReceived):
        message = f"the charge point answered with {error.code}"
        return failed("CallError", message, code=error.code, description=error.description, details=error.details)
    if isinstance(error, StationReplaced):
        return failed("Superseded", "a newer connection of the charge point took the place of this one")
    if isinstance(error, StationGone):
        return failed("Offline", "the connection ended before the answer came; whether it acted is unknown")
    if isinstance(error, CallTimedOut):
        return failed("Timeout", "the charge point did not answer in time")
    if isinstance(error, CallQueueFull):
        return failed("QueueFull", "too many Calls wait for the charge point already")
    if isinstance(error, PayloadInvalid):
        return failed("Validation", str(error))
    if isinstance(error, ResultInvalid):
        return failed("ResultInvalid", str(error))
    return failed("Failed", str(error))
