# -*- test-case-name: tests.connectors.ocpp -*-
"""Entries of a connector's file that are made of `${...}` expressions; the OCPP connector's are such.

The expressions stay texts here; the connector that uses them compiles them.
"""

from __future__ import annotations

from tbgw.config.schema import config_section, flag, read_expression, report_strategy, setting, text
from tbgw.model import ReportStrategy


@config_section
class TemplatePoint:
    """One entry of `attributes` or `timeseries`."""

    key: str = setting("key", read=read_expression, doc="Name of the value in ThingsBoard; may be an expression.")
    value: str = setting("value", read=read_expression, doc="Expression over the device's message.")
    report: ReportStrategy | None = report_strategy("When this value is sent on.")


@config_section
class TemplateUpdate:
    """One entry of `attributeUpdates`: a shared attribute that is passed on to the device."""

    attribute: str = text("attributeOnThingsBoard", doc="Name of the shared attribute.")
    value: str = setting(
        "valueExpression",
        read=read_expression,
        default='{"${attributeKey}":"${attributeValue}"}',
        doc="What is sent, with ${attributeKey} and ${attributeValue}.",
    )


@config_section
class TemplateRpc:
    """One entry of `serverSideRpc`."""

    method: str = text("methodRPC", doc="Name of the RPC method.")
    with_response: bool = flag("withResponse", default=True, doc="Whether the device's answer goes back.")
    value: str = setting(
        "valueExpression", read=read_expression, default="${params}", doc="What is sent, with ${params}."
    )
