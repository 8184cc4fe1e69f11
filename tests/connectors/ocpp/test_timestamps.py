"""Times as chargers write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.timestamps import (
    EARLIEST_MS,
    LATEST_AHEAD_MS,
    believable,
    format_timestamp,
    parse_timestamp,
)
from tests.connectors.ocpp.fakes import NOW_MS


class TimestampTests(SynchronousTestCase):
    """Reading, believing, writing."""

    def test_forms_of_the_field(self):
        """Everything that was seen on a wire, and what each means."""
        for text in (
            "2026-11-18T11:06:40Z",
            "2026-11-18T11:06:40.000Z",
            "2026-11-18T11:06:40.0000000Z",
            "2026-11-18T11:06:40",
            "2026-11-18 11:06:40Z",
            "20261118T110640Z",
            "2026-11-18T12:06:40+01:00",
            "2026-11-18T12:06:40+01",
            "2026-11-18T12:06:40+0100",
            " 2026-11-18T11:06:40Z ",
        ):
            self.assertEqual(parse_timestamp(text), NOW_MS, text)

    def test_fractions(self):
        """Milliseconds are kept, what is finer is cut off."""
        self.assertEqual(parse_timestamp("2026-11-18T11:06:40.1239999Z"), NOW_MS + 123)

    def test_zone(self):
        """Only a time without a zone of its own is in the given one."""
        zone = timezone(timedelta(hours=2))
        self.assertEqual(parse_timestamp("2026-11-18T13:06:40", zone), NOW_MS)
        self.assertEqual(parse_timestamp("2026-11-18T11:06:40Z", zone), NOW_MS)

    def test_no_times(self):
        """Anything else is None, of whatever type and length."""
        others: tuple[Any, ...] = ("", "now", "2026-13-01T00:00:00Z", 17, None, [], {}, True, "2026" * 1000, "9" * 50)
        for value in others:
            self.assertIsNone(parse_timestamp(value), value)

    def test_believable(self):
        """The year 1, 1970 and next week are not believed; old data of an offline charger is."""
        for text, expected in (
            ("0001-01-01T00:00:00Z", False),
            ("1970-01-01T00:01:00Z", False),
            ("1999-12-31T23:59:59Z", False),
            ("2000-01-01T00:00:00Z", True),
            ("2026-11-01T00:00:00Z", True),
            ("2026-11-19T11:06:40Z", True),
            ("2026-11-19T11:06:41Z", False),
            ("9999-12-31T23:59:59-23:59", False),
        ):
            self.assertEqual(believable(text, NOW_MS) is not None, expected, text)

    @given(st.integers(0, 253_402_300_799_999))
    def test_written_and_read(self, time_ms: int):
        """What is written is read as the same, and has the form that every version wants."""
        text = format_timestamp(time_ms)
        self.assertEqual(parse_timestamp(text), time_ms)
        self.assertRegex(text, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")

    @given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))  # noqa: DTZ001 - naive
    def test_any_zone(self, moment: datetime, minutes: int):
        """The zone is taken into account exactly."""
        zone = timezone(timedelta(minutes=minutes))
        found = parse_timestamp(moment.replace(tzinfo=zone).isoformat())
        as_utc = parse_timestamp(moment.replace(tzinfo=UTC).isoformat())
        assert found is not None and as_utc is not None
        self.assertEqual(as_utc - found, minutes * 60_000)

    @given(st.text(max_size=80) | st.text("0123456789-+:TZ. W", max_size=40))
    def test_never_raises(self, text: str):
        """No text makes it fail, and what is believed is within the bounds."""
        found = believable(text, NOW_MS)
        self.assertTrue(found is None or EARLIEST_MS <= found <= NOW_MS + LATEST_AHEAD_MS)
