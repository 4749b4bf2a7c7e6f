"""File events: what the host changes in a share reaches the guest's watchers and caches. See README.md."""
