"""Wire formats shared by SubOS hosts and guests: no I/O, standard library only, Python 3.9 or newer."""

__version__ = "0.1.0"
