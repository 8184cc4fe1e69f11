"""Live updates for the page: Server-Sent Events, coalesced.

A change only marks its device; at most `UPDATES_PER_SECOND` times a second the marked devices are encoded, once, and
written to every page that can take them. A page whose connection is full keeps its marks and gets the then latest
values later, so what waits for a slow page is a set of names and never a queue of values. When encoding takes long the
pace drops, so that the page never takes more than a tenth of the reactor's time from the gateway.

A name that no device has any more is told as `gone`: the device was deleted, or renamed.

With no page open nothing is observed at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from tbgw.interfaces import ISandboxView

UPDATES_PER_SECOND = 5
MAX_DEVICES_PER_UPDATE = 200
"""One update is some 200 KB at most; the rest comes with the next."""
MAX_SHARE = 0.1
"""Part of the reactor's time that updates may take."""
SILENCE_SECONDS = 15.0
"""After so long a comment is sent, so that a dead connection is found and proxies keep a living one."""
MAX_STREAMS = 16
"""Pages that may be open at one time."""

_MAX_SAFE_INTEGER = 2**53
"""From here on JavaScript's numbers have gaps; such integers travel as text."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def encode(value: Any) -> bytes:
    """`value` as JSON in UTF-8. A lone surrogate, if there is one, becomes `?`."""
    return _encode(value).encode("utf-8", "replace")


def for_page(device: Mapping[str, Any]) -> Mapping[str, Any]:
    """A device of `ISandboxView.devices`, with integers that JavaScript cannot hold written as text."""
    result = device
    for group in ("telemetry", "attributes", "shared"):
        for key, entry in device[group].items():
            value = entry["value"]
            if type(value) is int and not -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER:
                if result is device:
                    groups = ("telemetry", "attributes", "shared")
                    result = {**device, **{name: {**device[name]} for name in groups}}
                result[group][key] = {**entry, "value": str(value)}
    return result


class Sink(Protocol):
    """Where a stream writes to: a `twisted.web.http.Request`, in short."""

    def write(self, data: bytes) -> object:
        """Send these bytes."""


@implementer(IPushProducer)
class Stream:
    """One open page. The transport pauses and resumes it."""

    def __init__(self, sink: Sink, updates: Updates, names: Iterable[str]) -> None:
        self.sink = sink
        self.waiting: dict[str, None] = dict.fromkeys(names)
        """Names of devices that this page has to hear of, in order."""
        self.paused = False
        self._updates = updates

    def pauseProducing(self) -> None:
        """The connection is full."""
        self.paused = True

    def resumeProducing(self) -> None:
        """There is room again."""
        self.paused = False
        if self.waiting:
            self._updates.arm()

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._updates.close(self)


class Updates:
    """All open pages, and the one timer that serves them."""

    def __init__(self, clock: IReactorTime, view: ISandboxView, now_ms: Callable[[], int]) -> None:
        self._clock = clock
        self._view = view
        self._now_ms = now_ms
        self._streams: list[Stream] = []
        self._changed: dict[str, None] = {}
        self._call: IDelayedCall | None = None
        self._silence: IDelayedCall | None = None
        self._not_before = 0.0

    @property
    def full(self) -> bool:
        """Whether no further page can be served."""
        return len(self._streams) >= MAX_STREAMS

    @property
    def open_streams(self) -> int:
        """How many pages are open."""
        return len(self._streams)

    def open(self, sink: Sink, greeting: Mapping[str, Any]) -> Stream:
        """Begin a stream on `sink`: the greeting, then every device, then every change."""
        sink.write(b"retry: 2000\n\n" + _event(b"hello", {**greeting, "now": self._now_ms()}))
        stream = Stream(sink, self, [device["name"] for device in self._view.devices()])
        if not self._streams:
            self._view.add_observer(self._mark)
            self._silence = self._clock.callLater(SILENCE_SECONDS, self._break_silence)
        self._streams.append(stream)
        self.arm()
        return stream

    def close(self, stream: Stream) -> None:
        """The page is gone. Doing so again changes nothing."""
        if stream not in self._streams:
            return
        self._streams.remove(stream)
        if not self._streams:
            self._view.remove_observer(self._mark)
            for call in (self._call, self._silence):
                if call is not None:
                    call.cancel()
            self._call = self._silence = None
            self._changed.clear()

    def _mark(self, name: str) -> None:
        self._changed[name] = None
        if self._call is None:
            self.arm()

    def arm(self) -> None:
        """See to it that an update comes, as soon as the pace allows."""
        if self._call is None and self._streams:
            delay = max(0.0, self._not_before - self._clock.seconds())
            self._call = self._clock.callLater(delay, self._update)

    def _update(self) -> None:
        self._call = None
        began = self._clock.seconds()
        changed, self._changed = self._changed, {}
        devices = self._view.devices()
        by_name = {device["name"]: device for device in devices}
        encoded: dict[str, bytes] = {}
        rest = False
        for stream in tuple(self._streams):
            stream.waiting.update(changed)
            if stream.paused or not stream.waiting:
                continue
            names = list(stream.waiting)[:MAX_DEVICES_PER_UPDATE]
            for name in names:
                del stream.waiting[name]
                if name in by_name and name not in encoded:
                    encoded[name] = encode(for_page(by_name[name]))
            rest = rest or bool(stream.waiting)
            gone = [name for name in names if name not in by_name]
            stream.sink.write(
                b'event: devices\ndata: {"now":%d,"total":%d,"devices":[%b],"gone":%b}\n\n'
                % (
                    self._now_ms(),
                    len(devices),
                    b",".join([encoded[name] for name in names if name in encoded]),
                    encode(gone),
                )
            )
        took = self._clock.seconds() - began
        self._not_before = began + max(1 / UPDATES_PER_SECOND, took / MAX_SHARE)
        if rest:
            self.arm()

    def _break_silence(self) -> None:
        self._silence = self._clock.callLater(SILENCE_SECONDS, self._break_silence)
        for stream in self._streams:
            if not stream.paused:
                stream.sink.write(b":\n\n")


def _event(name: bytes, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, encode(data))
