"""The tests of tbgw, in folders that mirror it."""
