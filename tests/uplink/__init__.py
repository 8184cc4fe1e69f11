"""The link to ThingsBoard."""
