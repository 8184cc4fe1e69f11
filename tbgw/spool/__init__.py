"""Durable store-and-forward. `service` is what the gateway talks to; `store` and `memory` keep the rows."""
