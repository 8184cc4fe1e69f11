"""The Socket connector: devices that send bytes over TCP or UDP (seeds, `002_*.txt`)."""
