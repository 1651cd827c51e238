"""The simulator's point-spread functions, and what apertures hold of them, in Fourier space.

A source on the simulated grid is the optical PSF, turned with the detector, convolved with the
detector's pixel and then with the grid's. All three multiply in Fourier space, and the detector's
pixel (1.2 arcsec) leaves nothing beyond the Nyquist frequency of the grid (0.6 arcsec): to sample
there is exact, a shift is a phase, and the total flux is the value at frequency zero.

The energy inside an aperture follows from the same transform by Parseval's theorem. A circle of
radius r has the transform ``r J1(2 pi k r) / k`` (Goodman, Introduction to Fourier Optics, 2.1.5),
an ellipse the same with scaled axes. What a sum over pixels weighted by their exact overlap with
the aperture sees is the energy of the image of pixels, hence the grid's pixel enters twice: once in
the sampled image and once in the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from scipy.fft import irfft2, rfft2
from scipy.ndimage import map_coordinates, spline_filter
from scipy.special import j1

from idfzarr.errors import ImageMissing, ImageUnreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "CHANNELS",
    "GRID_ARCSEC",
    "STAMP_SIDE",
    "ChannelModel",
    "FrequencyGrid",
    "PsfModel",
    "aperture_transform",
    "disc_transform",
    "frequency_grid",
    "model_psf",
    "read_psf",
    "widened",
]

GRID_ARCSEC = 0.6
"""Pixels of the simulated mosaics, arcsec."""

STAMP_SIDE = 128
"""Pixels of a stamp that holds a source's image and any aperture around it."""

_FINE_ARCSEC = 0.1
_NYQUIST = 0.5
_HALF_SIDE = 150
_TAPER_ARCSEC = (13.0, 15.0)
# Fine enough that the spline through the transform of a stamp of 30 arcsec is exact to 1e-5.
_FREQUENCY_STEP = 1.0 / 204.8
_HIGHEST_FREQUENCY = 1.25


@dataclass(frozen=True)
class ChannelModel:
    """What the simulator takes a channel of IRAC to be.

    Parameters
    ----------
    number
        CHNLNUM.
    band_um
        Shortest, middle and longest wavelength, micrometres (IRAC Instrument Handbook, 2.2.3).
    native_arcsec
        Width of a detector pixel (IRSA's pixel solid angles).
    gain
        Electrons per DN; with `fluxconv`, MJy/sr per DN/s (headers of the warm mission), the
        electrons per second of 1 MJy/sr.
    fluxconv
        See `gain`.
    background
        Zodiacal light near the ecliptic pole, MJy/sr; assumed.
    read_noise
        Electrons per frame of 100 s, Fowler sampling; assumed.
    blur_arcsec
        Gaussian sigma of jitter and of averaging many AORs, chosen so that the PSF with its pixel
        has the width seen in flight.
    star_ratio
        Flux relative to ch1 of a star of Vega's colour (zero points of the handbook, 4.8).
    """

    number: int
    band_um: tuple[float, float, float]
    native_arcsec: float
    gain: float
    fluxconv: float
    background: float
    read_noise: float
    blur_arcsec: float
    star_ratio: float

    @property
    def electron_rate(self) -> float:
        """Electrons per second in a detector pixel from 1 MJy/sr."""
        return self.gain / self.fluxconv


CHANNELS: dict[str, ChannelModel] = {
    "ch1": ChannelModel(
        1, (3.19, 3.55, 3.94), 1.221, 3.70, 0.1253, 0.08, 9.0, blur_arcsec=0.43, star_ratio=1.0
    ),
    "ch2": ChannelModel(
        2, (4.00, 4.49, 5.02), 1.213, 3.71, 0.1447, 0.20, 9.0, blur_arcsec=0.45, star_ratio=0.64
    ),
}
"""The channels that can be simulated."""


