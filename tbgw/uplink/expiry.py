# -*- test-case-name: tests.uplink.test_expiry -*-
"""Looks when the gateway's own certificate ends, tells ThingsBoard, and renews it where that is possible.

Possible is what provisioning grants for the same device, and ThingsBoard does so only where the device was deleted
before. In all other cases somebody has to put the new certificate into the device's credentials there: it is told in
the attribute `newCertificate` (as the reference does, in PEM), for a person or a rule chain, and used from the moment
on at which ThingsBoard takes it. And somebody has to hear of it in time: a line at every look, and the attribute
`certificateDaysLeft` beside `certificateExpires`, which alarm rules can watch.

The reference overwrites its only key and certificate before ThingsBoard has agreed (C-20). Here the old pair stays in
use until the new one is granted.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from tbgw.interfaces import IOwnDevice
from tbgw.internal_events import Events
from tbgw.uplink.certificates import expires
from tbgw.uplink.internal_events import CertificateExpires, CertificateRenewed, CertificateUnreadable


def _not_ours() -> Deferred[str]:
    return succeed("it comes from the configuration")


class CertificateWatch(Service):
    """
    `certificate()` is the PEM file in use, None while there is none. `renew()` asks for a new one, and fires with an
    empty text or with why not. `successor()` is a certificate, in PEM, that waits to be taken; empty for none.
    """

    name = "certificate"

    def __init__(
        self,
        certificate: Callable[[], Path | None],
        own_device: IOwnDevice,
        *,
        clock: IReactorTime,
        events: Events,
        now: Callable[[], datetime.datetime],
        period_seconds: float,
        days_left: int,
        renew: Callable[[], Deferred[str]] = _not_ours,
        successor: Callable[[], str] = str,
    ) -> None:
        self._certificate = certificate
        self._own_device = own_device
        self._clock = clock
        self._events = events
        self._now = now
        self._period_seconds = period_seconds
        self._days_left = days_left
        self._renew = renew
        self._successor = successor
        self._timer: IDelayedCall | None = None
        self._renewing = self._told = False

    def startService(self) -> None:
        super().startService()
        self._look()

    def stopService(self) -> None:
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look_again(self) -> None:
        """Another certificate is in use."""
        if self.running and self._timer is not None:
            self._timer.cancel()
            self._look()

    def _look(self) -> None:
        self._timer = self._clock.callLater(self._period_seconds, self._look)
        path = self._certificate()
        if path is None:
            return
        try:
            until = expires(path)
        except (OSError, ValueError) as error:
            self._events.emit(CertificateUnreadable(file=path.name, why=str(error)))
            return
        days = (until - self._now()).days
        self._own_device.publish_attributes({"certificateExpires": until.isoformat(), "certificateDaysLeft": days})
        if self._told and not self._successor():
            self._tell_successor()
        if days <= self._days_left and not self._renewing:
            self._renewing = True
            self._renew().addCallback(self._renewed, path, days)

    def _tell_successor(self) -> None:
        """In an attribute, until it is in use."""
        successor = self._successor()
        if successor or self._told:
            self._own_device.publish_attributes({"newCertificate": successor})
        self._told = bool(successor)

    def _renewed(self, why: str, path: Path, days: int) -> None:
        self._renewing = False
        self._tell_successor()
        if why:
            self._events.emit(CertificateExpires(file=path.name, days=days, why=why))
            return
        new = self._certificate()
        self._events.emit(CertificateRenewed(until=expires(new).isoformat() if new is not None else ""))
