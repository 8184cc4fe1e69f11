"""Importing through the whole gateway: what the reference left arrives at the broker, announced with its profile."""

from __future__ import annotations

import base64
import json

from twisted.trial.unittest import SynchronousTestCase

from tests.crash.ledger import Ledger
from tests.crash.rig import CrashFolder, Watch
from tests.programs import free_port, mosquitto, mosquitto_sub


class ImportTests(SynchronousTestCase):
    """`storage.import` in tb_gateway.json."""

    def test_left_over_files_are_delivered(self):
        """Every record of a left-over file arrives, in order; the file is renamed; a second start sends no more."""
        port = free_port()
        mosquitto(self, port)
        ledger = Ledger()
        watch = Watch(self, port, ledger)
        announced = mosquitto_sub(self, port, "v1/gateway/connect")
        folder = CrashFolder(self)
        old = folder.data / "old"
        old.mkdir()
        numbers = range(1200)
        lines = [
            base64.b64encode(
                json.dumps(
                    {
                        "deviceName": "Old",
                        "deviceType": "meter",
                        "telemetry": [{"ts": n, "values": {"n": n}}],
                        "attributes": {},
                    }
                ).encode()
            )
            for n in numbers
        ]
        (old / "data_1.txt").write_bytes(b"\n".join(lines) + b"\n")
        folder.configure(port, **{"import": str(old)})
        ledger.accept(("Old", n) for n in numbers)
        driver = folder.driver(0)
        watch.until_all()
        driver.read(10)  # connectors run after it
        self.assertEqual(ledger.lost, set(), driver.log)
        ledger.check(0)
        self.assertEqual(ledger.duplicates, 0)
        self.assertEqual(driver.stop(), 0, driver.log)
        self.assertEqual([entry.name for entry in old.iterdir()], ["data_1.txt.imported"])
        announced.wait_for('"device":"Old","type":"meter"')
        again = folder.driver(-1)
        self.assertEqual(again.finish(), 0, again.log)
        self.assertEqual(again.log.count("Imported"), 0)
