"""Chromium driven through chromedriver, over the WebDriver protocol (W3C): a few lines, so that no client is needed."""

from __future__ import annotations

import base64
import json
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import SECONDS, Program, free_port, need

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key that WebDriver wraps an element's id in (section 12.1 of the standard)."""


class Browser:
    """One window. Finding an element waits for it to appear."""

    def __init__(self, test: SynchronousTestCase) -> None:
        chromium, driver = need("chromium"), need("chromedriver")
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        program = Program(test, [driver, f"--port={port}"])
        program.wait_for("started successfully")
        profile = tempfile.TemporaryDirectory(prefix="tbgw-chromium-", ignore_cleanup_errors=True)
        test.addCleanup(profile.cleanup)
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1100,800",
            f"--user-data-dir={profile.name}",
        ]
        capabilities = {
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "timeouts": {"implicit": int(SECONDS * 1000)},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._url += f"/session/{session['sessionId']}"
        test.addCleanup(self._call, "DELETE", "", None)

    def _call(self, method: str, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=2 * SECONDS) as answer:
            return json.loads(answer.read())["value"]

    def open(self, url: str) -> None:
        """Go to `url`."""
        self._call("POST", "/url", {"url": url})

    def find(self, xpath: str) -> str:
        """The id of the element, once there is one."""
        return str(self._call("POST", "/element", {"using": "xpath", "value": xpath})[ELEMENT])

    def text(self, xpath: str) -> str:
        """The element's visible text."""
        return str(self._call("GET", f"/element/{self.find(xpath)}/text", None))

    def click(self, xpath: str) -> None:
        """Click on the element."""
        self._call("POST", f"/element/{self.find(xpath)}/click", {})

    def type(self, xpath: str, text: str) -> None:
        """Put `text` into the field, in the place of what is there; into a file field, the path of a file."""
        element = self.find(xpath)
        if self._call("GET", f"/element/{element}/property/type", None) != "file":
            self._call("POST", f"/element/{element}/clear", {})
        self._call("POST", f"/element/{element}/value", {"text": text})

    @property
    def title(self) -> str:
        """The window's title."""
        return str(self._call("GET", "/title", None))

    def screenshot(self, path: Path) -> None:
        """A picture of the window, for people."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot", None)))
