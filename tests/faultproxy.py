"""A TCP proxy that makes the network bad on request: latency, bandwidth, slicing, resets, and links that are dead
without saying so. Threads and plain sockets, so that it shares nothing with what it tests.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero: closing sends RST."""


class FaultProxy:
    """
    Listens on `port` and passes on to `target`. The faults may be set at any time and hold for all that is read from
    then on, in both directions.
    """

    def __init__(self, target: int) -> None:
        self.latency_seconds = 0.0
        self.bandwidth_bytes = 0
        """Bytes a second for each direction of each link; 0: no limit."""
        self.slice_bytes = 65536
        """Most bytes that are passed on at once."""
        self.connections = 0
        """Links that were accepted so far."""
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                self._kill(near)
                continue
            far.settimeout(None)
            for link in (near, far):  # before anybody can reset them
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                line: queue.Queue[tuple[float, bytes] | None] = queue.Queue(256)
                threading.Thread(target=self._read, args=(source, line), daemon=True).start()
                threading.Thread(target=self._write, args=(source, sink, line), daemon=True).start()

    def _read(self, source: socket.socket, line: queue.Queue[tuple[float, bytes] | None]) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(max(1, self.slice_bytes)):
                line.put((time.monotonic() + self.latency_seconds, chunk))
        line.put(None)

    def _write(
        self, source: socket.socket, sink: socket.socket, line: queue.Queue[tuple[float, bytes] | None]
    ) -> None:
        try:
            while (entry := line.get()) is not None:
                due, chunk = entry
                self._flowing.wait()
                while (ahead := due - time.monotonic()) > 0:
                    time.sleep(ahead)
                sink.sendall(chunk)
                if self.bandwidth_bytes:
                    time.sleep(len(chunk) / self.bandwidth_bytes)
        except OSError:
            pass  # the other half of the link has ended; so does this one
        self._kill(source)
        self._kill(sink)
        while line.get() is not None:  # let the reader get rid of what it has
            pass

    def _kill(self, link: socket.socket) -> None:
        with self._lock:
            self._open.discard(link)
        with contextlib.suppress(OSError):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            link.shutdown(socket.SHUT_RDWR)
        link.close()

    def reset(self) -> None:
        """RST to both ends of every link."""
        with self._lock:
            links = list(self._open)
        for link in links:
            self._kill(link)

    def hold(self) -> None:
        """Half-open: links stay, and nothing gets through."""
        self._flowing.clear()

    def release(self) -> None:
        """The end of `hold`, for the links that are left and for new ones."""
        self._flowing.set()

    def close(self) -> None:
        """Listen no more, and end all links."""
        self._listener.close()
        self.release()
        self.reset()
