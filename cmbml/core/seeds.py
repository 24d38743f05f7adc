"""Random streams named by what they are for, so that nothing depends on the order of work."""

import hashlib

import numpy as np


def seed_for(purpose: str, *key: object) -> np.random.SeedSequence:
    """Seed of one stream.

    Parameters
    ----------
    purpose : str
        What the numbers are for: ``"cmb/T"``, ``"noise"``, ``"cosmology"``.
    *key
        What the stream belongs to, e.g. seed, split and sim. Every value is written out as text.

    Returns
    -------
    numpy.random.SeedSequence
        Made of the SHA-256 of the readable string ``purpose/key/...``: the same on every machine.
    """
    text = "/".join([purpose, *map(str, key)])
    return np.random.SeedSequence(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def rng_for(purpose: str, *key: object) -> np.random.Generator:
    """Generator over the stream of `seed_for`."""
    return np.random.default_rng(seed_for(purpose, *key))
