"""One file a command; each has `add_parser(subparsers)` and sets `run(args) -> exit code`."""
