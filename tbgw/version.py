"""The one place that holds the version number; `setup.cfg` and the `tbgw` command read it from here."""

VERSION = "0.1.0"
