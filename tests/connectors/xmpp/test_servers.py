"""The link against prosody and ejabberd: every way to log in, and every way to be refused."""

from __future__ import annotations

from tests.connectors.xmpp.links import LinkCase, message
from tests.xmppservers import start


class LoginTests(LinkCase):
    """Who gets in; on prosody."""

    kind = "prosody"

    async def test_starttls(self):
        """STARTTLS with a verified certificate and the best SCRAM; stanzas go both ways."""
        server = start(self.kind, self, {"gateway": "secret", "device": "x"})
        gateway, listener, events = await self.up(server)
        device, other, _ = await self.up(server, "device")
        device.send(message(gateway.jid, "21.5 °C <&> \U0001f321"))
        self.assertEqual(await listener.until_bodies(1), ["21.5 °C <&> \U0001f321"])
        gateway.send(message(device.jid, "back"))
        self.assertEqual(await other.until_bodies(1), ["back"])
        print(events.told, gateway.status())


class EjabberdLoginTests(LoginTests):
    """The same on ejabberd."""

    kind = "ejabberd"
