# -*- test-case-name: tests.connectors.xmpp -*-
"""The login as client (RFC 6120): STARTTLS, SASL, then the old session resumed (XEP-0198), or a resource bound and
stream management enabled.

Each step is one of Twisted's "initializers". They are sure of this:

* With TLS wanted nothing of us is told before TLS, and a server that does not offer it is left (P-03).
* A login that succeeds without the server's proof (SCRAM, DIGEST-MD5) is none.
* What fails is told as `LoginFailed` or `LoginRefused`: the second for what will fail again.
"""

from __future__ import annotations

import binascii
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.jid import JID
from twisted.words.xish.domish import Element

from tbgw.connectors.xmpp import channel_binding, sasl, stanzas
from tbgw.connectors.xmpp import stream_management as sm
from tbgw.connectors.xmpp.errors import LoginFailed, LoginRefused
from tbgw.connectors.xmpp.stream import LinkStream
from tbgw.connectors.xmpp.stream_management import Sent, StreamManagement

NS_SASL = "urn:ietf:params:xml:ns:xmpp-sasl"
NS_BINDINGS = "urn:xmpp:sasl-cb:0"
NS_BIND = "urn:ietf:params:xml:ns:xmpp-bind"
NS_SESSION = "urn:ietf:params:xml:ns:xmpp-session"

PASSING_FAILURES = frozenset({"temporary-auth-failure", "aborted"})
"""SASL failures that say nothing against us (RFC 6120, 6.5)."""


@dataclass(frozen=True)
class Account:
    """Who logs in, and what is allowed for it."""

    jid: JID
    """With the resource that is wanted; without one the server makes one."""
    credentials: sasl.Credentials
    mechanisms: tuple[str, ...] = sasl.ALL_NAMES
    channel_binding: str = "prefer"
    """`prefer`, `require` or `off`."""
    allow_plain_unencrypted: bool = False
    starttls: str = "require"
    """`require`; `try`: where the server offers it; `never`; `direct`: TLS is there from the first byte."""
    resume_seconds: int | None = 300
    """For how long the server should keep a session that was cut; None: no stream management."""


@dataclass
class Outcome:
    """What the login came to."""

    jid: str = ""
    mechanism: str = ""
    management: StreamManagement | None = None
    """None: the server has no stream management, or we do not want it."""
    resumed: bool = False
    again: tuple[Sent, ...] = ()
    """With `resumed`: what has to be sent once more."""


class ClientAuthenticator(xmlstream.ConnectAuthenticator):
    """Leads one connection through the login. `tls` is what `startTLS` wants."""

    xmlstream: Any

    namespace = "jabber:client"

    def __init__(
        self,
        account: Account,
        tls: Any,
        old: StreamManagement | None,
        old_jid: str,
        new_management: Callable[[], StreamManagement],
    ) -> None:
        super().__init__(account.jid.host)
        self.account = account
        self.tls = tls
        self.old = old if old is not None and old.resume_id else None
        self.old_jid = old_jid
        self.new_management = new_management
        self.outcome = Outcome()

    def associateWithStream(self, xs: LinkStream) -> None:
        super().associateWithStream(xs)
        account = self.account
        starttls = xmlstream.TLSInitiatingInitializer(xs, account.starttls == "require", self.tls)
        # `never` still looks at what the server says: one that requires TLS is not sent a password.
        starttls.wanted = account.starttls != "never"
        steps = [_SASLStep(xs, self), _SessionStep(xs, self)]
        xs.initializers = steps if account.starttls == "direct" else [starttls, *steps]

    def streamStarted(self, rootElement: Element) -> None:
        """As Twisted's, without keeping the server's `from`, and without a fallback to what came before XMPP 1.0."""
        xs = self.xmlstream
        major = str(rootElement.getAttribute("version", "0")).partition(".")[0]
        if major != "1":
            xs.dispatch(_failure(LoginFailed("the server speaks another version than XMPP 1.0")), _FAILED)
            return
        xs.sid = rootElement.getAttribute("id")
        xs.addOnetimeObserver(f"/features[@xmlns='{xmlstream.NS_STREAMS}']", self._features)

    def _features(self, element: Element) -> None:
        self.xmlstream.features = {(one.uri, one.name): one for one in element.elements()}
        self.initializeStream()


_FAILED = xmlstream.INIT_FAILED_EVENT


def _failure(error: Exception) -> Any:
    from twisted.python.failure import Failure

    return Failure(error)


class _Step:
    """An initializer that waits for one of several elements, each of a namespace and name, by itself."""

    required = True

    def __init__(self, xs: LinkStream, login: ClientAuthenticator) -> None:
        self.xmlstream = xs
        self.login = login

    def ask(self, element: Element, namespace: str, *names: str) -> Deferred[Element]:
        """Send it; fires with the first element of one of these names."""
        xs = self.xmlstream
        answer: Deferred[Element] = Deferred()
        queries = [f"/{name}[@xmlns='{namespace}']" for name in names]

        def came(found: Element) -> None:
            for query in queries:
                xs.removeObserver(query, came)
            if not answer.called:
                answer.callback(found)

        for query in queries:
            xs.addObserver(query, came)
        xs.send(element)
        return answer

    async def iq(self, kind: str, *payload: Element) -> Element:
        """An iq to the server; its result. Raises LoginRefused or LoginFailed."""
        xs = self.xmlstream
        request = Element((None, "iq"))
        request["type"], request["id"] = kind, secrets.token_hex(8)
        for part in payload:
            request.addChild(part)
        answer: Deferred[Element] = Deferred()
        query = f"/iq[@id='{request['id']}']"
        xs.addOnetimeObserver(query, answer.callback)
        xs.send(request)
        found = await answer
        if found.getAttribute("type") == "result":
            return found
        condition, text = stanzas.error_of(found)
        said = f"the server refuses {payload[0].name}: {condition} {text}".rstrip()
        if condition in ("not-allowed", "conflict", "forbidden"):
            raise LoginRefused(said)
        raise LoginFailed(said)


