"""The host's clipboard and the guest's: a process of its own a VM, what may pass, and a log of what has."""
