"""Internal linear combinations: harmonic (`hilc`) and of cosine needlets (`cnilc`)."""
