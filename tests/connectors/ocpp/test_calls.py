"""A Call that changes a password: what is kept, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tbgw.connectors.ocpp.calls import Calls, new_password
from tbgw.connectors.ocpp.ledger import Ledger
from tbgw.connectors.ocpp.security import Doorkeeper
from tbgw.errors import CommandFailed
from tbgw.ocpp.errors import CallErrorReceived, CallTimedOut, PayloadInvalid, ResultInvalid, StationGone
from tbgw.ocpp.versions import Version
from tests.connectors.ocpp.stand_ins import FakeReports, FakeStation, Lines, make_config
from tests.connectors.ocpp.test_security import KEY, HashAtOnce

CHANGE = {"key": "AuthorizationKey", "value": KEY.hex()}
SET = {
    "setVariableData": [
        {
            "component": {"name": "SecurityCtrlr"},
            "variable": {"name": "BasicAuthPassword"},
            "attributeValue": "a password of 2.x",
        }
    ]
}


def told(status: str) -> dict[str, Any]:
    return {"setVariableResult": [{**SET["setVariableData"][0], "attributeStatus": status}]}


def answering(reply: Any) -> Any:
    return lambda action, payload: reply


class PasswordTests(SynchronousTestCase):
    """`Calls`, with a real ledger whose writes the test lets happen."""

    def setUp(self) -> None:
        self.lines = Lines()
        clock = Clock()
        self.writes: list[Deferred[None]] = []
        self.at_once = True
        self.ledger = Ledger(Path(self.mktemp()), clock, self.lines.events, self.write)
        config = make_config(self)
        self.hashing = HashAtOnce()
        keeper = Doorkeeper("c", config, self.ledger, self.hashing, self.lines.events, clock)
        self.reports = FakeReports()
        self.proven = True
        self.calls = Calls(
            cast(Any, self.reports), keeper, self.hashing, lambda station: "id", lambda station: self.proven
        )
        self.station = FakeStation(config.charge_points[0])

    def write(self, job: Any) -> Deferred[None]:
        done: Deferred[None] = succeed(None) if self.at_once else Deferred()
        self.writes.append(done)
        return done

    def entry(self) -> tuple[bool, bool]:
        """Whether the new password counts alone; whether it counts beside the former ones."""
        entry = self.ledger.entry("id")
        return (
            entry.password is not None and entry.password.matches(KEY),
            entry.offered is not None and entry.offered.matches(KEY),
        )

    def call(self, action: str = "ChangeConfiguration", payload: Any = CHANGE) -> Deferred[dict[str, Any]]:
        return self.calls.call(self.station, action, payload, 30)

    def test_order(self):
        """It is on the disk before the charge point is told of it."""
        self.at_once = False
        done = self.call()
        self.assertEqual((self.station.calls, len(self.writes)), ([], 1))
        self.writes[0].callback(None)
        self.assertEqual(self.station.calls, [("ChangeConfiguration", CHANGE)])
        self.assertEqual(self.entry(), (False, True))
        self.station.open[0].callback({"status": "Accepted"})
        self.assertNoResult(done)
        self.assertEqual(self.entry(), (True, False))
        self.writes[1].callback(None)
        self.assertEqual(self.successResultOf(done), {"status": "Accepted"})

    def test_cannot_be_kept(self):
        """When it cannot be kept it is not sent."""
        self.at_once = False
        done = self.call()
        self.writes[0].errback(OSError("No space left on device"))
        error = self.failureResultOf(done, CommandFailed).value
        self.assertIn("cannot be kept", str(error))
        self.assertEqual(self.station.calls, [])

    def test_ends(self):
        """Declined: the former stays. Reboot needed, no answer that can be read, connection gone: both count."""
        for reply, expected in (
            ({"status": "Rejected"}, (False, False)),
            ({"status": "NotSupported"}, (False, False)),
            (CallErrorReceived("InternalError", "", {}), (False, False)),
            (PayloadInvalid("x"), (False, False)),
            ({"status": "RebootRequired"}, (False, True)),
            (CallTimedOut("x"), (False, True)),
            (StationGone("x"), (False, True)),
            (ResultInvalid("x"), (False, True)),
        ):
            self.station.reply = answering(reply)
            done = self.call()
            if isinstance(reply, Exception):
                self.failureResultOf(done, CommandFailed)
            else:
                self.successResultOf(done)
            self.assertEqual(self.entry(), expected, reply)

    def test_2x(self):
        """In 2.x it is a variable, among others perhaps."""
        self.station.version = Version.V201
        self.station.reply = lambda action, payload: told("Accepted")
        self.successResultOf(self.call("SetVariables", SET))
        password = self.ledger.entry("id").password
        assert password is not None
        self.assertTrue(password.matches(b"a password of 2.x"))

    def test_unproven(self):
        """Nothing is sent to one whose certificate may be another charge point's, a password least of all."""
        self.proven = False
        for action, payload in (("ChangeConfiguration", CHANGE), ("Reset", {"type": "Soft"})):
            error = self.failureResultOf(self.call(action, payload), CommandFailed).value
            self.assertEqual(error.answer["type"], "NotAccepted")
        self.assertEqual((self.station.calls, self.writes), ([], []))

    def test_told_upward(self):
        """Time-outs, also of a password, and what GetConfiguration found; nothing else."""
        keys = [{"key": "HeartbeatInterval", "readonly": False, "value": "300"}]
        for reply, action, payload in (
            ({"configurationKey": keys}, "GetConfiguration", {}),
            ({"status": "Accepted"}, "Reset", {"type": "Soft"}),
            (CallTimedOut("x"), "Reset", {"type": "Soft"}),
            (CallTimedOut("x"), "ChangeConfiguration", CHANGE),
            (StationGone("x"), "Reset", {"type": "Soft"}),
        ):
            self.station.reply = answering(reply)
            self.call(action, payload).addErrback(lambda failure: failure.trap(CommandFailed))
        self.assertEqual(self.reports.configurations, [("CP_1", keys)])
        self.assertEqual(self.reports.timed_out, ["CP_1", "CP_1"])

    def test_others(self):
        """Other keys are no passwords; one that is no hexadecimal key is refused unsent."""
        self.assertIsNone(new_password("ChangeConfiguration", {"key": "HeartbeatInterval", "value": "60"}))
        self.assertIsNone(new_password("SetVariables", {"setVariableData": [5, {}, {"component": 1}]}))
        self.assertIsNone(new_password("Reset", {"type": "Hard"}))
        for value in ("secret", "0011", "00" * 21, ""):
            done = self.call(payload={"key": "AuthorizationKey", "value": value})
            self.assertNotIn(value or "secret", str(self.failureResultOf(done, CommandFailed).value))
        self.assertEqual(self.station.calls, [])