@dataclass(frozen=True)
class FrequencyGrid:
    """Frequencies of the real Fourier transform of a square image of `side` pixels.

    `kx` (side // 2 + 1,) and `ky` (side, 1) are in cycles per grid pixel; `pixel` is the transform
    of the grid's pixel, zero at the Nyquist frequency, where the sign of a shift is undefined.
    """

    side: int
    kx: NDArray[np.float64]
    ky: NDArray[np.float64]
    pixel: NDArray[np.float64]

    def image(self, transform: NDArray[np.complex128]) -> NDArray[np.float64]:
        """Return the image of a transform, shape (side, side)."""
        return np.asarray(irfft2(transform, s=(self.side, self.side)))

    def phase(self, x: float, y: float) -> NDArray[np.complex128]:
        """Return the transform of a point at (x, y), pixels from the middle of pixel (0, 0)."""
        down, along = np.exp(-2j * np.pi * self.ky * y), np.exp(-2j * np.pi * self.kx * x)
        return np.asarray(down * along)

    def points(
        self, x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float64]
    ) -> NDArray[np.complex128]:
        """Return the transform of points at `x`, `y` with fluxes `flux`, all of shape (n,)."""
        columns = flux[:, None] * np.exp(-2j * np.pi * np.outer(x, self.kx))
        rows = np.exp(-2j * np.pi * np.outer(self.ky[:, 0], y))
        return _product(rows, columns)

    def mean_of(self, product: NDArray[np.float64] | NDArray[np.complex128]) -> float:
        """Return the integral over the plane of frequencies, from its half."""
        twice = np.full(self.kx.shape, 2.0)
        twice[0] = 1.0
        return float(np.sum(product.real * twice)) / self.side**2


def frequency_grid(side: int) -> FrequencyGrid:
    """Return the frequencies of an image of `side` x `side` pixels."""
    kx = np.asarray(np.fft.rfftfreq(side), dtype=np.float64)
    ky = np.asarray(np.fft.fftfreq(side)[:, None], dtype=np.float64)
    pixel = np.sinc(kx) * np.sinc(ky)
    pixel[(np.abs(ky) >= _NYQUIST) | (np.abs(kx) >= _NYQUIST)] = 0.0
    return FrequencyGrid(side, kx, ky, pixel)


@dataclass(frozen=True)
class PsfModel:
    """The optical PSF of a channel with its detector pixel, as a transform to be turned.

    Parameters
    ----------
    fine
        The optical PSF on pixels of 0.1 arcsec, sum 1, its core in the middle; (301, 301).
    native_arcsec
        Width of the detector's pixel.
    real, imaginary
        Cubic spline coefficients of the transform along the detector's axes.
    """

    fine: NDArray[np.float64]
    native_arcsec: float
    real: NDArray[np.float64]
    imaginary: NDArray[np.float64]

    def transfer(self, grid: FrequencyGrid, roll: float) -> NDArray[np.complex128]:
        """Return the transform of a source's image, turned by `roll` degrees counter-clockwise.

        Parameters
        ----------
        grid
            Where.
        roll
            From the grid's x axis to the detector's, degrees.

        Returns
        -------
        ndarray
            Shape (side, side // 2 + 1); 1 at frequency zero; the grid's own pixel is in it.
        """
        if grid.side <= STAMP_SIDE:
            return self._turned(grid, roll)
        return widened(self._turned(frequency_grid(STAMP_SIDE), roll), grid)

    def _turned(self, grid: FrequencyGrid, roll: float) -> NDArray[np.complex128]:
        cosine, sine = np.cos(np.radians(roll)), np.sin(np.radians(roll))
        scale = 1.0 / (GRID_ARCSEC * _FREQUENCY_STEP)
        middle = self.real.shape[0] // 2
        where = np.stack(
            [
                (grid.ky * cosine - grid.kx * sine) * scale + middle,
                (grid.kx * cosine + grid.ky * sine) * scale + middle,
            ]
        )
        real = map_coordinates(self.real, where, order=3, prefilter=False)
        imaginary = map_coordinates(self.imaginary, where, order=3, prefilter=False)
        turned: NDArray[np.complex128] = (real + 1j * imaginary) * grid.pixel
        return turned


def _product(left: NDArray[np.complex128], right: NDArray[np.complex128]) -> NDArray[np.complex128]:
    # The matrix product of a BLAS rounds differently with each number of threads, and the same
    # seed must give the same bytes on one core and on many.
    return np.asarray(np.einsum("ij,jk->ik", left, right))


def _model(optical: NDArray[np.float64], centre: tuple[float, float], native: float) -> PsfModel:
    """Put the core into the middle, taper the wings, and transform."""
    fine = _recentred(optical, centre)
    steps = np.arange(-_HALF_SIDE, _HALF_SIDE + 1) * _FINE_ARCSEC
    count = int(np.ceil(_HIGHEST_FREQUENCY / _FREQUENCY_STEP))
    frequency = np.arange(-count, count + 1) * _FREQUENCY_STEP
    wave = np.exp(-2j * np.pi * np.outer(frequency, steps))
    transform = _product(_product(wave, fine.astype(np.complex128)), wave.T)
    box = np.sinc(frequency * native)
    transform *= box[:, None] * box
    return PsfModel(fine, native, spline_filter(transform.real), spline_filter(transform.imag))


