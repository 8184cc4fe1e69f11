"""The contracts between the rooms of the house, in prose. Who calls what, when, and what holds afterwards.

Everything here runs in the reactor's thread. No method blocks: what takes time answers with a Deferred.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from tbgw.model import Device, Draft, OwnAttributes, Reading, Row, SessionLimits, Value


class IReceipt(Interface):
    """What `IIngest.accept` gives back for a reading. Cheap to get and to ignore."""

    def when_stored() -> Deferred[None]:
        """
        Fires with None once everything of the reading that has to be kept is on stable storage: only then may a
        connector acknowledge to its device. Fails with `StoreFull` when the drop policy refused the reading, with
        `StoreError` when the store cannot be written. May be called any number of times, also after the fact.
        """


class IPausable(Interface):
    """Something that brings readings in and can be asked to stop for a while: a TCP connection, a UDP port."""

    def pause_reading() -> None:
        """Stop reading from the network. Called again while paused it does nothing."""

    def resume_reading() -> None:
        """Read on. Called while not paused it does nothing."""


class IIngest(Interface):
    """Where connectors hand in what devices said. One for the whole gateway."""

    def accept(reading: Reading) -> IReceipt:
        """
        Take over one reading: filter it, apply the report strategy, pack it, store it, send it. Never raises for
        what is in the reading. Order of the readings of one device is kept.
        """

    def disconnected(device: Device) -> None:
        """Tell ThingsBoard that the device is gone, after everything that was accepted from it before."""

    def add_source(source: IPausable) -> None:
        """
        From now on `source` is paused while the store is behind and resumed when it caught up. When the store is
        behind already, it is paused before this returns.
        """

    def remove_source(source: IPausable) -> None:
        """The source is gone. Unknown sources are ignored."""


class IConnector(Interface):
    """
    One configured connector. It is also a `twisted.application.service.IService`: `startService` begins to listen or to
    connect and returns at once; `stopService` ends it, and once its Deferred has fired no further reading comes.
    A listener that cannot be opened does not end the process: the connector says so and tries again, growing slower.
    """

    connector_name = Attribute("Name from the configuration; unique among the connectors.")
    connector_type = Attribute("`socket`, `xmpp` or `ocpp`.")

    def attributes_changed(device: str, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        """
        Shared attributes of a device were set or deleted: pass on what the configuration says. Nobody waits for the
        outcome; what cannot be passed on is counted. Never raises for what is in the arguments.
        """

    def command(device: str, method: str, params: Value) -> Deferred[Value]:
        """
        A command for a device. Fires with the answer, a JSON value; fails with `CommandFailed`, whose text names the
        error: device gone, time-out, refused, bad parameters, unknown method; with `UnknownDevice` when the connector
        does not have it. May be cancelled, and then does nothing more about it.
        """

    def own_command(method: str, params: Value) -> Deferred[Value]:
        """
        A command for the gateway itself whose name began with this connector's type: `socket_set` comes as `set`. As
        `command`; the device, if there is one, is named in the parameters. `UnknownDevice` lets the next connector of
        the type be asked, so it has to be told before anything is done.
        """


class IDownlink(Interface):
    """What connectors may ask of ThingsBoard. One for the whole gateway."""

    def request_attributes(
        device: Device, scope: Literal["shared", "client"], keys: Sequence[str]
    ) -> Deferred[dict[str, Value]]:
        """
        The present values of these attributes; what ThingsBoard does not have is absent. Fails with `LinkDown` when
        there is no session or it ends first, with `NoAnswer` after a time. May be cancelled.
        """

    def rpc(device: Device, method: str, params: Value) -> Deferred[Value]:
        """
        Client-side RPC in the name of a device. ThingsBoard has none for a gateway's children, so it goes out as the
        gateway's own, with params `{"device": name, "params": params}` for the rule chain to look at. Fires and fails
        as `IOwnDevice.rpc`.
        """

    def claim(device: Device, secret_key: str | None = None, duration_ms: int | None = None) -> Deferred[None]:
        """
        Open a device for claiming, as `IOwnDevice.claim` does the gateway. Fires with None when ThingsBoard has taken
        it, which says nothing of the outcome; fails with `LinkDown` without a session, with `NoAnswer` when refused.
        """


class IOwnDevice(Interface):
    """
    The gateway's own device in ThingsBoard: what it says, asks and is told for itself (spec thingsboard-mqtt, 2).

    What it says is small and goes beside the rows of the spool: neither before nor after anything of it, since it
    speaks of another device. Own limits of the rate are kept.
    """

    def publish_telemetry(values: Mapping[str, Value], ts_ms: int | None = None) -> Deferred[str]:
        """
        One instant of telemetry of the gateway; `ts_ms` is that instant in ms since the epoch, now if None. Fires with
        an empty text once ThingsBoard has acknowledged it, or with words when it was given up: too long, no JSON,
        refused, or too much waits. Never fails, so it may be ignored. Without a session it waits in memory, in order
        and bounded, the oldest making room; a stop of the gateway forgets it.
        """

    def publish_attributes(values: Mapping[str, Value]) -> Deferred[str]:
        """Client attributes of the gateway. Everything else as with `publish_telemetry`."""

    def request_attributes(client_keys: Sequence[str] = (), shared_keys: Sequence[str] = ()) -> Deferred[OwnAttributes]:
        """
        The present values of these attributes of the gateway; what ThingsBoard does not have is absent. Without any key
        it gives all of both scopes. Fails with `LinkDown` when there is no session or it ends first, with `NoAnswer`
        after a time or when it cannot be asked. May be cancelled.
        """

    def add_shared_listener(changed: Callable[[Mapping[str, Value], Sequence[str]], None]) -> None:
        """
        From now on `changed(values, deleted keys)` is called when shared attributes of the gateway are set or deleted.
        ThingsBoard tells nothing of what happened without a session: ask, when `add_link_listener` calls.
        """

    def add_link_listener(up: Callable[[], None]) -> None:
        """From now on `up()` is called whenever a session is ready: what was asked before will not be answered."""

    def rpc(method: str, params: Value, timeout_seconds: float = 60.0) -> Deferred[Value]:
        """
        Client-side RPC: ask ThingsBoard's rule chain. Fires with the answer, whatever JSON it is. Fails with `LinkDown`
        when there is no session or it ends first, with `NoAnswer` when nothing answers in time or the question is too
        long. May be cancelled.
        """

    def claim(secret_key: str | None = None, duration_ms: int | None = None) -> Deferred[str]:
        """
        Open the gateway's device for claiming: a user who knows `secret_key` may take it over during `duration_ms`
        (None: ThingsBoard's own). Fires with an empty text when ThingsBoard has acknowledged, which says nothing of
        whether it does so, or with words. Fails with `LinkDown` without a session: it never waits.
        """


class IPressureListener(Interface):
    """Who wants to know whether the spool keeps up."""

    def store_behind() -> None:
        """Too much waits for its commit, or the cap is near and the policy is to pause: stop bringing more."""

    def store_ready() -> None:
        """The reverse: there is room again."""


class IDropListener(Interface):
    """Who holds copies of rows and has to forget those that the drop policy took away."""

    def rows_dropped(last_seq: int) -> None:
        """All rows up to and including `last_seq` are gone from the store."""


class ISpool(Interface):
    """
    Durable store-and-forward, strictly first in first out. One worker thread does all that touches the disk, in the
    order of the calls; each call queues its work at once and what waits at the same time is committed together.
    """

    pending_bytes = Attribute("Bytes of appended rows whose commit has not finished.")
    stored_bytes = Attribute("Bytes of all rows that are kept, in the measure of the cap.")
    stored_rows = Attribute("Number of rows that are kept.")
    stored_messages = Attribute("Number of accepted readings in these rows.")
    last_seq = Attribute("The highest sequence number that was ever given out; 0 in a new spool.")

    def append(
        drafts: Sequence[Draft], numbered: Callable[[list[Row]], None] | None = None
    ) -> tuple[list[Row], Deferred[None]]:
        """
        Keep these, in this order. Returns at once the rows as numbered, which may be sent on already, and a Deferred
        that fires with None when they are on stable storage. `numbered` is called with the rows, if there are any,
        before the worker is woken: who sends them on there does not share the interpreter with it meanwhile. Drafts
        that the drop policy refuses are not among the rows; they are counted, and the Deferred then fails with
        `StoreFull` after the others are stored. It fails with `StoreError` when the store broke; the spool then takes
        nothing more and `failed` is told, once.
        """

    def delete(seqs: Sequence[int]) -> None:
        """
        These were delivered: forget them. Takes effect after the commit of any earlier append, so a row may be
        deleted before its own commit has finished. Unknown numbers are ignored.
        """

    def bury(row: Row, reason: str) -> None:
        """Move the row to the dead letters, in one transaction; `reason` is a short closed-list word. Counted."""

    def fetch(after_seq: int, max_bytes: int) -> Deferred[list[Row]]:
        """
        The oldest rows with `seq` above `after_seq`, in order, at least one if there is any, together not above
        `max_bytes` otherwise. Sees everything that was appended before the call. Rows that cannot be read are put
        aside and counted, and do not appear.
        """

    def run_in_store_thread(job: Callable[[], None]) -> Deferred[None]:
        """
        Run `job` in the worker thread, after all earlier calls and before all later ones: for files that have to be on
        disk before the rows that refer to them. Fails with what the job raises.
        """

    def set_listeners(
        pressure: IPressureListener, drops: IDropListener, failed: Callable[[Exception], None]
    ) -> None:
        """Who is told of back-pressure, of rows dropped for room, and of the end of the store."""

    def close() -> Deferred[None]:
        """Finish everything that was queued, then close. Nothing may be called afterwards."""


class IUplinkListener(Interface):
    """Who lives on the link: the forwarder."""

    def link_up(limits: SessionLimits) -> None:
        """
        A session is ready: subscribed, limits known. `IUplink.publish` works from now on. ThingsBoard knows nothing
        of the devices yet, whatever was said in an earlier session.
        """

    def link_down(code: int | None = None) -> None:
        """
        The session is over. All Deferreds of `publish` have failed or are about to. `code` is the reason code of the
        server's DISCONNECT (MQTT 5), None when it said none.
        """

    def message_received(topic: str, payload: bytes) -> None:
        """ThingsBoard sent something on a gateway or device topic; it is acknowledged when this returns."""


class IUplink(Interface):
    """The one MQTT session to ThingsBoard."""

    connected = Attribute("Whether a session is ready, i.e. between `link_up` and `link_down`.")

    def set_listener(listener: IUplinkListener) -> None:
        """Must be called once, before the service starts."""

    def publish(topic: str, payload: bytes, dup: bool = False) -> Deferred[int]:
        """
        Send at QoS 1. Fires with the PUBACK's reason code (0 on MQTT 3.1.1), which may come out of order. Fails with
        `LinkDown` when the session ends first. `dup` marks a message that was sent in an earlier session. At most
        the announced number may be in flight; more raises ValueError, because the forwarder owns the window.
        """

    def disrupt(reason: str) -> None:
        """Give up this session and begin a new one, e.g. because a PUBACK did not come."""


class IStatusSource(Interface):
    """Something that can tell how it is."""

    def status() -> Mapping[str, Any]:
        """A JSON-ready picture of this moment: counters, fill levels, states. Holds no secret."""


class ISandboxView(Interface):
    """What the sandbox's page shows. All times in ms since the epoch."""

    def devices() -> list[dict[str, Any]]:
        """
        `{"name", "profile", "gateway": bool, "connected": bool, "telemetry": {key: {"ts", "value"}},
        "attributes": {key: {"ts", "value"}}, "shared": {key: {"ts", "value"}}, "lastActivity": ms}` of every device,
        the gateway itself first.
        """

    def history(device: str, key: str, since_ms: int) -> list[tuple[int, Any]]:
        """(ts, value) of one time series, oldest first, within the bounded history that is kept."""

    def add_observer(changed: Callable[[str], None]) -> None:
        """`changed(device name)` is called whenever something of a device changed."""

    def remove_observer(changed: Callable[[str], None]) -> None:
        """Ends that."""


class ISandboxControl(Interface):
    """What an operator can do to the sandbox, over HTTP or from the command line."""

    def command(name: str, arguments: Mapping[str, Any]) -> Deferred[tuple[int, Any]]:
        """
        Do what `name` says with these members of a JSON object. Fires with an HTTP status and a JSON value, which is
        `{"error": text}` from 400 on; a call to a device fires when it has answered. Never fails for what is in the
        arguments.
        """
