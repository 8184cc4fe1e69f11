# -*- test-case-name: tests.connectors.ocpp.test_sessions -*-
"""What a message does to the charging sessions of its charge point. Pure.

Everything that an answer depends on is decided here: which id a StartTransaction gets, which session a StopTransaction
ends. A message that lacks what its session is made of is refused; anything else that is wrong with it is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tbgw.connectors.ocpp.measurands import number_of
from tbgw.connectors.ocpp.replies import tag_of
from tbgw.connectors.ocpp.telemetry import integer_of, register_of, text_of
from tbgw.connectors.ocpp.timestamps import believable
from tbgw.connectors.ocpp.transactions import Sessions, Transaction, TransactionIds
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.versions import Version

MAX_ID_CHARACTERS = 64
"""Longest transaction id of a station that is taken; the standard has 36."""
MAX_REQUEST_CHARACTERS = 400
_EVENTS = ("Started", "Updated", "Ended")


class SessionKeeper:
    """For all charge points of a connector; `ids`: where its transaction ids come from."""

    def __init__(self, ids: TransactionIds) -> None:
        self._ids = ids

    def apply(
        self, sessions: Sessions, version: Version, action: str, payload: Mapping[str, Any], now_ms: int
    ) -> Transaction | None:
        """
        The session that the message begins, changes or ends; None when it is of none that is known, or of no session
        at all. Raises CallRefused.
        """
        if version.is_2:
            return self._event(sessions, payload, now_ms) if action == "TransactionEvent" else None
        if action == "StartTransaction":
            return self._start(sessions, payload, now_ms)
        if action == "StopTransaction":
            return self._stop(sessions, payload, now_ms)
        return None

    def _start(self, sessions: Sessions, payload: Mapping[str, Any], now_ms: int) -> Transaction:
        connector, tag = integer_of(payload.get("connectorId")), tag_of(Version.V16, payload)
        if connector is None:
            raise CallRefused("OccurrenceConstraintViolation", "there is no connectorId")
        if tag is None:
            raise CallRefused("OccurrenceConstraintViolation", "there is no idTag")
        stated, meter_start = payload.get("timestamp"), number_of(payload.get("meterStart"))
        request = f"{connector} {tag.lower()} {meter_start} {text_of(stated)}"[:MAX_REQUEST_CHARACTERS]
        begun = sessions.repeated(request, now_ms, text_of(stated) is not None)
        if begun is not None:
            return begun
        time_ms = _time(stated, now_ms)
        before = sessions.running_on(connector)
        if before is not None:  # its end was lost, or is still on the way
            before.stop_ms = time_ms
            sessions.changed = True
        number = self._ids.take()
        session = Transaction(number, connector, tag, meter_start, time_ms, received_ms=now_ms, request=request)
        sessions.add(session)
        return session

    def _stop(self, sessions: Sessions, payload: Mapping[str, Any], now_ms: int) -> Transaction | None:
        session = sessions.find(integer_of(payload.get("transactionId")))
        if session is not None:
            session.stop_ms = _time(payload.get("timestamp"), now_ms)
            sessions.changed = True
        return session

    def _event(self, sessions: Sessions, payload: Mapping[str, Any], now_ms: int) -> Transaction:
        info = payload.get("transactionInfo")
        stated = info.get("transactionId") if isinstance(info, dict) else None
        if isinstance(stated, int) and not isinstance(stated, bool) and abs(stated) < 10**20:
            stated = str(stated)
        if not isinstance(info, dict) or not isinstance(stated, str) or not stated:
            raise CallRefused("OccurrenceConstraintViolation", "there is no transactionInfo.transactionId")
        if len(stated) > MAX_ID_CHARACTERS:
            raise CallRefused("PropertyConstraintViolation", "transactionId is too long")
        event = payload.get("eventType")
        if event not in _EVENTS:
            raise CallRefused("PropertyConstraintViolation", f"eventType must be one of {', '.join(_EVENTS)}")
        time_ms = _time(payload.get("timestamp"), now_ms)
        session = sessions.find(stated)
        if session is None:
            session = Transaction(stated, None)
            sessions.add(session)
        evse = payload.get("evse")
        number = integer_of(evse.get("id")) if isinstance(evse, dict) else None
        if number and number != session.connector:
            session.connector = number
            sessions.changed = True
        tag = tag_of(Version.V201, payload)
        if tag and session.id_tag is None:
            session.id_tag = tag
            sessions.changed = True
        state = text_of(info.get("chargingState"))
        if state is not None:
            session.charging_state = state
        if event == "Started":
            session.start_ms = time_ms
            session.meter_start = register_of(payload.get("meterValue"), "Transaction.Begin")
        elif event == "Ended":
            session.stop_ms = time_ms
        if event != "Updated":
            sessions.changed = True
        return session


def _time(stated: Any, now_ms: int) -> int:
    found = believable(stated, now_ms)
    return now_ms if found is None else found
