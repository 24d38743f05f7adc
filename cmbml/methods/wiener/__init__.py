"""The trap: a Wiener filter of the observed B, called a lensing template."""
