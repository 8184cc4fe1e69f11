"""The XMPP connector: devices that write chat messages (seeds, `000_*.txt`). Its file is read; it does not run yet."""
