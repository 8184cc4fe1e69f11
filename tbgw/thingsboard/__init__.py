"""ThingsBoard's MQTT API as data: topics and payloads, pure, for both directions (seeds, `004_*.txt`)."""
