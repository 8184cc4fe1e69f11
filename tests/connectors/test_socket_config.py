"""Tests of the socket connector's file: old and new form, every spelling, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tbgw.config.findings import Severity
from tbgw.config.values import Refused
from tbgw.connectors.socket.addresses import parse_filter
from tbgw.connectors.socket.config import Datapoint, SocketConfig, SocketDevice, parse
from tbgw.connectors.socket.framing import Framing
from tbgw.connectors.socket.links import Target
from tbgw.model import ON_RECEIVED, ReportStrategy, ReportType
from tests.config.fakes import FolderCase, tree

DEVICE = {"addressFilter": "*:*", "deviceName": "Scale"}


class SocketConfigCase(FolderCase):
    def parse(self, value: Any) -> SocketConfig:
        return parse(tree(value, "socket.json"), self.reporter)

    def device(self, **value: Any) -> SocketDevice:
        return self.parse({"devices": [{**DEVICE, **value}]}).devices[0]

    def refused_device(self, **value: Any) -> list[str]:
        """The faults of one device with these keys."""
        before = self.faults()
        self.parse({"devices": [{**DEVICE, **value}]})
        after = self.faults()
        for line in before:
            after.remove(line)
        return after

    def listener(self, **value: Any) -> SocketConfig:
        return self.parse({"socket": value, "devices": [DEVICE]})


class FormTests(SocketConfigCase):
    """The two forms of the file."""

    def test_empty(self):
        """An empty file has the documented defaults, and a doubt because nobody may connect."""
        found = self.parse({})
        self.assertEqual(
            found, SocketConfig("TCP", "127.0.0.1", 50000, 1024, (), None, max_connections=10_000)
        )
        self.assertEqual((self.faults(), len(self.lines())), ([], 1))

    def test_old_and_new(self):
        """The flat form before 3.6 and the new one give the same."""
        socket = {"type": "UDP", "address": "0.0.0.0", "port": 6100, "bufferSize": 2048}
        new = self.parse({"socket": socket, "devices": [DEVICE]})
        old = self.parse({**socket, "name": "Line 4", "devices": [DEVICE]})
        self.assertEqual((new.transport, new.address, new.port, new.buffer_bytes), ("UDP", "0.0.0.0", 6100, 2048))
        self.assertEqual(old, new)
        self.assertEqual(self.lines(Severity.FAULT, Severity.DOUBT, Severity.WARNING), [])

    def test_places_in_the_old_form(self):
        """A fault in an old file has the path that stands in it."""
        self.parse({"port": 0, "devices": [DEVICE]})
        self.assertEqual(self.faults(), ["socket.json:2: port: is 0, must be a whole number from 1 to 65535"])

    def test_mixed_forms(self):
        """With the object `socket` the same keys at the top are unknown."""
        self.parse({"socket": {}, "port": 6000, "devices": [DEVICE]})
        self.assertEqual(len(self.lines(Severity.DOUBT)), 1)

    def test_buffer_size(self):
        """Both spellings of the buffer's size are read (S-03)."""
        for key in ("bufferSize", "buffer_size"):
            self.assertEqual(self.parse({"socket": {key: 4096}, "devices": [DEVICE]}).buffer_bytes, 4096)
        self.assertEqual(self.lines(), [])

    def test_keys_of_the_page(self):
        """What ThingsBoard's page and the reference write at the top is known."""
        self.parse(
            {"id": "1f", "logLevel": "INFO", "enableRemoteLogging": False, "configVersion": "3.6", "mode": "basic",
             "name": "x", "socket": {"name": "x"}, "devices": [DEVICE]}
        )  # fmt: skip
        self.assertEqual(self.lines(Severity.FAULT, Severity.DOUBT), [])

    def test_no_object(self):
        """A file that is no object is refused."""
        self.assertRaises(Refused, self.parse, [])


