"""Pages served over HTTP by the gateway itself; they show what others know (`IStatusSource`, `ISandboxView`)."""
