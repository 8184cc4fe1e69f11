# -*- test-case-name: tests.test_tap -*-
"""twistd's face: the options of `twistd tbgw`, and making the service. Thin; `service` builds everything.

The configuration is read and checked in `postOptions`, before anything listens, connects or daemonises: every fault is
printed as one line, and twistd ends with status 1.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.python import usage

from tbgw.config.gateway import GatewayConfig
from tbgw.errors import ConfigurationError
from tbgw.process import run_anew
from tbgw.version import VERSION

if TYPE_CHECKING:
    from tbgw.configfolder import ConfigFolder

DEFAULT_CONFIG_DIR = "/etc/tbgw"

GARBAGE_THRESHOLDS = (5_000, 10, 100)
"""See `collect_garbage_seldom`. Python's own are (700, 10, 10)."""


class Options(usage.Options):
    """`twistd tbgw -c etc/`."""

    synopsis = "[options]"
    longdesc = "A ThingsBoard gateway: reads the configuration files of the ThingsBoard IoT Gateway unchanged."
    optParameters = [  # noqa: RUF012 - the name and the kind of list that usage.Options looks for
        ["config-dir", "c", None, "folder with tb_gateway.json and the connectors' files [default: the environment "
         "variable TB_GW_CONFIG_DIR, or /etc/tbgw]"],
        ["data-dir", "d", ".", "folder for what the gateway keeps: store, known devices, sandbox"],
    ]

    config: GatewayConfig
    folder: ConfigFolder

    def opt_version(self) -> None:
        """Print the version of tbgw and exit."""
        print(f"tbgw {VERSION}")  # noqa: T201 - what the option is for
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Check everything that can be checked without touching the network."""
        from tbgw.configfolder import ConfigFolder
        from tbgw.service import load

        # Made absolute now: twistd changes the current folder when it becomes a daemon.
        named = self["config-dir"] or os.environ.get("TB_GW_CONFIG_DIR") or DEFAULT_CONFIG_DIR
        config_dir, data_dir = Path(named).absolute(), Path(self["data-dir"]).absolute()
        folder = self.folder = ConfigFolder(config_dir, data_dir)
        folder.load()  # what is wrong with it is told when the gateway runs
        try:
            for line in folder.recover():
                sys.stderr.write(f"{line}\n")
        except OSError as error:
            raise usage.UsageError(f"a remote change cannot be undone: {error}") from None
        try:
            try:
                self.config = load(config_dir, data_dir, os.environ)
            except ConfigurationError as error:
                if not undone(folder, error):
                    raise
                self.config = load(config_dir, data_dir, os.environ)
        except ConfigurationError as error:
            lines = "\n".join(error.faults)
            raise usage.UsageError(f"the configuration in {config_dir} cannot be used:\n{lines}") from None


def makeService(options: Options) -> IService:
    """The gateway of these options. Called by twistd once its own options, such as the reactor, are settled."""
    wants_tls = [getattr(entry.config, "needs_tls", False) for entry in options.config.connectors]
    wants_tls.append(options.config.sandbox.enabled and options.config.sandbox.certificate is not None)
    if not options.config.thingsboard.security.tls and not any(wants_tls):
        leave_out_tls()
    from twisted.internet import reactor

    from tbgw.service import Gateway

    use_monotonic_clock(reactor)
    collect_garbage_seldom()
    try:
        return Gateway(options.config, reactor)
    except ConfigurationError as error:
        # What only shows when the parts are made, such as a data folder that cannot be written.
        if undone(options.folder, error):
            run_anew()
        raise SystemExit("\n".join(error.faults)) from None


def undone(folder: ConfigFolder, error: ConfigurationError) -> bool:
    """Whether a start that fails with `error` was the first with a remote change, which then is no more."""
    from tbgw.configfolder import WAITING

    if folder.state.phase != WAITING:
        return False
    try:
        folder.undo()
    except OSError as fault:
        sys.stderr.write(f"a remote change cannot be undone: {fault}\n")
        return False
    lines = "\n".join(error.faults)
    sys.stderr.write(f"a remote change is undone, because the gateway cannot start with it:\n{lines}\n")
    return True


def leave_out_tls() -> None:
    """
    Let Twisted load without pyOpenSSL, as it does where that is not installed: 12 MiB less for a gateway that has no
    use for TLS, more than a quarter of the whole. Anything that wanted TLS after all would fail to import it, and
    never go on without. Does nothing when Twisted's TCP has been loaded already, e.g. by `twistd -r`.
    """
    if "OpenSSL" not in sys.modules and "twisted.internet.tcp" not in sys.modules:
        sys.modules["OpenSSL"] = None  # type: ignore[assignment] # what makes `import OpenSSL` an ImportError


def use_monotonic_clock(reactor: Any) -> None:
    """
    Let the reactor's timers run by a clock that never jumps. Twisted's default is the time of day: on a box without a
    battery-backed clock the first NTP answer moves it by years, which fires every timer at once when it goes forward,
    and none for years when it goes back.
    """
    if not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def collect_garbage_seldom() -> None:
    """
    Let the collector look at everything that lives a hundred times more seldom, which for a gateway is nearly never.
    Nothing else runs during such a look, which takes 80 to 450 ms with 10,000 charge
    points, five times while they connect. Nearly all that the gateway lets go is freed without the collector;
    what is not is found young, so memory does not grow by it. `gc.freeze` after the start was measured and dropped:
    what connects later is what there is most of.
    """
    gc.set_threshold(*GARBAGE_THRESHOLDS)
