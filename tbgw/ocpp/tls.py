"""TLS in front of the listener. A module of its own because pyOpenSSL costs 12 MiB that a plain one need not spend."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.protocols.tls import TLSMemoryBIOFactory


class AdmittingTLSFactory(TLSMemoryBIOFactory):
    """Twisted's, for a factory that may turn a connection away before its TLS handshake."""

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """None closes the connection."""
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)
