"""Charge points on libraries that none of us wrote; programs of their own, started by tests/scenarios/test_ocpp_*."""
