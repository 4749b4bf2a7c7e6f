"""Gamepads that the host has and this guest's kernel gets by uinput or uhid, so that games can have them rumble."""
