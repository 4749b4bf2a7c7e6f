"""Gamepads that the host has and this guest's kernel gets by uinput, so that games can have them rumble."""
