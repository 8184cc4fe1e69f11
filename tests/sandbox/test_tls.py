"""Clients that come over TLS, with a certificate of their own or without (spec thingsboard-mqtt, 1.1, 1.2)."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from twisted.internet import reactor, threads
from twisted.internet.defer import inlineCallbacks
from twisted.trial import unittest

from tbgw.errors import ConfigurationError
from tbgw.internal_events import Events
from tbgw.metrics import Counters
from tbgw.sandbox.credentials import X509_CERTIFICATE, Credentials, certificate_text
from tbgw.sandbox.profiles import from_json
from tbgw.sandbox.service import Sandbox
from tbgw.tls import ServerTLS
from tests.test_tls import authority, issue


class TLSTests(unittest.TestCase):
    """paho, a foreign client, over real sockets."""

    timeout = 30

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        server = issue("localhost")
        self.write("server.pem", server.pem)
        self.write("server.key", server.key_pem())
        self.sandbox = Sandbox(
            reactor,
            mqtt_port=0,
            tls=ServerTLS(self.folder / "server.pem", self.folder / "server.key"),
            tls_port=0,
            events=Events(Counters(), time.monotonic),
            now_ms=lambda: int(time.time() * 1000),
        )
        self.token = self.sandbox.ensure_token()
        self.sandbox.startService()
        self.addCleanup(self.sandbox.stopService)

    def write(self, name, content):
        (self.folder / name).write_bytes(content)

    def come(self, username=None, identity=None, chain=b""):
        """The reason code of the CONNACK, or -1 for a handshake that failed; in a thread of its own."""
        context = ssl.create_default_context(cafile=str(self.folder / "server.pem"))
        context.check_hostname = False
        if identity is not None:
            self.write("client.pem", identity.pem + chain)
            self.write("client.key", identity.key_pem())
            context.load_cert_chain(self.folder / "client.pem", self.folder / "client.key")

        def session():
            codes: list[int] = []

            def connected(_client, _userdata, _flags, code, _properties):
                codes.append(code.value)
                client.disconnect()

            client = paho.Client(CallbackAPIVersion.VERSION2, client_id="c", protocol=paho.MQTTv5)
            client.tls_set_context(context)
            if username is not None:
                client.username_pw_set(username)
            client.on_connect = connected
            client.on_disconnect = lambda *_: codes.append(-1)  # nobody let it in
            client.connect("127.0.0.1", self.sandbox.tls_port or 0)
            client.loop_start()
            deadline = time.monotonic() + 10
            while not codes and time.monotonic() < deadline:
                time.sleep(0.01)  # in the client's own thread, which has no reactor
            client.loop_stop()
            return codes[:1]

        return threads.deferToThread(session)

    @inlineCallbacks
    def test_token(self):
        """Without a certificate a token lets in as it does without TLS."""
        self.assertEqual((yield self.come(self.token)), [0])
        self.assertEqual((yield self.come("wrong")), [0x86])

    @inlineCallbacks
    def test_certificate(self):
        """A certificate that is stored lets its device in, whatever else is said; a stranger's does not: 0x87."""
        known, stranger = issue("Meter 7"), issue("Meter 8")
        held = Credentials(X509_CERTIFICATE, certificate=certificate_text(known.pem.decode()))
        self.sandbox.control.create("Meter 7", credentials=held)
        self.assertEqual((yield self.come(None, known)), [0])
        self.assertEqual((yield self.come("nonsense", known)), [0])
        self.assertEqual((yield self.come(self.token, stranger)), [0x87])

    @inlineCallbacks
    def test_expired(self):
        """A certificate whose time is over lets nobody in."""
        old = issue("Meter 7", days=(-20, -10))
        held = Credentials(X509_CERTIFICATE, certificate=certificate_text(old.pem.decode()))
        self.sandbox.control.create("Meter 7", credentials=held)
        self.assertEqual((yield self.come(None, old)), [0x87])

    @inlineCallbacks
    def test_chain(self):
        """A profile takes every certificate of its authority; the common name says what device it is."""
        root = authority("meters")
        profile = {
            "name": "meters",
            "strategy": "X509_CERTIFICATE_CHAIN",
            "certificate": root.pem.decode(),
            "name_pattern": r"(.*)\.meters",
        }
        self.sandbox.control.set_profile(from_json(profile))
        for _ in range(2):
            self.assertEqual((yield self.come(None, issue("Meter 7.meters", root), root.pem)), [0])
        device = self.sandbox.control.device_as_json("Meter 7")
        self.assertEqual((device["profile"], device["credentials"]), ("meters", "X509_CERTIFICATE"))
        for identity, chain in (
            (issue("Meter 8.pumps", root), root.pem),
            (issue("Meter 8.meters", root), b""),
            (issue("Gateway.meters", root), root.pem),
            (issue("Meter 8.meters", authority("others")), root.pem),
            (issue("Meter 8.meters"), root.pem),
        ):
            self.assertEqual((yield self.come(None, identity, chain)), [0x87])
        honest = issue("Meter 7.meters", root)
        forged = issue("Meter 8.meters", honest)
        self.assertEqual((yield self.come(None, forged, honest.pem + root.pem)), [-1])
        self.assertEqual(len(self.sandbox.view.devices()), 2)

    def test_unusable_files(self):
        """What is no certificate stops the start."""
        self.write("server.pem", b"nonsense")
        tls = ServerTLS(self.folder / "server.pem", self.folder / "server.key")
        events = Events(Counters(), time.monotonic)
        broken = Sandbox(reactor, mqtt_port=0, tls=tls, tls_port=0, events=events, now_ms=lambda: 0)
        self.assertRaises(ConfigurationError, broken.startService)
