"""Prosody and ejabberd as peers of tests: each started by the test in a folder of its own, on ports of its own, with a
certificate of an authority made here, and ended by the test. Nothing of the system's own installation is touched.

    server = start("prosody", self, users={"gateway": "secret", "device": "secret"})
    server.ca, server.domain, server.port          # what a client needs

Starting one takes a second or two, so tests that only log in and talk have one for all of them: `shared`.

Both run as whoever runs the tests. `prosody` itself does not mind root (only `prosodyctl` changes its user); ejabberd
is started through `erl`, without a node name, so that it needs no epmd and no second user.
"""

from __future__ import annotations

import atexit
import json
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.programs import Program, free_port, need
from tests.test_tls import Issued, authority, issue

DOMAIN = "xmpp.example.org"
COMPONENT = f"devices.{DOMAIN}"
COMPONENT_SECRET = "component-secret"
KINDS = ("prosody", "ejabberd")
STANZA_BYTES = 262_144
"""Both servers' limit for one stanza, which is also the default of both."""


def server_certificate() -> Issued:
    """A good certificate for `DOMAIN`, from the authority that the tests trust."""
    return issue(DOMAIN, authority("XMPP authority"), hosts=(DOMAIN, COMPONENT))


class XMPPServer:
    """A running server. `kind` is `prosody` or `ejabberd`."""

    kind = ""

    def __init__(
        self,
        test: SynchronousTestCase,
        users: Mapping[str, str],
        *,
        identity: Issued | None = None,
        tls: bool = True,
        anonymous: bool = False,
        disabled_mechanisms: Iterable[str] = (),
        client_certificates: bool = False,
        tls13: bool = True,
        resume_seconds: int = 60,
        offline: bool = True,
        ping: str = "{}",
        extra: str = "",
    ) -> None:
        """
        `users`: name to password. `identity`: the certificate. `tls` false: no TLS at all. `disabled_mechanisms`: SASL
        mechanisms that are not offered. `client_certificates`: those of our authority log in (EXTERNAL). `offline`:
        whether messages to who is not there are kept. `ping` is what ejabberd's mod_ping is to do. `extra` is put into
        the configuration as it is: Lua at the virtual host, or YAML at the top.
        """
        self.test = test
        self.users = dict(users)
        self.domain = DOMAIN
        self.component = COMPONENT
        self.component_secret = COMPONENT_SECRET
        self.tls = tls
        self.anonymous = anonymous
        self.disabled = tuple(disabled_mechanisms)
        self.client_certificates = client_certificates
        self.tls13 = tls13
        self.resume_seconds = resume_seconds
        self.offline = offline
        self.ping = ping
        self.extra = extra
        self.folder = Path(test.mktemp()).absolute()
        (self.folder / "data").mkdir(parents=True)
        self.port = free_port()
        """STARTTLS, or plain with `tls` false."""
        self.direct_port = free_port()
        """TLS from the first byte."""
        self.component_port = free_port()
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(authority("XMPP authority").pem)
        self.certificate = self.folder / "server.pem"
        self.key = self.folder / "server.key"
        self.install(identity or server_certificate())
        self.program = self._start()

    def install(self, identity: Issued) -> None:
        """Another certificate, from the next start on."""
        self.certificate.write_bytes(identity.pem)
        self.key.write_bytes(identity.key_pem())

    def client_certificate(self, name: str) -> tuple[Path, Path]:
        """A certificate of our authority for a user, and its key."""
        own = issue(
            f"{name}@{DOMAIN}",
            authority("XMPP authority"),
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            xmpp_address=f"{name}@{DOMAIN}",
        )
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(own.pem)
        key.write_bytes(own.key_pem())
        return certificate, key

    def stop(self) -> None:
        """As an operator would: the server says goodbye to its clients."""
        self.program.stop(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut would."""
        self.program.kill()

    def restart(self) -> None:
        """After `stop` or `kill`: again on the same ports, with the same data."""
        self.program = self._start()

    def freeze(self) -> None:
        """It keeps its connections and says nothing any more."""
        self.program.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """The reverse."""
        self.program.process.send_signal(signal.SIGCONT)

    def _start(self) -> Program:
        raise AssertionError("each kind of server has its own")


class Prosody(XMPPServer):
    """See `XMPPServer`."""

    kind = "prosody"

    def _start(self) -> Program:
        accounts = self.folder / "data" / self.domain.replace(".", "%2e") / "accounts"
        accounts.mkdir(parents=True, exist_ok=True)
        for user, password in self.users.items():
            quoted = json.dumps(password, ensure_ascii=False)  # which is how Lua writes it
            (accounts / f"{user}.dat").write_text(f'return {{ ["password"] = {quoted}; }};\n')
        config = self.folder / "prosody.cfg.lua"
        config.write_text(self._config())
        program = Program(self.test, [need("prosody"), "--config", str(config), "-F"])
        # In an order that is another one each time.
        left = {"c2s", "component", *(["c2s_direct_tls"] if self.tls else [])}
        while left:
            left.discard(program.wait_for(r"Activated service '(\w+)' on \[127\.0\.0\.1\]")[1])
        return program

    def _config(self) -> str:
        disabled = ", ".join(json.dumps(name) for name in self.disabled)
        certificates = f'certificate = "{self.certificate}"; key = "{self.key}"; cafile = "{self.ca}";'
        verify = 'verify = { "peer" }; verifyext = {};' if self.client_certificates else ""
        newest = "" if self.tls13 else 'protocol = "tlsv1_2";'
        ssl = f"ssl = {{ {certificates} {verify} {newest} }}"
        modules = ["roster", "saslauth", "disco", "ping", "presence", "message", "iq", "smacks", "time"]
        modules += ["offline"] if self.offline else []
        modules += ["tls"] if self.tls else []
        names = ", ".join(json.dumps(name) for name in modules)
        return f"""
daemonize = false
data_path = "{self.folder}/data"
run_as_root = true
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {self.port} }}
c2s_direct_tls_ports = {{ {self.direct_port if self.tls else ""} }}
c2s_direct_tls_ssl = {{ {certificates} {verify} {newest} }}
s2s_ports = {{ }}
http_ports = {{ }}
https_ports = {{ }}
component_ports = {{ {self.component_port} }}
component_interfaces = {{ "127.0.0.1" }}
modules_enabled = {{ {names} }}
modules_disabled = {{ "s2s", "admin_shell" }}
log = {{ {{ levels = {{ min = "info" }}, to = "console" }} }}
authentication = "{"anonymous" if self.anonymous else "internal_plain"}"
allow_unencrypted_plain_auth = {"false" if self.tls else "true"}
c2s_require_encryption = {"true" if self.tls else "false"}
disable_sasl_mechanisms = {{ {disabled} }}
smacks_hibernation_time = {self.resume_seconds}
smacks_max_queue_size = 100000
c2s_stanza_size_limit = {STANZA_BYTES}
storage = "internal"
{ssl if self.tls else ""}

