"""Measure an AOR: every object and type of a channel in one pass over its mosaic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.field import ChannelField, channel_field
from idfzarr.build.placed import PlacedMosaic, Source, read_placed
from idfzarr.build.report import json_value
from idfzarr.flags import flag_bit
from idfzarr.imaging.cosmics import Cleaned, clean
from idfzarr.imaging.noise import measure_noise_scale, noise_model, scale_for_area
from idfzarr.imaging.photometry import measure, measure_ratio
from idfzarr.imaging.register import Offset, measure_offset
from idfzarr.imaging.sky import Plane, fit_plane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.build.settings import Settings
    from idfzarr.store.writer import CubeWriter

__all__ = ["Batch", "MosaicSummary", "measure_batch", "measure_mosaic", "unobserved"]

_RATIO_LEAST = 3.0
"""A ratio is taken where the superstack exceeds this many times the scatter of its sky."""


@dataclass(frozen=True)
class MosaicSummary:
    """What was learnt of a mosaic beside the fluxes; kept in the ledger.

    Attributes
    ----------
    dx, dy, offset_rms
        Pointing offset from the superstack and its scatter, pixels.
    n_stars
        Stars it was measured with.
    sky, sky_rms
        Background in the middle of the mosaic beyond the superstack's, and its scatter, image
        units.
    n_hits
        Cosmic rays that were replaced.
    is_off
        Whether the pointing is so far off that the AOR is flagged ``aor_bad``.
    noise_scale
        By type name: the true error over the formal one.
    """

    dx: float
    dy: float
    offset_rms: float
    n_stars: int
    sky: float
    sky_rms: float
    n_hits: int
    is_off: bool
    noise_scale: Mapping[str, float]

    def to_fields(self) -> dict[str, Any]:
        """Return it as a ledger keeps it: None for what is not finite."""
        fields = {k: json_value(v) for k, v in vars(self).items() if k != "noise_scale"}
        return fields | {"noise_scale": {k: json_value(v) for k, v in self.noise_scale.items()}}


@dataclass(frozen=True)
class Batch:
    """Mosaics of neighbouring AORs that are measured and staged together.

    Attributes
    ----------
    number
        Which batch of the store.
    sources
        Its mosaics, of all channels.
    files
        For the ledger: the source files of each mosaic, in the order of `sources`.
    field
        Digest of what superstack and catalogue were made from.
    """

    number: int
    sources: tuple[Source, ...]
    files: tuple[Sequence[Mapping[str, Any]], ...]
    field: str


def unobserved(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return measurements (..., 3) of what was not observed: NaN, with the flag that says so."""
    block = np.full(shape, np.nan, dtype=np.float32)
    block[..., 2] = flag_bit("not_observed")
    return block


def measure_mosaic(
    field: ChannelField, placed: PlacedMosaic, *, name: str, factor: float, max_offset: float
) -> tuple[NDArray[np.float32], MosaicSummary]:
    """Measure all types of a channel on one mosaic.

    Parameters
    ----------
    field
        The channel.
    placed
        The mosaic on the field's grid.
    name
        The AOR's.
    factor
        What a sum of pixels is multiplied by to have the stored unit.
    max_offset
        Pixels of pointing offset beyond which all measurements are flagged ``aor_bad``.

    Returns
    -------
    block, summary
        (object, type, value) float32 over the channel's types, and what was learnt beside.
    """
    good = placed.good
    image, plane = _without_sky(field, placed)
    variance = _variance(field, placed, image)
    offset = _offset(field, image, good)
    cleaned = None if field.reference is None else clean(image, variance, ~good, field.reference)
    block = _measure_types(field, image, variance, placed=placed, cleaned=cleaned, factor=factor)
    is_off = math.hypot(offset.dx, offset.dy) > max_offset  # False where it is not known
    common = (0 if plane.ok else flag_bit("background_failed")) | (
        flag_bit("aor_bad") if is_off else 0
    )
    if placed.variance is None:
        common |= flag_bit("noise_model")
    block[..., 2] = (block[..., 2].astype(np.int32) | common).astype(np.float32)
    quiet = image if cleaned is None else cleaned.image
    scales = _noise_scales(field, quiet, variance, good, name=name)
    summary = MosaicSummary(
        dx=offset.dx,
        dy=offset.dy,
        offset_rms=offset.rms,
        n_stars=offset.n_stars,
        sky=plane.constant,
        sky_rms=plane.rms,
        n_hits=0 if cleaned is None else cleaned.n_hits,
        is_off=is_off,
        noise_scale={m.name: float(s) for m, s in zip(field.measurements, scales, strict=True)},
    )
    return block, summary


def _without_sky(field: ChannelField, placed: PlacedMosaic) -> tuple[NDArray[np.float32], Plane]:
    """Return the mosaic without background: the superstack's, and a plane of its own."""
    image = placed.flux - field.background
    plane = fit_plane(image - field.flux, field.sky & placed.good)
    image -= plane.image((image.shape[0], image.shape[1]))
    return np.where(placed.good, image, np.float32(0)), plane


def _variance(
    field: ChannelField, placed: PlacedMosaic, image: NDArray[np.float32]
) -> NDArray[np.float32]:
    if placed.variance is not None:
        return placed.variance
    model = noise_model(image, ~placed.good, superstack=field.flux, source=~field.sky)
    return model.variance(field.flux)


