# -*- test-case-name: tests.test_process -*-
"""Ends of the process that twistd has no word for: with a status, by beginning anew, by a restart of the machine.

Beginning anew is `exec` of the very command that started us, in the folder of that time, once everything is stopped in
good order and nothing of it runs any more. The process keeps its number, so it makes no difference who watches over it:
systemd, a container, or nobody at all; but for a twistd that goes to the background, which does so once more and writes
its new number to the pid file. (The reference executes `argv[0]` without flushing anything; under its own unit that is
the word `-c`, C-61.)

Considered and dropped: ending with a status that systemd's `Restart=` answers, because where nobody restarts it a
restart that was asked for from ThingsBoard would be the end.
"""

from __future__ import annotations

import atexit
import os
import sys

START_FOLDER = os.getcwd()
"""Where the command was given: twistd may go elsewhere later."""


def end_with(status: int) -> None:
    """Let the process end with this status, whenever it ends."""
    atexit.register(_exit, status)


def begin_anew() -> None:
    """Let the process be itself once more, when it ends."""
    atexit.register(run_anew)


def restart_machine() -> None:
    """Let the process ask the system for a restart of the machine, when it ends."""
    atexit.register(_run, ["shutdown", "-r", "now"])


def command() -> list[str]:
    """What started us, as `exec` wants it."""
    return [sys.executable, *sys.orig_argv[1:]]


def run_anew() -> None:
    """At once. Comes back only if that is not possible, and then the process ends as it would have."""
    try:
        os.chdir(START_FOLDER)
    except OSError as error:
        sys.stderr.write(f"tbgw: {START_FOLDER}: {error}\n")
    _run(command())


def _run(words: list[str]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvp(words[0], words)  # noqa: S606 - our own command, or a fixed one
    except OSError as error:
        sys.stderr.write(f"tbgw: {words[0]} cannot be run: {error}\n")


def _exit(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
