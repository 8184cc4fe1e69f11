# -*- test-case-name: tests.connectors.xmpp.test_parts -*-
"""wokkel on today's Twisted: the only module that imports it, so that the order can never be wrong.

wokkel 18 wants one name that Twisted 26 no longer has (`twisted.python.compat._PY3`), and others that are deprecated
and may go (`unicode`, `iteritems`, `itervalues`). They are put there before wokkel is imported; on a wokkel that Debian
patched this does nothing. wokkel is not copied and not changed.

What is used of it: `StreamManager`, which leads a stream from connecting to its end and tells its handlers; those
for pings and version. Not used: `wokkel.client.XMPPClient`, whose back-off starts anew with each TCP connection, which
gives up for good on a wrong password and imports the global reactor; `request`, which takes an answer from anybody who
knows the id; `send`, which queues without bound while there is no stream; `DiscoHandler`, see `disco`.
"""

from __future__ import annotations

import warnings

from twisted.python import compat

for _name, _value in (
    ("_PY3", True),
    ("unicode", str),
    ("StringType", str),
    ("iteritems", lambda mapping: iter(mapping.items())),
    ("itervalues", lambda mapping: iter(mapping.values())),
):
    if _name not in vars(compat):
        setattr(compat, _name, _value)

with warnings.catch_warnings():
    # Of names of Twisted that are deprecated, which wokkel takes as it is imported. Whoever runs the gateway can do
    # nothing about them, and trial would make errors of them.
    warnings.simplefilter("ignore", DeprecationWarning)
    from wokkel.generic import VersionHandler
    from wokkel.ping import PingHandler
    from wokkel.subprotocols import StreamManager, XMPPHandler

__all__ = [
    "PingHandler",
    "StreamManager",
    "VersionHandler",
    "XMPPHandler",
]
