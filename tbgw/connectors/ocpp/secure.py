# -*- test-case-name: tests.connectors.ocpp.test_secure -*-
"""TLS of the listener, with certificates that may be renewed while it runs. Imported only where it is used, because
OpenSSL costs a gateway 12 MiB that has no use for it.

The files are looked at when somebody connects, at most every `LOOK_EVERY_SECONDS`; when one of them changed, all are
read, and new connections have the new certificates. Files that cannot be used are told, and the former ones stay.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorTime

from tbgw.connectors.ocpp.access import Connection
from tbgw.connectors.ocpp.internal_events import CertificatesReloaded, CertificatesUnusable
from tbgw.errors import ConfigurationError
from tbgw.internal_events import Events
from tbgw.tls import ServerTLS, server_creator

LOOK_EVERY_SECONDS = 30.0


def server_tls(connection: Connection) -> ServerTLS:
    """What `connection` says. Raises ConfigurationError when a file is missing."""
    if connection.cert is None or connection.key is None:
        raise ConfigurationError(["connection: type tls needs cert and key"])

    def phrase(secret: Any) -> bytes:
        return b"" if secret is None else secret.reveal().encode()

    return ServerTLS(
        connection.cert,
        connection.key,
        connection.ca,
        client_optional=connection.ca is not None and not connection.verify_client,
        passphrase=phrase(connection.password),
        more=tuple((pair.cert, pair.key, phrase(pair.password)) for pair in connection.more),
    )


class RenewedContext:
    """What `TLSMemoryBIOFactory` takes as a server's context. Raises ConfigurationError when made of bad files."""

    def __init__(
        self,
        connector: str,
        connection: Connection,
        events: Events,
        clock: IReactorTime,
        create: Callable[[ServerTLS], Any] = server_creator,
    ) -> None:
        self._connector = connector
        self._tls = server_tls(connection)
        self._events = events
        self._clock = clock
        self._create = create
        self._stamps = self._look()
        self._creator = create(self._tls)
        self._looked = clock.seconds()

    def getContext(self) -> Any:
        """Asked by Twisted for each connection."""
        if self._clock.seconds() - self._looked >= LOOK_EVERY_SECONDS:
            self._looked = self._clock.seconds()
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                self._renew()
        return self._creator.getContext()

    def _renew(self) -> None:
        try:
            self._creator = self._create(self._tls)
        except ConfigurationError as error:
            self._events.emit(CertificatesUnusable(self._connector, str(error)))
        else:
            self._events.emit(CertificatesReloaded(self._connector))

    def _look(self) -> list[tuple[int, int, int] | None]:
        tls = self._tls
        paths = [tls.certificate, tls.private_key, tls.client_ca]
        paths += [path for certificate, key, _ in tls.more for path in (certificate, key)]
        return [_stamp(path) for path in paths if path is not None]


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
