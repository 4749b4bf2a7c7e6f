"""One module a command of `subos-devices`: `add_parser(subparsers)` declares it, `run(args)` is it.

Nothing heavy is imported at module level, so that `--help` is quick.
"""
