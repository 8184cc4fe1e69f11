"""The two log formats: one event, one line, and nothing below the level."""

from __future__ import annotations

import io
import json
import sys
from datetime import UTC, datetime
from typing import Any
from unittest import mock

from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw import logs

WHEN = datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC).timestamp()


class Base(SynchronousTestCase):
    """Has an environment without TBGW_LOG_LEVEL, and a stream."""

    def setUp(self) -> None:
        self.stream = io.StringIO()
        self.level("info")

    def level(self, word: str | None) -> None:
        patched = mock.patch.dict("os.environ", {} if word is None else {"TBGW_LOG_LEVEL": word})
        patched.start()
        self.addCleanup(patched.stop)

    def event(self, level: Any = LogLevel.info, **more: Any) -> LogEvent:
        return {"log_time": WHEN, "log_level": level, "log_namespace": "tbgw.uplink", **more}

    def failed(self) -> Failure:
        try:
            raise ValueError("boom")
        except ValueError:
            return Failure()


class TextTests(Base):
    """`logs.text`."""

    def observe(self, event: LogEvent) -> str:
        observer = logs.text(self.stream)
        verifyObject(ILogObserver, observer)
        observer(event)
        return self.stream.getvalue()

    def test_line(self):
        """Time in UTC with milliseconds, level, namespace, message."""
        self.assertEqual(
            self.observe(self.event(log_format="connected to {where}", where="tb:1883")),
            "2026-11-21T10:00:00.123Z info     tbgw.uplink  connected to tb:1883\n",
        )

    def test_traceback(self):
        """A failure follows with its traceback."""
        written = self.observe(self.event(LogLevel.critical, log_format="it broke", log_failure=self.failed()))
        self.assertIn("it broke\n", written)
        self.assertIn("ValueError: boom", written)
        self.assertIn("test_logs.py", written)
        self.assertTrue(written.endswith("\n"))

    def test_poor_events(self):
        """An event with as little in it as can be makes a line all the same."""
        self.assertIn("tbgw", self.observe({"log_time": WHEN, "log_level": LogLevel.info, "log_namespace": "tbgw"}))

    def test_broken_formats(self):
        """An event whose format cannot be filled in makes one line that says so, and raises nothing."""
        self.assertIn("Unable to format", self.observe(self.event(log_format="{missing.attribute}")))

    def test_letters_that_the_stream_cannot_write(self):
        """On a stream of another encoding letters are escaped, and no line is lost."""
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="ascii")
        for observer in (logs.text(stream), logs.json_lines(stream)):
            observer(self.event(log_format="device {name}", name="Zähler 温度 \ud800"))
        stream.flush()
        self.assertEqual(raw.getvalue().count(b"\n"), 2)
        self.assertIn(b"Z\\xe4hler", raw.getvalue())


class JsonTests(Base):
    """`logs.json_lines`."""

    def observe(self, event: LogEvent) -> list[dict[str, Any]]:
        observer = logs.json_lines(self.stream)
        verifyObject(ILogObserver, observer)
        observer(event)
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def test_object(self):
        """One object a line, with the event's kind."""
        (entry,) = self.observe(self.event(LogLevel.warn, log_format="{line}", line='say "A" ü', event="Told"))
        self.assertEqual(
            entry,
            {
                "time": "2026-11-21T10:00:00.123Z",
                "level": "warn",
                "namespace": "tbgw.uplink",
                "event": "Told",
                "message": 'say "A" ü',
            },
        )

    def test_one_line_whatever_is_in_it(self):
        """Line ends in message and traceback do not break the object apart."""
        (entry,) = self.observe(self.event(log_format="a\nb\r\u2028c", log_failure=self.failed()))
        self.assertEqual(entry["message"], "a\nb\r\u2028c")
        self.assertIn("ValueError: boom", entry["traceback"])

    def test_other_things_called_event(self):
        """What other programs put under `event` is not taken for the kind."""
        (entry,) = self.observe(self.event(log_format="x", event=object()))
        self.assertNotIn("event", entry)


class LevelTests(Base):
    """TBGW_LOG_LEVEL."""

    def written(self) -> list[str]:
        observer = logs.text(self.stream)
        for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical):
            observer(self.event(level, log_format=level.name))
        return [line.split()[1] for line in self.stream.getvalue().splitlines()]

    def test_levels(self):
        """What is below the level is left out, in any spelling of the level."""
        for word, expected in (("debug", 5), ("info", 4), ("WARN", 3), ("error", 2), ("Critical", 1)):
            self.stream = io.StringIO()
            self.level(word)
            self.assertEqual(len(self.written()), expected, word)

    def test_unset(self):
        """Unset means info."""
        with mock.patch.dict("os.environ"):
            __import__("os").environ.pop("TBGW_LOG_LEVEL")
            self.assertEqual(self.written(), ["info", "warn", "error", "critical"])

    def test_unknown(self):
        """An unknown word is told, and info is used."""
        self.level("loud")
        with mock.patch.object(sys, "stderr", io.StringIO()) as told:
            self.assertEqual(self.written(), ["info", "warn", "error", "critical"])
        self.assertIn("loud", told.getvalue())

    def test_real_logger(self):
        """The observers understand what Twisted's Logger makes."""
        for make in (logs.text, logs.json_lines):
            stream = io.StringIO()
            log = Logger(namespace="tbgw.test", observer=make(stream))
            log.info("hello {name}", name="A")
            log.failure("it broke", self.failed())
            self.assertIn("hello A", stream.getvalue())
            self.assertIn("ValueError: boom", stream.getvalue())

    def test_standard_output(self):
        """Without a stream it is standard output, as it is at that moment."""
        for make in (logs.text, logs.json_lines):
            with mock.patch.object(sys, "stdout", io.StringIO()) as out:
                make()(self.event(log_format="hello"))
            self.assertIn("hello", out.getvalue())
