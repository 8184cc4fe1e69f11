"""What makes connectors: what they share, and what is said when a package is missing."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

PROGRAM = """
import sys
sys.modules["autobahn"] = None
from tbgw.connectors.builders import BUILDERS
from tbgw.errors import ConfigurationError
try:
    BUILDERS["ocpp"]("Chargers", None, None)
except ConfigurationError as error:
    print(error)
"""


class BuilderTests(SynchronousTestCase):
    """`BUILDERS`."""

    def test_missing_package(self):
        """Without the extra the operator is told what to install, and sees no traceback."""
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
        self.assertEqual(
            done.stdout,
            "connector Chargers: needs the Python package autobahn; pip install 'tbgw[ocpp]' brings it\n",
        )
