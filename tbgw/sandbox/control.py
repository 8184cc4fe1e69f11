"""What an operator of ThingsBoard can do, done to the sandbox: the other end of its pages and its REST API.

Everything takes effect at once: it is stored and told to the connected sessions before a method returns. All methods
raise `Refused`, whose `status` is what ThingsBoard's REST API would answer, e.g. 404 for an unknown device.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred

from tbgw.errors import GatewayError
from tbgw.sandbox import credentials as book
from tbgw.sandbox import ota
from tbgw.sandbox.credentials import Credentials
from tbgw.sandbox.devices import Device
from tbgw.sandbox.platform import NotCreated, Platform, TooManyDevices
from tbgw.sandbox.profiles import DeviceProfile
from tbgw.sandbox.rpc import MAX_RETRIES, Answer
from tbgw.sandbox.server import Endpoint
from tbgw.sandbox.switches import Switches, switched
from tbgw.sandbox.values import BadPayload, stored_values
from tbgw.thingsboard import payloads


class Refused(GatewayError):  # noqa: N818 - says what is
    """What was asked for cannot be done."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Control:
    """The operator's hand. `credentials_set` is told what a device may connect with from now on."""

    def __init__(
        self,
        platform: Callable[[], Platform | None],
        endpoint: Endpoint,
        switches: Switches,
        now_ms: Callable[[], int],
        credentials_set: Callable[[Device, Credentials], None],
    ) -> None:
        self._find_platform = platform
        self._endpoint = endpoint
        self._switches = switches
        self._now_ms = now_ms
        self._credentials_set = credentials_set

    @property
    def platform(self) -> Platform:
        """The devices."""
        platform = self._find_platform()
        if platform is None:
            raise Refused(503, "the sandbox is not open")
        return platform

    def device(self, name: str) -> Device:
        """The device of this name."""
        device = self.platform.devices.get(name)
        if device is None:
            raise Refused(404, "Device with requested id wasn't found!")
        return device

    # Attributes

    def set_attributes(self, device: str, values: Mapping[str, Any]) -> None:
        """Set shared attributes, in one write."""
        try:
            self.platform.set_shared(self.device(device), values, self._now_ms())
        except BadPayload as error:
            raise Refused(400, str(error)) from None
        self._endpoint.changed()

    def delete_attributes(self, device: str, keys: Iterable[str]) -> list[str]:
        """Delete shared attributes; answers those that there were."""
        gone = self.platform.delete_shared(self.device(device), keys)
        self._endpoint.changed()
        return gone

    # RPC

    def call(
        self,
        device: str,
        method: str,
        params: Any = None,
        *,
        two_way: bool = True,
        timeout_ms: int = 10_000,
        persistent: bool = False,
        retries: int = MAX_RETRIES,
        expires_in_ms: int | None = None,
    ) -> Deferred[Answer]:
        """
        `POST /api/rpc/twoway/{deviceId}`, or one-way. Fires with what the REST call gets: 504 when the device does not
        answer within `timeout_ms`, of which ThingsBoard makes at least 5000. A persistent call is answered at once with
        its id, for `persistent_call`.
        """
        found = self.device(device)
        try:
            payloads.encode({"method": method, "params": params})
        except ValueError as error:
            raise Refused(400, f"the call is no JSON: {error}") from None
        answered: Deferred[Answer] = Deferred()
        self.platform.calls.call(
            found,
            method,
            params,
            two_way=two_way,
            done=answered.callback,
            timeout_ms=timeout_ms,
            persistent=persistent,
            retries=retries,
            expires_in_ms=expires_in_ms,
        )
        self._endpoint.changed()
        return answered

    def persistent_call(self, call_id: str) -> dict[str, Any]:
        """`GET /api/rpc/persistent/{rpcId}`, in short: `status` is one of QUEUED, SENT, DELIVERED, SUCCESSFUL, ..."""
        call = self.platform.calls.persistent(call_id)
        if call is None:
            raise Refused(404, "no such RPC")
        return call.as_json()

    # Devices

    def create(
        self,
        device: str,
        profile: str = "default",
        *,
        gateway: bool = False,
        credentials: Credentials | None = None,
        overwrite_activity_time: bool = False,
    ) -> None:
        """A new device."""
        platform = self.platform
        try:
            made = platform.create(device, profile, self._now_ms(), gateway=gateway)
        except TooManyDevices:
            raise Refused(403, "there are too many devices") from None
        except (NotCreated, ValueError) as error:
            raise Refused(400, f"the device cannot be created: {error}") from None
        if overwrite_activity_time:
            platform.mark(made, overwriteActivityTime=True)
        if credentials is not None:
            try:
                platform.set_credentials(made, credentials)
            except ValueError as error:
                platform.delete(made)
                self._endpoint.changed()
                raise Refused(400, str(error)) from None
        self._endpoint.changed()

    def rename(self, device: str, name: str) -> None:
        """Give a device another name; its gateway is told by an RPC."""
        found = self.device(device)
        self._endpoint.changed()  # so that this change is stored by itself
        try:
            self.platform.rename(found, name)
        except (NotCreated, ValueError) as error:
            raise Refused(400, f"the device cannot be called so: {error}") from None
        self._endpoint.changed()

    def delete(self, device: str) -> None:
        """Delete a device with everything of it; its gateway is told by an RPC."""
        found = self.device(device)
        self._endpoint.changed()
        self.platform.delete(found)
        self._endpoint.changed()

    def set_credentials(self, device: str, credentials: Credentials) -> None:
        """Change with what a device may connect; who is connected with the old ones is cut (0x98)."""
        found = self.device(device)
        try:
            self.platform.set_credentials(found, credentials)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        self._credentials_set(found, credentials)
        self._endpoint.changed()

    def set_token(self, device: str, token: str) -> None:
        """The same with an access token."""
        try:
            credentials = Credentials(book.ACCESS_TOKEN, token=token)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        self.set_credentials(device, credentials)

    def set_gateway(self, device: str, *, gateway: bool, overwrite_activity_time: bool = False) -> None:
        """Whether a device is a gateway, which counts from its next CONNECT on (1.3)."""
        found = self.device(device)
        found.gateway = gateway
        self.platform.mark(found, overwriteActivityTime=overwrite_activity_time or None)
        self._endpoint.changed()

    def set_profile(self, profile: DeviceProfile) -> None:
        """What the device profile of this name is: its topics, its acknowledgements, its provisioning."""
        self.platform.set_profile(profile)
        self._endpoint.changed()

    def profiles(self) -> list[DeviceProfile]:
        """All profiles that are more than a name."""
        return list(self.platform.profiles.values())

    def claim(self, device: str, customer: str, secret: str = "") -> str:
        """
        A customer claims a device: SUCCESS; FAILURE (400) when there is no claim, it is over, or the secret is wrong,
        and the claim is gone; CLAIMED (400) when the device has a customer.
        """
        found = self.device(device)
        claim, found.claim = found.claim, None
        if found.more.get("customer") is not None:
            return "CLAIMED"
        if claim is None or claim[1] <= self._now_ms():
            return "FAILURE"
        if not hmac.compare_digest(claim[0].encode("utf-8", "replace"), secret.encode("utf-8", "replace")):
            return "FAILURE"
        self.platform.mark(found, customer=customer)
        self._endpoint.changed()
        return "SUCCESS"

    def unclaim(self, device: str) -> None:
        """The customer gives the device back."""
        self.platform.mark(self.device(device), customer=None)
        self._endpoint.changed()

    # Packages

    def add_package(self, package: ota.Package) -> None:
        """Keep a package, in the place of one of the same kind, title and version."""
        platform = self.platform
        if package.name not in platform.packages and len(platform.packages) >= ota.MAX_PACKAGES:
            raise Refused(400, f"there are {ota.MAX_PACKAGES} packages already")
        platform.packages[package.name] = package
        platform.keep(f"package/{package.name}", ota.as_bytes(package))
        self._endpoint.changed()

    def remove_package(self, kind: str, title: str, version: str) -> None:
        """Forget a package that no device is assigned to."""
        platform = self.platform
        package = self._package(kind, title, version)
        if any(device.more.get(kind) == package.name for device in platform.devices.values()):
            raise Refused(400, "the package is assigned to a device")
        del platform.packages[package.name]
        platform.keep(f"package/{package.name}", None)
        self._endpoint.changed()

    def _package(self, kind: str, title: str, version: str) -> ota.Package:
        for package in self.platform.packages.values():
            if (package.kind, package.title, package.version) == (kind, title, version):
                return package
        raise Refused(404, "no such package")

    def assign_package(self, device: str, kind: str, title: str, version: str) -> None:
        """Offer a package to a device: the telemetry and the shared attributes of 5.3, in their order."""
        package = self._package(kind, title, version)
        platform, found, now_ms = self.platform, self.device(device), self._now_ms()
        platform.mark(found, **{kind: package.name})
        target = {"title": title, "version": version, "tag": package.tag, "ts": now_ms}
        told = {f"target_{kind}_{key}": value for key, value in target.items() if value != ""}
        platform.record_telemetry(
            found, [(now_ms, stored_values({**told, f"{kind}_state": "QUEUED"}))], found.last_activity_ms
        )
        announced = package.attributes()
        unused = [f"{kind}_{name}" for name in ota.ATTRIBUTES if f"{kind}_{name}" not in announced]
        platform.delete_shared(found, unused)
        platform.set_shared(found, announced, now_ms)
        platform.record_telemetry(
            found, [(now_ms + 1, stored_values({f"{kind}_state": "INITIATED"}))], found.last_activity_ms
        )
        self._endpoint.changed()

    def unassign_package(self, device: str, kind: str) -> None:
        """Take the offer back: all its attributes are deleted."""
        found = self.device(device)
        self.platform.mark(found, **{kind: None})
        self.platform.delete_shared(found, [f"{kind}_{name}" for name in ota.ATTRIBUTES])
        self._endpoint.changed()

    # The link

    def set_limits(self, limits: Mapping[str, Any]) -> None:
        """Change what `getSessionLimits` answers and what is enforced, from now on."""
        try:
            self.platform.set_limits(limits)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        self._endpoint.changed()

    def set_switches(self, changed: Mapping[str, Any]) -> None:
        """Turn behaviours on and off (`Switches`)."""
        try:
            switched(self._switches, changed)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        self._endpoint.changed()

    def cut(self, device: str | None = None) -> int:
        """Drop the connection of a device, or all connections, without a word; answers how many."""
        if device is not None:
            self.device(device)
        return self._endpoint.cut(device)

    # To look at

    def switches_as_json(self) -> dict[str, Any]:
        """All switches as they are."""
        return asdict(self._switches)

    def device_as_json(self, device: str) -> dict[str, Any]:
        """What there is to know of a device but for its values and secrets."""
        found = self.device(device)
        credentials = self.platform.credentials.of(found.id)
        return {
            "name": found.name,
            "profile": found.profile,
            "gateway": found.gateway,
            "connected": found.session is not None or found.child_of is not None,
            "credentials": None if credentials is None else credentials.kind,
            "lastGateway": self._name_of(found.last_gateway_id),
            "waitingCalls": len(found.calls),
            "claim": found.claim is not None and found.claim[1] > self._now_ms(),
            **found.more,
        }

    def _name_of(self, device_id: int) -> str | None:
        device = self.platform.device_with_id(device_id)
        return device.name if device is not None else None
