# -*- test-case-name: tests.connectors.ocpp.test_templates -*-
"""`valueExpression` on the way down: `${...}` within a text that mostly is JSON. Pure.

    {"key": "Limit", "value": "${attributeValue}"}   within quotes: the value's text, with JSON's escapes
    {"limit": ${params.amps}}                        outside of quotes: the value as JSON
    ${params}                                        of an RPC: as JSON, so that a text gets its quotes, as in the
                                                     existing gateway

Of an attribute update that is no JSON (its template does not begin with `{` or `[`), values are written as they are.
The reference replaces without any escape, so that a quote in a value breaks the message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tbgw.connectors.ocpp.failures import bad_parameters
from tbgw.expressions import MISSING, Evaluate, compile_path, split_template, text_of
from tbgw.model import Value


class CallTemplate:
    """One compiled template. Raises ExpressionError."""

    def __init__(self, template: str, is_json: bool) -> None:
        self._parts: list[tuple[str | Evaluate, bool, str]] = []
        """(text or expression, whether it stands within a JSON string, the expression's own text)."""
        self._is_json = is_json
        quoted = False
        for is_expression, text in split_template(template):
            if is_expression:
                self._parts.append((compile_path(text), quoted, text))
            else:
                self._parts.append((text, quoted, ""))
                quoted = _ends_quoted(text, quoted)

    def text(self, names: Mapping[str, Value]) -> str | None:
        """What is sent; None if the template is one expression alone, whose value is null. Raises CommandFailed."""
        made = []
        for part, quoted, expression in self._parts:
            if isinstance(part, str):
                made.append(part)
                continue
            value = part(names)
            if value is MISSING:
                raise bad_parameters(f"there is no {expression}, which valueExpression names")
            if value is None and len(self._parts) == 1:
                return None
            if quoted and self._is_json:
                made.append(json.dumps(text_of(value), ensure_ascii=False)[1:-1])
            elif self._is_json:
                made.append(json.dumps(value, ensure_ascii=False))
            else:
                made.append(text_of(value))
        return "".join(made)


def for_rpc(template: str) -> CallTemplate:
    """The template of an RPC."""
    return CallTemplate(template, is_json=True)


def for_update(template: str) -> CallTemplate:
    """The template of an attribute update."""
    return CallTemplate(template, is_json=template.lstrip().startswith(("{", "[")))


def payload_of(text: str | None) -> dict[str, Any]:
    """What a template gave, as the payload of a Call: a JSON object, or a text that is one. Raises CommandFailed."""
    value: Any = text
    for _ in range(2):
        if value is None or value == "":
            return {}
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise bad_parameters("what valueExpression gives is no JSON object") from None
    if not isinstance(value, dict):
        raise bad_parameters("what valueExpression gives is no JSON object")
    return value


def _ends_quoted(text: str, quoted: bool) -> bool:
    escaped = False
    for sign in text:
        if escaped:
            escaped = False
        elif sign == "\\" and quoted:
            escaped = True
        elif sign == '"':
            quoted = not quoted
    return quoted
