"""The guest's part in file events: replays what the host has done on the mounted share, for the guest's watchers."""
