"""The whole gateway as a user starts it, with real programs around it."""