class ListenerTests(SocketConfigCase):
    """The object `socket`."""

    def test_values(self):
        """All of it is read."""
        found = self.listener(type="TCP", address="::", port="7000", maxConnections=5)
        self.assertEqual((found.transport, found.address, found.port, found.max_connections), ("TCP", "::", 7000, 5))

    def test_faults(self):
        """Values out of range and misspelt ones are faults."""
        self.listener(type="tcp", port=65536, bufferSize=0, address="tcp://x", maxConnections=0)
        self.assertEqual(
            [line.split(": ")[1] for line in self.faults()],
            ["socket.type", "socket.port", "socket.bufferSize", "socket.address", "socket.maxConnections"],
        )
        self.assertIn("did you mean TCP?", self.faults()[0])

    def test_framing(self):
        """Without framing one read is one message; a delimiter may be written as text, with escapes, or in hex."""
        for value, delimiter in (
            ({}, None),
            ({"type": "none"}, None),
            ({"type": "delimiter"}, b"\n"),
            ({"type": "delimiter", "delimiter": "\r\n"}, b"\r\n"),
            ({"delimiter": "\\r\\n"}, b"\r\n"),
            ({"delimiter": ";"}, b";"),
            ({"delimiter": " "}, b" "),
            ({"delimiter": "é"}, b"\xc3\xa9"),
            ({"delimiter": "\\x03\\\\"}, b"\x03\\"),
            ({"delimiterHex": "0d0a"}, b"\r\n"),
            ({"type": "delimiter", "delimiterHex": "0D 0A"}, b"\r\n"),
        ):
            framing = self.listener(framing=value).framing
            found = framing.delimiter if framing.type == "delimiter" else None
            self.assertEqual((found, framing.type), (delimiter, "delimiter" if delimiter else "none"), value)
        self.assertEqual(self.lines(), [])

    def test_bad_framing(self):
        """A delimiter that is empty, too long, not hex, given twice or with an unknown escape is a fault."""
        for value in (
            {"delimiter": ""},
            {"delimiter": "x" * 17},
            {"delimiterHex": "0d0"},
            {"delimiterHex": "crlf"},
            {"delimiter": "\\q"},
            {"delimiter": "\\"},
            {"delimiter": 10},
            {"delimiter": "a", "delimiterHex": "61"},
            {"type": "lines"},
            "delimiter",
        ):
            before = len(self.faults())
            self.listener(framing=value)
            self.assertEqual(len(self.faults()), before + 1, value)

    def test_idle_framing(self):
        """Framing with UDP, and a delimiter beside type none, are doubts."""
        self.assertEqual(self.listener(framing={"type": "none", "delimiter": "x"}).framing.type, "none")
        self.listener(type="UDP", framing={"delimiter": "x"})
        self.assertEqual(len(self.lines(Severity.DOUBT)), 2)


