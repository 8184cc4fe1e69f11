"""`python -m bench.spool [appends|amplification|start|drain ...]`: the store alone, and the gateway with a full one.

Prints its method with each figure. Medians and ratios are what can be quoted: the machines this runs on are noisy.
Everything is written under the current folder, so on this machine's real disk, at synchronous=FULL.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred

from bench.rig import CORES, GATEWAY_CORE, LOAD_CORE, free_port, gateway, mosquitto
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.model import Draft, Row
from tbgw.spool.contract import Change, Store, row_bytes
from tbgw.spool.file import FileStore
from tbgw.spool.runners import StoreThread
from tbgw.spool.service import Spool
from tbgw.spool.store import SqliteStore

reactor: Any = global_reactor
TOPIC = "v1/gateway/telemetry"


def _written() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    raise RuntimeError("no write_bytes in /proc/self/io")


def _store(kind: str, folder: Path) -> Store:
    return FileStore(folder) if kind == "file" else SqliteStore(folder / "spool.db")


def _keep_waiting(kind: str, folder: str, waiting: int, length: int, seconds: float, how: str) -> None:
    """One measurement, in a process of its own: `waiting` appends of one row are under way at any time."""
    store = _store(kind, Path(folder))
    spool = Spool(
        lambda: store,
        clock=reactor,
        runner=StoreThread(reactor),
        wall_ms=lambda: time.time_ns() // 1_000_000,
        events=Events(Counters(), reactor.seconds),
        max_bytes=1 << 40,
    )
    draft = Draft(TOPIC, b"x" * length, ("Meter 1",), 1, 2)
    done = 0
    running = True

    def append(_: object = None) -> None:
        nonlocal done
        if not running:
            return
        rows, stored = spool.append([draft])
        if how == "early":  # delivered before its commit
            spool.delete([rows[0].seq])
        stored.addCallback(answered, rows[0].seq)

    def answered(_: None, seq: int) -> None:
        nonlocal done
        done += 1
        if how == "late":
            spool.delete([seq])
        reactor.callLater(0, append)

    async def measure() -> None:
        nonlocal running
        await spool.open()
        began, before = time.perf_counter(), _written()
        for _ in range(waiting):
            append()
        over: Deferred[None] = Deferred()
        reactor.callLater(seconds, over.callback, None)
        await over
        took, count = time.perf_counter() - began, done
        running = False
        await spool.close()
        print(json.dumps({"rate": count / took, "count": done, "written": _written() - before}))
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(measure()))
    reactor.run()


def _measured(kind: str, waiting: int, length: int, seconds: float, how: str = "keep") -> dict[str, float]:
    folder = tempfile.mkdtemp(prefix="tbgw-bench-", dir=Path.cwd())
    try:
        arguments = [kind, folder, str(waiting), str(length), str(seconds), how]
        ran = subprocess.run(
            [sys.executable, "-m", "bench.spool", "one", *arguments], capture_output=True, text=True, check=True
        )
        result: dict[str, float] = json.loads(ran.stdout)
        return result
    finally:
        shutil.rmtree(folder)


def appends(repeats: int = 3, seconds: float = 1.5) -> None:
    """Durable appends a second."""
    print("\n== durable appends a second: one row of 300 bytes each, N under way at any time, each followed by")
    print("   another once it is answered as stored; reactor and store thread as in the gateway;")
    print(f"   {repeats} runs of {seconds} s")
    for kind in ("sqlite", "file"):
        for waiting in (1, 10, 100, 1000):
            rates = [_measured(kind, waiting, 300, seconds)["rate"] for _ in range(repeats)]
            spread = f"({min(rates):,.0f} .. {max(rates):,.0f})"
            print(f"   {kind:<7} {waiting:>5} waiting: {statistics.median(rates):>9,.0f}  {spread}", flush=True)


def amplification() -> None:
    """Bytes to the disk for each byte accepted."""
    print("\n== write amplification: write_bytes of /proc/PID/io for each payload byte that was answered as stored.")
    print("   keep: rows stay; late: deleted after their commit; early: delivered before it. 1.5 s, then a clean close")
    for kind in ("sqlite", "file"):
        for waiting, length in ((1, 300), (10, 300), (100, 300), (1, 20_000), (10, 20_000)):
            cells = []
            for how in ("keep", "late", "early"):
                found = _measured(kind, waiting, length, 1.5, how)
                cells.append(f"{how} {found['written'] / (found['count'] * length):6.2f}")
            print(f"   {kind:<7} rows of {length:>6} bytes, {waiting:>3} waiting: " + "   ".join(cells), flush=True)


def _fill(folder: Path, rows: int, readings: int) -> int:
    """A store with telemetry of the device `Bench`, as the gateway would have it; its bytes."""
    store = SqliteStore(folder / "spool.db")
    store.open()
    store._set_sync = lambda full: None  # type: ignore[method-assign] # filling needs no sync
    store._db.execute("PRAGMA synchronous=OFF")
    size = serial = 0
    for first in range(1, rows + 1, 200):
        batch: list[tuple[Row, int]] = []
        for seq in range(first, min(first + 200, rows + 1)):
            entries = b",".join(
                [
                    b'{"ts":1700000000000,"values":{"n":"%08d","t":"21.5"}}' % number
                    for number in range(serial, serial + readings)
                ]
            )
            serial += readings
            row = Row(seq, TOPIC, b'{"Bench":[%b]}' % entries, ("Bench",), readings, 2 * readings)
            batch.append((row, row_bytes(row)))
        size = store.apply(Change(rows=batch, last_seq=batch[-1][0].seq)).totals.bytes
    store.close(None)
    return size


def start(repeats: int = 5) -> None:
    """Start-up with 1 GiB in the store."""
    print("\n== start: exec of twistd to the TCP port accepting, with an empty store and with 1 GiB in it; the page")
    print(f"   cache is warm, ThingsBoard away; {repeats} runs each")
    for label, rows in (("empty", 0), ("1 GiB", 20_000)):
        folder = Path(tempfile.mkdtemp(prefix="tbgw-bench-", dir=Path.cwd()))
        try:
            size = _fill(folder / "store", rows, 1000) if rows else 0
            took = []
            for _ in range(repeats):
                began = time.perf_counter()
                with gateway(free_port(), folder=folder):
                    took.append(time.perf_counter() - began)
            spread = f"{min(took):.2f} .. {max(took):.2f}"
            print(f"   {label}: median {statistics.median(took):.2f} s ({spread}); {size / 2**20:,.0f} MiB", flush=True)
        finally:
            shutil.rmtree(folder)


def drain(messages: int = 1_000_000) -> None:
    """A full store against mosquitto."""
    print(f"\n== drain: {messages:,} stored messages through the gateway to mosquitto at QoS 1; gateway on core")
    print(f"   {GATEWAY_CORE}, broker and subscriber on core {LOAD_CORE}; from first to last arrival; PSS on the way")
    for readings in (100, 10):
        _drain(messages, readings)


def _drain(messages: int, readings: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tbgw-bench-", dir=Path.cwd()))
    try:
        size = _fill(folder / "store", messages // readings, readings)
        with mosquitto() as broker:
            subscriber = subprocess.Popen(
                [sys.executable, "-m", "bench.subscriber", str(broker), str(messages), "1"],
                stdout=subprocess.PIPE,
                text=True,
            )
            os.sched_setaffinity(subscriber.pid, LOAD_CORE)
            assert subscriber.stdout is not None
            assert subscriber.stdout.readline().strip() == "ready"
            with gateway(broker, folder=folder) as running:
                samples = [(time.perf_counter(), running.pss_kib() / 1024)]
                while subscriber.poll() is None:
                    time.sleep(0.1)
                    samples.append((time.perf_counter(), running.pss_kib() / 1024))
                result = json.loads(subscriber.stdout.readline())
                cpu = running.cpu_seconds()
        took = result["last"] - result["first"]
        during = [pss for at, pss in samples if at <= result["last"]]
        step = max(1, len(during) // 10)
        order = "kept" if result["order"] else "BROKEN"
        rate = result["readings"] / took
        print(f"   {readings} in a row, {size / 2**20:.0f} MiB: {result['distinct']:,} arrived, order {order},")
        print(f"      {rate:,.0f} messages/s over {took:.1f} s, {cpu / messages * 1e6:.1f} us CPU each, start included")
        print("      PSS in MiB: " + " ".join(f"{pss:.1f}" for pss in during[::step]), flush=True)
    finally:
        shutil.rmtree(folder)


PARTS: dict[str, Callable[[], None]] = {
    "appends": appends,
    "amplification": amplification,
    "start": start,
    "drain": drain,
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        kind, place, waiting, length, seconds, how = sys.argv[2:]
        _keep_waiting(kind, place, int(waiting), int(length), float(seconds), how)
        sys.exit(0)
    wanted = sys.argv[1:] or list(PARTS)
    machine = f"{platform.machine()}, {len(CORES)} cores, Python {platform.python_version()}"
    print(f"tbgw spool bench, {machine}, {time.ctime()}")
    for name in wanted:
        PARTS[name]()
