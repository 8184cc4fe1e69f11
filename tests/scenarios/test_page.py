"""The page as a person sees it: in Chromium, with its scripts, fed by the running gateway."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import GatewayFolder, free_port, send_tcp
from tests.webdriver import Browser


class PageTests(SynchronousTestCase):
    """With the environment variable TBGW_SCREENSHOT, a picture of what is tested is kept under that name."""

    def start(self) -> tuple[Browser, int]:
        """A gateway with one socket connector, its page opened; and the port of the connector."""
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
        return browser, tcp

    def picture(self, browser: Browser, name: str = "") -> None:
        """For people."""
        if picture := os.environ.get("TBGW_SCREENSHOT"):
            browser.screenshot(Path(picture).with_stem(Path(picture).stem + name))

    def test_values_change_live(self) -> None:
        """Device, keys and values appear while the page is open; text from the wire stays text (P-20)."""
        browser, tcp = self.start()
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
        self.picture(browser)

    def test_manage(self) -> None:
        """Attributes, commands, firmware, a new name and the end of a device, from its card."""
        browser, tcp = self.start()
        send_tcp(tcp, b"T21.5x")
        browser.click("//article[contains(., 'Weather & Co')]//button[.='Manage']")
        sheet = "//dialog[@id='manage' and @open]"
        browser.type(f"{sheet}//input[@id='shared-key']", "limit")
        browser.type(f"{sheet}//input[@id='shared-value']", '{"<b>": [1, 2]}')
        browser.click(f"{sheet}//button[@id='shared-set']")
        browser.find(f"{sheet}//li[contains(., 'limit') and contains(., '{{\"<b>\":[1,2]}}')]")
        browser.type(f"{sheet}//input[@id='rpc-method']", "open")
        browser.click(f"{sheet}//button[@id='rpc-call']")
        browser.find(f"{sheet}//pre[contains(., 'error')]")  # the gateway's word: it knows no such method
        image = Path(self.mktemp()).absolute()
        image.write_bytes(bytes(1000))
        browser.type(f"{sheet}//input[@id='ota-title']", "meter")
        browser.type(f"{sheet}//input[@id='ota-version']", "v2")
        browser.type(f"{sheet}//input[@id='ota-file']", str(image))
        browser.click(f"{sheet}//button[@id='ota-offer']")
        browser.find(f"{sheet}//li[contains(., 'fw_size') and contains(., '1000')]")
        self.picture(browser, "-manage")
        browser.click(f"{sheet}//button[@aria-label='Delete limit']")
        browser.find(f"{sheet}//ul[@id='shared-list' and not(contains(., 'limit'))]")
        browser.type(f"{sheet}//input[@id='rename-to']", "<i>Roof</i> 2")
        browser.click(f"{sheet}//button[@id='rename']")
        self.assertIn("cannot be called so", browser.text(f"{sheet}//p[contains(., 'cannot')]"))
        browser.type(f"{sheet}//input[@id='rename-to']", "Roof & Co")
        browser.click(f"{sheet}//button[@id='rename']")
        browser.click("//article[contains(., 'Roof & Co')]//button[.='Manage']")
        browser.find("//div[@id='cards' and not(contains(., 'Weather & Co'))]")
        browser.click(f"{sheet}//button[@id='delete']")
        browser.click(f"{sheet}//button[@id='delete' and contains(., 'Really')]")
        browser.find("//div[@id='cards' and not(contains(., 'Roof & Co'))]")
