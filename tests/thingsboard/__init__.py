"""Tests of the ThingsBoard payloads and topics."""
