"""The bare receive rate: the connector's own link, logged in to the server, whose listener only counts:
`python -m bench.xmpp_peer PORT CA DOMAIN PASSWORD MESSAGES STREAM_MANAGEMENT`.

Prints `ready` once it is logged in, and when MESSAGES have come the time (time.perf_counter) of the last and the CPU
time that the process used since the login, in seconds.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from twisted.internet import reactor as real_reactor
from twisted.internet.defer import Deferred, succeed
from twisted.words.xish.domish import Element
from zope.interface import implementer

from tbgw.config.document import read_document
from tbgw.config.findings import Reporter
from tbgw.connectors.xmpp.interfaces import IXMPPListener
from tbgw.connectors.xmpp.link import XMPPLink
from tbgw.connectors.xmpp.server_config import read_server
from tbgw.internal_events import Events
from tbgw.metrics import Counters

reactor: Any = real_reactor
SETTINGS = """{"jid": "gateway@%s/tbgw", "password": "%s", "host": "127.0.0.1", "port": %s, "tls": {"caCert": "%s"},
 "streamManagement": %s}"""


@implementer(IXMPPListener)
class Counting:
    """Counts messages, each stored at once."""

    def __init__(self, link: XMPPLink, expected: int) -> None:
        self.link = link
        self.expected = expected
        self.count = 0
        self.cpu = 0.0

    def link_up(self, own_jid: str) -> None:
        self.link.send(Element((None, "presence")))
        self.cpu = time.process_time()
        print("ready", flush=True)

    def link_down(self, reason: str) -> None:
        print(f"down: {reason}", flush=True)

    def stanza_received(self, element: Element) -> Deferred[None] | None:
        if element.name != "message":
            return None
        self.count += 1
        if self.count == self.expected:
            print(f"{time.perf_counter():.6f} {time.process_time() - self.cpu:.6f}", flush=True)
        return succeed(None)


def main(port: str, ca: str, domain: str, password: str, messages: str, stream_management: str) -> None:
    """Run until killed."""
    text = SETTINGS % (domain, password, port, ca, stream_management)
    server = read_server(read_document(text.encode(), "bench").root, Reporter(Path(), Path()))
    link = XMPPLink("bench", server, Events(Counters(), reactor.seconds), reactor)
    link.set_listener(Counting(link, int(messages)))
    link.startService()
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
