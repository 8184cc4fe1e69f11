"""The link against prosody and ejabberd: every way to log in, and every way to be refused."""

from __future__ import annotations

from typing import Any

from tbgw.connectors.xmpp import link_events
from tests.connectors.xmpp.links import LinkCase, body, message, pause
from tests.test_tls import Issued, authority, issue
from tests.xmppservers import COMPONENT, DOMAIN, USERS, XMPPServer, shared, start


class LoginTests(LinkCase):
    """Who gets in; on prosody."""

    kind = "prosody"
    scrams: tuple[str, ...] = ("SCRAM-SHA-1", "SCRAM-SHA-256")

    def server(self, **options: Any) -> XMPPServer:
        """One of its own if it has to be a special one."""
        return start(self.kind, self, USERS, **options) if options else shared(self.kind, self)

    async def refused(self, server: XMPPServer, **keys: Any) -> str:
        """The line that tells of a refused login; nothing may have come up."""
        _, listener, events = self.link(self.settings(server, **keys))
        await self.told(events, link_events.LoginTurnedDown)
        self.assertEqual(listener.ups, [])
        (event,) = events.of(link_events.LoginTurnedDown)
        self.assertGreaterEqual(event.retry_seconds, 45.0)
        return str(event.line())

    async def failed(self, server: XMPPServer, **keys: Any) -> str:
        """The line that tells of a session that did not come about."""
        _, listener, events = self.link(self.settings(server, **keys))
        await self.told(events, link_events.SessionFailed)
        self.assertEqual(listener.ups, [])
        return str(events.of(link_events.SessionFailed)[0].line())

    async def test_starttls(self):
        """STARTTLS with a verified certificate and the best SCRAM; stanzas go both ways, as they were written."""
        server = self.server()
        gateway, listener, events = await self.up(server)
        device, other, _ = await self.up(server, "device")
        device.send(message(gateway.jid, "21.5 °C <&> \U0001f321"))
        self.assertEqual(await listener.until_bodies(1), ["21.5 °C <&> \U0001f321"])
        gateway.send(message(device.jid, "back"))
        self.assertEqual(await other.until_bodies(1), ["back"])
        (event,) = events.of(link_events.SessionUp)
        self.assertEqual((event.encryption, event.management), ("TLSv1.3", "resumable"))
        self.assertEqual(event.mechanism, self.scrams[-1])
        self.assertEqual(other.stanzas[-1]["from"], gateway.jid)

    async def test_mechanisms(self):
        """Each kind of SCRAM, and PLAIN within TLS, by themselves; SASLprep makes one password of its spellings."""
        server = self.server()
        for name in (*self.scrams, "PLAIN"):
            link, _, _ = await self.up(server, mechanisms=[name])
            self.assertEqual(link.status()["mechanism"], name)
            await link.stopService()
        await self.up(server, "device", password="ünïcode \N{LATIN SMALL LIGATURE FI} pass")

    async def test_channel_binding(self):
        """With TLS 1.2 both servers offer -PLUS, and the login is bound to the connection."""
        server = self.server(tls13=False)
        for choice in ("prefer", "require"):
            link, _, _ = await self.up(server, channelBinding=choice)
            status = link.status()
            self.assertEqual((status["encryption"], status["mechanism"]), ("TLSv1.2", f"{self.scrams[-1]}-PLUS"))
            await link.stopService()
        link, _, _ = await self.up(server, channelBinding="off")
        self.assertEqual(link.status()["mechanism"], self.scrams[-1])

    async def test_wrong_binding(self):
        """Another connection's binding is refused: it is what a server in between would have."""
        from tbgw.connectors.xmpp import channel_binding

        server = self.server(tls13=False)
        self.patch(channel_binding, "binding", lambda connection, name: b"of another connection")
        await self.refused(server, channelBinding="require")

    async def test_digest_md5(self):
        """Prosody has no DIGEST-MD5 any more, and that is said."""
        line = await self.refused(self.server(), mechanisms=["DIGEST-MD5"])
        self.assertIn("the server offers", line)

    async def test_anonymous(self):
        """A JID without a name logs in anonymously, and the server gives it an address."""
        server = self.server(anonymous=True)
        link, _, _ = await self.up(server, jid=DOMAIN)
        self.assertEqual(link.status()["mechanism"], "ANONYMOUS")
        self.assertRegex(link.jid, rf".+@{DOMAIN}/.+")

    def certificate(self, server: XMPPServer) -> dict[str, str]:
        """The object `tls` with a client certificate."""
        certificate, key = server.client_certificate("gateway")
        return {"caCert": str(server.ca), "certificate": str(certificate), "privateKey": str(key)}

    async def test_certificate_login(self):
        """Prosody 0.12 takes no client certificates: that is said, and with a password beside it SCRAM is used."""
        server = self.server(client_certificates=True)
        tls = self.certificate(server)
        self.assertIn("neither a password", await self.refused(server, password=None, tls=tls))
        link, _, _ = await self.up(server, tls=tls)
        self.assertEqual(link.status()["mechanism"], self.scrams[-1])

    async def test_direct_tls(self):
        """TLS from the first byte, certificate verified as well."""
        server = self.server()
        link, _, _ = await self.up(server, port=server.direct_port, use_ssl=True)
        self.assertEqual(link.status()["encryption"], "TLSv1.3")
        server_ca = authority("another authority")
        other = server.folder / "other.pem"
        other.write_bytes(server_ca.pem)
        line = await self.failed(server, port=server.direct_port, use_ssl=True, tls={"caCert": str(other)})
        self.assertIn("certificate verify failed", line)

    async def test_without_tls(self):
        """A server without TLS is left, unless the configuration says never to encrypt; PLAIN needs one more word."""
        server = self.server(tls=False)
        self.assertIn("STARTTLS", await self.failed(server))
        link, _, _ = await self.up(server, disable_starttls=True, force_starttls=False)
        self.assertEqual(link.status()["encryption"], "no TLS")
        open_keys = {"disable_starttls": True, "force_starttls": False, "mechanisms": ["PLAIN"]}
        self.assertIn("PLAIN would show", await self.refused(server, **open_keys))
        link, _, _ = await self.up(server, "device", **open_keys, unencrypted_plain_auth=True)
        self.assertEqual(link.status()["mechanism"], "PLAIN")

    async def test_tls_if_possible(self):
        """`force_starttls` off: TLS where the server offers it, and verified then; without where it does not."""
        server = self.server()
        link, _, _ = await self.up(server, force_starttls=False)
        self.assertEqual(link.status()["encryption"], "TLSv1.3")
        await link.stopService()
        other = server.folder / "other.pem"
        other.write_bytes(authority("another authority").pem)
        self.assertIn("certificate", await self.failed(server, force_starttls=False, tls={"caCert": str(other)}))
        link, _, _ = await self.up(self.server(tls=False), force_starttls=False)
        self.assertEqual(link.status()["encryption"], "no TLS")

    async def test_server_wants_tls(self):
        """A server that requires TLS is told nothing by a gateway that may not encrypt."""
        await self.refused(self.server(), disable_starttls=True, force_starttls=False)

    async def test_resource(self):
        """The resource that is asked for is given; without one the server makes one."""
        server = self.server()
        link, _, _ = await self.up(server, jid=f"gateway@{DOMAIN}", resource="line-4")
        self.assertEqual(link.jid, f"gateway@{DOMAIN}/line-4")
        link, _, _ = await self.up(server, jid=f"gateway@{DOMAIN}")
        self.assertRegex(link.jid, rf"gateway@{DOMAIN}/.+")

    async def test_user_name(self):
        """The name for the login may be another than the JID's, and the identity to act as may be said."""
        server = self.server()
        link, _, _ = await self.up(
            server, jid=f"gateway@{DOMAIN}", username="gateway", authorizationId=f"gateway@{DOMAIN}"
        )
        self.assertTrue(link.jid.startswith(f"gateway@{DOMAIN}/"))
        await self.refused(server, username="device")

    async def test_wrong_password(self):
        """A wrong password is not tried again for a minute; the link stays alive, and the log does not show it."""
        server = self.server()
        line = await self.refused(server, password="canary-9")
        self.assertIn("not-authorized", line)
        self.assertNotIn("canary", line)
        self.assertIn("not-authorized", await self.refused(server, password="canary-9", mechanisms=["PLAIN"]))

    async def test_unknown_user(self):
        """An account that is not there."""
        await self.refused(self.server(), jid=f"nobody@{DOMAIN}")

    async def check_certificate(self, identity: Issued) -> None:
        server = self.server(identity=identity)
        _, listener, events = self.link(self.settings(server))
        await self.told(events, link_events.SessionFailed, 3)
        delays = [event.retry_seconds for event in events.of(link_events.SessionFailed)]
        self.assertEqual([round(delay, 2) for delay in delays[:3]], [0.1, 0.16, 0.26])
        self.assertIn("certificate verify failed", events.of(link_events.SessionFailed)[0].why)
        self.assertEqual(listener.ups, [])
        self.assertEqual(server.program.process.poll(), None)

    async def test_wrong_host(self):
        """A certificate for another name is refused, the JID's domain counts; the attempts come slower and slower."""
        await self.check_certificate(issue("x", authority("XMPP authority"), hosts=("other.example.org", "127.0.0.1")))

    async def test_expired(self):
        """So is one whose time is over."""
        await self.check_certificate(issue(DOMAIN, authority("XMPP authority"), hosts=(DOMAIN,), days=(-9, -2)))

    async def test_no_alternative_name(self):
        """So is one of our authority that has a common name only, as devices have (the hole in Twisted)."""
        await self.check_certificate(issue(DOMAIN, authority("XMPP authority")))

    async def test_unknown_authority(self):
        """So is one of an authority that we do not know."""
        await self.check_certificate(issue(DOMAIN, authority("another authority"), hosts=(DOMAIN,)))

    async def test_server_name(self):
        """`tls.serverName` names the certificate's name where it is not the JID's domain."""
        server = self.server(identity=issue("x", authority("XMPP authority"), hosts=("host.example.org",)))
        tls = {"caCert": str(server.ca), "serverName": "host.example.org"}
        await self.up(server, tls=tls)

    async def test_component(self):
        """As a component: any address before our domain gets through both ways; a ping goes round."""
        server = self.server()
        component, listener, _ = await self.up(
            server,
            jid=COMPONENT,
            password=server.component_secret,
            port=server.component_port,
            component=True,
            pingPeriodSeconds=1,
            pingTimeoutSeconds=2,
            tls=None,
        )
        device, other, _ = await self.up(server, "device")
        device.send(message(f"meter-7@{COMPONENT}/x", "hello"))
        self.assertEqual(await listener.until_bodies(1), ["hello"])
        self.assertEqual(listener.stanzas[-1]["to"], f"meter-7@{COMPONENT}/x")
        answer = message(device.jid, "from one")
        answer["from"] = f"meter-8@{COMPONENT}"
        component.send(answer)
        component.send(message(device.jid, "from the component"))
        self.assertEqual(await other.until_bodies(2), ["from one", "from the component"])
        self.assertEqual(
            [one["from"] for one in other.stanzas if body(one)], [f"meter-8@{COMPONENT}", COMPONENT]
        )
        await pause(3.5)
        self.assertEqual(listener.downs, [])

    async def test_component_wrong_secret(self):
        """A component with the wrong secret is held back like a wrong password."""
        server = self.server()
        line = await self.refused(
            server, jid=COMPONENT, password="canary-9", port=server.component_port, component=True, tls=None
        )
        self.assertIn("not-authorized", line)

    async def test_no_server(self):
        """Nobody listens: tried again, slower and slower."""
        server = start(self.kind, self, USERS)
        server.stop()
        _, _, events = self.link(self.settings(server))
        await self.told(events, link_events.SessionFailed, 3)
        self.assertIn("refused", events.of(link_events.SessionFailed)[0].line().lower())


class EjabberdLoginTests(LoginTests):
    """The same on ejabberd."""

    kind = "ejabberd"
    scrams = ("SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512")

    async def test_digest_md5(self):
        """DIGEST-MD5, with the server's proof verified."""
        link, _, _ = await self.up(self.server(), mechanisms=["DIGEST-MD5"])
        self.assertEqual(link.status()["mechanism"], "DIGEST-MD5")

    async def test_certificate_login(self):
        """A client certificate logs in without a password (EXTERNAL)."""
        server = self.server(client_certificates=True)
        link, _, _ = await self.up(server, password=None, tls=self.certificate(server))
        self.assertEqual(link.status()["mechanism"], "EXTERNAL")
        self.assertEqual(link.jid, f"gateway@{DOMAIN}/gateway")
