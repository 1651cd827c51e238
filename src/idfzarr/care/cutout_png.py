"""Pictures of cutouts as PNG: one band in grey, three in colour."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["picture"]

_SOFTENING = 0.1
_LOWEST, _HIGHEST = 1.0, 99.5
_Q = 8.0
_STRETCH_SIGMAS = 20.0
_MAD_OF_SIGMA = 0.6745  # of a normal distribution


def picture(bands: Sequence[NDArray[Any]]) -> bytes:
    """Return a PNG, its first row the uppermost.

    Parameters
    ----------
    bands
        One image, or three from red to blue, (ny, nx) each with the first row lowest; NaN is black.
    """
    from matplotlib.image import imsave

    flux = [np.asarray(band, dtype=np.float64) for band in bands]
    drawn = _grey(flux[0]) if len(flux) == 1 else _coloured(flux)
    stream = io.BytesIO()
    imsave(stream, drawn, format="png", origin="lower", metadata={"Software": "idfzarr"})
    return stream.getvalue()


def _grey(flux: NDArray[np.float64]) -> NDArray[np.uint8]:
    known = flux[np.isfinite(flux)]
    low, high = np.percentile(known, [_LOWEST, _HIGHEST]) if known.size else (0.0, 1.0)
    span = high - low if high > low else 1.0
    part = np.clip((np.nan_to_num(flux, nan=low) - low) / span, 0.0, 1.0)
    shown = np.arcsinh(part / _SOFTENING) / np.arcsinh(1 / _SOFTENING)
    grey = np.rint(shown * 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _coloured(flux: Sequence[NDArray[np.float64]]) -> NDArray[np.uint8]:
    """Return the colours of Lupton et al. 2004, PASP 116, 133, stretched by the noise."""
    from astropy.visualization import make_lupton_rgb

    middles, sigmas = zip(*map(_sky, flux), strict=True)
    # Each band by its own noise: redder bands are shallower, and the sky is to be grey.
    scaled = [
        np.nan_to_num((band - middle) / sigma, nan=0.0)
        for band, middle, sigma in zip(flux, middles, sigmas, strict=True)
    ]
    made = make_lupton_rgb(*scaled, minimum=-1.0, stretch=_STRETCH_SIGMAS, Q=_Q)
    return np.asarray(made, dtype=np.uint8)


def _sky(flux: NDArray[np.float64]) -> tuple[float, float]:
    """Return median and robust sigma of what is known; 0 and 1 where nothing is."""
    known = flux[np.isfinite(flux)]
    if known.size == 0:
        return 0.0, 1.0
    middle = float(np.median(known))
    sigma = float(np.median(np.abs(known - middle))) / _MAD_OF_SIGMA
    return middle, sigma if sigma > 0 else 1.0
