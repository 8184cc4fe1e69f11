"""Who is blamed for the end of a session, and on what proof."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tbgw.model import Row
from tbgw.pipeline.examination import BLAMES, FEW_POINTS, REASONS, REFUSALS, REFUSALS_OF_KNOWN, Examination
from tbgw.pipeline.suspicion import CLOSES, MAX_CONDEMNED, MEMORY_SECONDS, MOST_CLOSES_NEEDED, Case, Suspicion
from tbgw.thingsboard import payloads, topics
from tbgw.thingsboard.payloads import Part

PART = Part(b"{}", ("A",), 1)


def row(seq: int = 1, devices: str = "A", keys: int = 1, elements: int = 1) -> Row:
    """A telemetry row."""
    content = {
        payloads.encode(name): [
            payloads.telemetry_fragment(ts, {f"k{key}": key for key in range(keys)}) for ts in range(elements)
        ]
        for name in devices
    }
    points = len(devices) * keys * elements
    return Row(seq, topics.TELEMETRY, payloads.join_telemetry(content), tuple(devices), 1, points)


class SuspicionTests(SynchronousTestCase):
    """Suspects."""

    def setUp(self) -> None:
        self.suspicion = Suspicion()

    def test_in_flight_each_time(self):
        """Only what was in flight at each of several closes in a row is suspect, and only then."""
        for in_flight in ([1, 2, 3], [2, 3, 4]):
            self.suspicion.closed(in_flight, 0)
            self.assertFalse(self.suspicion.isolates)
        self.suspicion.closed([3, 4, 5], 0)
        self.assertEqual((self.suspicion.isolates, self.suspicion.suspects), (True, {3}))

    def test_bad_link(self):
        """Closes with nothing in flight, or each time with others, make nobody suspect, however many."""
        for close in range(100):
            self.suspicion.closed([close, close + 1] if close % 2 else [close], 0)
            self.assertFalse(self.suspicion.isolates)
        for _ in range(10):
            self.suspicion.closed([1], 0)
            self.suspicion.closed([1], 0)
            self.suspicion.closed([], 0)
            self.assertFalse(self.suspicion.isolates)

    def test_acquitted(self):
        """One that is acknowledged is no suspect any more; the others are."""
        for _ in range(CLOSES):
            self.suspicion.closed([1, 2], 0)
        self.suspicion.acquit(1, 0)
        self.assertTrue(self.suspicion.isolates)
        self.suspicion.acquit(2, 0)
        self.assertFalse(self.suspicion.isolates)
        self.suspicion.closed([3], 0)
        self.assertFalse(self.suspicion.isolates)

    def test_unexplained_closes_call_for_care(self):
        """Each close that no row explains makes the proof longer, within bounds, for an hour."""
        self.assertEqual(self.suspicion.closes_needed(PART, "closes_session", 0), CLOSES)
        self.suspicion.unexplained(0)
        self.assertEqual(self.suspicion.closes_needed(PART, "closes_session", 0), CLOSES + 1)
        for _ in range(CLOSES):
            self.suspicion.closed([1], 10)
        self.suspicion.acquit(1, 10)
        self.assertEqual(self.suspicion.closes_needed(PART, "closes_session", 10), 2 * CLOSES + 1)
        for _ in range(100):
            self.suspicion.unexplained(20)
        self.assertEqual(self.suspicion.closes_needed(PART, "closes_session", 20), MOST_CLOSES_NEEDED)
        self.assertEqual(self.suspicion.closes_needed(PART, "closes_session", 21 + MEMORY_SECONDS), CLOSES)

    def test_conviction_explains(self):
        """Closes that turn out to be a row's fault do not count as unexplained."""
        for _ in range(CLOSES):
            self.suspicion.closed([1, 2], 0)
        self.suspicion.convict(1, 0)
        self.suspicion.acquit(2, 0)
        self.assertEqual(self.suspicion.closes_needed(PART, "closes_session", 0), CLOSES)

    def test_condemned(self):
        """A device is remembered for an hour, by the reason; then its rows are suspects at once."""
        self.suspicion.condemn(["A"], "closes_session", 0)
        self.assertTrue(self.suspicion.condemned(["B", "A"], "closes_session", 10))
        self.assertFalse(self.suspicion.condemned(["A"], "refused", 10))
        self.assertFalse(self.suspicion.condemned(["A"], "closes_session", MEMORY_SECONDS + 1))
        self.assertEqual(self.suspicion.closes_needed(PART, "closes_session", 10), CLOSES - 1)
        self.suspicion.closed([7], 10, known=True)
        self.assertTrue(self.suspicion.isolates)

    def test_memory(self):
        """Names may come from messages: no more than so many are remembered."""
        for number in range(MAX_CONDEMNED + 50):
            self.suspicion.condemn([f"D{number}"], "refused", 0)
        self.assertFalse(self.suspicion.condemned(["D49"], "refused", 1))
        self.assertTrue(self.suspicion.condemned(["D50"], "refused", 1))

    def test_forgotten(self):
        """Rows that the drop policy took are no suspects."""
        for _ in range(CLOSES):
            self.suspicion.closed([1, 2], 0)
        self.suspicion.forget(2)
        self.assertFalse(self.suspicion.isolates)


