"""Real programs for tests: started on ports of their own, waited for by what they print, ended by the test."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

SECONDS = 30.0
"""How long a test waits for a line that must come: far more than it takes, since the machine may be busy."""


def need(program: str) -> str:
    """The program's path; skips the test, saying why, where it is not installed."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise SkipTest(f"{program} is not installed (Debian has it as a package)")
    return path


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port on 127.0.0.1 that nobody has at the moment."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A running program whose standard output is read line by line."""

    def __init__(self, test: SynchronousTestCase, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
        )
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        test.addCleanup(self.kill)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def _next(self, end: float) -> str | None:
        """The next line; None at the end of the output. Raises queue.Empty when there is none in time."""
        line = self._queue.get(timeout=max(0.0, end - time.monotonic()))
        if line is None:
            self._queue.put(None)
        else:
            self.lines.append(line)
        return line

    def wait_for(self, pattern: str, seconds: float = SECONDS) -> re.Match[str]:
        """Read on until a line has `pattern`; fails with the whole output when none does."""
        end = time.monotonic() + seconds
        while True:
            try:
                line = self._next(end)
            except queue.Empty:
                raise AssertionError(f"no line with {pattern!r} in {seconds:g} s:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"ended without a line with {pattern!r}:\n{self.output}")
            if match := re.search(pattern, line):
                return match

    def take(self, count: int, seconds: float = SECONDS) -> list[str]:
        """The next `count` lines."""
        end = time.monotonic() + seconds
        taken: list[str] = []
        while len(taken) < count:
            try:
                line = self._next(end)
            except queue.Empty:
                raise AssertionError(f"{len(taken)} of {count} lines in {seconds:g} s") from None
            if line is None:
                raise AssertionError(f"ended after {len(taken)} of {count} lines:\n{self.output[-2000:]}")
            taken.append(line)
        return taken

    def finish(self, seconds: float = SECONDS) -> int:
        """Read to the end; the exit status."""
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        while not self._queue.empty():
            if (line := self._queue.get()) is not None:
                self.lines.append(line)
        return status

    @property
    def output(self) -> str:
        """All that was read so far."""
        return "\n".join(self.lines)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to end; the exit status."""
        self.process.send_signal(signum)
        return self.finish()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


def mosquitto(test: SynchronousTestCase, port: int) -> Program:
    """Debian's broker, listening."""
    folder = Path(test.mktemp())
    folder.mkdir(parents=True)
    file = folder / "mosquitto.conf"
    file.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_dest stderr\n"
        "max_queued_messages 0\nmax_inflight_messages 0\n"
    )
    broker = Program(test, [need("mosquitto"), "-c", str(file)])
    broker.wait_for(r"mosquitto version .* running")
    return broker


def mosquitto_sub(test: SynchronousTestCase, port: int, topic: str = "v1/gateway/#") -> Program:
    """Prints `topic payload` for everything on `topic`."""
    # -d tells when it is subscribed; stdbuf, because its output would wait in a buffer for a pipe.
    options = ["-d", "-h", "127.0.0.1", "-p", str(port), "-q", "1", "-t", topic, "-F", "%t %p"]
    program = Program(test, [need("stdbuf"), "-oL", need("mosquitto_sub"), *options])
    program.wait_for("SUBACK|Subscribed")
    return program


class GatewayFolder:
    """A folder with a configuration, and the gateway started in it as a user would."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self.test = test
        self.path = Path(test.mktemp()).absolute()
        self.etc = self.path / "etc"
        self.etc.mkdir(parents=True)

    def write(self, name: str, content: Any) -> None:
        """A configuration file; text as it is, anything else as JSON."""
        (self.etc / name).write_text(content if isinstance(content, str) else json.dumps(content, indent=2))

    def start(
        self, *, wait: str | None = r"waiting in the store", env: Mapping[str, str] | None = None
    ) -> Program:
        """`twistd tbgw -c etc/`, from the environment that runs the tests."""
        twistd = str(Path(sys.executable).with_name("twistd"))
        options = ["-c", str(self.etc), "-d", str(self.path)]
        program = Program(
            self.test,
            [twistd, "-n", "--pidfile=", "--logger", "tbgw.logs.text", "tbgw", *options],
            env={"PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONUNBUFFERED": "1", **(env or {})},
        )
        if wait is not None:
            program.wait_for(wait)
        return program


def send_tcp(port: int, *messages: bytes) -> None:
    """One connection, one `send` for each message."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as device:
        for message in messages:
            device.sendall(message)


def send_udp(port: int, *messages: bytes) -> None:
    """One socket, one datagram for each message."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        for message in messages:
            device.sendto(message, ("127.0.0.1", port))