VirtualHost "{self.domain}"
{self.extra}

Component "{self.component}"
    component_secret = "{self.component_secret}"
"""


class Ejabberd(XMPPServer):
    """See `XMPPServer`."""

    kind = "ejabberd"

    def _start(self) -> Program:
        libraries = sorted(Path("/usr/lib").glob("*/ejabberd-*/ebin/ejabberd.beam"))
        if not libraries:
            raise SkipTest("ejabberd is not installed (Debian has it as a package)")
        config = self.folder / "ejabberd.yml"
        config.write_text(self._config())
        register = "".join(
            f"ejabberd_auth:try_register({_binary(user)},{_binary(self.domain)},{_binary(secret)}),"
            for user, secret in self.users.items()
        )
        program = Program(
            self.test,
            [
                need("erl"),
                *("-noinput", "-mnesia", "dir", f'"{self.folder}/data"', "-s", "ejabberd"),
                *("-eval", f'{register}io:format("users are ready~n").'),
            ],
            env={
                "EJABBERD_CONFIG_PATH": str(config),
                "EJABBERD_LOG_PATH": str(self.folder / "ejabberd.log"),
                "ERL_CRASH_DUMP_BYTES": "0",
                "ERL_LIBS": str(libraries[-1].parent.parent.parent),
                "HOME": str(self.folder),
            },
        )
        for _ in range(2):  # in either order: the second is not the server's log
            program.wait_for(r"is started in the node|users are ready")
        return program

    def _config(self) -> str:
        pem = self.folder / "both.pem"
        pem.write_bytes(self.certificate.read_bytes() + self.key.read_bytes())
        versions = ["no_sslv3", "no_tlsv1", "no_tlsv1_1", *([] if self.tls13 else ["no_tlsv1_3"])]
        tls = f"starttls_required: true, protocol_options: {json.dumps(versions)}" if self.tls else "starttls: false"
        if self.client_certificates:
            tls += f', tls_verify: true, cafile: "{self.ca}"'
        limits = f"max_stanza_size: {STANZA_BYTES}, shaper: none, access: all"
        listeners = [f'{{port: {self.port}, ip: "127.0.0.1", module: ejabberd_c2s, {limits}, {tls}}}']
        if self.tls:
            direct = f"tls: true, protocol_options: {json.dumps(versions)}"
            listeners.append(f'{{port: {self.direct_port}, ip: "127.0.0.1", module: ejabberd_c2s, {limits}, {direct}}}')
        host = f'hosts: {{"{self.component}": {{password: "{self.component_secret}"}}}}'
        listeners.append(
            f'{{port: {self.component_port}, ip: "127.0.0.1", module: ejabberd_service, access: all, {host}}}'
        )
        listen = "\n".join(f"  - {listener}" for listener in listeners)
        return f"""
