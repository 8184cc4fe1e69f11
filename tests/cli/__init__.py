"""Tests of the `tbgw` command."""
