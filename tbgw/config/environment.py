# -*- test-case-name: tests.config.test_environment -*-
"""Settings from environment variables, laid over the tree of tb_gateway.json key by key.

Only names with the prefix TB_GW_ are read: the reference reads `host`, `port`, `username` too, so that somebody else's
variable changes its credentials (C-27). It also replaces the whole `security` object as soon as one variable of it is
set (C-22); here the other keys of the file stay. An empty variable counts as none, as container files have it.
"""

from __future__ import annotations

from collections.abc import Mapping

from tbgw.config.document import Node, Trail, printable
from tbgw.config.findings import ENVIRONMENT, Finding, Reporter, Severity
from tbgw.config.values import did_you_mean

PREFIX = "TB_GW_"

_THINGSBOARD = {
    "HOST": "host",
    "PORT": "port",
    "PROXY_HOST": "proxy_host",
    "PROXY_PORT": "proxy_port",
}
_SECURITY = {
    "SECURITY_TYPE": "type",
    "ACCESS_TOKEN": "accessToken",
    "CA_CERT": "caCert",
    "PRIVATE_KEY": "privateKey",
    "CERT": "cert",
    "CLIENT_ID": "clientId",
    "USERNAME": "username",
    "PASSWORD": "password",
}
_PROVISIONING = {
    "KEY": "provisionDeviceKey",
    "SECRET": "provisionDeviceSecret",
    "NAME": "deviceName",
    "ACCESS_TOKEN": "access_token",
    "USERNAME": "username",
    "PASSWORD": "password",
    "CLIENT_ID": "client_id",
    "CA_CERT_FILENAME": "caCert",
}
# The two that set several limits come first, so that one that names a single limit has the last word.
_LIMITS = {
    "RATE_LIMITS": ("rateLimits", "messagesRateLimits", "deviceMessagesRateLimits", "deviceRateLimits"),
    "DP_RATE_LIMITS": ("dpRateLimits", "deviceDpRateLimits"),
    "MESSAGES_RATE_LIMITS": ("messagesRateLimits",),
    "DEVICE_MESSAGES_RATE_LIMIT": ("deviceMessagesRateLimits",),
    "DEVICE_RATE_LIMITS": ("deviceRateLimits",),
    "DEVICE_DP_RATE_LIMITS": ("deviceDpRateLimits",),
}

TARGETS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    **{PREFIX + name: (("thingsboard", key),) for name, key in _THINGSBOARD.items()},
    **{PREFIX + name: (("thingsboard", "security", key),) for name, key in _SECURITY.items()},
    **{
        f"{PREFIX}PROVISIONING_DEVICE_{name}": (("thingsboard", "provisioning", key),)
        for name, key in _PROVISIONING.items()
    },
    **{PREFIX + name: tuple(("thingsboard", key) for key in keys) for name, keys in _LIMITS.items()},
}
"""Variable to the paths of the keys that it sets."""

USED_ELSEWHERE = frozenset({"TB_GW_CONFIG_DIR"})
"""Read by whoever looks for the configuration."""
WITHOUT_EFFECT = frozenset({"TB_GW_LOGS_PATH", "TB_GW_DEV_MODE", "TB_GW_DEV_DEBUG_SERVER"})
"""Variables of the reference that ask for something this gateway does not do; twistd decides where the log goes."""

# Which credentials a variable speaks for, in the reference's order of precedence: the type that is meant when the
# file names another one, and the types of the file that may stay.
_MEANS_TYPE = (
    ("TB_GW_ACCESS_TOKEN", "accessToken", ("accessToken", "tlsAccessToken")),
    ("TB_GW_USERNAME", "usernamePassword", ("usernamePassword",)),
    ("TB_GW_PASSWORD", "usernamePassword", ("usernamePassword",)),
    ("TB_GW_CERT", "x509Certificate", ("x509Certificate",)),
    ("TB_GW_PRIVATE_KEY", "x509Certificate", ("x509Certificate",)),
)
# A secret in the environment takes the place of a secret file that the configuration names.
_REPLACES = {"accessToken": "accessTokenFile", "password": "passwordFile"}


def overlay(root: Node, environ: Mapping[str, str], reporter: Reporter) -> Node:
    """The tree with what the environment says; every value so set names its variable as its place."""
    _report_names(environ, reporter)
    given = {name: environ[name] for name in TARGETS if environ.get(name)}
    for name, value in given.items():
        for path in TARGETS[name]:
            root = _put(root, path, value, _source(name), None)
            if path[-1] in _REPLACES and path[1] == "security":
                root = _drop(root, path[:-1], _REPLACES[path[-1]])
    if "TB_GW_SECURITY_TYPE" not in given:
        for name, meant, fitting in _MEANS_TYPE:
            if name in given:
                if _text_at(root, ("thingsboard", "security", "type")) not in fitting:
                    root = _put(root, ("thingsboard", "security", "type"), meant, _source(name), None)
                break
    return root


def _source(name: str) -> str:
    return ENVIRONMENT + name


def _report_names(environ: Mapping[str, str], reporter: Reporter) -> None:
    known = [*TARGETS, *USED_ELSEWHERE, *WITHOUT_EFFECT]
    for name in sorted(environ):
        if not name.startswith(PREFIX) or not environ[name]:
            continue
        source = _source(printable(name))
        if name in WITHOUT_EFFECT:
            reporter.add(Finding(Severity.NOTICE, source, 0, "", "known, but without effect here"))
        elif name not in known:
            hint = did_you_mean(name, known)
            reporter.add(Finding(Severity.DOUBT, source, 0, "", f"unknown variable{hint}"))


def _put(node: Node, path: tuple[str, ...], value: str, source: str, trail: Trail) -> Node:
    """`node` with a text at `path`; objects that are missing on the way are made, what is no object is left alone."""
    key, *rest = path
    trail = (trail, key)
    if not isinstance(node.value, Mapping):
        return node
    if not rest:
        return node.with_member(key, Node(value, source, 0, trail))
    child = node.member(key) or Node({}, source, 0, trail)
    return node.with_member(key, _put(child, tuple(rest), value, source, trail))


def _drop(node: Node, path: tuple[str, ...], key: str) -> Node:
    if not isinstance(node.value, Mapping):
        return node
    if not path:
        return node.without(key)
    child = node.member(path[0])
    return node if child is None else node.with_member(path[0], _drop(child, path[1:], key))


def _text_at(node: Node, path: tuple[str, ...]) -> str:
    for key in path:
        child = node.member(key)
        if child is None:
            return ""
        node = child
    return node.value if isinstance(node.value, str) else ""
