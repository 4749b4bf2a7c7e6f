"""The host's end of the agent channel: one hub a VM, and what it does with the agent inside the guest."""