class DeviceTests(SocketConfigCase):
    """The entries of `devices`."""

    def test_defaults(self):
        """A filter and a name are all that a device needs."""
        self.assertEqual(
            self.device(), SocketDevice(parse_filter("*:*"), "Scale", "default", "utf-8", (), (), (), (), ())
        )
        self.assertEqual(self.lines(), [])

    def test_filter_spellings(self):
        """The filter is read under both names, `*.*` is `*:*`, and the sample's two equal ones are no contradiction."""
        for key in ("address", "addressFilter"):
            found = self.parse({"devices": [{key: "10.0.0.7:6100", "deviceName": "x"}]})
            self.assertEqual(found.devices[0].filter, parse_filter("10.0.0.7:6100"))
        self.assertEqual(self.device(addressFilter="*.*").filter, parse_filter("*:*"))
        self.device(address="*:*")
        self.assertEqual(self.lines(), [])

    def test_filters_that_differ(self):
        """Of two different filters addressFilter counts, as in the reference, and it is told."""
        found = self.device(addressFilter="10.0.0.1:*", address="10.0.0.2:*")
        self.assertEqual(found.filter, parse_filter("10.0.0.1:*"))
        self.assertEqual(len(self.lines(Severity.DOUBT)), 1)

    def test_bad_filters(self):
        """A filter that is none is a fault with what is allowed; so is a device without one."""
        self.assertIn("allowed is <ip>:<port>", self.refused_device(addressFilter="10.0.0.300:*")[0])
        self.parse({"devices": [{"deviceName": "x"}]})
        self.assertEqual(len([line for line in self.faults() if "devices[0].addressFilter: is missing" in line]), 1)

    def test_same_filter_twice(self):
        """Of two devices with the same filter the second never gets a message, which is a doubt."""
        self.parse({"devices": [DEVICE, {"address": "*.*", "deviceName": "Other"}]})
        self.assertIn('"Other" and "Scale" have the same filter', self.lines(Severity.DOUBT)[0])

    def test_encodings(self):
        """hex and all text encodings of Python are taken; others are faults with the nearest."""
        for name in ("utf-8", "UTF-8", "utf-16", "utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le", "cp1252"):
            self.assertEqual(self.device(encoding=name).encoding, name)
        self.assertEqual(self.device(encoding="HEX").encoding, "hex")
        self.assertEqual(self.lines(), [])
        wrong: Any
        for wrong in (
            "utf9",
            "base64",
            "rot13",
            "zlib",
            "utf-7",
            "unicode_escape",
            "idna",
            "undefined",
            "a\0b",
            "../x",
            8,
        ):
            self.assertEqual(len(self.refused_device(encoding=wrong)), 1, wrong)
        self.assertIn("did you mean utf-16-le?", self.refused_device(encoding="utf-16-lee")[0])

    def test_slices(self):
        """byteTo -1 is the end, other negatives stay as they are; both have defaults."""
        points = [{"key": "a"}, {"key": "b", "byteFrom": 2, "byteTo": -1}, {"key": "c", "byteFrom": -4, "byteTo": -2}]
        expected = (Datapoint("a", 0, None), Datapoint("b", 2, None), Datapoint("c", -4, -2))
        for key in ("telemetry", "timeseries"):
            self.assertEqual(self.device(**{key: points}).telemetry, expected)
        self.assertEqual(self.device(attributes=points).attributes, expected)
        self.assertEqual(self.lines(), [])

    def test_bad_points(self):
        """A datapoint without key, with a blank around it, or with a slice of no number is a fault."""
        wrong: Any
        for wrong in ({}, {"key": ""}, {"key": " a"}, {"key": "a", "byteFrom": 1.5}, {"key": "a", "byteTo": "end"}, 1):
            self.assertEqual(len(self.refused_device(telemetry=[wrong])), 1, wrong)

    def test_points_of_no_use(self):
        """A slice that takes no byte and a key that stands twice are doubts."""
        self.device(telemetry=[{"key": "a", "byteFrom": 4, "byteTo": 4}])
        self.device(attributes=[{"key": "a"}, {"key": "b"}, {"key": "a", "byteFrom": 1}])
        self.assertEqual(
            [line.split(": ")[:2] for line in self.lines(Severity.DOUBT)],
            [["socket.json:7", "devices[0].telemetry[0]"], ["socket.json:14", "devices[0].attributes[2].key"]],
        )

    def test_report_strategies(self):
        """Strategies are read at the connector, the device and the datapoint, in both spellings."""
        on_change = ReportStrategy(ReportType.ON_CHANGE)
        found = self.parse(
            {
                "sendDataOnlyOnChange": True,
                "devices": [
                    {
                        **DEVICE,
                        "reportStrategy": {"type": "ON_REPORT_PERIOD", "reportPeriod": "60000"},
                        "telemetry": [{"key": "a", "reportStrategy": {"type": "DISABLED"}}, {"key": "b"}],
                    }
                ],
            }
        )
        device = found.devices[0]
        self.assertEqual(found.report, on_change)
        self.assertEqual(device.report, ReportStrategy(ReportType.ON_REPORT_PERIOD, 60000))
        self.assertEqual([point.report for point in device.telemetry], [ON_RECEIVED, None])
        self.assertEqual(self.faults(), [])

    def test_attribute_requests(self):
        """Requests of old files are comparisons; a source `constant` is kept; slices may lack an end (S-05)."""
        requests = [
            {"type": "shared", "requestExpression": "${[0:3]==atr}", "attributeNameExpression": "[3:]"},
            {"type": "client", "requestExpression": "${[:3]==x}", "attributeNameExpression": "[4:19][20:]"},
            {"requestExpression": "${[0]==x}"},
            {
                "requestExpressionSource": "constant",
                "requestExpression": "atr",
                "attributeNameExpressionSource": "constant",
                "attributeNameExpression": "limit",
            },
        ]
        found = self.device(attributeRequests=requests).attribute_requests
        self.assertEqual([one.scope for one in found], ["shared", "client", "shared", "shared"])
        self.assertEqual([one.request_source for one in found], ["expression"] * 3 + ["constant"])
        self.assertEqual(found[2].name_expression, "[3:]")
        self.assertEqual(self.device(attributesRequests=requests).attribute_requests, found)
        self.assertEqual(self.lines(Severity.FAULT, Severity.DOUBT), [])

    def test_bad_attribute_requests(self):
        """A comparison that is none, and a name expression without slice, are faults when the file is read."""
        for request in (
            {"requestExpression": "${atr}"},
            {"requestExpression": "${[0:3]=atr}"},
            {"attributeNameExpression": "name"},
            {"type": "server"},
        ):
            self.assertEqual(len(self.refused_device(attributeRequests=[request])), 1, request)

    def test_requests_of_our_own(self) -> None:
        """RPC and claims of devices: what is left out, and the slices that must be ones."""
        found = self.device(
            clientSideRpc=[{"requestExpression": "${[0:3]==rpc}", "paramsExpression": "[9:]"}],
            claimRequests=[{"requestExpression": "clm", "durationMs": 1000}, {"requestExpression": "own"}],
        )
        (call,) = found.rpc_requests
        self.assertEqual((call.name_expression, call.params, call.answer), ("[3:]", "[9:]", "${response}"))
        self.assertEqual([one.duration_ms for one in found.claim_requests], [1000, None])
        self.assertEqual(self.lines(Severity.FAULT, Severity.DOUBT), [])
        for request in (
            {},
            {"requestExpression": "${rpc}"},
            {"requestExpression": "rpc", "methodExpression": "getTime"},
            {"requestExpression": "rpc", "paramsExpression": "x"},
        ):
            self.assertEqual(len(self.refused_device(clientSideRpc=[request])), 1, request)
        self.assertEqual(
            len(self.refused_device(claimRequests=[{"requestExpression": "clm", "secretKeyExpression": "s"}])), 1
        )

    def test_downlink(self):
        """Updates and RPC are read, with the device's encoding where they name none (S-24)."""
        found = self.device(
            attributeUpdates=[{"attributeOnThingsBoard": "a"}, {"attributeOnThingsBoard": "b", "encoding": "utf-16"}],
            serverSideRpc=[{"methodRPC": "m"}, {"methodRPC": "n", "withResponse": False, "methodProcessing": "read"}],
        )
        self.assertEqual(
            [(one.attribute, one.encoding) for one in found.attribute_updates], [("a", None), ("b", "utf-16")]
        )
        self.assertEqual(
            [(one.method, one.with_response, one.processing) for one in found.rpcs],
            [("m", True, "write"), ("n", False, "read")],
        )
        self.assertEqual(len(self.refused_device(serverSideRpc=[{"methodRPC": "m", "methodProcessing": "wirte"}])), 1)
        self.assertEqual(len(self.refused_device(attributeUpdates=[{}])), 1)

    def test_custom_converter(self):
        """A converter of one's own is not loaded; that is told and does not stop the start."""
        self.device(converter="OwnConverter")
        self.assertEqual((self.faults(), len(self.lines(Severity.NOTICE))), ([], 1))

    def test_one_bad_device(self):
        """A device that cannot be used leaves the others to be read and checked."""
        found = self.parse({"devices": [{"deviceName": "x"}, DEVICE, {**DEVICE, "encoding": "?"}]})
        self.assertEqual(len(found.devices), 2)
        self.assertEqual(len(self.faults()), 2)


