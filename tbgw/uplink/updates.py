# -*- test-case-name: tests.uplink.test_updates -*-
"""Takes up what ThingsBoard offers the gateway's device: firmware, and in a second instance software.

    offered -> DOWNLOADING -> DOWNLOADED -> VERIFIED -> UPDATING -> UPDATED
                        \\-> FAILED (with words in fw_error) from each of them

Invariants:

* Nothing sees a package before its size and checksum were found right in the file as it lies on the disk (P-24); then
  it is handed to the operator's program, if one is configured. Nothing of the offer becomes an argument of that, and a
  run that has begun is never ended for another offer.
* One chunk is in memory and asked for at a time, one package of either kind is fetched at a time. A cut link or a
  restart goes on with the chunk that is missing. The disk keeps room for the store.
* An offer that failed is not tried again by itself, since each try may end the session that carries everything
  (spec thingsboard-mqtt, 5.3). It is tried again when ThingsBoard offers it again.
* A chunk that does not come, or ends the session, is asked for a few times and no more.

Packages that lie at a URL are refused in words: to fetch from any address that ThingsBoard names would make the gateway
a way into its own network. ThingsBoard's own state QUEUED then becomes FAILED, with that reason.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from tbgw.errors import LinkDown, NoAnswer
from tbgw.interfaces import IOwnDevice
from tbgw.internal_events import Events
from tbgw.model import OwnAttributes, SessionLimits, Value
from tbgw.thingsboard import topics
from tbgw.uplink.checksums import CHECKSUMS
from tbgw.uplink.internal_events import PackageChecked, PackageFailed, PackageOffered, PackageUsed
from tbgw.uplink.offers import MAX_TEXT, Offer, OfferFault, keys_of, parse_offer
from tbgw.uplink.packages import Memory, Package

T = TypeVar("T")

SETTLE_SECONDS = 1.0
"""How long attributes are gathered before they count: deletions and values come in messages of their own."""

CHUNK_SECONDS = 30.0
"""How long one chunk may take."""

MAX_FRUITLESS = 8
"""How often in a row a chunk may fail to come, by time or by an end of the session."""

RETRY_SECONDS = 5.0
"""Delay before a chunk that did not come is asked for again."""

RESERVE_BYTES = 64 * 1024 * 1024
"""Room that stays on the disk: the store is more important than any package."""

READ_BYTES = 64 * 1024
"""What is checked at one go: under a millisecond, with MurmurHash seven."""

ENDED_MEANWHILE = "the gateway ended while the command ran: whether it is through is not known"


class _Failed(Exception):  # noqa: N818 - says what is
    """The update is over; the text goes to ThingsBoard."""


class _ChunkLost(Exception):  # noqa: N818 - says what is
    """A chunk did not come; it may be asked for again."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of packages of one kind."""

    command: tuple[str, ...] = ()
    """Program and arguments; empty: the package is kept and that is all."""
    command_timeout_seconds: float = 600.0
    max_bytes: int = 256 * 1024 * 1024
    chunk_bytes: int = 16_384


InThread = Callable[[Callable[[], None]], Deferred[None]]
"""Runs a job that touches the disk; fails with what that raises."""

Run = Callable[[Sequence[str], Mapping[str, str], str, float], Deferred[str]]
"""Runs (arguments, variables, folder, seconds); fires with an empty text, or with words, and never fails."""