def _recentred(optical: NDArray[np.float64], centre: tuple[float, float]) -> NDArray[np.float64]:
    offsets = np.arange(-_HALF_SIDE, _HALF_SIDE + 1, dtype=np.float64)
    where = np.meshgrid(offsets + centre[1], offsets + centre[0], indexing="ij")
    moved = map_coordinates(optical, where, order=3, mode="constant")
    radius = np.hypot(*np.meshgrid(offsets, offsets)) * _FINE_ARCSEC
    inner, outer = _TAPER_ARCSEC
    ramp = np.clip((radius - inner) / (outer - inner), 0.0, 1.0)
    moved *= 0.5 * (1.0 + np.cos(np.pi * ramp))
    return np.asarray(moved / moved.sum())


def _core(optical: NDArray[np.float64]) -> tuple[float, float]:
    """Return x, y of the core: the centroid within 1.5 arcsec of itself."""
    y, x = np.indices(optical.shape, dtype=np.float64)
    peak = np.unravel_index(int(np.argmax(optical)), optical.shape)
    cx, cy = float(peak[1]), float(peak[0])
    for _ in range(20):
        weight = optical * (np.hypot(x - cx, y - cy) < 1.5 / _FINE_ARCSEC)
        total = weight.sum()
        cx, cy = float((weight * x).sum() / total), float((weight * y).sum() / total)
    return cx, cy


@cache
def model_psf(channel: str) -> PsfModel:
    """Return a PSF like that of the Infrared Array Camera, from its pupil.

    The pupil is Spitzer's: 0.85 m with a central obscuration of 0.38 of it and three vanes, which
    give the hexagonal wings (Gehrz et al. 2007, Rev. Sci. Instrum. 78, 011302; the widths of the
    vanes and the aberrations, mostly trefoil, are chosen to look like the images). The powers at
    three wavelengths of the band are added and blurred.

    Parameters
    ----------
    channel
        ``ch1`` or ``ch2``.

    Returns
    -------
    PsfModel
        Its core in the middle.
    """
    model = CHANNELS[channel]
    power = sum(_diffraction(wavelength * 1e-6) for wavelength in model.band_um)
    frequency = np.fft.fftfreq(np.shape(power)[0], _FINE_ARCSEC)
    blur = np.exp(-2.0 * (np.pi * model.blur_arcsec * frequency) ** 2)
    blurred = np.fft.ifft2(np.fft.fft2(power) * blur[:, None] * blur).real
    return _model(np.maximum(blurred, 0.0), _core(blurred), model.native_arcsec)


def _diffraction(wavelength: float, *, side: int = 400) -> NDArray[np.float64]:
    """Return the monochromatic PSF on pixels of 0.1 arcsec; wavelength in metres."""
    step = wavelength / (side * np.radians(_FINE_ARCSEC / 3600.0))
    axis = (np.arange(side) - side // 2) * step
    x, y = np.meshgrid(axis, axis)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    outer, inner = 0.425, 0.1615
    aperture = np.clip((outer - radius) / step + 0.5, 0.0, 1.0)
    aperture *= np.clip((radius - inner) / step + 0.5, 0.0, 1.0)
    for vane in np.radians([90.0, 210.0, 330.0]):
        along = x * np.cos(vane) + y * np.sin(vane)
        across = np.abs(y * np.cos(vane) - x * np.sin(vane))
        aperture *= np.where(along > 0, np.clip((across - 0.012) / step + 0.5, 0.0, 1.0), 1.0)
    rho = radius / outer
    bend = 0.22 * rho**3 * np.cos(3.0 * angle) + 0.10 * rho**2 * np.cos(2.0 * angle - 0.6)
    bend += 0.12 * (3.0 * rho**3 - 2.0 * rho) * np.sin(angle)
    wave = aperture * np.exp(2j * np.pi * bend * 1e-6 / wavelength)
    field = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave)))
    power = np.abs(field) ** 2
    return np.asarray(power / power.sum())


