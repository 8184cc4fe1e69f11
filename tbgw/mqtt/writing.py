"""Writing to a TCP transport at once, where nothing waits before it.

Twisted's `write` only notes the bytes and asks the reactor for a turn in which the socket is writable: two calls of
epoll_ctl, one more turn, and each of them lets another thread take the interpreter. For a lone packet that is more than
the packet itself costs, and the packet waits for it. A burst should be gathered by its writer.

Only for Twisted's own plain sockets, told by the class: TLS wraps the transport, and passes on names that it does not
know itself. All that is not plain goes the ordinary way. The OCPP library has a copy, since neither library knows the
other. What is known of the inside of `FileDescriptor` is in here, as it is in Twisted 26.4 to 26.10;
`tests.mqtt.test_writing` fails when that changes.
"""

from __future__ import annotations

from typing import Any


def write_at_once(transport: Any, data: bytes) -> None:
    """As `transport.write(data)`, but what the socket takes now is in it when this returns."""
    if _takes_at_once(transport):
        sent = transport.writeSomeData(data)
        if isinstance(sent, int) and sent >= 0:
            if sent == len(data):
                return
            data = data[sent:]
        # Else the connection is lost: the reactor finds that in its own turn, where it may tell the protocol.
    transport.write(data)


def _takes_at_once(transport: Any) -> bool:
    """Whether it is an open, plain socket of Twisted's on which nothing waits."""
    kind = type(transport)
    return (
        hasattr(kind, "writeSomeData")
        and hasattr(kind, "SEND_LIMIT")
        and not getattr(transport, "TLS", False)
        and transport.connected
        and not transport.disconnecting
        # Where one of these is not there, in a Twisted to come, everything goes the ordinary way.
        and not getattr(transport, "_writeDisconnecting", True)
        and not getattr(transport, "_tempDataBuffer", True)
        and not getattr(transport, "dataBuffer", True)
    )
