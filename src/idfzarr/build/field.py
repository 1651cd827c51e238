"""What is fixed in a fixed field: superstacks, objects, frozen apertures, empty places.

Everything here comes from the store itself, so that a worker in another process, a build that goes
on after a kill, and an AOR that is appended years later all measure with the very same apertures.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from scipy.ndimage import zoom

from idfzarr.errors import UsageError
from idfzarr.imaging.apertures import FrozenApertures, freeze
from idfzarr.imaging.cosmics import Reference, prepare
from idfzarr.imaging.detection import seen_sky
from idfzarr.imaging.noise import EmptyApertures, choose_empty, freeze_empty
from idfzarr.imaging.photometry import Profile, profile_of
from idfzarr.imaging.psf import estimate_psf
from idfzarr.measurement import APERTURE_RADII

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from idfzarr.build.settings import Settings
    from idfzarr.measurement import Measurement
    from idfzarr.store.writer import CubeWriter

__all__ = ["ChannelField", "channel_field"]

_Kept = TypeVar("_Kept")

_KEPT = 4
"""Channels of fields, and sets of apertures, that a process holds at once."""

SQUARED_WEIGHTS = True
"""Errors are ``sqrt(sum(w**2 unc**2))``, as in photutils 3.1; photutils 3.0 has w for w**2. A cube
must not depend on the version that happens to be installed."""

_OFFSET_STARS = 200
_OFFSET_SIGNAL = 20.0
_FINER = 8  # a PSF's width is measured on a finer grid
# Diameter of half the light over the full width at half maximum, of a Moffat profile with beta = 3.
_HALF_LIGHT = 1.26
_NEEDED = ("x", "y", "kron_a", "kron_b", "theta")


@dataclass(frozen=True, eq=False)
class ChannelField:
    """One channel of a field, ready to measure AORs with.

    Attributes
    ----------
    channel
        Its name.
    columns, measurements
        The channel's types: their places along ``type``, and what they are.
    flux, background
        The superstack and the background that was removed from it, (y, x), image units.
    sky
        Pixels free of sources, (y, x).
    stacked
        Names of the AORs in the superstack.
    frozen
        The apertures.
    profile
        The superstack's light in each, for coverage.
    reference
        What cosmic rays are judged by; None where no type needs a clean image.
    empty, empty_frozen
        Empty places, and apertures there; None where there is no room for any.
    area
        Effective area of each type, pixels, for the noise scale; NaN for statistics.
    stars_x, stars_y
        Bright isolated stars, for the pointing.
    fwhm
        Width of the PSF in pixels.
    """

    channel: str
    columns: tuple[int, ...]
    measurements: tuple[Measurement, ...]
    flux: NDArray[np.float32]
    background: NDArray[np.float32]
    sky: NDArray[np.bool_]
    stacked: frozenset[str]
    frozen: FrozenApertures
    profile: Profile
    reference: Reference | None
    empty: EmptyApertures
    empty_frozen: FrozenApertures | None
    area: NDArray[np.float64]
    stars_x: NDArray[np.float64]
    stars_y: NDArray[np.float64]
    fwhm: float

    @property
    def n_objects(self) -> int:
        """How many objects are measured."""
        return self.frozen.n_objects


_Key: TypeAlias = "tuple[str, ...]"
_FIELDS: OrderedDict[_Key, ChannelField] = OrderedDict()
_APERTURES: OrderedDict[_Key, FrozenApertures] = OrderedDict()
_LOCK = threading.Lock()


def channel_field(
    writer: CubeWriter, channel: str, settings: Settings, *, version: str
) -> ChannelField:
    """Return one channel of a store's field, made once in each process.

    Parameters
    ----------
    writer
        The store, its catalogue and superstack written.
    channel
        Which.
    settings
        Those of the store.
    version
        Changes when superstack or catalogue do: a digest of what they were made from.

    Returns
    -------
    ChannelField
        Shared by the threads of the process.
    """
    key = (writer.uuid, version, channel, settings.digest)
    with _LOCK:  # freezing takes seconds: the other threads wait for it instead of doing it too
        return _kept(_FIELDS, key, lambda: _make(writer, channel, settings, version))


def _kept(cache: OrderedDict[_Key, _Kept], key: _Key, make: Callable[[], _Kept]) -> _Kept:
    """Return what is held under a key, made if it is not; the oldest goes where there are many."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > _KEPT:
            cache.popitem(last=False)
    return cache[key]


