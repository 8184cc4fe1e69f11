"""One scenario with ThingsBoard's SDK, run by the Python of `.venv-sdk`: `driver.py SCENARIO PORT TOKEN`.

It prints one JSON value a line; where the test has to do something first, it waits for a line on standard input.
Nothing of tbgw is imported here.
"""

import json
import queue
import sys
import threading
import time
from typing import Any

SECONDS = 30


def tell(**what):
    print(json.dumps(what), flush=True)


def wait():
    sys.stdin.readline()


def connected(client):
    """Connected, subscribed, and with its limits."""
    client.connect()
    deadline = time.monotonic() + SECONDS
    while not (client.is_connected() and client.rate_limits_received):
        if time.monotonic() > deadline:
            raise SystemExit("not connected, or no limits")
        time.sleep(0.02)
    tell(connected=True)


def device(port, token):
    from tb_device_mqtt import TBDeviceMqttClient

    client = TBDeviceMqttClient("127.0.0.1", port, token)
    heard: queue.Queue[Any] = queue.Queue()
    client.set_server_side_rpc_request_handler(
        lambda request_id, body: client.send_rpc_reply(request_id, {"echo": body["params"]})
    )
    connected(client)
    telemetry = {"temperature": 41.9, "humidity": 69, "enabled": False, "currentFirmwareVersion": "v1.2.2"}
    tell(telemetry=client.send_telemetry(telemetry).get())
    tell(timed=client.send_telemetry({"ts": 10_000, "values": {"old": 1}}).get())
    tell(attributes=client.send_attributes({"sensorModel": "DHT-22", "atr3": "value3"}).get())
    wait()  # the shared attribute is set
    for asked in ({"shared_keys": ["attr"]}, {"client_keys": ["atr3"]}):
        client.request_attributes(**asked, callback=lambda answer, error: heard.put(answer))
        tell(answer=heard.get(timeout=SECONDS))
    client.subscribe_to_attribute("limit", lambda update, error: heard.put({"one": update}))
    client.subscribe_to_all_attributes(lambda update, error: heard.put({"all": update}))
    tell(subscribed=True)
    updates = [heard.get(timeout=SECONDS) for _ in range(2)]
    tell(updates=sorted(updates, key=lambda one: sorted(one)))
    wait()  # the test called, and got its answer
    client.send_rpc_call("getCurrentTime", {}, lambda _id, answer, error: heard.put(answer))
    tell(answer=heard.get(timeout=SECONDS))
    tell(claim=client.claim("secret", 60_000).get())
    client.disconnect()
    client.stop()


def firmware(port, token):
    from tb_device_mqtt import TBDeviceMqttClient, TBFirmwareState

    client = TBDeviceMqttClient("127.0.0.1", port, token, chunk_size=1000)
    received: queue.Queue[Any] = queue.Queue()

    def take(client, data, version):
        received.put((len(data), version))

    client.set_on_firmware_received_callback(take)
    connected(client)
    client.get_firmware_update()
    size, version = received.get(timeout=SECONDS)
    client.update_firmware_info(title="meter", version=version, state=TBFirmwareState.UPDATED)
    client.send_telemetry({"told": True}).get()  # its PUBACK comes after those of all states
    tell(size=size, version=version)
    wait()
    client.disconnect()
    client.stop()


def provision(port, key, secret):
    from tb_device_mqtt import TBDeviceMqttClient

    ask = TBDeviceMqttClient.provision
    tell(answer=ask("127.0.0.1", key, secret, port=port, device_name="By token"))
    tell(answer=ask("127.0.0.1", key, secret, port=port, device_name="Own token", access_token="own-token"))
    basic = {"client_id": "c", "username": "u", "password": "p"}
    tell(answer=ask("127.0.0.1", key, secret, port=port, device_name="Basic", **basic))
    tell(answer=ask("127.0.0.1", key, secret, port=port, device_name="Certificate", hash="text"))
    tell(answer=ask("127.0.0.1", key, secret, port=port, device_name="Gateway 2", gateway=True))
    tell(answer=ask("127.0.0.1", "wrong", secret, port=port, device_name="Nobody"))
    client = TBDeviceMqttClient("127.0.0.1", port, "own-token")
    connected(client)
    tell(telemetry=client.send_telemetry({"a": 1}).get())
    client.disconnect()
    client.stop()


def gateway(port, token):
    from tb_gateway_mqtt import TBGatewayMqttClient

    client = TBGatewayMqttClient("127.0.0.1", port, token)
    heard: queue.Queue[Any] = queue.Queue()

    def called(_client, request):
        data = request["data"]
        client.gw_send_rpc_reply(request["device"], data["id"], {"echo": data["params"]})

    client.gw_set_server_side_rpc_request_handler(called)
    connected(client)
    tell(connect=client.gw_connect_device("A", "thermo").get())
    tell(telemetry=client.gw_send_telemetry("A", {"ts": 10_000, "values": {"t": 1.5}}).get())
    tell(attributes=client.gw_send_attributes("A", {"model": "X", "serial": "007"}).get())
    client.gw_subscribe_to_all_attributes(lambda update: heard.put({"all": update}))
    client.gw_subscribe_to_all_device_attributes("A", lambda update: heard.put({"device": update}))
    client.gw_subscribe_to_attribute("A", "limit", lambda update: heard.put({"attribute": update}))
    tell(subscribed=True)
    updates = [heard.get(timeout=SECONDS) for _ in range(3)]
    tell(updates=sorted(updates, key=lambda one: sorted(one)))
    wait()  # the test called the device, and got its answer
    client.gw_request_shared_attributes("A", ["limit"], lambda answer, error: heard.put(answer))
    tell(answer=heard.get(timeout=SECONDS))
    client.gw_request_client_attributes("A", ["model", "serial"], lambda answer, error: heard.put(answer))
    tell(answer=heard.get(timeout=SECONDS))
    tell(claim=client.gw_claim("A", "secret", 60_000).get())
    tell(disconnect=client.gw_disconnect_device("A").get())
    client.disconnect()
    client.stop()


def readings(port, token):
    """Readings come on standard input, one a line, until an empty one."""
    from tb_gateway_mqtt import TBGatewayMqttClient

    client = TBGatewayMqttClient("127.0.0.1", port, token)
    connected(client)
    known = set()
    for line in sys.stdin:
        if not line.strip():
            break
        reading = json.loads(line)
        name = reading["device"]
        if name not in known:
            known.add(name)
            client.gw_connect_device(name, reading["profile"]).get()
        if reading["telemetry"]:
            client.gw_send_telemetry(name, reading["telemetry"]).get()
        if reading["attributes"]:
            client.gw_send_attributes(name, reading["attributes"]).get()
    tell(done=True)
    client.disconnect()
    client.stop()


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    threading.excepthook = lambda failure: print(f"thread: {failure.exc_value!r}", file=sys.stderr)
    {f.__name__: f for f in (device, firmware, provision, gateway, readings)}[name](int(rest[0]), *rest[1:])
