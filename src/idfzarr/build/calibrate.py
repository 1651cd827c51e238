"""Zero points and noise scales of an assembled cube."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.analysis.calibration import (
    FEWEST_STARS,
    ZeroPoints,
    choose_comparison,
    ensemble_zeropoint,
    frozen_zeropoint,
)
from idfzarr.build.shard_tasks import (
    columns_of_channel,
    read_shard,
    schema_of_writer,
)
from idfzarr.flags import BAD_FLAGS, flag_bit
from idfzarr.measurement import parse_measurement
from idfzarr.store.cube import flags_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.progress import Progress
    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.writer import CubeWriter

__all__ = [
    "calibrate",
    "comparison_rows",
    "measured_quantities",
    "noise_scales",
    "zero_points",
]

_CANDIDATES = 2000
"""Objects that may be comparison stars: the brightest isolated ones."""

COMPARISON_FLUX = "comparison_flux"
"""Column of the catalogue: the mean flux of each comparison star, (object, type), else NaN."""


def measured_quantities(state: LedgerState) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return what the ledger tells of every measured mosaic, by AOR and channel."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in state.of("staged"):
        for told in record.fields.get("sources", ()):
            if "aor" in told and "channel" in told:
                found[str(told["aor"]), str(told["channel"])] = told
    return found


def noise_scales(
    schema: CubeSchema, told: Mapping[tuple[str, str], Mapping[str, Any]]
) -> NDArray[np.float32]:
    """Return the noise scale (type, aor) from what was measured; NaN where nothing was observed."""
    scales = np.full((len(schema.types), len(schema.aor_names)), np.nan, dtype=np.float32)
    for t, name in enumerate(schema.types):
        channel = parse_measurement(name).channel
        for a, aor in enumerate(schema.aor_names):
            value = told.get((aor, channel), {}).get("noise_scale", {}).get(name)
            if value is not None:
                scales[t, a] = value
    return scales


def _candidate_rows(writer: CubeWriter, channel: str) -> NDArray[np.intp]:
    """Return rows of objects that may calibrate a channel, in order."""
    signal = np.nan_to_num(writer.read_array(f"catalogue/snr_{channel}"))
    isolated = writer.read_array("catalogue/isolated").astype(bool)
    # isolated ones first, then by brightness; what is used of them is decided by the lightcurves
    ranked = np.lexsort((-signal, ~isolated))
    return np.sort(ranked[signal[ranked] > 0][:_CANDIDATES])


def _read_candidates(
    writer: CubeWriter, rows: Mapping[str, NDArray[np.intp]]
) -> dict[str, NDArray[np.float32]]:
    """Return lightcurves (row, type of the channel, value, aor) of each channel's candidates."""
    schema = schema_of_writer(writer)
    layout = schema.layout
    columns = {c: columns_of_channel(schema, c) for c in schema.channels}
    found: dict[str, list[NDArray[np.float32]]] = {c: [] for c in schema.channels}
    for shard in range(layout.n_shards):
        first, last = layout.rows(shard)
        inside = {c: r[(r >= first) & (r < last)] - first for c, r in rows.items()}
        if not any(len(r) for r in inside.values()):
            continue
        block = read_shard(writer, shard)
        for channel, own in inside.items():
            found[channel].append(block[own][:, columns[channel]])
    return {
        c: np.concatenate(parts)
        if parts
        else np.empty((0, len(columns[c]), 3, layout.n_aors), dtype=np.float32)
        for c, parts in found.items()
    }


