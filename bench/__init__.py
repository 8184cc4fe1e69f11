"""Measures speed, latency and memory of the gateway: `python -m bench.run`. Every figure is printed with its method."""
