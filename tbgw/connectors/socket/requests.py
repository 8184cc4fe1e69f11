# -*- test-case-name: tests.connectors.test_socket_config -*-
"""What a device's message may ask of ThingsBoard, typed: attributes, an RPC to the rule chain, a claim.

`attributeRequests` is the reference's; `clientSideRpc` and `claimRequests` are ours, and say the same things in the
same words where they can.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from tbgw.config.schema import (
    Node,
    Refused,
    Reporter,
    config_section,
    integer,
    one_of,
    read_section,
    read_text,
    setting,
)
from tbgw.connectors.socket.fields import read_encoding, read_template

COMPARISON = re.compile(
    r"\$\{\[(?:(?P<start>-?[0-9]{1,9})?(?P<colon>:)(?P<stop>-?[0-9]{1,9})?|(?P<at>-?[0-9]{1,9}))\]==(?P<text>.*)\}",
    re.DOTALL,
)
"""A request expression such as `${[0:3]==atr}`; also `${[:3]==x}`, `${[3:]==x}` and `${[0]==x}` (S-05)."""
_SLICES = re.compile(r"\[(-?[0-9]{0,9}:-?[0-9]{0,9}|-?[0-9]{1,9})\]")

Source = Literal["constant", "expression"]


def read_plain_text(node: Node, reporter: Reporter) -> str:
    """A text that may be empty or blank."""
    if not isinstance(node.value, str):
        raise Refused(f"is {node.kind}, must be a text in double quotes")
    return node.value


@config_section
class AttributeRequest:
    """One entry of `attributeRequests`: how a device's message asks ThingsBoard for attribute values."""

    scope: Literal["shared", "client"] = one_of(
        "type", choices=("shared", "client"), default="shared", doc="Which attributes are asked for."
    )
    request_expression: str = setting(
        "requestExpression", read=read_text, default="${[0:3]==atr}", doc="How such a message is recognised."
    )
    request_source: Literal["constant", "expression"] = one_of(
        "requestExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether requestExpression is the beginning of the message or a comparison such as ${[0:3]==atr}.",
    )
    name_expression: str = setting(
        "attributeNameExpression", read=read_text, default="[3:]", doc="Where the attribute's name stands."
    )
    name_source: Literal["constant", "expression"] = one_of(
        "attributeNameExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether attributeNameExpression is the name itself or slices of the message such as [3:].",
    )

    encoding: str | None = setting(
        "encoding", read=read_encoding, default=None, doc="How the answer is written; None: the device's encoding."
    )
    answer: str = setting(
        "answerExpression",
        read=read_template,
        default="${values}",
        doc="What is sent: ${values} is the value, or of several names a JSON object; ${device}, ${values.<name>}.",
    )
    not_found: str = setting(
        "notFoundAnswer",
        read=read_plain_text,
        default="null",
        doc="What ${values} is when ThingsBoard does not have the attribute; empty: no answer.",
    )

    INERT: ClassVar[Mapping[str, str]] = {"expressionType": "without effect: the two ...Source keys say it"}


@config_section
class RpcRequest:
    """One entry of `clientSideRpc`: how a device's message asks ThingsBoard's rule chain."""

    request_expression: str = setting("requestExpression", read=read_text, doc="How such a message is recognised.")
    request_source: Source = one_of(
        "requestExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether requestExpression is the beginning of the message or a comparison such as ${[0:3]==rpc}.",
    )
    name_expression: str = setting(
        "methodExpression", read=read_text, default="[3:]", doc="Where the method's name stands."
    )
    name_source: Source = one_of(
        "methodExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether methodExpression is the name itself or a slice of the message such as [3:].",
    )
    params: str = setting(
        "paramsExpression",
        read=read_plain_text,
        default="",
        doc="Slice of the message that holds the parameters, JSON or text; or with ...Source constant they themselves.",
    )
    params_source: Source = one_of(
        "paramsExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether paramsExpression is the parameters or a slice of the message.",
    )
    encoding: str | None = setting(
        "encoding", read=read_encoding, default=None, doc="How the answer is written; None: the device's encoding."
    )
    answer: str = setting(
        "answerExpression",
        read=read_template,
        default="${response}",
        doc="What is sent: ${response} is ThingsBoard's answer; also ${response.<name>}, ${method}, ${device}.",
    )
    no_answer: str = setting(
        "noAnswer", read=read_plain_text, default="", doc="What is sent when there is none; empty: nothing."
    )


