# -*- test-case-name: tests.uplink.test_remote_config -*-
"""Remote configuration as data: what the shared attributes of the gateway mean for its files, and the client attributes
that show the files (spec reference-gateway, A12). Pure; who reads, checks and writes is `tbgw.reconfiguration`.

Down, shared attributes; up, client attributes of the same names:

- `general_configuration`: the section `thingsboard`. Parts are enough: members that are not named stay, null takes one
  away (the reference wants the whole object, C-53).
- `storage_configuration`, `grpc_configuration`: those sections, likewise.
- `logs_configuration`: kept in `logs.json` and shown again; nothing of it is carried out (C-55: classes and paths).
- `active_connectors`: names. An entry that is not among them is taken out of the list; its file stays.
- a connector's name: `{"type", "name", "configuration": file, "configurationJson": {...}, ...}`.

Invariants:

* A secret that is shown is `SECRET_MASK`, and one that comes back so means "as it is". Where it cannot be told which
  secret is meant, as in a list whose entries changed their places, the update is refused: no station gets another's.
* Names of files are names of files in the configuration's folder. Whatever would read or write elsewhere has to be set
  on the machine itself, and so has what decides over what may be done remotely (`_LOCAL`): the permission to configure
  is not the permission to run programs or to read files (C-55).
* The same update twice changes nothing the second time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from tbgw.errors import GatewayError
from tbgw.model import Value
from tbgw.thingsboard import payloads

GENERAL_FILE = "tb_gateway.json"
LOGS_FILE = "logs.json"

GENERAL = "general_configuration"
STORAGE = "storage_configuration"
GRPC = "grpc_configuration"
LOGS = "logs_configuration"
ACTIVE = "active_connectors"
FIXED = (GENERAL, STORAGE, GRPC, LOGS, ACTIVE)
"""The attributes with a name of their own."""

STATUS = "remote_configuration_status"
"""Ours: what became of the last update, `{"ok", "ts", "faults": [...], "changed": [files]}`."""

SECRET_MASK = "******"  # noqa: S105 - what stands in the place of one
SECRET_KEY = re.compile(r"(?i)(password|passphrase|passwd|secret|token|psk|credential)(?!.*file$)|^(accessToken|hash)$")
"""Keys whose values are secrets wherever they stand, also where a connector of the reference has them that is not
offered here; what this gateway reads as a secret is known by its place as well."""

MAX_FAULTS = 20
"""Faults that are shown in ThingsBoard; the log has all."""

_SECTIONS = {GENERAL: "thingsboard", STORAGE: "storage", GRPC: "grpc"}
_ENVELOPE = ("id", "configVersion", "mode", "logLevel", "enableRemoteLogging", "reportStrategy")
"""What of a connector's attribute stands beside its name in tb_gateway.json."""

_ENVELOPE_DEFAULTS: Mapping[str, Value] = {"logLevel": "INFO", "enableRemoteLogging": False}
"""What is shown where nothing is said, and so means nothing when it comes back."""

_LOCAL = (
    ("remoteMethods",),
    ("publishSecrets",),
    ("firmware", "command"),
    ("software", "command"),
    ("statistics", "commands"),
    ("statistics", "configuration"),
    ("statistics", "enableCustom"),
    ("security", "accessTokenFile"),
    ("security", "passwordFile"),
    ("security", "dangerouslyAcceptAnyServerCertificate"),
)
"""Settings of `thingsboard` that are not taken from the wire: each would give more than the permission to configure."""

_LOCAL_EVEN_TO_TAKE_AWAY = (("remoteMethods",),)
"""Those of them that limit: without the list more is allowed than with it."""

