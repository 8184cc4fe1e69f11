"""The fuzz target: `python -m tests.mqtt.fuzz SECONDS [SEED]`. Mutates valid packets and throws them, in any portions
and mixed with requests, at connections of both roles and versions; `test_any_input.Owner` holds them to the rules.

Prints a summary and exits with 0 when nothing was found; the seed and the inputs of a finding before its traceback.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from typing import Any

from tbgw.mqtt.codec import decode
from tbgw.mqtt.errors import RemoteProtocolError
from tbgw.mqtt.state import Role, State
from tests.mqtt.test_any_input import RAW, Owner

ACCEPTED = {4: b"\x20\x02\x00\x00", 5: b"\x20\x03\x00\x00\x00"}
_REQUESTS = ("publish", "subscribe", "unsubscribe", "acknowledge", "accept", "disconnect")


def mutated(choose: random.Random, version: int) -> bytes:
    """A valid packet with bytes changed, cut, put in, doubled, or with another packet's tail."""
    raw = bytearray(choose.choice(RAW[version]))
    for _ in range(choose.choice((0, 0, 1, 1, 1, 2, 3, 6))):
        kind = choose.randrange(6)
        position = choose.randrange(len(raw)) if raw else 0
        if kind == 0 and raw:
            raw[position] = choose.randrange(256)
        elif kind == 1 and raw:
            raw[position] ^= 1 << choose.randrange(8)
        elif kind == 2:
            del raw[position : position + choose.randrange(4)]
        elif kind == 3:
            raw[position:position] = choose.randbytes(choose.randrange(4))
        elif kind == 4:
            raw[position:] = choose.choice(RAW[version])[choose.randrange(4) :]
        elif len(raw) >= 2:
            raw[1] = (len(raw) - 2) & 127  # a length that fits again, so that the body is looked at
    return bytes(raw)


def one_life(choose: random.Random, counted: Counter[str]) -> list[tuple[str, Any]]:
    """A connection from its beginning to wherever it leads. Returns its inputs."""
    role = choose.choice((Role.CLIENT, Role.SERVER))
    version = choose.choice((4, 5))
    owner = Owner(role, version, kept=choose.random() < 0.3)
    inputs: list[tuple[str, Any]] = [("opened", None)]
    if choose.random() < 0.9:
        if role is Role.CLIENT:
            inputs.append(("bytes", ACCEPTED[version]))
        else:
            inputs += (("packet", choose.randrange(3)), ("accept", choose.randrange(2)))
    for _ in range(choose.randrange(1, 12)):
        if choose.random() < 0.35:
            inputs.append((choose.choice(_REQUESTS), choose.randrange(200)))
            continue
        data = b"".join(mutated(choose, version) for _ in range(choose.choice((1, 1, 1, 2, 3))))
        cut = choose.randrange(len(data) + 1) if choose.random() < 0.3 else 0
        inputs += [("bytes", part) for part in (data[:cut], data[cut:]) if part]
    try:
        for each in inputs:
            owner.act(each)
    except BaseException:
        print(f"role {role}, version {version}, inputs {inputs!r}")
        raise
    counted[f"{role.value} ended {owner.connection.state.value}"] += 1
    return inputs


def decode_alone(choose: random.Random, counted: Counter[str]) -> None:
    """The decoder by itself: a packet, need more, or RemoteProtocolError."""
    version = choose.choice((4, 5))
    data = mutated(choose, version)
    try:
        packet, offset = decode(data, 0, len(data), protocol_version=version, max_packet_bytes=100_000)
    except RemoteProtocolError:
        counted["decode: refused"] += 1
        return
    except BaseException:
        print(f"version {version}, bytes {data!r}")
        raise
    assert (offset <= len(data)) == (packet is not None), data
    counted["decode: packet" if packet is not None else "decode: need more"] += 1


def main(seconds: float, seed: int) -> None:
    """Run so long."""
    choose = random.Random(seed)
    counted: Counter[str] = Counter()
    end = time.monotonic() + seconds
    print(f"seed {seed}")
    while time.monotonic() < end:
        for _ in range(100):
            one_life(choose, counted)
            for _ in range(5):
                decode_alone(choose, counted)
    for name, count in sorted(counted.items()):
        print(f"{count:10d}  {name}")
    assert counted[f"client ended {State.CONNECTED.value}"], "no connection lived: the fuzzing reaches nothing"
    print(f"nothing found in {seconds:g} s")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() % 10**9)
