"""A device made of slixmpp's roles of XEP-0323 and XEP-0325, as a program of its own:

    python -m tests.connectors.xmpp.slixmpp_device JID PASSWORD PORT CA GATEWAY

It asks the gateway for its presence and prints what happens to it. slixmpp speaks the old reply forms; with its threads
on it would send from several at once.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from slixmpp import ClientXMPP
from slixmpp.plugins.xep_0323.device import Device as Sensor
from slixmpp.plugins.xep_0325.device import Device as Actuator


class Meter(Sensor):
    """Momentary values of every type that slixmpp writes."""

    def __init__(self) -> None:
        super().__init__("meter")
        for name, kind, value, unit in (
            ("Temperature", "numeric", "21.5", "C"),
            ("Open", "boolean", "true", None),
            ("Name", "string", "Line 4", None),
            ("Mode", "enum", "eco", None),
            ("Set", "dateTime", "2026-01-01T10:00:00", None),
            ("Uptime", "timeSpan", "P1D", None),
        ):
            self._add_field(name, kind, unit, "Mode" if kind == "enum" else None)
            self._add_field_momentary_data(name, value, {"automaticReadout": "true"})


class Relay(Actuator):
    """One switch and one number."""

    def __init__(self) -> None:
        super().__init__("meter")
        self._add_control_field("Relay", "boolean", "false")
        self._add_control_field("Level", "int", "1")

    def _set_field_value(self, name: str, value: str) -> None:
        super()._set_field_value(name, value)
        print(f"{name} is {value}", flush=True)


class Program(ClientXMPP):
    """The device."""

    def __init__(self, jid: str, password: str, ca: str, gateway: str) -> None:
        super().__init__(jid, password)
        self.ca_certs = ca  # type: ignore[assignment] # a path as text is what it takes
        self.gateway = gateway
        for plugin in ("xep_0030", "xep_0184", "xep_0199", "xep_0325"):
            self.register_plugin(plugin)
        self.register_plugin("xep_0323", {"threaded": False})
        self.plugin["xep_0323"].register_node(nodeId="meter", device=Meter(), commTimeout=5)
        self.plugin["xep_0325"].register_node(nodeId="meter", device=Relay(), commTimeout=5)
        self.add_event_handler("session_start", self.started)
        self.add_event_handler("message", self.message)
        self.add_event_handler("receipt_received", lambda _: print("receipt", flush=True))

    async def started(self, _: Any) -> None:
        self.send_presence()
        await self.get_roster()
        self.send_presence_subscription(pto=self.gateway)
        print("ready", flush=True)

    def message(self, message: Any) -> None:
        """Repeat what was said, with its thread; `send ...` asks for a receipt of the rest, sent to the gateway."""
        if message["type"] == "error" or not message["body"]:
            return
        if message["body"].startswith("send "):
            reading = self.make_message(mto=message["from"], mbody=message["body"][5:], mtype="chat")
            reading["request_receipt"] = True
            reading.send()
            return
        message.reply(f"heard {message['body']}").send()


if __name__ == "__main__":
    own, secret, port, authority, to = sys.argv[1:]
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    device = Program(own, secret, authority, to)
    device.connect("127.0.0.1", int(port))
    loop.run_forever()
