"""Where the needlets of an internal linear combination have their peaks, unless a user says so."""

_NARROWEST = 80  # the first of them


def peaks_by_rule(ellmin: int, ellmax: int, n_scales: int | None = None) -> list[int]:
    """Peaks of needlets each twice as wide as the one before: ..., (ellmax + 1) / 4, (ellmax + 1) / 2, ellmax + 1.

    As many as ``n_scales`` asks for; without it, as leave the first at ellmin + 80 or beyond. On synthetic skies of
    Planck at nside 64 and 128 narrower ones lose more by chance correlations than they gain by being local.
    """
    peaks = [ellmax + 1]
    while len(peaks) + 1 < n_scales if n_scales else peaks[0] // 2 >= ellmin + _NARROWEST:
        peaks.insert(0, peaks[0] // 2)
    return peaks