class ExaminationTests(SynchronousTestCase):
    """What counts against a part, and when it is given up."""

    def setUp(self) -> None:
        self.examination = Examination()

    def begin(self, of: Row) -> Case:
        self.examination.begin(of)
        case = self.examination.case
        assert case is not None
        return case

    def probe_passes(self) -> None:
        self.assertTrue(self.examination.wants_probe)
        self.examination.accepted()
        self.assertFalse(self.examination.wants_probe)

    def test_closes_on_an_atom(self):
        """A value alone is given up after several closes in a row, each in a session that took something else."""
        case = self.begin(row())
        for close in range(1, CLOSES + 1):
            self.examination.session_begins()
            self.probe_passes()
            self.assertEqual(case.bad, [])
            self.examination.part_unanswered(float(close), overdue=False)
        self.assertEqual([reason for _, reason in case.bad], ["closes_session"])
        self.assertIs(self.examination.finish(9), case)
        self.assertEqual(case.dead_letters(), [(case.row, "closes_session")])
        self.assertTrue(self.examination.suspicion.condemned(["A"], "closes_session", 9))

    def test_probe_that_closes(self):
        """When the session ends on the probe the count begins anew, and the proof gets longer."""
        case = self.begin(row())
        for _ in range(50):
            self.examination.session_begins()
            self.examination.accepted()
            self.examination.part_unanswered(0, overdue=False)
            self.examination.session_begins()
            self.examination.probe_unanswered(0)
            self.assertEqual(case.failures, 0)
        self.assertEqual(case.bad, [])

    def test_reasons(self):
        """A part that is never acknowledged bears another reason than one that closes the session; both are listed."""
        case = self.begin(row())
        for _ in range(CLOSES):
            self.examination.part_unanswered(0, overdue=True)
        self.assertEqual([reason for _, reason in case.bad], ["never_acknowledged"])
        self.assertIn(case.bad[0][1], REASONS)

    def test_cut_at_the_first_close(self):
        """What can be cut is cut at once: no proof is needed for that, because nothing is lost by it."""
        case = self.begin(row(devices="AB", elements=2))
        self.assertEqual([part.devices for part in case.todo], [("A",), ("B",)])
        self.examination.part_unanswered(0, overdue=False)
        self.assertEqual([part.devices for part in case.todo], [("A",), ("A",), ("B",)])
        self.assertEqual(case.bad, [])

    def test_blamed_by_code(self):
        """0x99 and its like speak of the payload itself; 0x83 has to be said twice."""
        for code, needed in ((0x99, 1), (0x90, 1), (0x87, 1), (0x83, BLAMES)):
            self.examination = Examination()
            case = self.begin(row())
            for answer in range(needed):
                self.assertEqual(case.bad, [], answer)
                self.examination.part_answered(code, 0)
            self.assertEqual([reason for _, reason in case.bad], ["refused"])

    def test_later(self):
        """0x80 and 0x97 are given several chances, each after something else was taken."""
        for code in (0x80, 0x97):
            self.examination = Examination()
            for times in (REFUSALS, REFUSALS_OF_KNOWN):
                case = self.begin(row())
                for _ in range(times):
                    self.assertEqual(case.bad, [])
                    self.probe_passes()
                    self.examination.part_answered(code, 0)
                self.assertEqual([reason for _, reason in case.bad], ["retries_exhausted"])
                self.examination.finish(0)

    def test_what_a_device_is_refused(self):
        """0x80 speaks of the device: its part is not cut. 0x97 may speak of too many points: a large part is."""
        for code, keys, cut in ((0x80, 3, False), (0x97, 3, False), (0x97, FEW_POINTS + 1, True), (0x99, 3, True)):
            self.examination = Examination()
            case = self.begin(row(devices="AB", keys=keys))
            for _ in range(REFUSALS if code != 0x99 else 1):
                self.examination.part_answered(code, 0)
            self.assertEqual((len(case.bad), len(case.todo) > 2), (0, True) if cut else (1, False), hex(code))

    def test_acquitted(self):
        """A row of which every part is taken was not to blame, and the closes were somebody else's."""
        for _ in range(CLOSES):
            self.examination.closed([row()], 0)
        self.assertTrue(self.examination.alone(None))
        self.examination.closed([row()], 0)
        self.assertTrue(self.examination.alone(row()))
        case = self.begin(row())
        self.examination.part_unanswered(0, overdue=False)
        self.examination.part_answered(0, 0)
        self.assertIs(self.examination.finish(0), case)
        self.assertFalse(self.examination.alone(None))
        self.assertGreater(self.examination.suspicion.closes_needed(PART, "closes_session", 0), CLOSES)

    def test_dead_letters(self):
        """Of a row that was partly taken, only the rest goes to the dead letters, each part by itself."""
        case = self.begin(row(devices="ABC"))
        self.examination.part_answered(0, 0)
        self.examination.part_answered(0x99, 0)
        self.examination.part_answered(0, 0)
        ((letter, reason),) = case.dead_letters()
        self.assertEqual((letter.seq, letter.devices, letter.points, reason), (0, ("B",), 1, "refused"))
        self.assertEqual(letter.payload, b'{"B":[{"ts":0,"values":{"k0":0}}]}')

    def test_probe_device(self):
        """The probe is another device's, each time another, one that ThingsBoard takes; its own when alone."""
        announced = {"A", "B", "C", "D"}
        self.examination.suspicion.condemn(["C"], "retries_exhausted", 0)
        seen = {self.examination.probe_device(announced, PART, 1) for _ in range(10)}
        self.assertEqual(seen, {"B", "D"})
        self.assertEqual(self.examination.probe_device({"A", "C"}, PART, 1), "C")
        self.assertEqual(self.examination.probe_device({"A"}, PART, 1), "A")

    def test_random_losses(self):
        """A value on a link that loses a tenth of what is sent is not given up in ten thousand examinations."""
        random = Random(1)
        for _ in range(10_000):
            case = self.begin(row())
            while self.examination.finish(0) is None:
                self.examination.session_begins()
                if random.random() < 0.1:
                    self.examination.probe_unanswered(0)
                    continue
                self.examination.accepted()
                if random.random() < 0.1:
                    self.examination.part_unanswered(0, overdue=False)
                else:
                    self.examination.part_answered(0, 0)
            self.assertEqual(case.bad, [])
