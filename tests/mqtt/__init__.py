"""Tests of the MQTT library: tables and codec by exact bytes, both roles joined in memory, and real peers."""
