# -*- test-case-name: tests.connectors.socket.test_secure -*-
"""TLS on the connections of devices: as server with our certificate, as client verified. Imported only where it is
used, because OpenSSL costs a gateway 12 MiB that has no use for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from tbgw.connectors.socket.links import TLS, Target
from tbgw.errors import ConfigurationError
from tbgw.tls import ClientTLS, ServerTLS, client_creator, server_creator

if TYPE_CHECKING:
    from twisted.internet.interfaces import IOpenSSLClientConnectionCreator


class _AdmittingFactory(TLSMemoryBIOFactory):
    """Twisted's, for a factory that may refuse a connection."""

    def buildProtocol(self, addr: IAddress | None) -> Any:
        inner = self.wrappedFactory.buildProtocol(addr)
        return None if inner is None else self.protocol(self, inner)


def server_factory(factory: ServerFactory, tls: TLS, clock: IReactorTime) -> ServerFactory:
    """`factory` behind TLS. Raises ConfigurationError when the files cannot be used."""
    if tls.certificate is None or tls.private_key is None:
        raise ConfigurationError(["a TLS server needs a certificate and its private key"])
    creator = server_creator(ServerTLS(tls.certificate, tls.private_key, tls.ca_cert))
    return cast(ServerFactory, _AdmittingFactory(creator, False, factory, clock))


def client_options(target: Target, tls: TLS) -> IOpenSSLClientConnectionCreator:
    """What `wrapClientTLS` wants for one target. Raises ConfigurationError."""
    return client_creator(
        ClientTLS(
            tls.server_name or target.host,
            ca_cert=tls.ca_cert,
            certificate=tls.certificate,
            private_key=tls.private_key,
            accept_any_server=tls.accept_any_server,
        )
    )
