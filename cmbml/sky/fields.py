"""Maps of a field from the alms of a sky."""

from collections.abc import Mapping

import numpy as np

from cmbml.sky import sht
from cmbml.sky.beams import gaussian_beam


def field_map(alms: Mapping[str, np.ndarray], field: str, *, nside: int, fwhm_arcmin: float = 0.0) -> np.ndarray:
    """Map of one field, smoothed with a Gaussian beam and free of noise.

    Parameters
    ----------
    alms : mapping of str to complex array (nalm,)
        T, E and B; those that the field needs.
    field : str
        ``T``, ``E``, ``B`` (spin-0 synthesis of their alms) or ``Q``, ``U`` (spin-2 synthesis of E and B, COSMO sign).
    nside : int
        HEALPix resolution.
    fwhm_arcmin : float
        Full width at half maximum of the beam; 0 for none.

    Returns
    -------
    float64 array (npix,)
        RING order, unit of the alms.

    Examples
    --------
    T = z, the third component of the direction, has a_10 alone:

    >>> import healpy as hp
    >>> t = field_map({"T": np.array([0, np.sqrt(4 * np.pi / 3), 0])}, "T", nside=8)
    >>> np.allclose(t, hp.pix2vec(8, np.arange(768))[2])
    True
    """
    beam = gaussian_beam(fwhm_arcmin, sht.alm_lmax(alms["E" if field in "QU" else field]))
    if field not in "QU":
        return sht.synthesis(sht.almxfl(alms[field].astype(complex), beam), nside)
    eb = np.stack([sht.almxfl(alms[x].astype(complex), beam) for x in "EB"])
    qu: dict[str, np.ndarray] = dict(zip("QU", sht.synthesis(eb, nside, spin=2), strict=True))
    return qu[field]