def _digest(*parts: Any) -> str:
    """Return a digest of arrays and words."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.hexdigest()


def _make(writer: CubeWriter, channel: str, settings: Settings, version: str) -> ChannelField:
    chosen = [(k, m) for k, m in enumerate(settings.measurements) if m.channel == channel]
    if not chosen:
        msg = f"{writer.place.url} has no type of channel {channel!r}"
        raise UsageError(msg)
    measurements = tuple(m for _, m in chosen)
    group = f"images/superstack/{channel}"
    image = {
        name: writer.read_array(f"{group}/{name}")
        for name in ("flux", "err", "background", "segmentation")
    }
    catalogue = {name: writer.read_array(f"catalogue/{name}") for name in _NEEDED}
    bright = _bright_isolated(writer, channel, catalogue)
    psf = _psf(image["flux"], catalogue)
    fwhm = _fwhm(writer, psf, bright)
    stars_x, stars_y = catalogue["x"][bright], catalogue["y"][bright]
    sky = seen_sky(image["segmentation"]) & np.isfinite(image["flux"])
    wanted_psf = _needed_psf(measurements, psf, f"the superstack of {channel}")
    methods = list(dict.fromkeys(m.method for m in measurements))
    # Channels share their apertures, which are large, unless each has its own PSF.
    what = _digest(methods, *catalogue.values(), image["segmentation"], wanted_psf)
    frozen = _kept(
        _APERTURES,
        (writer.uuid, version, what),
        lambda: freeze(
            catalogue,
            methods,
            image["flux"].shape,
            segmentation=image["segmentation"],
            psf=wanted_psf,
            squared=SQUARED_WEIGHTS,
        ),
    )
    empty = choose_empty(sky, APERTURE_RADII, count=settings.empty_apertures, seed=settings.seed)
    stacked = frozenset(str(name) for name in writer.read_array(f"{group}/aors"))
    needs_clean = any(m.image == "clean" for m in measurements)
    return ChannelField(
        channel=channel,
        columns=tuple(k for k, _ in chosen),
        measurements=measurements,
        flux=np.nan_to_num(image["flux"]),
        background=np.nan_to_num(image["background"]),
        sky=sky,
        stacked=stacked,
        frozen=frozen,
        profile=profile_of(frozen, image["flux"]),
        reference=prepare(
            image["flux"],
            image["err"],
            n_aors=len(stacked),
            psf_fwhm=fwhm,
            source=image["segmentation"] > 0,
        )
        if needs_clean
        else None,
        empty=empty,
        empty_frozen=_kept(
            _APERTURES,
            (writer.uuid, version, _digest(empty.x, empty.y, empty.radii)),
            lambda: freeze_empty(empty, image["flux"].shape, squared=SQUARED_WEIGHTS),
        )
        if empty.radii
        else None,
        area=np.array([_area(m, frozen, psf) for m in measurements]),
        stars_x=stars_x,
        stars_y=stars_y,
        fwhm=fwhm,
    )


def _column(writer: CubeWriter, name: str, fill: Any, n: int) -> NDArray[Any]:
    path = f"catalogue/{name}"
    return writer.read_array(path) if writer.has_array(path) else np.full(n, fill)


def _bright_isolated(
    writer: CubeWriter, channel: str, catalogue: dict[str, NDArray[Any]]
) -> NDArray[np.intp]:
    """Return the rows of the brightest isolated objects, brightest first."""
    n = len(catalogue["x"])
    signal = _column(writer, f"snr_{channel}", np.nan, n)
    isolated = _column(writer, "isolated", False, n).astype(bool)
    rows = np.flatnonzero(isolated & (np.nan_to_num(signal) > _OFFSET_SIGNAL))
    ranked: NDArray[np.intp] = rows[np.argsort(-signal[rows], kind="stable")][:_OFFSET_STARS]
    return ranked


def _psf(
    flux: NDArray[np.float32], catalogue: dict[str, NDArray[Any]]
) -> NDArray[np.float64] | None:
    """Return the superstack's PSF; None where too few stars stand alone to measure it."""
    try:
        return estimate_psf(flux, catalogue["x"], catalogue["y"], good=np.isfinite(flux))
    except UsageError:
        return None


def _fwhm(writer: CubeWriter, psf: NDArray[np.float64] | None, bright: NDArray[np.intp]) -> float:
    """Return the full width at half maximum of the PSF, or of the objects where it is not known."""
    if psf is not None:
        fine = zoom(psf, _FINER, order=3)
        step: float = (psf.shape[0] - 1) / (fine.shape[0] - 1)
        return 2.0 * step * math.sqrt(np.count_nonzero(fine > fine.max() / 2) / math.pi)
    widths = _column(writer, "fwhm", np.nan, int(bright.max(initial=-1)) + 1)[bright]
    widths = widths[np.isfinite(widths) & (widths > 0)]
    return float(np.median(widths)) / _HALF_LIGHT if len(widths) else 3.0


def _needed_psf(
    measurements: tuple[Measurement, ...], psf: NDArray[np.float64] | None, where: str
) -> NDArray[np.float64] | None:
    if all(m.method != "psf" for m in measurements):
        return None
    if psf is None:
        msg = (
            f"no PSF can be measured on {where}, too few stars stand alone: leave out the psf types"
        )
        raise UsageError(msg)
    return psf


def _area(m: Measurement, frozen: FrozenApertures, psf: NDArray[np.float64] | None) -> float:
    """Return the pixels that share an aperture's noise; of all objects, the median."""
    if m.statistic is not None:
        return math.nan
    if m.method == "psf" and psf is not None:
        # sum(w)**2 / sum(w**2) of the matched filter w = P / sum(P**2)
        return float(psf.sum() ** 2 / (psf**2).sum())
    if m.radius is not None:
        return math.pi * m.radius**2
    areas = frozen.area[:, frozen.methods.index(m.method)]
    return float(np.median(areas[areas > 0])) if (areas > 0).any() else math.nan
