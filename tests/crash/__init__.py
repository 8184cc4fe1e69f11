"""The machine is broken under the gateway: kill -9, power cut, full disk, I/O errors, broker and network failing.

`make test` runs a short form; `make crash` (TBGW_CRASH=long) the long one. Each test keeps a ledger of what was
accepted and compares it with what arrived.
"""