loglevel: info
hosts: ["{self.domain}"]
certfiles: ["{pem}"]
ca_file: "{self.ca}"
listen:
{listen}
auth_method: [{"anonymous" if self.anonymous else "internal"}]
{"anonymous_protocol: sasl_anon" if self.anonymous else ""}
auth_password_format: plain
disable_sasl_mechanisms: {json.dumps([*self.disabled, "X-OAUTH2"])}
shaper: {{}}
acme: {{auto: false}}
modules:
  mod_disco: {{}}
  mod_roster: {{}}
  {"mod_offline: {}" if self.offline else ""}
  mod_ping: {self.ping}
  mod_stream_mgmt: {{resume_timeout: {self.resume_seconds}, max_ack_queue: 100000, resend_on_timeout: if_offline}}
{self.extra}
"""


def _binary(text: str) -> str:
    """As Erlang writes it, whatever letters it has."""
    return f"<<{','.join(map(str, text.encode()))}>>"


def start(kind: str, test: SynchronousTestCase, users: Mapping[str, str], **options: Any) -> XMPPServer:
    """A server of this kind, ready; skips the test where it is not installed."""
    return {"prosody": Prosody, "ejabberd": Ejabberd}[kind](test, users, **options)


USERS = {"gateway": "secret", "device": "ünïcode fi pass"}
"""Accounts of the servers that tests share."""


class _Owner:
    """Has a server in place of a test case, until the tests are over."""

    def __init__(self, test: SynchronousTestCase) -> None:
        self.mktemp = test.mktemp

    def addCleanup(self, cleanup: Callable[[], None]) -> None:
        atexit.register(cleanup)


_shared: dict[str, XMPPServer] = {}


def shared(kind: str, test: SynchronousTestCase) -> XMPPServer:
    """
    The one server of this kind for all tests that log in with an account of `USERS` and talk; skips the test where it
    is not installed. Nobody may stop it, nor leave anything in it but closed sessions: it keeps no messages for who is
    away, and who subscribes to presence needs a server of his own.
    """
    server = _shared.get(kind)
    if server is None or server.program.process.poll() is not None:
        owner: Any = _Owner(test)
        server = _shared[kind] = start(kind, owner, USERS, offline=False)
    return server
