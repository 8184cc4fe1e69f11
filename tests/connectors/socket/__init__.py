"""Tests of the Socket connector."""
