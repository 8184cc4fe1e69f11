"""Who may send which message: the names by version and direction (spec ocpp, 2).

The packages' schemas name the messages but not who sends them, so the tables are written down here; a test holds that
the two together are exactly the messages of which there is a schema.
"""

from __future__ import annotations

from tbgw.ocpp.versions import Version

_STATION_16 = """
    Authorize BootNotification DataTransfer DiagnosticsStatusNotification FirmwareStatusNotification Heartbeat
    LogStatusNotification MeterValues SecurityEventNotification SignCertificate SignedFirmwareStatusNotification
    StartTransaction StatusNotification StopTransaction
"""
_CENTRAL_16 = """
    CancelReservation CertificateSigned ChangeAvailability ChangeConfiguration ClearCache ClearChargingProfile
    DataTransfer DeleteCertificate ExtendedTriggerMessage GetCompositeSchedule GetConfiguration GetDiagnostics
    GetInstalledCertificateIds GetLocalListVersion GetLog InstallCertificate RemoteStartTransaction
    RemoteStopTransaction ReserveNow Reset SendLocalList SetChargingProfile SignedUpdateFirmware TriggerMessage
    UnlockConnector UpdateFirmware
"""
_STATION_201 = """
    Authorize BootNotification ClearedChargingLimit DataTransfer FirmwareStatusNotification Get15118EVCertificate
    GetCertificateStatus Heartbeat LogStatusNotification MeterValues NotifyChargingLimit NotifyCustomerInformation
    NotifyDisplayMessages NotifyEVChargingNeeds NotifyEVChargingSchedule NotifyEvent NotifyMonitoringReport
    NotifyReport PublishFirmwareStatusNotification ReportChargingProfiles ReservationStatusUpdate
    SecurityEventNotification SignCertificate StatusNotification TransactionEvent
"""
_CENTRAL_201 = """
    CancelReservation CertificateSigned ChangeAvailability ClearCache ClearChargingProfile ClearDisplayMessage
    ClearVariableMonitoring CostUpdated CustomerInformation DataTransfer DeleteCertificate GetBaseReport
    GetChargingProfiles GetCompositeSchedule GetDisplayMessages GetInstalledCertificateIds GetLocalListVersion GetLog
    GetMonitoringReport GetReport GetTransactionStatus GetVariables InstallCertificate PublishFirmware
    RequestStartTransaction RequestStopTransaction ReserveNow Reset SendLocalList SetChargingProfile
    SetDisplayMessage SetMonitoringBase SetMonitoringLevel SetNetworkProfile SetVariableMonitoring SetVariables
    TriggerMessage UnlockConnector UnpublishFirmware UpdateFirmware
"""
_STATION_21 = """
    BatterySwap ClosePeriodicEventStream GetCertificateChainStatus NotifyDERAlarm NotifyDERStartStop
    NotifyPeriodicEventStream NotifyPriorityCharging NotifySettlement OpenPeriodicEventStream
    PullDynamicScheduleUpdate ReportDERControl VatNumberValidation
"""
_CENTRAL_21 = """
    AFRRSignal AdjustPeriodicEventStream ChangeTransactionTariff ClearDERControl ClearTariffs GetDERControl
    GetPeriodicEventStream GetTariffs NotifyAllowedEnergyTransfer NotifyWebPaymentStarted RequestBatterySwap
    SetDERControl SetDefaultTariff UpdateDynamicSchedule UsePriorityCharging
"""

_STATION = {
    Version.V16: frozenset(_STATION_16.split()),
    Version.V201: frozenset(_STATION_201.split()),
    Version.V21: frozenset((_STATION_201 + _STATION_21).split()),
}
_CENTRAL = {
    Version.V16: frozenset(_CENTRAL_16.split()),
    Version.V201: frozenset(_CENTRAL_201.split()),
    Version.V21: frozenset((_CENTRAL_201 + _CENTRAL_21).split()),
}

UNCONFIRMED = frozenset({"NotifyPeriodicEventStream"})
"""Sent as SEND, never as CALL; they have no result (2.1)."""


def station_actions(version: Version) -> frozenset[str]:
    """What a station sends to us, SENDs included."""
    return _STATION[version]


def central_actions(version: Version) -> frozenset[str]:
    """What we may call on a station."""
    return _CENTRAL[version]


def is_known(version: Version, action: str) -> bool:
    """Whether the version has a message of this name, in either direction."""
    return action in _STATION[version] or action in _CENTRAL[version]
