# -*- test-case-name: tests.cli.test_hash -*-
"""`tbgw hash`: the hash of a charge point's password, for `passwordHash` of an OCPP connector's file.

    tbgw hash                 asks for the password, twice, without showing it
    tbgw hash --stdin         reads it from the standard input; one newline at the end is not part of it
    tbgw hash --hex           the password is written in hexadecimal, as an AuthorizationKey of OCPP 1.6
    tbgw hash --random        makes a key of 20 bytes, and prints it before its hash

A password is never an argument: those are seen by everybody on the machine.
"""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys

from tbgw.connectors.ocpp.passwords import DEFAULT_LOG2_N, MAX_LOG2_N, HashInvalid, hash_password

HELP = "make the hash of a charge point's password"
KEY_BYTES = 20
"""Of an AuthorizationKey of OCPP 1.6."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this subcommand."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--stdin", action="store_true", help="read the password from the standard input")
    source.add_argument("--random", action="store_true", help="make a random key, and print it too")
    parser.add_argument("--hex", action="store_true", help="the password is written in hexadecimal")
    parser.add_argument(
        "--log2n",
        type=int,
        default=DEFAULT_LOG2_N,
        metavar="N",
        help=f"cost, from 4 to {MAX_LOG2_N} (default: {DEFAULT_LOG2_N}); 10 is plenty for random keys",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the hash; the exit status."""
    try:
        password = _password(arguments)
        made = hash_password(password, arguments.log2n)
    except EOFError:
        print("tbgw hash: nothing was typed; --stdin reads the password from the standard input", file=sys.stderr)
        return 1
    except (ValueError, HashInvalid) as error:
        print(f"tbgw hash: {error}", file=sys.stderr)
        return 1
    if arguments.random:
        print(f"key (AuthorizationKey, passwordHex): {password.hex()}")
    print(made)
    return 0


def _password(arguments: argparse.Namespace) -> bytes:
    if arguments.random:
        return secrets.token_bytes(KEY_BYTES)
    if arguments.stdin:
        text = sys.stdin.readline().removesuffix("\n")
    else:
        text = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != text:
            raise ValueError("the two are not the same")
    if not text:
        raise ValueError("the password is empty")
    if not arguments.hex:
        return text.encode()
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError("the password is no hexadecimal text") from None
