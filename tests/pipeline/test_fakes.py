"""The stand-ins keep the contracts that they stand for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tbgw.errors import StoreError, StoreFull
from tbgw.interfaces import (
    IDropListener,
    IIngest,
    IPausable,
    IPressureListener,
    IReceipt,
    ISpool,
    IUplink,
    IUplinkListener,
)
from tbgw.model import Draft
from tests.fakes import FakeSource, FakeSpool, FakeUplink
from tests.pipeline.test_forwarder import Bench as ForwarderBench
from tests.pipeline.test_ingest import Bench as IngestBench

DRAFT = Draft("topic", b"payload", ("A",), 1, 1)


class ContractTests(SynchronousTestCase):
    """Both sides of every contract."""

    def test_fakes(self):
        """The stand-ins provide what their interfaces ask for."""
        verifyObject(ISpool, FakeSpool())
        verifyObject(IUplink, FakeUplink())
        verifyObject(IPausable, FakeSource())

    def test_pipeline(self):
        """So do the parts of the pipeline."""
        ingest = IngestBench().ingest
        verifyObject(IIngest, ingest)
        verifyObject(IPressureListener, ingest)
        verifyObject(IReceipt, ingest._receipt)
        forwarder = ForwarderBench().forwarder
        verifyObject(IUplinkListener, forwarder)
        verifyObject(IDropListener, forwarder)


class FakeSpoolTests(SynchronousTestCase):
    """What the tests of the pipeline rely on."""

    def test_append_is_stored_by_a_step(self):
        """Rows are numbered at once and stored by the next step; the Deferred fires then."""
        spool = FakeSpool()
        rows, stored = spool.append([DRAFT, DRAFT])
        self.assertEqual([row.seq for row in rows], [1, 2])
        self.assertNoResult(stored)
        self.assertEqual((spool.stored, spool.pending_bytes, spool.stored_rows), ({}, 14, 2))
        self.assertTrue(spool.step())
        self.successResultOf(stored)
        self.assertEqual((sorted(spool.stored), spool.pending_bytes, spool.stored_rows), ([1, 2], 0, 2))

    def test_full(self):
        """A refused draft is no row, and fails the Deferred after the others are stored."""
        spool = FakeSpool()
        spool.refuse = 1
        rows, stored = spool.append([DRAFT, DRAFT])
        self.assertEqual(len(rows), 1)
        spool.run()
        self.failureResultOf(stored, StoreFull)
        self.assertEqual(len(spool.stored), 1)

    def test_fetch_sees_earlier_appends(self):
        """A fetch sees all that was appended before it, and not what came later."""
        spool = FakeSpool()
        spool.append([DRAFT])
        fetched = spool.fetch(0, 1)
        spool.append([DRAFT])
        spool.run()
        self.assertEqual([row.seq for row in self.successResultOf(fetched)], [1])

    def test_broken(self):
        """After a break all that waits fails, and so does what comes."""
        spool = FakeSpool()
        told: list[Exception] = []
        bench = ForwarderBench()
        spool.set_listeners(IngestBench().ingest, bench.forwarder, told.append)
        _, early = spool.append([DRAFT])
        fetched = spool.fetch(0, 1)
        spool.break_down()
        _, late = spool.append([DRAFT])
        for deferred in (early, fetched, late):
            self.failureResultOf(deferred, StoreError)
        self.assertEqual(len(told), 1)
