# -*- test-case-name: tests.connectors.ocpp.test_replies -*-
"""What each message is answered (spec ocpp, section 2). Pure: an answer is made of the message, the policy and the
state that `Asked` carries.

* Every message that a station of 1.6, 2.0.1 or 2.1 may send has an answer that is valid by its schema.
* Certificates, energy management and payments are nobody's business here: they are refused politely.
* What asks for less than the schema does, is answered; only what the answer or the state itself is made of has to be
  there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tbgw.connectors.ocpp.authorization import MAX_TAG_CHARACTERS, id_tag_info, id_token_info
from tbgw.connectors.ocpp.policy import Policy, Tag
from tbgw.connectors.ocpp.timestamps import format_timestamp
from tbgw.ocpp.actions import central_actions
from tbgw.ocpp.errors import CallRefused
from tbgw.ocpp.versions import Version

Payload = dict[str, Any]


class Asked(NamedTuple):
    """A message and what its answer depends on."""

    version: Version
    action: str
    payload: Mapping[str, Any]
    policy: Policy
    now_ms: int
    authorize: Callable[[str], Tag]
    """What is said about an idTag."""
    transaction_id: int = 0
    """The id that StartTransaction gets."""
    converted: bool = False
    """Whether an entry of the configuration asks for such messages."""


def answer(asked: Asked) -> Payload:
    """The payload of the CALLRESULT. Raises CallRefused."""
    make = _answers(asked.version).get(asked.action)
    if make is None:
        if asked.action in central_actions(asked.version):
            raise CallRefused("NotSupported", f"{asked.action} is not for stations to send")
        raise CallRefused("NotImplemented", f"{asked.action} is not known")
    return make(asked)


def is_answered(version: Version, action: str) -> bool:
    """Whether stations of this version may send it."""
    return action in _answers(version)


def _answers(version: Version) -> Mapping[str, Callable[[Asked], Payload]]:
    return _ANSWERS[version]


def tag_of(version: Version, payload: Mapping[str, Any]) -> str | None:
    """The idTag of a message; None when there is none."""
    if version.is_2:
        token = payload.get("idToken")
        tag = token.get("idToken") if isinstance(token, dict) else None
        if isinstance(token, dict) and token.get("type") == "NoAuthorization":
            return ""
    else:
        tag = payload.get("idTag")
    if isinstance(tag, int) and not isinstance(tag, bool) and -(10**20) < tag < 10**20:
        tag = str(tag)  # seen in the field, as with every number that should be a text
    return tag if isinstance(tag, str) and len(tag) <= MAX_TAG_CHARACTERS else None


def _info(asked: Asked, tag: str) -> Payload:
    if asked.version.is_2:
        return id_token_info(Tag() if tag == "" else asked.authorize(tag))
    return id_tag_info(asked.authorize(tag))


def _empty(asked: Asked) -> Payload:
    return {}


def _status(status: str) -> Callable[[Asked], Payload]:
    return lambda asked: {"status": status}


def _boot(asked: Asked) -> Payload:
    return {
        "currentTime": format_timestamp(asked.now_ms),
        "interval": asked.policy.boot.interval_seconds,
        "status": asked.policy.boot_status,
    }


def _heartbeat(asked: Asked) -> Payload:
    return {"currentTime": format_timestamp(asked.now_ms)}


def _authorize(asked: Asked) -> Payload:
    tag = tag_of(asked.version, asked.payload)
    if tag is None:
        raise CallRefused("OccurrenceConstraintViolation", "there is no idToken" if asked.version.is_2 else "no idTag")
    if not asked.version.is_2:
        return {"idTagInfo": _info(asked, tag)}
    made: Payload = {"idTokenInfo": _info(asked, tag)}
    if asked.payload.get("certificate") or asked.payload.get("iso15118CertificateHashData"):
        made["certificateStatus"] = "NoCertificateAvailable"
    return made


def _start_transaction(asked: Asked) -> Payload:
    tag = tag_of(asked.version, asked.payload)
    if tag is None:
        raise CallRefused("OccurrenceConstraintViolation", "there is no idTag")
    return {"idTagInfo": _info(asked, tag), "transactionId": asked.transaction_id}


def _stop_transaction(asked: Asked) -> Payload:
    tag = tag_of(asked.version, asked.payload)
    return {} if tag is None else {"idTagInfo": _info(asked, tag)}


def _transaction_event(asked: Asked) -> Payload:
    tag = tag_of(asked.version, asked.payload)
    return {} if tag is None else {"idTokenInfo": _info(asked, tag)}


def _data_transfer(asked: Asked) -> Payload:
    vendors = asked.policy.data_transfer.vendors
    if not vendors:
        # 2.x wants a refusal of what nobody reads; 1.6 chargers are answered as they always were by the reference.
        read = asked.converted or asked.policy.mapping.data_transfer or not asked.version.is_2
        return {"status": "Accepted" if read else "UnknownVendorId"}
    vendor = vendors.get(str(asked.payload.get("vendorId")))
    if vendor is None:
        return {"status": "UnknownVendorId"}
    if vendor.messages and asked.payload.get("messageId") not in vendor.messages:
        return {"status": "UnknownMessageId"}
    return {"status": vendor.status} if vendor.data is None else {"status": vendor.status, "data": vendor.data}


def _sign_certificate(asked: Asked) -> Payload:
    return {"status": "Accepted" if asked.policy.certificate_signing == "forward" else "Rejected"}


def _vat_number(asked: Asked) -> Payload:
    number = asked.payload.get("vatNumber")
    return {"status": "Rejected", "vatNumber": number[:20] if isinstance(number, str) else ""}


def _certificate_chain(asked: Asked) -> Payload:
    raise CallRefused("NotSupported", "no certificate status can be had here")


_COMMON: dict[str, Callable[[Asked], Payload]] = {
    "BootNotification": _boot,
    "Heartbeat": _heartbeat,
    "Authorize": _authorize,
    "MeterValues": _empty,
    "StatusNotification": _empty,
    "FirmwareStatusNotification": _empty,
    "DataTransfer": _data_transfer,
    "LogStatusNotification": _empty,
    "SecurityEventNotification": _empty,
    "SignCertificate": _sign_certificate,
}
_ANSWERS_16 = {
    **_COMMON,
    "StartTransaction": _start_transaction,
    "StopTransaction": _stop_transaction,
    "DiagnosticsStatusNotification": _empty,
    "SignedFirmwareStatusNotification": _empty,
}
_ANSWERS_201 = {
    **_COMMON,
    "TransactionEvent": _transaction_event,
    "NotifyReport": _empty,
    "NotifyEvent": _empty,
    "PublishFirmwareStatusNotification": _empty,
    "NotifyMonitoringReport": _empty,
    "NotifyCustomerInformation": _empty,
    "NotifyChargingLimit": _empty,
    "ClearedChargingLimit": _empty,
    "ReportChargingProfiles": _empty,
    "NotifyEVChargingNeeds": _status("Rejected"),
    "NotifyEVChargingSchedule": _status("Accepted"),
    "Get15118EVCertificate": lambda asked: {"status": "Failed", "exiResponse": ""},
    "GetCertificateStatus": _status("Failed"),
    "ReservationStatusUpdate": _empty,
    "NotifyDisplayMessages": _empty,
}
_ANSWERS_21 = {
    **_ANSWERS_201,
    "BatterySwap": _empty,
    "ClosePeriodicEventStream": _empty,
    "GetCertificateChainStatus": _certificate_chain,
    "NotifyDERAlarm": _empty,
    "NotifyDERStartStop": _empty,
    "NotifyPriorityCharging": _empty,
    "NotifySettlement": _empty,
    "OpenPeriodicEventStream": _status("Rejected"),
    "PullDynamicScheduleUpdate": _status("Rejected"),
    "ReportDERControl": _empty,
    "VatNumberValidation": _vat_number,
}
_ANSWERS: Mapping[Version, Mapping[str, Callable[[Asked], Payload]]] = {
    Version.V16: _ANSWERS_16,
    Version.V201: _ANSWERS_201,
    Version.V21: _ANSWERS_21,
}
