"""How far a prediction is from the truth, pixel by pixel."""

import numpy as np

from cmbml.core.errors import UserError

PIXEL_METRICS = ("MAE", "MSE", "RMSE", "NRMSE", "PSNR")


def pixel_metrics(truth: np.ndarray, prediction: np.ndarray, *, mask: np.ndarray | None = None) -> dict[str, float]:
    """Return MAE, MSE, RMSE, NRMSE and PSNR of one prediction over the good pixels.

    With t the truth and p the prediction: MAE = <|t - p|>; MSE = <(t - p)^2>; RMSE = sqrt(MSE);
    NRMSE = RMSE / sqrt(<t^2>); PSNR = 10 log10(R^2 / MSE) dB with R = max t - min t, the range of the truth alone, so
    that an outlier in the prediction cannot raise it. A perfect prediction has PSNR = inf; where the truth is 0
    everywhere NRMSE and PSNR have no meaning and are nan.

    Parameters
    ----------
    truth, prediction : array (..., npix)
        In one unit, with one beam.
    mask : bool array (npix,), optional
        True where a pixel counts.

    Raises
    ------
    UserError
        If the shapes differ, no pixel is left, or a pixel that counts is not finite.
    """
    t, p = np.asarray(truth, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if t.shape != p.shape:
        raise UserError(f"truth has shape {t.shape} and the prediction {p.shape}: bring them to one nside first")
    if mask is not None:
        t, p = t[..., np.asarray(mask, dtype=bool)], p[..., np.asarray(mask, dtype=bool)]
    if t.size == 0:
        raise UserError("the mask leaves no pixel to compare")
    error = t - p
    if not np.isfinite(error).all():
        raise UserError("truth or prediction has pixels that are not finite and that no mask excludes")
    mse, power, span = np.mean(error**2), np.mean(t**2), np.ptp(t)
    nrmse = np.sqrt(mse / power) if power > 0 else np.nan
    with np.errstate(divide="ignore"):
        psnr = 10 * np.log10(np.float64(span**2) / mse) if span > 0 else np.nan
    values = (np.mean(np.abs(error)), mse, np.sqrt(mse), nrmse, psnr)
    return dict(zip(PIXEL_METRICS, map(float, values), strict=True))
