"""Tests of the pipeline: packing, report strategies, ingest, forwarder, devices, downlink."""
