"""What no cleaning can do better than: the truth at a beam, and a Wiener filter of skies without foregrounds."""
