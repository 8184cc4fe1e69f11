"""`write_at_once` of the OCPP library."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from tbgw.ocpp.writing import write_at_once
from tests.writing import WriteAtOnce


class WriteAtOnceTests(WriteAtOnce, TestCase):
    write_at_once = staticmethod(write_at_once)
