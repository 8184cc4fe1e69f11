"""The `tbgw` command, one file for each subcommand."""
