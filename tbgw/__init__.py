"""tbgw: a ThingsBoard gateway on Twisted. One process, one event loop; `docs/architecture.md` shows the house."""
