"""Shared directories: a virtio-fs device with a FUSE server behind it. README.md tells how it is built."""
