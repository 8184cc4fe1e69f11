"""Tests of `tbgw.spool`."""