_PATH_KEY = re.compile(r"File$|_file$|_path$|Cert$|^(cert|certificate|privateKey|import|folder|key)$")
_RESERVED = frozenset({GENERAL_FILE, LOGS_FILE, "list.json", "statistics.json"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,95}\.json")

Place = tuple[str | int, ...]
"""Keys and positions that lead to a value."""


class Refusal(GatewayError):  # noqa: N818 - says what is
    """An update that is not taken, as a whole; `faults` has one ready line for each reason. No value is in them."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an update asks for."""

    files: Mapping[str, Value]
    """New contents, by file name, of files that are to be written. Equal contents are left out."""
    attributes: tuple[str, ...]
    """Names of the attributes that were understood."""
    unknown: tuple[str, ...]
    """Connectors that are to be active and of which nothing is known yet: their attributes have to be asked for."""


def plan(
    update: Mapping[str, Value],
    files: Mapping[str, Value],
    secrets: Mapping[str, Collection[Place]],
    inactive: Mapping[str, Mapping[str, Value]] | None = None,
) -> Plan:
    """
    What `update`, attributes by name, makes of `files`, parsed contents by name. `secrets` has the places of secrets in
    each, `inactive` entries of connectors that are not in the list at present. Raises Refusal with every reason at
    once.
    """
    return _Planning(files, secrets, inactive or {}).plan(update)


def times(update: Mapping[str, Value]) -> dict[str, int]:
    """The `ts` in ms that each attribute of the update bears; those without are left out."""
    found = {}
    for name, value in update.items():
        ts = _object(value).get("ts")
        if isinstance(ts, int) and not isinstance(ts, bool):
            found[name] = ts
    return found


def is_configuration(name: str, value: Value) -> bool:
    """Whether the attribute is one of these at all."""
    if name in FIXED:
        return True
    content = _object(value)
    return isinstance(content.get("type"), str) and isinstance(_maybe_json(content.get("configurationJson")), dict)


class _Planning:
    """One plan in the making."""

    def __init__(
        self,
        files: Mapping[str, Value],
        secrets: Mapping[str, Collection[Place]],
        inactive: Mapping[str, Mapping[str, Value]],
    ) -> None:
        self._old = files
        self._inactive = inactive
        self._secrets = secrets
        self._new: dict[str, Value] = {}
        self._faults: list[str] = []

    def plan(self, update: Mapping[str, Value]) -> Plan:
        understood = []
        general = dict(_object(self._old.get(GENERAL_FILE)))
        for name, section in _SECTIONS.items():
            if name in update:
                understood.append(name)
                self._section(name, section, update[name], general)
        if LOGS in update:
            understood.append(LOGS)
            logs = _without_ts(self._content(LOGS, update[LOGS]))
            if logs or LOGS_FILE in self._old:
                self._write(LOGS_FILE, logs)
        connectors = [dict(entry) for entry in general.get("connectors", ()) if isinstance(entry, dict)]
        active = self._active(update[ACTIVE]) if ACTIVE in update else None
        for name, value in update.items():
            if name in FIXED or not is_configuration(name, value):
                continue
            understood.append(name)
            if active is None or name in active:
                self._connector(name, _object(value), connectors)
        unknown: tuple[str, ...] = ()
        if active is not None:
            understood.append(ACTIVE)
            known = {entry.get("name") for entry in connectors}
            back = [name for name in dict.fromkeys(active) if name in self._inactive and name not in known]
            connectors += [dict(self._inactive[name]) for name in back]
            known.update(back)
            unknown = tuple(name for name in active if name not in known)
            connectors = [entry for entry in connectors if entry.get("name") in active]
        if connectors != general.get("connectors", []):
            general["connectors"] = connectors
        self._write(GENERAL_FILE, general)
        if self._faults:
            raise Refusal(*self._faults)
        return Plan(self._new, tuple(understood), unknown)

    def _write(self, name: str, content: Value) -> None:
        if not same(content, self._old.get(name)):
            self._new[name] = content

    def _content(self, name: str, value: Value) -> dict[str, Value]:
        content = _maybe_json(value)
        if not isinstance(content, dict):
            self._faults.append(f"{name}: is no object {{...}}")
            return {}
        return content

    def _section(self, name: str, section: str, value: Value, general: dict[str, Value]) -> None:
        content = _without_ts(self._content(name, value))
        old = _object(general.get(section))
        places = [place[1:] for place in self._secrets.get(GENERAL_FILE, ()) if place[:1] == (section,)]
        if name == GENERAL:
            self._check_local(content, old)
            if isinstance(content.get("statistics"), dict):
                unsaid = _statistics_defaults(old)
                content["statistics"] = {
                    key: value
                    for key, value in content["statistics"].items()
                    if key not in unsaid or value != unsaid[key]
                }
                if not content["statistics"] and "statistics" not in old:
                    del content["statistics"]
            for key in ("security", "provisioning"):
                given, had = _object(content.get(key)), _object(old.get(key))
                if given.get("type") and given["type"] != had.get("type") and had:
                    # Credentials of another kind: nothing of the old ones may linger. Masked ones are still looked up.
                    of_key = [place[1:] for place in places if place[:1] == (key,)]
                    content[key] = self._unmasked(given, had, of_key, f"{name}.{key}")
                    old = {member: held for member, held in old.items() if member != key}
        elif name == STORAGE and content.get("type") not in (None, old.get("type")):
            old = {}
        self._check_paths(name, content, old)
        merged = self._merged(self._unmasked(content, old, places, name), old)
        if merged or section in general:
            general[section] = merged

    def _merged(self, new: dict[str, Value], old: Mapping[str, Value]) -> dict[str, Value]:
        """`old` with the members of `new`; null takes a member away."""
        merged = dict(old)
        for key, value in new.items():
            if value is None:
                merged.pop(key, None)
            elif isinstance(value, dict):
                merged[key] = self._merged(value, _object(old.get(key)))
            else:
                merged[key] = value
        return merged

    def _check_local(self, content: Mapping[str, Value], old: Mapping[str, Value]) -> None:
        for place in _LOCAL:
            given, had = _at(content, place), _at(old, place)
            if place in _LOCAL_EVEN_TO_TAKE_AWAY and place[0] in content and given is None and had is not None:
                self._faults.append(f"{GENERAL}.{'.'.join(place)}: is taken away on the machine itself only")
            if given is not None and given != had and not (given in ([], False, "") and had in (None, [], False, "")):
                self._faults.append(f"{GENERAL}.{'.'.join(place)}: is set on the machine itself only")

    def _check_paths(self, name: str, content: Value, old: Value) -> None:
        """Nothing that is new names a file outside the folders of the gateway."""
        known = {value for _, _, value in _strings(old)}
        for place, holder, value in _strings(content):
            key = place[-1] if place else ""
            if not isinstance(key, str) or not _PATH_KEY.search(key) or value in known:
                continue
            if key == "key" and "cert" not in holder:
                continue  # of a datapoint
            if leaves_folder(value):
                self._faults.append(f"{name}.{_shown(place)}: names a file outside the gateway's folders")

    def _active(self, value: Value) -> list[str]:
        names = _maybe_json(value)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._faults.append(f"{ACTIVE}: is no list of names")
            return []
        return names

    def _connector(self, name: str, value: Mapping[str, Value], connectors: list[dict[str, Value]]) -> None:
        if value.get("name", name) != name:
            self._faults.append(f"{name}: bears the name of another connector")
            return
        entry = next((entry for entry in connectors if entry.get("name") == name), None)
        if entry is None:
            entry = {"type": value["type"], "name": name}
            file = self._new_file(name, value, connectors)
            if file is None:
                return
            entry["configuration"] = file
            connectors.append(entry)
        entry["type"] = value["type"]
        for key in _ENVELOPE:
            if value.get(key) is not None:
                if key in entry or value[key] != _ENVELOPE_DEFAULTS.get(key):
                    entry[key] = value[key]
            elif key == "reportStrategy":
                entry.pop(key, None)
        file = entry.get("configuration")
        if not isinstance(file, str):
            self._faults.append(f"{name}: its entry in {GENERAL_FILE} names no file")
            return
        content = _maybe_json(value.get("configurationJson"))
        old = self._old.get(file, {})
        self._check_paths(name, content, old)
        self._write(file, self._unmasked(content, old, self._secrets.get(file, ()), name))

    def _new_file(self, name: str, value: Mapping[str, Value], connectors: list[dict[str, Value]]) -> str | None:
        given = value.get("configuration")
        file = given if given else re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:80] + ".json"
        taken = {entry.get("configuration") for entry in connectors}
        if not isinstance(file, str) or not _NAME.fullmatch(file) or file in _RESERVED:
            self._faults.append(f"{name}: `configuration` is no name of a .json file in the configuration's folder")
        elif file in taken:
            self._faults.append(f"{name}: its file is another connector's already")
        else:
            return file
        return None

    def _unmasked(self, new: Value, old: Value, places: Iterable[Place], name: str) -> Value:
        """`new` with the secrets of `old` where `new` has the mask."""
        places = frozenset(places)
        lost: list[Place] = []
        result = _unmask(new, old, places, (), lost)
        for place in lost[:MAX_FAULTS]:
            self._faults.append(f"{name}.{_shown(place)}: it cannot be told which secret is meant by {SECRET_MASK}")
        return result


