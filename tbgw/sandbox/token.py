"""The sandbox's access token: made once, at random, and shared with the gateway through a file (P-01, P-13)."""

from __future__ import annotations

import os
import secrets
import stat
import string
from pathlib import Path

from tbgw.errors import ConfigurationError
from tbgw.sandbox.store import make_private_folder

TOKEN_CHARS = 20
"""As long as ThingsBoard's own tokens; 119 bits of chance."""

MAX_TOKEN_BYTES = 1024
"""A file longer than this is not a token file."""

_ALPHABET = string.ascii_letters + string.digits


def make_token() -> str:
    """A new random token."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_CHARS))


def read_token(path: Path) -> str | None:
    """The token in `path`; None when there is no such file. Raises ConfigurationError for a file without a token."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read ({error.strerror})"]) from error
    token = content.decode("utf-8", "replace").strip()
    if not token or len(content) > MAX_TOKEN_BYTES or not token.isprintable() or "\ufffd" in token:
        raise ConfigurationError([f"{path}: holds no access token; delete the file to have a new one made"])
    return token


def create_token(path: Path) -> str:
    """
    Put a new token into `path`, with mode 0600, and return it. Nobody ever sees half a file; when somebody else was
    faster, theirs is returned. Raises ConfigurationError.
    """
    token = make_token()
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        make_private_folder(path.parent)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(token + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # unlike rename, this never replaces what is there
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        return read_token(path) or token
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be written ({error.strerror})"]) from error
    return token


def replace_token(path: Path, token: str) -> None:
    """Put this token in the place of the one in `path`, as `create_token` does. Raises ConfigurationError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        make_private_folder(path.parent)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(token + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be written ({error.strerror})"]) from error


def exposed_mode(path: Path) -> str | None:
    """The mode of `path`, when others than its owner may read it."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{mode:04o}" if mode & 0o077 else None
