"""Wire formats shared by SubOS hosts and guests: no I/O, standard library only, Python 3.9 or newer."""
