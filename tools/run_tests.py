"""Runs trial as `make test` does, and closes with `N passed, N failed`, computed from trial's own summary.

Exit status 0 only when trial says PASSED and at least one test ran. A summary that is missing, as after a crash, fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

SUMMARY = re.compile(r"^(PASSED|FAILED)(?: \((?P<counts>[^)]*)\))?$")


def main(arguments: list[str]) -> int:
    """Run trial with `arguments`, pass its output on, and print the closing line."""
    command = [sys.executable, "-m", "twisted.trial", "--temp-directory=_trial_temp", *arguments]
    counts: dict[str, int] = {}
    verdict = ""
    # Programs that tests start find this checkout first: some package on PyPI brings a folder `tests` of its own.
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as trial:
        assert trial.stdout is not None  # noqa: S101 - for the type checker
        for line in trial.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            if match := SUMMARY.match(line.strip()):
                verdict = match[1]
                pairs = (pair.partition("=") for pair in (match["counts"] or "").split(", ") if pair)
                counts = {name: int(number) for name, _, number in pairs}
    passed = counts.get("successes", 0) + counts.get("expectedFailures", 0)
    failed = counts.get("failures", 0) + counts.get("errors", 0) + counts.get("unexpectedSuccesses", 0)
    if (trial.returncode or not verdict) and not failed:
        failed = 1  # trial itself broke: never let that look like a pass
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 0 if verdict == "PASSED" and passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
