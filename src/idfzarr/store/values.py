"""Flux, its error and the flag, as people have them and as they stand in the cube."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.flags import flag_bit
from idfzarr.store.schema import FLAG, FLUX, FLUX_ERR, VALUES

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["flags_of", "stacked"]

_NOT_BUILT = flag_bit("not_built")
_NOT_OBSERVED = flag_bit("not_observed")
_LOST = flag_bit("lost")
_MOST_FLAG = 65535


def flags_of(stored: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Return flags as they stand in the cube as uint16.

    Parameters
    ----------
    stored
        Float32, whole numbers from 0 to 65535, NaN where there is no chunk.

    Returns
    -------
    ndarray of uint16
        NaN becomes ``not_built``; what no flag can be becomes ``lost``.
    """
    if stored.size and stored.min() >= 0 and stored.max() <= _MOST_FLAG:  # False for NaN
        flags: NDArray[np.uint16] = stored.astype(np.uint16)
        if np.array_equal(flags, stored):
            return flags
    absent = np.isnan(stored)
    whole = np.where(absent, 0, stored)
    good = (whole >= 0) & (whole <= _MOST_FLAG) & (whole == np.floor(whole))
    flags = np.where(good, whole, _LOST).astype(np.uint16)
    flags[absent] = _NOT_BUILT
    return flags


def stacked(
    flux: ArrayLike, flux_err: ArrayLike | None, flag: ArrayLike | None
) -> NDArray[np.float32]:
    """Return flux, error and flag as they stand in the cube.

    Parameters
    ----------
    flux
        (..., aor).
    flux_err
        The same shape; NaN unless given.
    flag
        The same shape, whole numbers; 0 unless given.

    Returns
    -------
    ndarray of float32
        (..., value, aor). A flux that is not finite gets the flag ``not_observed`` where it has
        none.

    Raises
    ------
    UsageError
        Shapes differ, or a flag is none.
    """
    values = np.asarray(flux)
    error = np.broadcast_to(np.float32(np.nan), values.shape) if flux_err is None else flux_err
    bits = np.broadcast_to(np.uint16(0), values.shape) if flag is None else np.asarray(flag)
    if np.shape(error) != values.shape or bits.shape != values.shape or values.ndim == 0:
        msg = (
            f"flux, flux_err and flag must have one shape, not {values.shape}, {np.shape(error)} "
            f"and {bits.shape}"
        )
        raise UsageError(msg)
    if bits.dtype != np.uint16 and not np.array_equal(bits, flags_of(bits.astype(np.float64))):
        msg = f"flags must be whole numbers from 0 to {_MOST_FLAG}; see idfzarr.flags.FLAGS"
        raise UsageError(msg)
    shape = (*values.shape[:-1], len(VALUES), values.shape[-1])
    out = np.empty(shape, dtype=np.float32)
    out[..., FLUX, :] = values
    out[..., FLUX_ERR, :] = error
    out[..., FLAG, :] = bits
    out[..., FLAG, :][~np.isfinite(out[..., FLUX, :]) & (bits == 0)] = _NOT_OBSERVED
    return out
