"""The OCPP connector: charge points over WebSocket (seeds, `003_*.txt`). Its file is read; it does not run yet."""
