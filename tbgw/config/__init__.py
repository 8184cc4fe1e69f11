"""Typed configuration: what a section may hold (`schema`), and reading the files of a folder (`loader`)."""
