"""Host drivers: where the events of input devices come from on this host. See the README of `input`."""
