"""What can be wrong with bytes.

ProtocolError (ValueError)
├── Truncated        fewer bytes than the layout needs
└── Malformed        enough bytes, but a value that the format forbids
"""


class ProtocolError(ValueError):
    """Bytes that do not follow the format they claim to have."""


class Truncated(ProtocolError):
    """Fewer bytes than the layout needs."""


class Malformed(ProtocolError):
    """Enough bytes, but a value that the format forbids."""
