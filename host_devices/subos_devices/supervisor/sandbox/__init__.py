"""What keeps a worker from the rest of the machine: `policies.py` has the table, `jail.py` applies it."""
