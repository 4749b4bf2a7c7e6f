"""What can go wrong with a tree on its way.

TreeError          what a person is told: one line
└── NotATree       the other side sends what is none
"""

from __future__ import annotations


class TreeError(Exception):
    """A tree cannot be read, or not be written here."""


class NotATree(TreeError):
    """Pieces that mean nothing, or more than was announced."""
