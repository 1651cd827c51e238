"""How many bits of the stored fluxes were kept: counted shard by shard, told by the cube."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.store.shard import ERR_BITS, flux_quantum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.layout import Layout

__all__ = ["count_kept_bits", "kept_bits_of_shards", "precision_attributes"]

_F32_BITS = 23


def count_kept_bits(
    flux: NDArray[np.float32], flux_err: NDArray[np.float32], fraction: float
) -> list[int]:
    """Count fluxes by the bits of mantissa that rounding kept.

    Parameters
    ----------
    flux, flux_err
        As they are stored, rounded by `idfzarr.store.shard.reduce_precision`; the same shape.
    fraction
        The largest change of a flux, in error bars.

    Returns
    -------
    list of int
        24 counts: at k, the finite fluxes that kept k of their 23 bits. A flux without a usable
        error kept them all; one that is below its error bar by far kept none.
    """
    finite = np.isfinite(flux)
    usable = finite & np.isfinite(flux_err) & (flux_err > 0)
    kept = np.full(flux.shape, _F32_BITS)
    _, above = np.frexp(flux[usable])  # flux = mantissa * 2**above, 0.5 <= mantissa < 1
    step = np.log2(flux_quantum(flux_err[usable], fraction)).astype(np.int64)
    bits = np.clip(above - 1 - step, 0, _F32_BITS)
    kept[usable] = np.where(flux[usable] == 0, 0, bits)
    counts: list[int] = np.bincount(kept[finite], minlength=_F32_BITS + 1).tolist()
    return counts


def kept_bits_of_shards(done: Mapping[str, Mapping[str, Any]], layout: Layout) -> list[int]:
    """Return the sum of `count_kept_bits` over the shards of a cube.

    Parameters
    ----------
    done
        What the ledger notes of every shard's writing, by key.
    layout
        Shape of the cube.
    """
    total = np.zeros(_F32_BITS + 1, dtype=np.int64)
    for shard in range(layout.n_shards):
        noted = done.get(layout.key(shard), {})
        total += np.array(noted.get("flux_bits_kept", 0), dtype=np.int64)
    counts: list[int] = total.tolist()
    return counts


def precision_attributes(counts: list[int]) -> dict[str, Any]:
    """Return the attributes of the cube that say which bits were dropped.

    Parameters
    ----------
    counts
        See `count_kept_bits`.

    Returns
    -------
    dict
        ``flux_bits_kept`` (fluxes by bits of mantissa kept, 0 to 23 of 23) and
        ``flux_err_bits_kept``, beside ``precision``, the largest change of a flux in error bars.
    """
    return {"flux_bits_kept": counts, "flux_err_bits_kept": ERR_BITS}
