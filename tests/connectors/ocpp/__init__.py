"""Tests of the OCPP connector."""
