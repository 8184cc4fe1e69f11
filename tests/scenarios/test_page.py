"""The page as a person sees it: in Chromium, with its scripts, fed by the running gateway."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import GatewayFolder, free_port, send_tcp
from tests.webdriver import Browser


class PageTests(SynchronousTestCase):
    """With the environment variable TBGW_SCREENSHOT, a picture of what is tested is kept under that name."""

    def test_values_change_live(self) -> None:
        """Device, keys and values appear while the page is open; text from the wire stays text (P-20)."""
        folder = GatewayFolder(self)
        tcp, mqtt, http = free_port(), free_port(), free_port()
        folder.write(
            "tb_gateway.json",
            {
                "thingsboard": {
                    "host": "127.0.0.1",
                    "port": mqtt,
                    "security": {"type": "accessToken", "accessTokenFile": "sandbox/token"},
                },
                "sandbox": {"enabled": True, "mqttPort": mqtt, "httpPort": http},
                "connectors": [{"type": "socket", "name": "S", "configuration": "s.json"}],
            },
        )
        device = {
            "address": "*:*",
            "deviceName": "Weather & Co",
            "telemetry": [{"key": "temperature", "byteFrom": 1, "byteTo": 5}, {"key": "text", "byteFrom": 5}],
        }
        folder.write("s.json", {"socket": {"type": "TCP", "address": "127.0.0.1", "port": tcp}, "devices": [device]})
        gateway = folder.start()
        gateway.wait_for("connected to ThingsBoard")
        browser = Browser(self)
        browser.open(f"http://127.0.0.1:{http}/")
        self.assertIn(f"nc -q0 127.0.0.1 {tcp}", browser.text("//code[contains(., 'printf')]"))
        for tenth in range(10):
            send_tcp(tcp, b"T2%d.5<script>document.title='owned'</script>" % tenth)
        card = "//article[contains(., 'Weather & Co')]"
        row = card + "//*[contains(., 'temperature') and contains(., '29.5')]"
        browser.find(row)
        self.assertIn("<script>document.title='owned'</script>", browser.text(card))
        self.assertNotIn("owned", browser.title)
        send_tcp(tcp, b"T-7.5x")
        browser.find(card + "//*[contains(., 'temperature') and contains(., '-7.5')]")
        browser.click(card + "//*[self::li or self::button][contains(., 'temperature')]")
        browser.find("//dialog[@open]//*[local-name()='path' or local-name()='polyline']")
        if picture := os.environ.get("TBGW_SCREENSHOT"):
            browser.screenshot(Path(picture))