def calibrate(
    writer: CubeWriter,
    noise_scale: NDArray[np.float32],
    *,
    frozen: bool = False,
    progress: Progress,
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """Find the zero points of every type and AOR, and keep the comparison stars.

    Parameters
    ----------
    writer
        The store, its shards written.
    noise_scale
        (type, aor).
    frozen
        Use the comparison stars that the catalogue has already, for the types that it has them of.
        Not in a first build: what an earlier run left may be of other stars.
    progress
        Told of types done.

    Returns
    -------
    zeropoint, zeropoint_err
        (type, aor) float32, magnitudes.
    notes
        Sentences worth reading.
    """
    schema = schema_of_writer(writer)
    layout = schema.layout
    shape = (layout.n_types, layout.n_aors)
    zeropoint, zeropoint_err = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    rows = {channel: _candidate_rows(writer, channel) for channel in schema.channels}
    blocks = _read_candidates(writer, rows)
    path = f"catalogue/{COMPARISON_FLUX}"
    before = writer.read_array(path) if frozen and writer.has_array(path) else None
    kept = np.full((layout.n_objects, layout.n_types), np.nan)
    isolated = writer.read_array("catalogue/isolated").astype(bool)
    fewest = layout.n_objects
    done = 0
    for channel in schema.channels:
        for place, column in enumerate(columns_of_channel(schema, channel)):
            own = rows[channel]
            found = zero_points(
                blocks[channel][:, place],
                noise_scale[column],
                isolated[own],
                None if before is None or _unknown(before[:, column]) else before[own, column],
            )
            zeropoint[column], zeropoint_err[column] = found.zeropoint, found.zeropoint_err
            kept[own, column] = found.mean_flux
            fewest = min(fewest, int(found.comparison.sum()))
            done += 1
            progress("calibrating", done, layout.n_types)
    writer.write_table("catalogue", {COMPARISON_FLUX: kept}, dims=("object", "type"))
    notes = []
    if fewest < FEWEST_STARS:
        notes.append("too few comparison stars in some types: no zero point is applied there")
    return zeropoint, zeropoint_err, notes


def _unknown(mean_flux: NDArray[np.float64]) -> bool:
    """Whether a type has no comparison stars yet."""
    return not np.isfinite(mean_flux).any()


def comparison_rows(
    comparison_flux: NDArray[np.float64], schema: CubeSchema, channel: str
) -> NDArray[np.intp]:
    """Return the rows that are comparison stars in any type of a channel."""
    own = comparison_flux[:, columns_of_channel(schema, channel)]
    return np.flatnonzero(np.isfinite(own).any(axis=1))


def zero_points(
    values: NDArray[np.float32],
    noise_scale: NDArray[np.float32],
    isolated: NDArray[np.bool_],
    frozen: NDArray[np.float64] | None,
) -> ZeroPoints:
    """Return the zero points of one type.

    Parameters
    ----------
    values
        Candidates, (row, value, aor).
    noise_scale
        Of the type, (aor,).
    isolated
        Which candidates are isolated, (row,).
    frozen
        Mean fluxes of the comparison stars among them, NaN for the others, (row,); None where they
        are still to be chosen.

    Returns
    -------
    ZeroPoints
        Of every AOR.
    """
    flux = values[:, 0].astype(np.float64)
    error = values[:, 1].astype(np.float64) * np.where(np.isfinite(noise_scale), noise_scale, 1.0)
    flag = flags_of(values[:, 2])
    if frozen is not None:
        return frozen_zeropoint(flux, error, flag, comparison=np.isfinite(frozen), mean_flux=frozen)
    good = ((flag & BAD_FLAGS) == 0) & np.isfinite(flux) & (error > 0)
    signal = _median_ratio(flux, error, good)
    # near the top of the converter a star is not linear even where no pixel reaches it
    never_full = ((flag & flag_bit("saturated")) == 0).all(axis=1)
    chosen = choose_comparison(signal, isolated=isolated, usable=never_full)
    usable = np.zeros(len(flux), dtype=bool)
    usable[chosen.rows] = True
    return ensemble_zeropoint(flux, error, flag, usable=usable)


def _median_ratio(
    flux: NDArray[np.float64], error: NDArray[np.float64], good: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the median of flux / error of each row, NaN where nothing is good."""
    ratio = np.where(good, flux / np.where(good, error, 1), np.inf)
    ranked = np.sort(ratio, axis=1)
    n = good.sum(axis=1)
    rows = np.arange(len(ranked))
    low, high = ranked[rows, np.maximum(n - 1, 0) // 2], ranked[rows, n // 2 % ranked.shape[1]]
    return np.where(n > 0, 0.5 * (low + np.where(n > 0, high, low)), np.nan)
