# -*- test-case-name: tests.connectors.ocpp.test_policy -*-
"""What charge points are answered and what becomes of their data, as the file says it. Each section may stand in
`centralSystem`, for all, and again in an entry of `chargePoints`; the one of the entry then counts whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta, timezone, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tbgw.config.schema import (
    Node,
    Refused,
    Reporter,
    config_section,
    flag,
    integer,
    one_of,
    printable,
    read_flag,
    read_items,
    read_object,
    read_section,
    read_text,
    setting,
    text,
)
from tbgw.connectors.ocpp.timestamps import parse_timestamp

STATUSES = (
    "Accepted",
    "Blocked",
    "ConcurrentTx",
    "Expired",
    "Invalid",
    "NoCredit",
    "NotAllowedTypeEVSE",
    "NotAtThisLocation",
    "NotAtThisTime",
    "Unknown",
)
"""Of 2.x; 1.6 has the first five, and the others become Invalid there."""
BOOT_STATUSES = ("Accepted", "Pending", "Rejected")
MAX_TAGS = 100_000
MAX_INTERVAL_SECONDS = 7 * 24 * 3600


def read_zone(node: Node, reporter: Reporter) -> tzinfo:
    """`UTC`, `+02:00` or a name such as `Europe/Berlin`."""
    name = read_text(node, reporter).strip()
    if name == "UTC":
        return UTC
    if name[:1] in "+-" and len(name) == 6 and name[3] == ":" and (name[1:3] + name[4:]).isdecimal():
        hours, minutes = int(name[1:3]), int(name[4:])
        if hours < 24 and minutes < 60:
            offset = timedelta(hours=hours, minutes=minutes)
            return timezone(-offset if name[0] == "-" else offset)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Refused(f'is "{printable(name)}", must be UTC, an offset such as +02:00, or Europe/Berlin') from None


def _read_expiry(node: Node, reporter: Reporter) -> int:
    found = parse_timestamp(read_text(node, reporter), UTC)
    if found is None:
        raise Refused("is no time such as 2027-01-31T00:00:00Z")
    return found


@config_section
class Tag:
    """One entry of `tags`: what is answered about an idTag."""

    status: str = one_of("status", choices=STATUSES, default="Accepted", doc="What is answered.")
    parent: str | None = text("parentIdTag", "groupIdToken", default=None, doc="The group that it belongs to.")
    expiry_ms: int | None = setting(
        "expiryDate", read=_read_expiry, default=None, unit="time", doc="From then on it is answered with Expired."
    )


def _read_tag(node: Node, reporter: Reporter) -> Tag:
    if isinstance(node.value, str):
        if node.value not in STATUSES:
            raise Refused(f'is "{printable(node.value)}", must be one of {", ".join(STATUSES)}')
        return Tag(status=node.value)
    return read_section(Tag, node, reporter)


def _read_tags(node: Node, reporter: Reporter) -> Mapping[str, Tag]:
    """By idTag in lower case: OCPP compares without regard to case."""
    if isinstance(node.value, tuple):
        return {name.strip().lower(): Tag() for name in read_items(read_text)(node, reporter)}
    tags: dict[str, Tag] = {}
    for name, child in read_object(node, reporter).items():
        try:
            tags[name.strip().lower()] = _read_tag(child, reporter)
        except Refused as refusal:
            refusal.report(child, reporter)
    if len(tags) > MAX_TAGS:
        raise Refused(f"has {len(tags)} entries, at most {MAX_TAGS} are allowed")
    return tags


@config_section
class Boot:
    """The object `boot`: the answer to BootNotification."""

    status: str = one_of("status", choices=BOOT_STATUSES, default="Accepted", doc="For charge points of this file.")
    interval_seconds: int = integer(
        "interval",
        "heartbeatInterval",
        minimum=1,
        maximum=MAX_INTERVAL_SECONDS,
        default=300,
        unit="seconds",
        doc="Time between heartbeats; with Pending and Rejected, until the next BootNotification.",
    )
    unknown: str = one_of(
        "unknown", choices=BOOT_STATUSES, default="Accepted", doc="For those that match no entry of chargePoints."
    )


@config_section
class Authorization:
    """The object `authorization`: which idTags may charge."""

    mode: Literal["acceptAll", "list", "denyAll"] = one_of(
        "mode", choices=("acceptAll", "list", "denyAll"), default="acceptAll", doc="Who is asked."
    )
    tags: Mapping[str, Tag] | None = setting(
        "tags", read=_read_tags, default=None, doc="With list: idTag to its status; or a list of those accepted."
    )
    default: str = one_of("default", choices=STATUSES, default="Invalid", doc="With list: the status of all others.")
    shared_attribute: str | None = text(
        "fromSharedAttribute",
        default=None,
        doc="With list: shared attribute of the charge point's device that holds further tags, in the form of `tags`.",
    )


@config_section
class Transactions:
    """The object `transactions`, of centralSystem only: where transaction ids of 1.6 come from."""

    first_id: int = integer(
        "firstId", minimum=1, maximum=2**31 - 2, default=1, unit="transaction id", doc="No id is below this one."
    )
    persist: bool = flag("persist", default=True, doc="Keep ids, names and transactions over restarts.")


@config_section
class Vendor:
    """One entry of `vendors`: how DataTransfer of one vendorId is answered."""

    status: str = one_of(
        "status",
        choices=("Accepted", "Rejected", "UnknownMessageId", "UnknownVendorId"),
        default="Accepted",
        doc="What is answered.",
    )
    data: str | None = text("data", default=None, doc="Text that goes along with the answer.")
    messages: tuple[str, ...] = setting(
        "messageIds",
        read=read_items(read_text),
        default=(),
        doc="Known messageIds, all others are answered with UnknownMessageId; empty: all are known.",
    )


def _read_vendors(node: Node, reporter: Reporter) -> Mapping[str, Vendor]:
    if isinstance(node.value, tuple):
        return dict.fromkeys(read_items(read_text)(node, reporter), Vendor())
    vendors: dict[str, Vendor] = {}
    for name, child in read_object(node, reporter).items():
        try:
            vendors[name] = read_section(Vendor, child, reporter)
        except Refused as refusal:
            refusal.report(child, reporter)
    return vendors


@config_section
class DataTransfer:
    """The object `dataTransfer`: the answer to DataTransfer."""

    vendors: Mapping[str, Vendor] | None = setting(
        "vendors",
        read=_read_vendors,
        default=None,
        doc="Known vendorIds, all others are answered with UnknownVendorId; empty: see docs/ocpp.md.",
    )


@config_section
class DefaultMapping:
    """The object `mapping`: the options of the default mapping."""

    units: Literal["normalised", "raw"] = one_of(
        "units", choices=("normalised", "raw"), default="normalised", doc="kWh become Wh and so on; raw: as reported."
    )
    phase_totals: bool = flag("phaseTotals", default=False, doc="Add sums and means over the phases.")
    connector_devices: bool = flag("connectorDevices", default=False, doc="Each connector is a device of its own.")
    id_tags: Literal["masked", "hashed", "plain", "hidden"] = one_of(
        "idTags",
        choices=("masked", "hashed", "plain", "hidden"),
        default="masked",
        doc="How idTags, which are personal data, come to ThingsBoard.",
    )
    data_transfer: bool = flag("dataTransfer", default=False, doc="DataTransfer as time series `dataTransfer`.")
    configuration: bool = flag(
        "configuration", default=False, doc="Configuration keys and reported variables as attributes `config_...`."
    )
    zone: tzinfo = setting("timestampZone", read=read_zone, default=UTC, doc="Of times that name no zone.")


@dataclass(frozen=True, slots=True)
class Policy:
    """All that holds for one entry of `chargePoints`, both levels resolved."""

    boot: Boot
    boot_status: str
    """What BootNotification is answered with."""
    authorization: Authorization
    data_transfer: DataTransfer
    mapping: DefaultMapping
    maps_by_default: bool
    """Whether the default mapping is applied."""
    certificate_signing: str
    legacy_unresolved: bool
    legacy_boot: bool


def read_on(node: Node, reporter: Reporter) -> bool:
    """true or false, for a setting that may be left open."""
    on: bool = read_flag("")(node, reporter)
    return on
