"""What the host's and the guest's desktop have in common: access to the clipboard. Both sides use it alike."""
