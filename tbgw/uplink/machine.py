# -*- test-case-name: tests.uplink.test_statistics -*-
"""Figures of the machine and of this process, read from /proc; without a library, since psutil costs 3 MiB and says the
same. Everything that the system does not tell is left out.

Names are the reference's (spec reference-gateway, A10), and so are their meanings, except for `freeMemory`: that is in
percent what is free there, and not what is used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

from tbgw.model import Value

_PROC = Path("/proc")


class Machine:
    """`folder` is on the disk that counts: the store's."""

    def __init__(self, folder: Path, proc: Path = _PROC) -> None:
        self._folder = folder
        self._proc = proc
        self._busy = (time.monotonic(), time.process_time())

    def totals(self) -> dict[str, Value]:
        """What stays: `totalMemory`, `totalDisk`, `cpuCount`."""
        found: dict[str, Value] = {"cpuCount": os.cpu_count() or 1}
        memory = self._memory()
        if "MemTotal" in memory:
            found["totalMemory"] = _size(memory["MemTotal"])
        with contextlib.suppress(OSError):
            found["totalDisk"] = _size(shutil.disk_usage(self._folder).total)
        return found

    def figures(self) -> dict[str, Value]:
        """`machineStats` without the counts of messages."""
        found: dict[str, Value] = {}
        cores = os.cpu_count() or 1
        with contextlib.suppress(OSError):
            found["totalCpuUsage"] = round(100 * os.getloadavg()[2] / cores, 1)
        found["gwProcessCpuUsage"] = self._process_cpu()
        memory = self._memory()
        total, free = memory.get("MemTotal", 0), memory.get("MemAvailable", 0)
        if total:
            found["freeMemory"] = round(100 * free / total, 1)
        own = self._own_memory()
        if own:
            found["gwProcessMemoryFullInfo"] = own
            if total:
                found["gwMemory"] = round(100 * own["rss"] / total, 1)
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self._folder)
            found["diskUsage"] = round(100 * disk.used / disk.total, 1) if disk.total else 0.0
            found["freeDisk"] = _size(disk.free)
        return found

    def _process_cpu(self) -> float:
        """Percent of one core since the last call."""
        wall, cpu = time.monotonic(), time.process_time()
        (last_wall, last_cpu), self._busy = self._busy, (wall, cpu)
        return round(100 * (cpu - last_cpu) / (wall - last_wall), 1) if wall > last_wall else 0.0

    def _memory(self) -> dict[str, int]:
        """Of the machine, in bytes."""
        return self._fields("meminfo")

    def _own_memory(self) -> dict[str, int]:
        fields = self._fields("self/status")
        names = {"rss": "VmRSS", "vms": "VmSize", "swap": "VmSwap", "data": "VmData", "lib": "VmLib", "text": "VmExe"}
        return {name: fields[key] for name, key in names.items() if key in fields} if "VmRSS" in fields else {}

    def _fields(self, name: str) -> dict[str, int]:
        """`Name: 123 kB` lines, in bytes."""
        found = {}
        try:
            lines = (self._proc / name).read_text("ascii", "replace").splitlines()
        except OSError:
            return {}
        for line in lines:
            key, _, rest = line.partition(":")
            words = rest.split()
            if len(words) == 2 and words[1] == "kB" and words[0].isdigit():
                found[key] = int(words[0]) * 1024
        return found


def _size(size: float) -> str:
    """`23.5G`, as the reference writes it."""
    for unit in ("B", "K", "M", "G"):
        if size < 1024:
            return f"{size:.1f}{unit}" if unit != "B" else f"{size:g}B"
        size /= 1024
    return f"{size:.1f}T"