def leaves_folder(name: str) -> bool:
    """Whether a file name leads out of the folder that it starts from."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name


def same(one: Value, other: Value) -> bool:
    """Whether two JSON values are equal; true is not 1."""
    if type(one) is not type(other):
        return {type(one), type(other)} == {int, float} and bool(one == other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# Secrets.


def masked(value: Value, places: Collection[Place], place: Place = ()) -> Value:
    """`value` with `SECRET_MASK` in the place of every secret text that is not empty."""
    if isinstance(value, dict):
        return {key: masked(child, places, (*place, key)) for key, child in value.items()}
    if isinstance(value, list):
        return [masked(child, places, (*place, position)) for position, child in enumerate(value)]
    if isinstance(value, str) and value and _is_secret(place, places):
        return SECRET_MASK
    return value


def _is_secret(place: Place, places: Collection[Place]) -> bool:
    key = next((step for step in reversed(place) if isinstance(step, str)), "")
    return place in places or bool(SECRET_KEY.search(key))


def _unmask(new: Value, old: Value, places: Collection[Place], place: Place, lost: list[Place]) -> Value:
    if new == SECRET_MASK:
        if isinstance(old, str):
            return old
        lost.append(place)
    elif isinstance(new, dict):
        had = old if isinstance(old, dict) else {}
        return {key: _unmask(value, had.get(key), places, (*place, key), lost) for key, value in new.items()}
    elif isinstance(new, list):
        items = old if isinstance(old, list) else []
        shown = [masked(item, places, (*place, position)) for position, item in enumerate(items)]
        return [
            _unmask(item, _same_item(item, position, items, shown), places, (*place, position), lost)
            for position, item in enumerate(new)
        ]
    return new


_IDENTITY = ("name", "deviceName", "deviceNameExpression", "jid", "id", "idRegexpPattern", "username", "user", "type")
"""By these an entry of a list is known again though something else of it was changed."""


def _same_item(item: Value, position: int, had: list[Value], shown: list[Value]) -> Value:
    """The entry of the old list whose secrets `item` shows masked; None when that is not certain."""
    if item in shown:
        return had[position] if position < len(shown) and shown[position] == item else had[shown.index(item)]
    if not isinstance(item, dict):
        return None
    identity = [item.get(key) for key in _IDENTITY]
    alike = [old for old in had if isinstance(old, dict) and [old.get(key) for key in _IDENTITY] == identity]
    return alike[0] if len(alike) == 1 and any(value is not None for value in identity) else None


# What is shown.


def published(
    files: Mapping[str, Value],
    secrets: Mapping[str, Collection[Place]],
    ts_ms: Mapping[str, int],
    version: str,
    show_secrets: bool = False,
) -> list[dict[str, Value]]:
    """
    The client attributes that show the configuration, one message first and then one for each connector. `ts_ms` has
    the time in ms of each attribute, as ThingsBoard's page compares it with that of the shared one.
    """

    def shown(file: str, value: Value, *start: str) -> Value:
        places = [place[len(start) :] for place in secrets.get(file, ()) if place[: len(start)] == start]
        return value if show_secrets else masked(value, places)

    general = _object(files.get(GENERAL_FILE))
    thingsboard = shown(GENERAL_FILE, _object(general.get("thingsboard")), "thingsboard")
    statistics = {**_object(thingsboard.get("statistics")), **_statistics_defaults(thingsboard)}
    connectors = [entry for entry in general.get("connectors", ()) if isinstance(entry, dict)]
    first = {
        GENERAL: {**thingsboard, "statistics": statistics},
        STORAGE: shown(GENERAL_FILE, _object(general.get("storage")), "storage"),
        GRPC: _object(general.get("grpc")),
        LOGS: shown(LOGS_FILE, _object(files.get(LOGS_FILE))),
    }
    messages: list[dict[str, Value]] = [
        {
            **{name: {**value, "ts": ts_ms.get(name, 0)} for name, value in first.items()},
            ACTIVE: [entry.get("name") for entry in connectors],
            "Version": version,
        }
    ]
    for entry in connectors:
        name, file = entry.get("name"), entry.get("configuration")
        if not isinstance(name, str) or not isinstance(file, str) or name in FIXED:
            continue
        content = {**_ENVELOPE_DEFAULTS, **entry}
        content |= {"configurationJson": shown(file, files.get(file, {})), "ts": ts_ms.get(name, 0)}
        messages.append({name: content})
    return messages


# Small parts.


def _statistics_defaults(thingsboard: Mapping[str, Value]) -> dict[str, Value]:
    """What ThingsBoard's page wants to see of `statistics` and the file does not say."""
    said = thingsboard.get("statistics")
    defaults: dict[str, Value] = {"enable": isinstance(said, dict), "enableCustom": False, "commands": []}
    return {key: value for key, value in defaults.items() if key not in _object(said)}


def _maybe_json(value: Value) -> Value:
    """ThingsBoard keeps JSON attributes as such, but a page may have stored one as text."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return payloads.decode(value.encode())
        except ValueError:
            return value
    return value


def _object(value: Value) -> dict[str, Any]:
    content = _maybe_json(value)
    return content if isinstance(content, dict) else {}


def _without_ts(content: Mapping[str, Value]) -> dict[str, Value]:
    return {key: value for key, value in content.items() if key != "ts"}


def _at(content: Value, place: Iterable[str]) -> Value:
    for key in place:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _strings(value: Value, place: Place = (), holder: Mapping[str, Value] | None = None) -> Iterable[
    tuple[Place, Mapping[str, Value], str]
]:
    """(place, the object that holds it, text) of every text in a value."""
    if isinstance(value, str):
        yield place, holder or {}, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _strings(child, (*place, key), value)
    elif isinstance(value, list):
        for position, child in enumerate(value):
            yield from _strings(child, (*place, position), holder)


def _shown(place: Place) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).removeprefix(".")
    return text[:200].encode("unicode_escape").decode("ascii")
