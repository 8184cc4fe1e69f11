"""docs/sandbox.md tells the truth: its commands work as printed, and its switches are those that there are."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from twisted.internet import reactor, threads
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tbgw.cli import main
from tbgw.config.sandbox import SandboxSection
from tbgw.config.settings import settings_of
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox.service import Sandbox
from tbgw.sandbox.switches import Switches
from tbgw.web.site import WebSite
from tests.mqtt.memory import ClientRecord

PAGE = (Path(__file__).parents[1] / "docs" / "sandbox.md").read_text()


class PageTests(TestCase):
    """The page against the program."""

    timeout = 60

    def test_switches(self) -> None:
        """Every switch is told, and no other."""
        table = PAGE.partition("## Switches")[2].partition("## ")[0]
        told = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
        self.assertEqual(set(told), {one.name for one in fields(Switches)})

    def test_keys(self) -> None:
        """Every key of the section is told, and no other."""
        table = PAGE.partition("## Start")[2].partition("## ")[0]
        rows = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)
        told = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
        known = {setting.keys for setting in settings_of(SandboxSection).values()}
        self.assertEqual({key for keys in known if told.isdisjoint(keys) for key in keys[:1]}, set())
        self.assertEqual(told - {key for keys in known for key in keys}, set())

    async def test_commands(self) -> None:
        """Each command works, one after the other."""
        events = Events(Counters(), time.monotonic)

        def now_ms() -> int:
            return int(time.time() * 1000)

        sandbox = Sandbox(reactor, mqtt_port=0, events=events, now_ms=now_ms)
        sandbox.startService()
        self.addCleanup(sandbox.stopService)
        site = WebSite(reactor, "127.0.0.1", 0, sandbox.view, [], events, now_ms, control=sandbox.commands)
        site.startService()
        self.addCleanup(site.stopService)
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "image.bin").write_bytes(os.urandom(1000))
        gateway = await self.answering(sandbox)
        self.addCleanup(gateway)
        lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
        commands = [shlex.split(line)[1:] for line in lines if line.startswith("tbgw")]
        self.assertGreater(len(commands), 15)
        for command in commands:
            words = [str(folder / word) if word == "image.bin" else word for word in command]
            output = io.StringIO()

            def call(words: list[str] = words, output: io.StringIO = output) -> int:
                with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                    return main.main([words[0], "--url", f"http://127.0.0.1:{site.port}", *words[1:]])

            self.assertEqual(await threads.deferToThread(call), 0, (command, output.getvalue()))

    async def answering(self, sandbox: Sandbox) -> Callable[[], Deferred[None]]:
        """A gateway that answers every call; gives back how to end it."""
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

        from tbgw.mqtt import ClientOptions, MQTTClientProtocol

        record = ClientRecord()
        up: Deferred[None] = Deferred()
        record.on_connected = lambda protocol: up.callback(None)

        def answer(protocol: MQTTClientProtocol, publish: object) -> None:
            topic = getattr(publish, "topic", "")
            if "/rpc/request/" in topic:
                protocol.publish(topic.replace("request", "response"), b"{}")

        record.on_message = answer
        options = ClientOptions(username=sandbox.ensure_token())
        protocol = MQTTClientProtocol(options, record, reactor)
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", sandbox.port or 0), protocol)
        await up
        await protocol.subscribe([("v1/devices/me/rpc/request/+", 1)])
        gone: Deferred[None] = Deferred()
        record.on_disconnected = lambda: gone.callback(None)

        def end() -> Deferred[None]:
            protocol.disconnect()
            return gone

        return end


