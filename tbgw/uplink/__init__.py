"""The link to ThingsBoard: one MQTT session, its credentials, its limits."""
