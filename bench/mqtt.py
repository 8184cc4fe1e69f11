"""The MQTT library beside paho-mqtt, aiomqtt and gmqtt: `python -m bench.mqtt [--count N] [--rounds N] [--window N]`.

Sending: QoS 1 publishes of 100 bytes to one topic, at most `window` unacknowledged, until all are acknowledged.
Receiving: QoS 1 messages of 100 bytes that a raw socket puts into the broker as fast as it takes them; the broker is
set to no window of its own. Both against Debian's mosquitto on loopback, MQTT 3.1.1 for all (ours in 5 too).

Each measurement is a process of its own, pinned to one core; mosquitto and the raw sender are pinned to another where
there is one. The libraries take turns, in rounds. Time and CPU (user and system, of the client alone) are taken from
the first message to the last acknowledgement, imports and login not counted; PSS is read at the end. The machine may
be shared: look at the ratios, which compare medians of the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bench.rig import CORES, mosquitto

TOPIC = "v1/gateway/telemetry"
PAYLOAD = b"x" * 100
_MODULES = {"gmqtt": "gmqtt", "paho": "paho", "aiomqtt": "aiomqtt"}
LIBRARIES = ("tbgw", "tbgw-v5", "gmqtt", "paho", "aiomqtt")


class Run:
    """What one worker measures."""

    def __init__(self, count: int, window: int) -> None:
        self.count = count
        self.window = window
        self.sent = 0
        self.done = 0
        self._begun: tuple[float, float] | None = None
        self._result: dict[str, float] = {}

    def begin(self) -> None:
        """The first message."""
        self._begun = (time.perf_counter(), time.process_time())

    def more(self) -> bool:
        """Whether another message is to be sent; it counts as sent."""
        if self.sent >= self.count:
            return False
        self.sent += 1
        return True

    def one_done(self) -> bool:
        """One acknowledged or received; whether it was the last."""
        if self._begun is None:
            self.begin()
        self.done += 1
        if self.done < self.count:
            return False
        assert self._begun is not None
        self._result = {
            "seconds": time.perf_counter() - self._begun[0],
            "cpu": time.process_time() - self._begun[1],
            "pss": pss_kib(),
        }
        return True

    def report(self) -> None:
        """For the parent."""
        assert self.done == self.count, (self.done, self.count)
        print(json.dumps(self._result), flush=True)


def pss_kib() -> int:
    """Of this process."""
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def ready() -> None:
    """Receiving: tell the parent that the subscription stands."""
    print("ready", flush=True)


def tbgw(run: Run, port: int, sending: bool, version: Any) -> None:
    """Ours."""
    from twisted.internet import reactor as installed
    from twisted.internet.protocol import ClientFactory
    from zope.interface import implementer

    from tbgw.mqtt import ClientOptions, IClientListener, MQTTClientProtocol

    reactor: Any = installed

    @implementer(IClientListener)
    class Listener:
        def connected(self, protocol: MQTTClientProtocol, connack: Any) -> None:
            def acknowledged(code: int) -> None:
                if run.one_done():
                    reactor.stop()
                elif run.more():
                    protocol.publish(TOPIC, PAYLOAD).addCallback(acknowledged)

            if not sending:
                protocol.subscribe([(TOPIC, 1)]).addCallback(lambda codes: ready())
                return
            run.begin()
            with protocol.gathered():
                for _ in range(run.window):
                    if run.more():
                        protocol.publish(TOPIC, PAYLOAD).addCallback(acknowledged)

        def message_received(self, protocol: Any, publish: Any) -> None:
            if run.one_done():
                reactor.callLater(0, reactor.stop)

        def disconnected(self, protocol: Any, reason: Exception) -> None:
            if reactor.running and run.done < run.count:
                print(reason, file=sys.stderr)
                reactor.stop()

    options = ClientOptions(client_id="bench", protocol_version=version, max_inflight=run.window)

    class Factory(ClientFactory):
        def buildProtocol(self, addr: Any) -> Any:
            return MQTTClientProtocol(options, Listener(), reactor)

    reactor.connectTCP("127.0.0.1", port, Factory())
    reactor.run()


def paho(run: Run, port: int, sending: bool) -> None:
    """paho-mqtt, its loop in the main thread."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2, client_id="bench")
    client.max_inflight_messages_set(run.window)

    def connected(client: Any, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        if not sending:
            client.subscribe(TOPIC, 1)
            return
        run.begin()
        for _ in range(run.window):
            if run.more():
                client.publish(TOPIC, PAYLOAD, qos=1)

    def published(client: Any, userdata: Any, mid: Any, code: Any, properties: Any) -> None:
        if run.one_done():
            client.disconnect()
        elif run.more():
            client.publish(TOPIC, PAYLOAD, qos=1)

    def received(client: Any, userdata: Any, message: Any) -> None:
        if run.one_done():
            client.disconnect()

    client.on_connect = connected
    client.on_publish = published
    client.on_message = received
    client.on_subscribe = lambda *arguments: ready()
    client.connect("127.0.0.1", port)
    client.loop_forever()


def aiomqtt(run: Run, port: int, sending: bool) -> None:
    """aiomqtt: as many tasks as the window is wide, each awaiting its acknowledgement."""
    library = import_module("aiomqtt")

    async def main() -> None:
        async with library.Client(
            "127.0.0.1", port, identifier="bench", max_inflight_messages=run.window,
            max_concurrent_outgoing_calls=run.window,
        ) as client:  # fmt: skip
            if not sending:
                await client.subscribe(TOPIC, 1)
                ready()
                async for _ in client.messages:
                    if run.one_done():
                        return

            async def send() -> None:
                while run.more():
                    await client.publish(TOPIC, PAYLOAD, qos=1)
                    run.one_done()

            run.begin()
            await asyncio.gather(*(send() for _ in range(run.window)))

    asyncio.run(main())


def gmqtt(run: Run, port: int, sending: bool) -> None:
    """gmqtt; it has no window of its own and no sign of a PUBACK, so its handler for that is wrapped."""
    library = import_module("gmqtt")

    async def main() -> None:
        client = library.Client("bench")
        finished = asyncio.Event()
        handler = client._package_handler
        inner = handler._handle_puback_packet

        def acknowledged(cmd: int, packet: bytes) -> None:
            inner(cmd, packet)
            if run.one_done():
                finished.set()
            elif run.more():
                client.publish(TOPIC, PAYLOAD, qos=1)

        handler._handle_puback_packet = acknowledged

        def received(client: Any, topic: str, payload: bytes, qos: int, properties: Any) -> int:
            if run.one_done():
                finished.set()
            return 0

        client.on_message = received
        client.on_subscribe = lambda *arguments: ready()
        await client.connect("127.0.0.1", port, version=4)
        if sending:
            run.begin()
            for _ in range(run.window):
                if run.more():
                    client.publish(TOPIC, PAYLOAD, qos=1)
        else:
            client.subscribe(TOPIC, qos=1)
        await finished.wait()
        await client.disconnect()

    asyncio.run(main())


WORKERS: dict[str, Callable[[Run, int, bool], None]] = {
    "tbgw": lambda run, port, sending: tbgw(run, port, sending, 4),
    "tbgw-v5": lambda run, port, sending: tbgw(run, port, sending, 5),
    "gmqtt": gmqtt,
    "paho": paho,
    "aiomqtt": aiomqtt,
}


def worker(library: str, mode: str, port: int, count: int, window: int) -> None:
    """One measurement, in its own process."""
    os.sched_setaffinity(0, {CORES[0]})
    run = Run(count, window)
    WORKERS[library](run, port, mode == "send")
    run.report()


def feed(port: int, count: int) -> None:
    """Put so many messages into the broker, from a blob that was spelt before; acknowledgements are thrown away."""
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04feed")
        assert wire.recv(4) == b"\x20\x02\x00\x00"
        body = len(TOPIC).to_bytes(2, "big") + TOPIC.encode()
        length = len(body) + 2 + len(PAYLOAD)
        head = bytes((0x32, length)) if length < 128 else bytes((0x32, length & 127 | 128, length >> 7))
        blob = b"".join(head + body + (number % 65535 + 1).to_bytes(2, "big") + PAYLOAD for number in range(count))
        left = 4 * count

        def swallow() -> None:
            nonlocal left
            while left > 0:
                left -= len(wire.recv(65536))

        thread = threading.Thread(target=swallow)
        thread.start()
        wire.sendall(blob)
        thread.join()


def measure(library: str, mode: str, port: int, count: int, window: int) -> dict[str, float]:
    """Start a worker and, for receiving, feed it."""
    command = [sys.executable, "-m", "bench.mqtt", "--worker", library, mode, str(port), str(count), str(window)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if mode == "receive":
        assert process.stdout.readline() == "ready\n"
        feed(port, count)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, (library, mode, output)
    result: dict[str, float] = json.loads(output)
    return result


def main() -> None:
    """All libraries in turn, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=int, default=100)
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES, choices=LIBRARIES)
    parser.add_argument("--worker", nargs=5, metavar="X", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        library, mode, port, count, window = chosen.worker
        worker(library, mode, int(port), int(count), int(window))
        return
    print(__doc__)
    missing = [library for library in chosen.libraries if find_spec(_MODULES.get(library, "tbgw")) is None]
    if missing:
        print(f"not installed, left out: {', '.join(missing)}")
        chosen.libraries = [library for library in chosen.libraries if library not in missing]
    print(f"{chosen.count} messages, window {chosen.window}, {chosen.rounds} rounds, cores {CORES}")
    os.sched_setaffinity(0, {CORES[-1]})  # inherited by mosquitto; a worker pins itself
    with mosquitto() as port:
        for mode in ("send", "receive"):
            results: dict[str, list[dict[str, float]]] = {library: [] for library in chosen.libraries}
            for number in range(chosen.rounds):
                turn = number % len(chosen.libraries)
                for library in (*chosen.libraries[turn:], *chosen.libraries[:turn]):
                    results[library].append(measure(library, mode, port, chosen.count, chosen.window))
            show(mode, results, chosen.count)


def show(mode: str, results: dict[str, list[dict[str, float]]], count: int) -> None:
    """Medians, spread, and how many times slower or costlier than ours the others are."""
    print(f"\n{mode:<10}{'msg/s median':>14}{'(least - most)':>20}{'CPU us/msg':>12}{'PSS MiB':>9}{'ours is':>10}")
    ours = statistics.median(each["seconds"] for each in results[next(iter(results))])
    for library, runs in results.items():
        seconds = [each["seconds"] for each in runs]
        spread = f"({count / max(seconds):,.0f} - {count / min(seconds):,.0f})"
        cpu = statistics.median(each["cpu"] for each in runs) / count * 1e6
        pss = statistics.median(each["pss"] for each in runs) / 1024
        median = statistics.median(seconds)
        print(f"{library:<10}{count / median:>14,.0f}{spread:>20}{cpu:>12.1f}{pss:>9.1f}{median / ours:>9.2f}x")


if __name__ == "__main__":
    main()