def _offset(field: ChannelField, image: NDArray[np.float32], good: NDArray[np.bool_]) -> Offset:
    if not len(field.stars_x):
        return Offset(math.nan, math.nan, math.nan, 0)
    return measure_offset(image, ~good, field.stars_x, field.stars_y, fwhm=field.fwhm)


def _measure_types(
    field: ChannelField,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    *,
    placed: PlacedMosaic,
    cleaned: Cleaned | None,
    factor: float,
) -> NDArray[np.float32]:
    """Return (object, type, value) of the channel's types."""
    images = {"original": image, "diff": image - field.flux}
    if cleaned is not None:
        images["clean"] = cleaned.image
    kinds = [kind for kind in images if any(m.image == kind for m in field.measurements)]
    block = unobserved((field.n_objects, len(field.measurements), 3))
    if kinds:
        sums = measure(
            field.frozen,
            np.stack([images[kind] for kind in kinds]),
            variance,
            placed.good,
            profile=field.profile,
            saturated=placed.saturated,
        )
        hit = _hit(field, image, variance, cleaned)
        for k, m in enumerate(field.measurements):
            if m.statistic is None:
                column = field.frozen.methods.index(m.method)
                block[:, k, 0] = sums.flux[kinds.index(m.image), :, column] * factor
                block[:, k, 1] = sums.flux_err[:, column] * factor
                told = flag_bit("cleaned" if m.image == "clean" else "cosmic_ray")
                block[:, k, 2] = sums.flag[:, column] | np.uint16(told) * hit[:, column]
    if field.frozen.statistics:
        _measure_ratios(field, image, placed.good, block)
    return block


def _hit(
    field: ChannelField,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    cleaned: Cleaned | None,
) -> NDArray[np.bool_]:
    """Return the apertures (object, method) whose sum cosmic rays change by more than its error.

    A large aperture of a frame with many hits holds some in any case; what matters is whether they
    matter.
    """
    if cleaned is None or not cleaned.n_hits:
        return np.zeros((field.n_objects, len(field.frozen.methods)), dtype=bool)
    excess = measure(field.frozen, image - cleaned.image, variance)
    return np.abs(excess.flux) > excess.flux_err


def _measure_ratios(
    field: ChannelField,
    image: NDArray[np.float32],
    good: NDArray[np.bool_],
    block: NDArray[np.float32],
) -> None:
    """Fill in the robust statistics of mosaic over superstack."""
    level = field.flux[field.sky]
    least = (
        _RATIO_LEAST * 1.4826 * float(np.median(np.abs(level - np.median(level))))
        if level.size
        else 0.0
    )
    defined = field.flux > max(least, 0.0)
    ratio = np.divide(image, field.flux, out=np.full_like(image, np.nan), where=defined)
    sums = measure_ratio(field.frozen, ratio, good)
    for k, m in enumerate(field.measurements):
        if m.statistic is not None:
            column = field.frozen.statistics.index(m.method)
            block[:, k, 0] = sums.flux[:, column]
            block[:, k, 1] = sums.flux_err[:, column]
            block[:, k, 2] = sums.flag[:, column]


def _noise_scales(
    field: ChannelField,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    good: NDArray[np.bool_],
    *,
    name: str,
) -> NDArray[np.float64]:
    """Return the noise scale of each of the channel's types, from empty apertures."""
    if field.empty_frozen is None:
        return np.ones(len(field.measurements))
    alone = field.stacked == {name}
    residual = image if alone else image - field.flux
    share = 0.0 if alone or name not in field.stacked else 1 / len(field.stacked)
    scales = measure_noise_scale(
        field.empty_frozen, field.empty, residual, variance, good, share=share
    )
    known = scale_for_area(field.area, field.empty.radii, scales)
    return np.where(np.isfinite(known), known, 1.0)


def measure_batch(
    writer: CubeWriter, batch: Batch, settings: Settings, factor: float
) -> dict[str, Any]:
    """Measure one batch of AORs, all channels, and stage it; the task owns the batch's file.

    Parameters
    ----------
    writer
        The store.
    batch
        What to measure.
    settings
        Those of the store.
    factor
        See `measure_mosaic`.

    Returns
    -------
    dict
        Fields of the ledger's line.
    """
    first, last = writer.batch_aors(batch.number)
    layout = writer.schema.layout if writer.schema else None
    assert layout is not None  # noqa: S101  # a writer with batches has a layout
    block = unobserved((last - first, layout.n_objects, len(settings.types), 3))
    records = []
    for source, files in zip(batch.sources, batch.files, strict=True):
        field = channel_field(writer, source.files.channel, settings, version=batch.field)
        measured, summary = measure_mosaic(
            field,
            read_placed(source),
            name=source.files.aor,
            factor=factor,
            max_offset=settings.max_offset,
        )
        block[source.position - first][:, list(field.columns)] = measured
        records.append(
            {"aor": source.files.aor, "channel": source.files.channel}
            | {"files": list(files)}
            | summary.to_fields()
        )
    return dict(writer.write_staging(batch.number, block, sources=records).fields)