@config_section
class ClaimRequest:
    """One entry of `claimRequests`: how a device's message opens it for claiming."""

    request_expression: str = setting("requestExpression", read=read_text, doc="How such a message is recognised.")
    request_source: Source = one_of(
        "requestExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether requestExpression is the beginning of the message or a comparison such as ${[0:3]==clm}.",
    )
    name_expression: str = setting(
        "secretKeyExpression", read=read_plain_text, default="", doc="Where the secret stands; empty: no secret."
    )
    name_source: Source = one_of(
        "secretKeyExpressionSource",
        choices=("constant", "expression"),
        default="expression",
        doc="Whether secretKeyExpression is the secret itself or a slice of the message such as [3:].",
    )
    duration_ms: int | None = integer(
        "durationMs",
        minimum=1,
        maximum=366 * 86_400_000,
        default=None,
        unit="ms",
        doc="How long the claim is open; ThingsBoard's own time when left out.",
    )
    encoding: str | None = setting(
        "encoding", read=read_encoding, default=None, doc="How the answer is written; None: the device's encoding."
    )
    answer: str = setting(
        "answerExpression", read=read_plain_text, default="", doc="What is sent once ThingsBoard has taken it."
    )
    no_answer: str = setting(
        "noAnswer", read=read_plain_text, default="", doc="What is sent when it has not; empty: nothing."
    )


Request = AttributeRequest | RpcRequest | ClaimRequest


def read_request(node: Node, reporter: Reporter) -> AttributeRequest:
    """An entry of `attributeRequests`."""
    request = read_section(AttributeRequest, node, reporter)
    _check_expression(request, node, reporter)
    _check_slice(request.name_expression, request.name_source, "attributeNameExpression", node, reporter)
    return request


def read_rpc_request(node: Node, reporter: Reporter) -> RpcRequest:
    """An entry of `clientSideRpc`."""
    request = read_section(RpcRequest, node, reporter)
    _check_expression(request, node, reporter)
    _check_slice(request.name_expression, request.name_source, "methodExpression", node, reporter)
    _check_slice(request.params, request.params_source, "paramsExpression", node, reporter)
    return request


def read_claim_request(node: Node, reporter: Reporter) -> ClaimRequest:
    """An entry of `claimRequests`."""
    request = read_section(ClaimRequest, node, reporter)
    _check_expression(request, node, reporter)
    _check_slice(request.name_expression, request.name_source, "secretKeyExpression", node, reporter)
    secret = node.member("secretKeyExpression")
    if secret is not None and request.name_source == "constant":
        reporter.holds_secret(secret)
    return request


def _check_expression(request: Request, node: Node, reporter: Reporter) -> None:
    expression = node.member("requestExpression")
    template = request.request_source == "expression" and "${" in request.request_expression
    if expression is not None and template and not COMPARISON.fullmatch(request.request_expression):
        reporter.fault(
            expression, "must be a comparison such as ${[0:3]==atr}, or a fixed beginning without ${}, such as atr"
        )


def _check_slice(given: str, source: Source, key: str, node: Node, reporter: Reporter) -> None:
    child = node.member(key)
    if child is not None and given and source == "expression" and not _SLICES.search(given):
        reporter.fault(
            child, f"must hold a slice such as [3:]; for a fixed one set {key}Source to constant"
        )
