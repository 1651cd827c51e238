"""The store that the viewer's benchmark looks at: of the full shape, some of its shards filled.

All lightcurves of 50,000 objects in 40 types at 1,200 AORs are 10 GB packed. The viewer reads those
of the object it shows and no others, so a few shards stand for all; what does grow with the number
of objects (catalogue, statistics, superstacks) is there whole. The objects of the filled shards
have the highest scores, so that whoever goes down the table, sorted by score, meets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from synthetic import Field as Synthetic

from idfzarr.analysis.variability import STATISTICS
from idfzarr.ps1 import skycell
from idfzarr.ps1.headers import read_image_cards
from idfzarr.ps1.linking import link_skycells
from idfzarr.ps1.skystore import create_skystore
from idfzarr.store.images import SuperstackImages, write_superstack
from idfzarr.store.values import stacked
from idfzarr.store.writer import CubeWriter
from idfzarr.testing.ps1_files import file_bytes
from idfzarr.testing.ps1_sky import PS1Sky

if TYPE_CHECKING:
    from pathlib import Path

N_AORS = 1200
_CENTRE = (265.0, 69.0)
_SCALE = 0.6  # arcsec
_SIDE = 2600  # pixels of a superstack
_COLOURS = ("i", "r", "g")


def make_store(path: Path, *, objects: int = 50_000, shards: int = 4, ps1_side: int = 2400) -> None:
    """Write the store, and beside it PS1 skycells that it is linked with.

    Parameters
    ----------
    path
        Of the store.
    objects
        Rows of the catalogue.
    shards
        How many are filled.
    ps1_side
        Pixels of 0.25 arcsec that the skycell in the middle of the field has; 0 for none.
    """
    field = Synthetic(n_objects=objects, n_aors=N_AORS)
    rng = np.random.default_rng(1)
    catalogue = _catalogue(field, rng)
    writer = CubeWriter.begin(path).lay_out(
        objects=catalogue,
        types=field.types,
        aors={"aor": field.aor_keys, "mjd": field.mjd},
        channels=["ch1", "ch2"],
    )
    filled = np.zeros(objects, dtype=bool)
    for shard in range(shards):
        begin, end = writer.schema.layout.rows(shard)
        values = field.block(begin, end - begin)
        writer.write_shard(shard, stacked(values.flux, values.flux_err, values.flag))
        filled[begin:end] = True
    _calibration(writer, rng, (len(field.types), N_AORS))
    _statistics(writer, rng, filled, len(field.types))
    for channel in ("ch1", "ch2"):
        _superstack(writer, rng, channel, catalogue["x"], catalogue["y"])
    writer.publish(complete=False)
    if ps1_side:
        link_skycells(path, _skycells(path.with_name("skycells.zarr"), ps1_side))


def _catalogue(field: Synthetic, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return a catalogue as SExtractor's are, with twenty columns more."""
    n = field.n_objects
    ra, dec = field.positions
    across = (_CENTRE[0] - ra) * np.cos(np.radians(_CENTRE[1])) * 3600 / _SCALE
    return {
        "object_id": field.object_ids,
        "ra": ra,
        "dec": dec,
        "x": across + _SIDE / 2,
        "y": (dec - _CENTRE[1]) * 3600 / _SCALE + _SIDE / 2,
        "kron_a": rng.uniform(3, 9, n),
        "kron_b": rng.uniform(3, 5, n),
        "theta": rng.uniform(0, 3, n),
        "npix": rng.integers(9, 200, n),
        "flux_auto_ch1": rng.lognormal(1.5, 1.4, n),
        "flux_auto_err_ch1": np.full(n, 0.01),
        "flux_auto_ch2": rng.lognormal(1.5, 1.4, n),
        "flux_auto_err_ch2": np.full(n, 0.01),
    } | {f"column_{k}": rng.normal(size=n) for k in range(20)}


def _calibration(writer: CubeWriter, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Write zero points that move every flux a little."""
    writer.write_coordinate("zeropoint", rng.normal(0, 0.02, shape).astype(np.float32))
    writer.write_coordinate("zeropoint_err", np.full(shape, 0.002, np.float32))
    writer.write_coordinate("noise_scale", np.ones(shape, np.float32))


def _statistics(
    writer: CubeWriter, rng: np.random.Generator, filled: np.ndarray, types: int
) -> None:
    """Write every statistic, of the shape and compressibility of real ones."""
    shape = (filled.size, types)

    def write(name: str, values: np.ndarray, unit: str, words: str) -> None:
        writer.write_array(
            f"variability/{name}",
            values.astype(np.float32),
            dims=("object", "type"),
            dtype="float32",
            codec="zstd",
            attributes={"units": unit, "long_name": words},
        )

    for one in STATISTICS:
        write(one.name, rng.lognormal(0, 2, shape), one.unit, one.definition)
    write("score", rng.gumbel(0, 2, shape) + 100.0 * filled[:, None], "1", "score")


def _superstack(
    writer: CubeWriter, rng: np.random.Generator, channel: str, x: np.ndarray, y: np.ndarray
) -> None:
    image = rng.normal(0, 0.01, (_SIDE, _SIDE)).astype(np.float32)
    columns, rows = (v.astype(int).clip(1, _SIDE - 2) for v in (x, y))
    for up in (-1, 0, 1):
        for right in (-1, 0, 1):
            image[rows + up, columns + right] += 0.1
    images = SuperstackImages(
        channel,
        image,
        np.full_like(image, 0.01),
        np.full_like(image, float(N_AORS)),
        attributes={"unit": "MJy/sr", "pixel_scale": _SCALE},
    )
    write_superstack(writer, images)


def _skycells(path: Path, side: int) -> Path:
    """Write the skycell in the middle of the field in three bands, the pixels of the survey."""
    sky = PS1Sky(seed=1, size=(side, side), around=_CENTRE)
    name = skycell.best(*_CENTRE)
    store = create_skystore(path)
    served = path.with_name("served.fits")
    for band in _COLOURS:
        served.write_bytes(file_bytes(sky, name, band, "image"))
        with served.open("rb") as stream:
            cards = read_image_cards(stream)
        with fits.open(served, do_not_scale_image_data=True) as opened:
            pixels = opened[1].data
        store.write(name, band, "image", pixels, cards=cards.image, primary_cards=cards.primary)
    served.unlink()
    return path
