"""ThingsBoard's own SDK, `tb-mqtt-client`, against the sandbox; it lives in a virtual environment of its own."""