class _SASLStep(_Step):
    """RFC 6120, 6."""

    def initialize(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> Any:
        xs = self.xmlstream
        mechanism = self._choose()
        self.login.outcome.mechanism = mechanism.name
        element = Element((NS_SASL, "auth"))
        element["mechanism"] = mechanism.name
        first = mechanism.initial()
        if first is not None:
            element.addContent(b64encode(first).decode() or "=")
        try:
            while True:
                answer = await self.ask(element, NS_SASL, "challenge", "success", "failure")
                if answer.name == "failure":
                    raise self._refused(answer, mechanism.name)
                if answer.name == "success":
                    mechanism.succeeded(_decoded(answer))
                    break
                element = Element((NS_SASL, "response"))
                if said := mechanism.respond(_decoded(answer) or b""):
                    element.addContent(b64encode(said).decode())
        except sasl.SASLFailed as error:
            raise LoginRefused(f"{mechanism.name}: {error}") from None
        xs.reset()
        xs.sendHeader()
        return xmlstream.Reset

    def _choose(self) -> sasl.Mechanism:
        xs, account = self.xmlstream, self.login.account
        feature = xs.features.get((NS_SASL, "mechanisms"))
        if feature is None:
            raise LoginFailed("the server offers no login")
        offered = [str(one).strip() for one in feature.elements() if one.name == "mechanism"][:100]
        binding, tls = None, xs.tls
        can_bind = tls is not None and account.channel_binding != "off"
        if can_bind and any(name.endswith("-PLUS") for name in offered):
            kinds = xs.features.get((NS_BINDINGS, "sasl-channel-binding"))
            announced = None if kinds is None else [str(one.getAttribute("type")) for one in kinds.elements()]
            binding = channel_binding.choose(tls, announced, account.channel_binding == "require")
        around = sasl.Circumstances(
            encrypted=tls is not None,
            allow_plain_unencrypted=account.allow_plain_unencrypted,
            allowed=account.mechanisms,
            binding=binding,
            can_bind=can_bind,
            must_bind=account.channel_binding == "require",
        )
        try:
            return sasl.choose(offered, account.credentials, around)
        except sasl.NoMechanism as error:
            raise LoginRefused(str(error)) from None

    @staticmethod
    def _refused(element: Element, mechanism: str) -> LoginFailed:
        condition = next((one.name for one in element.elements() if one.name != "text"), "without a reason")[:80]
        text = next((str(one)[:200] for one in element.elements() if one.name == "text"), "")
        said = f"the server refuses the login ({mechanism}): {condition} {text}".rstrip()
        return LoginFailed(said) if condition in PASSING_FAILURES else LoginRefused(said)


def _decoded(element: Element) -> bytes | None:
    """The data of a challenge or success; None where it has none. Raises SASLFailed."""
    text = str(element).strip()
    if not text:
        return None
    if len(text) > sasl.MAX_CHALLENGE_BYTES:
        raise sasl.SASLFailed("the server sends far more than any challenge has")
    try:
        return b"" if text == "=" else b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise sasl.SASLFailed("what the server sends is not base64") from None


class _SessionStep(_Step):
    """Resuming the old session, or binding a resource and enabling stream management."""

    def initialize(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        xs, login = self.xmlstream, self.login
        outcome, account = login.outcome, login.account
        if (NS_SASL, "mechanisms") in xs.features:
            raise LoginFailed("the server asks for a second login")
        has_management = (sm.NS, "sm") in xs.features and account.resume_seconds is not None
        if has_management and login.old is not None:
            answer = await self.ask(login.old.resume(), sm.NS, "resumed", "failed")
            try:
                if answer.name == "resumed":
                    outcome.again = tuple(login.old.resumed(answer))
                    outcome.jid, outcome.management, outcome.resumed = login.old_jid, login.old, True
                    return
                if answer.getAttribute("h") is not None:
                    login.old.confirmed(answer.getAttribute("h"))
            except sm.CountBroken as error:
                login.old.resume_id = ""
                raise LoginFailed(str(error)) from None
        outcome.jid = await self._bind()
        if (NS_SESSION, "session") in xs.features:
            session = xs.features[(NS_SESSION, "session")]
            if not any(one.name == "optional" for one in session.elements()):
                await self.iq("set", Element((NS_SESSION, "session")))
        if has_management:
            management = login.new_management()
            answer = await self.ask(management.enable(account.resume_seconds or 0), sm.NS, "enabled", "failed")
            if answer.name == "enabled":
                management.enabled(answer)
                outcome.management = management

    async def _bind(self) -> str:
        bind = Element((NS_BIND, "bind"))
        if resource := self.login.account.jid.resource:
            bind.addElement("resource", content=resource)
        answer = await self.iq("set", bind)
        for found in answer.elements(NS_BIND, "bind"):
            for jid in found.elements(NS_BIND, "jid"):
                if own := stanzas.normal_jid(str(jid)):
                    return own
        raise LoginFailed("the server gives us no address")
