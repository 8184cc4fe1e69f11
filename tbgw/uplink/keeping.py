# -*- test-case-name: tests.uplink.test_keeping -*-
"""Keeps credentials that ThingsBoard gave: in the data folder, 0600, each file written whole or not at all.

    credentials.json       the answer of ThingsBoard, in the reference's form, and the device's name
    credentials-asked.json what is being asked for; there from before the request until its answer is kept
    credentials-next.json  a certificate that is to follow the one in use, as soon as ThingsBoard takes it
    credentials-*.pem      certificate and key of an X.509 login, named in these

What is asked for is on the disk before ThingsBoard hears of it, so that a power cut between its answer and our keeping
it loses neither a token nor a key, and does not leave a second device behind. Of the reference, `.credentials` in the
configuration's folder is read as well, with cert.pem and key.pem beside it, and never written.

All methods block for as long as the disk takes: not in the reactor's thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tbgw.uplink.provisioning import TYPES, Login, parse_response

MAX_BYTES = 256 * 1024
"""More than any credentials file has."""

KEPT = "credentials.json"
ASKED = "credentials-asked.json"
NEXT = "credentials-next.json"
REFERENCE = ".credentials"


class CredentialsKeeper:
    """The credentials in one data folder."""

    def __init__(self, data_dir: Path, config_dir: Path) -> None:
        self._data_dir = data_dir
        self._config_dir = config_dir

    def load(self) -> Login | None:
        """
        What was kept last; None when nothing was. Raises ValueError that names the file when it cannot be used: then a
        human has to decide, since to provision again may make a second device.
        """
        own, reference = self._data_dir / KEPT, self._config_dir / REFERENCE
        for path, read in ((own, self._read), (reference, self._read_reference)):
            body = _json(path)
            if body is not None:
                try:
                    return read(body)
                except (AttributeError, KeyError, TypeError, ValueError):
                    raise ValueError(f"{path}: holds no credentials that can be used") from None
        return None

    def asked(self, basis: str) -> Login | None:
        """What an earlier run asked for under the same configuration, whose digest is `basis`, and had no answer."""
        try:
            body = _json(self._data_dir / ASKED)
            return self._login(body) if body is not None and body.get("basis") == basis else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None  # damaged: ask anew

    def ask(self, login: Login, basis: str) -> None:
        """Keep what is about to be asked for. Raises OSError."""
        _write(self._data_dir / ASKED, _encoded({**_described(login), "basis": basis}))

    def write_pair(self, certificate: bytes, key: bytes) -> tuple[Path, Path]:
        """Keep a certificate and its key as files of their own. Raises OSError."""
        stem = f"credentials-{secrets.token_hex(4)}"
        paths = self._data_dir / f"{stem}.cert.pem", self._data_dir / f"{stem}.key.pem"
        for path, content in zip(paths, (certificate, key), strict=True):
            _write(path, content)
        return paths

    def next(self) -> Login | None:
        """What is to follow the credentials in use; None when there is nothing that could."""
        try:
            body = _json(self._data_dir / NEXT)
            return self._login(body) if body is not None else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def keep_next(self, login: Login) -> None:
        """Keep what is to follow. Raises OSError."""
        _write(self._data_dir / NEXT, _encoded(_described(login)))

    def keep(self, login: Login) -> None:
        """These are the credentials now; what was to follow is no more. Raises OSError."""
        _write(self._data_dir / KEPT, _encoded(_described(login)))
        self.tidy(login)

    def forget(self) -> bool:
        """
        Remove the credentials, and those of the reference as well (renamed, since they are not ours). Answers whether
        there were any. Raises OSError.
        """
        found = False
        for name in (KEPT, ASKED, NEXT):
            try:
                (self._data_dir / name).unlink()
                found = found or name == KEPT
            except FileNotFoundError:
                pass
        reference = self._config_dir / REFERENCE
        if reference.exists():
            reference.rename(reference.with_name(REFERENCE + ".old"))
            found = True
        self.tidy(None)
        _sync_folder(self._data_dir)
        return found

    def tidy(self, login: Login | None) -> None:
        """Remove what is not needed beside the credentials in use."""
        for name in (ASKED, NEXT):
            with contextlib.suppress(FileNotFoundError):
                (self._data_dir / name).unlink()
        used = {login.certificate, login.private_key} if login is not None else set()
        for path in self._data_dir.glob("credentials-*.pem"):
            if path not in used:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _read(self, body: Mapping[str, Any]) -> Login:
        if body["status"] != "SUCCESS":
            raise ValueError("no success")
        return self._login(body)

    def _login(self, body: Mapping[str, Any]) -> Login:
        kind = body["credentialsType"]
        if kind not in TYPES:
            raise ValueError("unknown type")
        value = body["credentialsValue"]
        name = str(body.get("deviceName", ""))
        if kind == "X509_CERTIFICATE":
            return Login(
                kind, certificate=self._file(body["certificate"]), private_key=self._file(body["key"]), device_name=name
            )
        if kind == "ACCESS_TOKEN":
            return Login(kind, token=str(value), device_name=name)
        return Login(
            kind,
            client_id=str(value.get("clientId") or ""),
            username=str(value.get("userName") or ""),
            password=str(value.get("password") or ""),
            device_name=name,
        )

    def _file(self, name: str) -> Path:
        path = self._data_dir / os.path.basename(name)
        if not path.is_file():
            raise ValueError("a file is missing")
        return path

    def _read_reference(self, body: Mapping[str, Any]) -> Login:
        if body.get("credentialsType") == "X509_CERTIFICATE":
            pair = self._config_dir / "cert.pem", self._config_dir / "key.pem"
            if not all(path.is_file() for path in pair):
                raise ValueError("cert.pem or key.pem is missing")
            return Login("X509_CERTIFICATE", certificate=pair[0], private_key=pair[1])
        login = parse_response(json.dumps(body).encode(), Login("ACCESS_TOKEN"))
        if not isinstance(login, Login):
            raise ValueError("no success")
        return login


def _described(login: Login) -> dict[str, Any]:
    """In the form of ThingsBoard's answer, which is the reference's file, with what we add to it."""
    value: Any = login.token
    extra: dict[str, Any] = {}
    if login.type == "MQTT_BASIC":
        value = {"clientId": login.client_id, "userName": login.username, "password": login.password}
    elif login.type == "X509_CERTIFICATE" and login.certificate is not None and login.private_key is not None:
        value = ""
        extra = {"certificate": login.certificate.name, "key": login.private_key.name}
    return {
        "status": "SUCCESS",
        "credentialsType": login.type,
        "credentialsValue": value,
        "deviceName": login.device_name,
        **extra,
    }


def _encoded(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, indent=1).encode() + b"\n"


def _json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None when there is no file. Raises ValueError that names the file."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: is damaged") from None
    if not isinstance(body, dict):
        raise ValueError(f"{path}: is damaged")
    return body


def _write(path: Path, content: bytes) -> None:
    """The file whole, on the disk, 0600 from its first byte; or as it was before."""
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """So that the new name in it survives a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