class Updates(Service):
    """
    Firmware (`kind` is `fw`) or software (`sw`) of the gateway. `ask(topic, payload)` publishes; `own` is the version
    of the program itself, as (title, version), where the kind can be that. Told of sessions and messages as the
    uplink's listener is.
    """

    def __init__(
        self,
        kind: str,
        rules: Rules,
        package: Package,
        own_device: IOwnDevice,
        ask: Callable[[str, bytes], Deferred[int]],
        *,
        clock: IReactorTime,
        events: Events,
        in_thread: InThread,
        in_other_thread: InThread,
        run: Run,
        one_at_a_time: DeferredLock,
        own: tuple[str, str] = ("", ""),
    ) -> None:
        self._kind = kind
        self._what = {"fw": "firmware", "sw": "software"}[kind]
        self.setName(self._what)
        self._rules = rules
        self._package = package
        self._own_device = own_device
        self._ask = ask
        self._clock = clock
        self._events = events
        self._in_thread = in_thread
        self._in_other_thread = in_other_thread
        self._run = run
        self._one_at_a_time = one_at_a_time
        self._own = own
        self._log = Logger()
        self._memory = Memory()
        self._loaded = False
        self._up = False
        self._told_current = False
        self._waiting_for_link: list[Deferred[None]] = []
        self._shared: dict[str, Value] = {}
        self._fault = ""
        self._settling: IDelayedCall | None = None
        self._explicit = False
        self._offer: Offer | None = None
        self._work: Deferred[None] | None = None
        self._command_runs = self._look_again = False
        self._request = 0
        self._chunk: tuple[int, Deferred[bytes]] | None = None
        own_device.add_shared_listener(self._shared_changed)
        own_device.add_link_listener(self._link_ready)

    # IService

    def startService(self) -> None:
        super().startService()
        Deferred.fromCoroutine(self._load()).addErrback(self._broken)

    def stopService(self) -> None:
        super().stopService()
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._give_up()

    # What the uplink tells.

    def link_up(self, limits: SessionLimits) -> None:
        """See `IUplinkListener.link_up`."""
        self._up = True
        self._request += 1  # it pins the package for a connection (spec thingsboard-mqtt, 5.3)

    def link_down(self, code: int | None = None) -> None:
        """See `IUplinkListener.link_down`."""
        self._up = False
        self._chunk_over(_ChunkLost("the session ended"))

    def message_received(self, topic: str, payload: bytes) -> bool:
        """Take a chunk or an error, if it is for us: whether it was."""
        stem = topics.FIRMWARE_RESPONSE if self._kind == "fw" else topics.SOFTWARE_RESPONSE
        if topic in (topics.FIRMWARE_ERROR, topics.SOFTWARE_ERROR):
            # One topic serves both kinds; only one of them waits at a time.
            if self._chunk is None:
                return False
            self._chunk_over(_Failed(f"ThingsBoard says {payload[:100].decode('utf-8', 'replace')}"))
            return True
        if not topic.startswith(stem):
            return False
        chunk = self._chunk
        if chunk is not None and topic == topics.package_chunk("response", self._kind, self._request, chunk[0]):
            self._chunk = None
            chunk[1].callback(payload)
        return True  # else a late one, of which nobody knows any more

    def _link_ready(self) -> None:
        """A session is there and may be asked."""
        if not self.running or not self._loaded:
            return
        if not self._told_current and self._memory.current_version:
            self._told_current = True
            self._own_device.publish_telemetry(self._current())
        waiting, self._waiting_for_link = self._waiting_for_link, []
        for deferred in waiting:
            deferred.callback(None)
        self._own_device.request_attributes(shared_keys=keys_of(self._kind)).addCallbacks(
            self._offered_before, _not_now
        )

    # Offers.

    def _offered_before(self, attributes: OwnAttributes) -> None:
        self._shared = {key: attributes.shared[key] for key in keys_of(self._kind) if key in attributes.shared}
        self._settle()

    def _shared_changed(self, values: Mapping[str, Value], deleted: Sequence[str]) -> None:
        keys = set(keys_of(self._kind))
        if not keys & {*values, *deleted}:
            return
        self._shared.update({key: values[key] for key in keys if key in values})
        for key in keys & set(deleted):
            self._shared.pop(key, None)
        self._explicit = self._explicit or f"{self._kind}_title" in values or f"{self._kind}_version" in values
        self._settle()

    def _settle(self) -> None:
        if self.running and self._settling is None:
            self._settling = self._clock.callLater(SETTLE_SECONDS, self._settled)

    def _settled(self) -> None:
        """Look at what is offered now."""
        self._settling = None
        explicit, self._explicit = self._explicit, False
        try:
            offer = parse_offer(self._kind, self._shared)
        except OfferFault as fault:
            if explicit or str(fault) != self._fault:
                self._fault = str(fault)
                self._give_up()
                names = [str(self._shared.get(f"{self._kind}_{key}"))[:MAX_TEXT] for key in ("title", "version")]
                self._events.emit(PackageFailed(kind=self._what, title=names[0], version=names[1], why=str(fault)))
                self._report("FAILED", str(fault))
            return
        self._fault = ""
        if offer is None:
            if self._offer is not None:
                self._give_up()
                self._package.drop()
                self._report("IDLE")
            return
        if offer == self._offer and self._work is not None:
            return
        memory = self._memory
        if (offer.title, offer.version) == (memory.current_title, memory.current_version):
            if explicit or memory.identity != offer.identity:
                self._begin(offer, self._already)
            return
        if explicit or memory.identity != offer.identity or memory.state not in self._ends:
            self._begin(offer, self._take_up)

    @property
    def _ends(self) -> tuple[str, ...]:
        """The states after which nothing is left to do."""
        return ("FAILED", "UPDATED") if self._rules.command else ("FAILED", "UPDATED", "VERIFIED")

    def _begin(self, offer: Offer, work: Callable[[Offer], Coroutine[Any, Any, None]]) -> None:
        self._give_up()
        if self._work is None:
            self._offer = offer
            self._work = work_now = Deferred.fromCoroutine(work(offer)).addErrback(self._broken)
            work_now.addBoth(self._over, work_now)

    def _over(self, _: None, work: Deferred[None]) -> None:
        if self._work is work or self._work is None:
            self._work = None
            if self._look_again:
                self._look_again = False
                self._settle()

    def _give_up(self) -> None:
        """End what is done for an offer; but not a program that runs: then look again when that is through."""
        if self._command_runs:
            self._look_again = True
            return
        work, self._work = self._work, None
        self._offer = None
        if work is not None:
            work.cancel()

    def _broken(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            self._log.failure("the update of the {name}", failure=failure, name=self._what)

    # An update.

    async def _load(self) -> None:
        memory = await self._disk(self._package.load)
        if self._own[0] and memory.current_title in ("", self._own[0]):
            memory.current_title, memory.current_version = self._own
        self._memory = memory
        self._loaded = True
        if memory.state == "UPDATING":
            if (memory.title, memory.version) == self._own:
                await self._reach("UPDATED")
            else:
                await self._reach("FAILED", ENDED_MEANWHILE)
        if self._up:
            self._link_ready()

    async def _already(self, offer: Offer) -> None:
        self._remember(offer)
        await self._reach("UPDATED")

    def _remember(self, offer: Offer) -> None:
        memory = self._memory
        memory.identity, memory.title, memory.version = offer.identity, offer.title, offer.version

    async def _take_up(self, offer: Offer) -> None:
        self._events.emit(
            PackageOffered(kind=self._what, title=offer.title, version=offer.version, size_bytes=offer.size_bytes)
        )
        try:
            await self._fetch(offer)
            self._events.emit(PackageChecked(kind=self._what, title=offer.title, version=offer.version))
            if self._rules.command:
                await self._use(offer)
        except _Failed as error:
            await self._fail(offer, str(error))
        except OSError as error:
            await self._fail(offer, f"the disk: {error.strerror or error}")

    async def _fail(self, offer: Offer, why: str) -> None:
        self._events.emit(PackageFailed(kind=self._what, title=offer.title, version=offer.version, why=why))
        self._remember(offer)
        await self._reach("FAILED", why)

    async def _fetch(self, offer: Offer) -> None:
        """Until the package lies on the disk, checked."""
        memory, package = self._memory, self._package
        before = memory.identity == offer.identity and memory.state in ("VERIFIED", "FAILED", "UPDATING")
        if before and await self._is_right(offer, package.file):
            await self._reach("VERIFIED")
            return
        begun = memory.identity == offer.identity and memory.state in ("DOWNLOADING", "DOWNLOADED", "FAILED")
        offset = package.fetched_bytes(self._rules.chunk_bytes, offer.size_bytes) if begun else 0
        if offer.size_bytes > self._rules.max_bytes:
            raise _Failed(f"it has {offer.size_bytes} bytes, and {self._rules.max_bytes} are allowed")
        if package.free_bytes() < offer.size_bytes - offset + RESERVE_BYTES:
            raise _Failed("there is not enough room on the disk")
        package.drop(checked=True, part=not offset)
        package.begin(offset)
        self._remember(offer)
        await self._reach("DOWNLOADING")
        await self._one_at_a_time.acquire()
        try:
            await self._download(offer, offset)
        finally:
            self._one_at_a_time.release()
        await self._reach("DOWNLOADED")
        if not await self._is_right(offer, package.part):
            package.drop()
            raise _Failed("Checksum verification failed!")
        await self._in_other_thread(package.finish)
        await self._reach("VERIFIED")

    async def _download(self, offer: Offer, offset: int) -> None:
        size = self._rules.chunk_bytes
        fruitless = 0
        while offset < offer.size_bytes:
            number = offset // size
            try:
                data = await self._get(number)
            except _ChunkLost as lost:
                fruitless += 1
                if fruitless >= MAX_FRUITLESS:
                    raise _Failed(f"chunk {number} did not come in {fruitless} tries: {lost}") from None
                await deferLater(self._clock, RETRY_SECONDS)
                continue
            fruitless = 0
            expected = min(size, offer.size_bytes - offset)
            if len(data) != expected:
                raise _Failed(f"chunk {number} has {len(data)} bytes in place of {expected}")
            self._package.append(offset, data)
            offset += len(data)

    async def _get(self, number: int) -> bytes:
        while not self._up:
            link: Deferred[None] = Deferred()
            self._waiting_for_link.append(link)
            await link
        came: Deferred[bytes] = Deferred()
        self._chunk = (number, came)
        timer = self._clock.callLater(CHUNK_SECONDS, self._chunk_over, _ChunkLost("no answer"))
        try:
            topic = topics.package_chunk("request", self._kind, self._request, number)
            self._ask(topic, b"%d" % self._rules.chunk_bytes).addCallbacks(self._asked, _not_now)
            return await came
        finally:
            self._chunk = None
            if timer.active():
                timer.cancel()

    def _asked(self, code: int) -> None:
        if code >= 0x80:
            self._chunk_over(_Failed(f"ThingsBoard refuses the request for a chunk with reason code {code:#x}"))

    def _chunk_over(self, error: Exception) -> None:
        chunk, self._chunk = self._chunk, None
        if chunk is not None:
            chunk[1].errback(error)

    async def _is_right(self, offer: Offer, path: Any) -> bool:
        """Whether a file has the size and the checksum of the offer. Goes piece by piece, for others have turns too."""
        checksum = CHECKSUMS[offer.algorithm]()
        offset = 0
        while True:
            try:
                data = self._package.read(path, offset, READ_BYTES)
            except OSError:
                return False
            if not data or offset > offer.size_bytes:
                break
            checksum.update(data)
            offset += len(data)
            await deferLater(self._clock, 0)
        return offset == offer.size_bytes and hmac.compare_digest(
            checksum.hexdigest().encode(), offer.checksum.encode("utf-8", "replace")
        )

    async def _use(self, offer: Offer) -> None:
        """Hand the package to the operator's program."""
        await self._reach("UPDATING")
        package, rules = self._package, self._rules
        variables = {
            "TBGW_PACKAGE_KIND": self._what,
            "TBGW_PACKAGE_TITLE": offer.title,
            "TBGW_PACKAGE_VERSION": offer.version,
            "TBGW_PACKAGE_FILE": str(package.file.absolute()),
        }
        argv = [*rules.command, str(package.file.absolute())]
        self._command_runs = True
        failed = await self._run(argv, variables, str(package.folder.absolute()), rules.command_timeout_seconds)
        self._command_runs = False
        if failed:
            raise _Failed(f"the command failed: {failed}")
        self._events.emit(PackageUsed(kind=self._what, title=offer.title, version=offer.version))
        await self._reach("UPDATED")

    # Telling.

    async def _disk(self, job: Callable[..., T], *arguments: Any) -> T:
        done: list[T] = []
        await self._in_thread(lambda: done.append(job(*arguments)))
        return done[0]

    async def _reach(self, state: str, error: str = "") -> None:
        """
        Remember a state, then tell it. Raises OSError when it cannot be remembered, but not for the last states, which
        are so whether the disk takes them or not.
        """
        memory = self._memory
        memory.state, memory.error = state, error
        if state == "UPDATED":
            memory.current_title, memory.current_version = memory.title, memory.version
        try:
            await self._disk(self._package.save, memory)
        except OSError as fault:
            if state not in ("FAILED", "UPDATED"):
                raise
            self._log.warn("the state of the {name} is not remembered: {fault}", name=self._what, fault=str(fault))
        self._report(state, error)

    def _report(self, state: str, error: str = "") -> None:
        values: dict[str, Value] = {f"{self._kind}_state": state}
        if error:
            values[f"{self._kind}_error"] = error[:500]
        if state == "UPDATED":
            values.update(self._current())
        self._own_device.publish_telemetry(values)

    def _current(self) -> dict[str, Value]:
        memory = self._memory
        return {
            f"current_{self._kind}_title": memory.current_title,
            f"current_{self._kind}_version": memory.current_version,
        }


def _not_now(failure: Failure) -> None:
    """No session, or no answer: the next session asks again, and a chunk has its own time."""
    failure.trap(LinkDown, NoAnswer)
