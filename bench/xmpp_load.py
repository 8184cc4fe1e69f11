"""Load over XMPP, as a program of its own: `python -m bench.xmpp_load PORT SECRET DOMAIN TO MESSAGES DEVICES`.

A server component (XEP-0114) on a bare socket, which writes messages of DEVICES accounts in turn as fast as the server
takes them: `{"n": "<8 digits>", "t": 21.5}`. Prints when it began (time.perf_counter) and the seconds it took.
"""

from __future__ import annotations

import hashlib
import re
import socket
import sys
import time


def main(port: int, secret: str, domain: str, to: str, messages: int, devices: int) -> None:
    """Log in, write, wait for a line on standard input, and close the stream."""
    link = socket.create_connection(("127.0.0.1", port), timeout=60)
    stream = "http://etherx.jabber.org/streams"
    link.sendall(f"<stream:stream xmlns='jabber:component:accept' xmlns:stream='{stream}' to='{domain}'>".encode())
    seen = b""
    while b"<stream:stream" not in seen or not seen.rstrip().endswith(b">"):
        seen += link.recv(4096)
    found = re.search(rb"""\bid=['"]([^'"]+)""", seen[seen.index(b"<stream:stream") :])
    assert found is not None, seen
    digest = hashlib.sha1(found[1] + secret.encode()).hexdigest()  # noqa: S324 - XEP-0114 says so
    link.sendall(f"<handshake>{digest}</handshake>".encode())
    seen = b""
    while b"<handshake" not in seen:
        seen += link.recv(4096)
    stanzas = [
        f"<message from='m{n % devices}@{domain}/r' to='{to}' type='chat' id='{n}'>"
        f'<body>{{"n":"{n:08d}","t":21.5}}</body></message>'.encode()
        for n in range(messages)
    ]
    begin = time.perf_counter()
    for at in range(0, messages, 50):
        link.sendall(b"".join(stanzas[at : at + 50]))
    took = time.perf_counter() - begin
    print(f"{begin:.6f} {took:.6f}", flush=True)
    sys.stdin.readline()
    link.sendall(b"</stream:stream>")
    link.close()


if __name__ == "__main__":
    _, own_port, own_secret, own_domain, receiver, count, accounts = sys.argv
    main(int(own_port), own_secret, own_domain, receiver, int(count), int(accounts))
