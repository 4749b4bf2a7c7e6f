"""Packages of the guest's agent, and the disks that bring them into a guest.

Every builder is a pure function from the sources to bytes: the same sources give the same bytes (`payload.timestamp`).
What is not Python (units, maintainer scripts, install.sh) are files below installers/agent.
"""
