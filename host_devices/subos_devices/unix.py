"""Unix sockets. Here, and not in runtime.py, is what workers need of it: they go without what that imports."""

MAX_PATH = 107  # bytes of a Unix socket's path (unix(7))