def read_psf(folder: str | Path, channel: str) -> PsfModel:
    """Return the measured PSF of a channel, ``irac_{channel}_warm_psf.fits``.

    Parameters
    ----------
    folder
        Where the file lies. Its pixels must be 0.1 arcsec (card PIXASEC, or taken to be so).
    channel
        ``ch1`` or ``ch2``.

    Returns
    -------
    PsfModel
        Its core in the middle, wherever the file has it.

    Raises
    ------
    ImageMissing
        There is no such file.
    ImageUnreadable
        The file is no image of a PSF on pixels of 0.1 arcsec.
    """
    path = Path(folder) / f"irac_{channel}_warm_psf.fits"
    if not path.is_file():
        msg = f"{folder} holds no PSF of {channel}: {path.name} is not there"
        raise ImageMissing(msg)
    try:
        with fits.open(path, memmap=False) as hdus:
            optical = np.asarray(hdus[0].data, dtype=np.float64)
            step = float(hdus[0].header.get("PIXASEC", _FINE_ARCSEC))
    except (OSError, TypeError, ValueError) as error:
        msg = f"{path} cannot be read as a FITS image: {error}"
        raise ImageUnreadable(msg) from error
    if optical.ndim != 2 or not np.all(np.isfinite(optical)) or optical.sum() <= 0:
        msg = f"{path} is no PSF: its image has the shape {optical.shape} or is not finite"
        raise ImageUnreadable(msg)
    if abs(step - _FINE_ARCSEC) > 1e-6:
        msg = f"{path} has pixels of {step} arcsec, and the simulator reads PSFs of {_FINE_ARCSEC}"
        raise ImageUnreadable(msg)
    return _model(optical, _core(optical), CHANNELS[channel].native_arcsec)


def widened(small: NDArray[np.complex128], grid: FrequencyGrid) -> NDArray[np.complex128]:
    """Return the transform of a source's image at all frequencies of a larger grid.

    The image fills about 50 pixels, so a stamp of `STAMP_SIDE` knows its transform everywhere.

    Parameters
    ----------
    small
        Transform of the image on `STAMP_SIDE` pixels, its source in the middle of pixel (0, 0).
    grid
        The larger grid.

    Returns
    -------
    ndarray
        Shape (side, side // 2 + 1); 0 at the Nyquist frequency.
    """
    half = STAMP_SIDE // 2
    wide = np.zeros((grid.side, grid.side))
    stamp = frequency_grid(STAMP_SIDE).image(small)
    wide[:STAMP_SIDE, :STAMP_SIDE] = np.roll(stamp, (half, half), axis=(0, 1))
    turned: NDArray[np.complex128] = rfft2(wide) * np.conj(grid.phase(half, half))
    turned[np.abs(grid.ky[:, 0]) >= _NYQUIST] = 0.0
    turned[:, np.abs(grid.kx) >= _NYQUIST] = 0.0
    return turned


def disc_transform(
    grid: FrequencyGrid, scale: float, axis_ratio: float, angle: float
) -> NDArray[np.float64]:
    """Return the transform of an exponential disc of total 1.

    The disc exp(-r / h) / (2 pi h^2) has the transform (1 + (2 pi h k)^2)^(-3/2) (Freeman 1970, ApJ
    160, 811, for the disc); an inclined one has its minor axis scaled.

    Parameters
    ----------
    grid
        Where.
    scale
        Scale length h of the major axis, grid pixels.
    axis_ratio
        Minor over major axis.
    angle
        From the x axis to the major axis, counter-clockwise, degrees.

    Returns
    -------
    ndarray
        Shape (side, side // 2 + 1), real.
    """
    major, minor = _along(grid, angle)
    squared = (scale * major) ** 2 + (scale * axis_ratio * minor) ** 2
    reach = 1.0 + 4.0 * np.pi**2 * squared
    return np.asarray(1.0 / (reach * np.sqrt(reach)))


def aperture_transform(
    grid: FrequencyGrid, a: float, b: float, angle: float
) -> NDArray[np.float64]:
    """Return the transform of an ellipse of value 1 inside, seen through the grid's pixels.

    Parameters
    ----------
    grid
        Where.
    a, b
        Semi-axes, grid pixels.
    angle
        From the x axis to `a`, counter-clockwise, degrees.

    Returns
    -------
    ndarray
        Shape (side, side // 2 + 1), real; the area at frequency zero.
    """
    major, minor = _along(grid, angle)
    reach = 2.0 * np.pi * np.hypot(a * major, b * minor)
    safe = np.where(reach > 0, reach, 1.0)
    airy = np.where(reach > 0, 2.0 * j1(safe) / safe, 1.0)
    return np.asarray(np.pi * a * b * airy * grid.pixel)


def _along(grid: FrequencyGrid, angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return grid.kx * cosine + grid.ky * sine, grid.ky * cosine - grid.kx * sine
