"""A small stand-in for a ThingsBoard server, so that the gateway can be tried, and tested, with nothing else."""