class NewKeysTests(SocketConfigCase):
    """What is ours, beyond the reference's keys."""

    def doubts(self) -> list[str]:
        return self.lines(Severity.DOUBT)

    def test_framings(self):
        """Every framing with its keys, without a word."""
        for value, expected in (
            ({"type": "fixed", "length": 4}, Framing("fixed", length_bytes=4)),
            (
                {"type": "length", "lengthBytes": 4, "byteOrder": "little", "lengthCounts": "all", "keepHeader": True},
                Framing("length", prefix_bytes=4, prefix_order="little", prefix_counts="all", keep_prefix=True),
            ),
            ({"type": "markers", "startHex": "02", "end": "\\x03"}, Framing("markers", start=b"\2", end=b"\3")),
            ({"type": "gap", "gapMs": 20, "onOverflow": "close"}, Framing("gap", gap_ms=20, on_overflow="close")),
        ):
            found = self.listener(framing=value).framing
            self.assertEqual({**asdict(found), "end": b""}, {**asdict(expected), "end": b""})
            if found.type == "markers":
                self.assertEqual(found.end, expected.end)
        self.assertEqual(self.lines(), [])

    def test_framings_at_fault(self):
        """What cannot be is a fault; a key of another framing is a doubt."""
        for value in (
            {"type": "fixed"},
            {"type": "fixed", "length": 5000},
            {"type": "markers", "start": "<"},
            {"type": "markers", "start": "a", "end": "ba"},
            {"type": "length", "lengthBytes": 9},
            {"type": "length", "lengthCounts": "some"},
        ):
            before = len(self.faults())
            self.listener(framing=value)
            self.assertEqual(len(self.faults()), before + 1, value)
        self.listener(framing={"type": "gap", "delimiter": ";"})
        self.assertEqual(len(self.doubts()), 1)

    def test_values(self):
        """Typed values are read; their width ends the slice."""
        points = [
            {"key": "a", "byteFrom": 2, "type": "uint16", "byteOrder": "little", "scale": 0.1},
            {"key": "b", "regex": "x=([0-9]+)", "type": "number"},
            {"key": "c", "column": 3, "separator": ";"},
            {"key": "d", "value": "${a.b}", "map": {"1": "on"}},
            {"key": "e", "byteFrom": 0, "byteTo": 1, "type": "bits", "bit": 2, "bits": 3},
        ]
        found = self.device(telemetry=points).telemetry
        self.assertEqual((found[0].kind, found[0].end, found[0].plain), ("uint", 4, False))
        self.assertEqual(found[3].names, (("1", "on"),))
        self.assertEqual(self.lines(), [])

    def test_values_at_fault(self):
        """What makes no sense together is a fault with its line."""
        for point in (
            {"type": "uint12"},
            {"type": "uint16", "byteFrom": 0, "byteTo": 3},
            {"type": "float", "byteFrom": 0, "byteTo": 3},
            {"type": "uint24", "byteOrder": "bigSwapped"},
            {"type": "bits"},
            {"type": "string", "scale": 2},
            {"type": "string", "bit": 1},
            {"regex": "("},
            {"regex": "x"},
            {"regex": "(x)", "group": 2},
            {"regex": "(x)", "column": 1},
            {"value": "${a[}"},
            {"column": 1, "separator": ""},
        ):
            before = len(self.faults())
            self.parse({"devices": [{**DEVICE, "telemetry": [{"key": "k", **point}]}]})
            self.assertEqual(len(self.faults()), before + 1, point)

    def test_did_you_mean(self):
        """A slip in a new key is named with the key that was meant."""
        self.device(telemetry=[{"key": "k", "byteOrdr": "big"}])
        self.listener(maxConnectionPerAddress=5)
        self.assertIn("did you mean byteOrder?", self.doubts()[0] + self.doubts()[1])
        self.assertIn("did you mean maxConnectionsPerAddress?", self.doubts()[0] + self.doubts()[1])

    def test_client(self):
        """Targets are given, or are the devices with one address and port; with neither it is a fault."""
        devices = [{"address": "10.0.0.7:502", "deviceName": "a"}, {"address": "10.0.0.8:*", "deviceName": "b"}]
        found = self.parse({"socket": {"role": "client"}, "devices": devices})
        self.assertEqual(found.targets, (Target("10.0.0.7", 502),))
        found = self.parse({"socket": {"role": "client", "targets": ["plc.local:502", "[::1]:7"]}, "devices": devices})
        self.assertEqual([str(one) for one in found.targets], ["plc.local:502", "[::1]:7"])
        self.assertEqual(self.lines(), [])
        self.parse({"socket": {"role": "client"}, "devices": devices[1:]})
        for target in ("10.0.0.7", "10.0.0.7:0", "::1:7", "http://x:7", ":7", "[10.0.0.7]:7"):
            self.parse({"socket": {"role": "client", "targets": [target, "x:1"]}, "devices": devices})
        self.assertEqual(len(self.faults()), 7)

    def test_tls_and_groups(self):
        """TLS needs its files, is not for UDP, and says that OpenSSL is needed; groups are multicast addresses."""
        self.assertFalse(self.listener().needs_tls)
        self.assertEqual(self.listener(type="UDP", multicastGroups=["239.1.2.3"]).groups, ("239.1.2.3",))
        self.assertEqual(self.lines(), [])
        faulty: tuple[dict[str, Any], ...] = (
            {"tls": {}},
            {"tls": {"certificate": "nowhere.pem", "privateKey": "nowhere.key"}},
            {"type": "UDP", "multicastGroups": ["10.0.0.1"]},
            {"multicastGroups": ["239.1.2.3"]},
        )
        for bad in faulty:
            before = len(self.faults())
            self.listener(**bad)
            self.assertGreater(len(self.faults()), before, bad)
        self.assertTrue(self.listener(role="client", targets=["x:1"], tls={}).needs_tls)

    def test_downlink_keys(self):
        """Expressions, times and hex texts of the way down are checked."""
        found = self.device(
            serverSideRpc=[{"methodRPC": "m", "responseExpression": "OK", "response": {"type": "uint8"}}],
            polls=[{"request": "00ff", "encoding": "hex"}],
        )
        self.assertEqual((found.rpcs[0].timeout_ms, found.polls[0].period_ms), (5000, 1000))
        self.assertEqual(self.lines(), [])
        for bad in (
            {"serverSideRpc": [{"methodRPC": "m", "responseExpression": "${x}"}]},
            {"serverSideRpc": [{"methodRPC": "m", "responseTimeoutMs": 0}]},
            {"serverSideRpc": [{"methodRPC": "m", "valueExpression": "${"}]},
            {"polls": [{"request": "xyz", "encoding": "hex"}]},
            {"attributeUpdates": [{"attributeOnThingsBoard": "a", "valueExpression": "xyz", "encoding": "hex"}]},
            {"deviceName": "${[a:b]}"},
        ):
            before = len(self.faults())
            self.parse({"devices": [{**DEVICE, **bad}]})
            self.assertEqual(len(self.faults()), before + 1, bad)
