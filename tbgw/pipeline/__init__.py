"""Between connectors and uplink: `ingest` (filter, report, pack), `devices` (who is known), `forwarder` (send, once
stored)."""
