"""The command line, one file a subcommand: the only room that knows click."""
