"""Stars of a frame without WCS, and the transformation that brings two star fields together.

Frames of one field taken with one instrument differ by a shift and a small turn, at times by half a
turn (a German mount that flipped). So the shift is found by a vote: of all differences between the
brightest stars of two frames, the one that occurs most often is the shift. Where no shift stands
out, the vote is repeated with one frame turned, degree by degree. The winner is refined by least
squares over all matched stars. The same stars give the same answer: nothing is drawn at random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import sep
from scipy.spatial import cKDTree

from idfzarr.errors import RegistrationFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "Alignment",
    "StarField",
    "align",
    "best_reference",
    "find_stars",
    "fit_similarity",
    "mesh_background",
]

_BRIGHTEST = 60
_VOTE_TOLERANCE = 2.0
_TURN_TOLERANCE = 3.5
_TOLERANCES = (5.0, 3.0, 1.5, 1.0, 0.7, 0.5, 0.5)
_FEWEST = 4
_WORST_RMS = 0.3
# Radius of the Gaussian window, in pixels, for stars of about 3 pixels FWHM; SExtractor's manual,
# "Windowed positional parameters": the result depends on it weakly.
_WINDOW_SIGMA = 1.25


@dataclass(frozen=True)
class StarField:
    """Stars of one frame, the brightest first.

    Attributes
    ----------
    x, y
        Windowed centroids in pixels, the centre of the first pixel being (0, 0).
    flux
        Isophotal flux above the background.
    shape
        (ny, nx) of the frame.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Shape (n, 2): x and y."""
        return np.column_stack([self.x, self.y])


@dataclass(frozen=True)
class Alignment:
    """How one star field lies on another.

    Attributes
    ----------
    matrix
        Shape (2, 3): ``matrix[:, :2] @ (x, y) + matrix[:, 2]`` brings a position of the frame to
        the reference; a similarity (shift, turn, scale).
    rms
        Root mean square residual of the matched stars along one axis, in pixels.
    n_stars
        How many stars were matched.
    """

    matrix: NDArray[np.float64]
    rms: float
    n_stars: int


def mesh_background(
    image: NDArray[np.float32], bad: NDArray[np.bool_], *, mesh: int = 64
) -> NDArray[np.float32]:
    """Return the smooth background of an image, SExtractor's way.

    A clipped mode in every mesh, filtered 3 x 3 by a median and interpolated with splines (Bertin &
    Arnouts 1996, A&AS 117, 393, section 3; through sep). The mesh must be much larger than a star:
    in an image of few meshes, or a crowded one, starlight goes into the background.

    Parameters
    ----------
    image
        Shape (y, x).
    bad
        Pixels to leave out, like ``image``.
    mesh
        Width of a mesh in pixels.

    Returns
    -------
    NDArray[np.float32]
        Shape (y, x), in the units of the image.
    """
    return np.asarray(_background(image, bad, mesh).back(dtype=np.float32))


def find_stars(
    image: NDArray[np.float32],
    bad: NDArray[np.bool_],
    *,
    saturated: NDArray[np.bool_] | None = None,
    limit: int = 150,
    threshold: float = 5.0,
    mesh: int = 64,
) -> StarField:
    """Find the brightest stars of a frame, with positions good to a few hundredths of a pixel.

    Parameters
    ----------
    image
        Shape (y, x).
    bad
        Pixels not to use, like ``image``.
    saturated
        Saturated pixels, like ``image``; a star that holds one has no good centre and is left out.
    limit
        How many stars at most.
    threshold
        Detection threshold in units of the background's noise.
    mesh
        Width of the background's mesh in pixels.

    Returns
    -------
    StarField
        The brightest first.
    """
    background = _background(image, bad, mesh)
    shape = (image.shape[0], image.shape[1])
    # A fresh array, since sep writes nothing but needs native, contiguous, finite pixels.
    flat = np.where(bad, 0.0, image - background.back(dtype=np.float32)).astype(np.float32)
    noise = background.globalrms
    if not noise > 0:
        noise = float(flat[~bad].std()) or 1.0
    # The brightest are all that is wanted, and a high threshold finds those much sooner.
    for level in (4 * threshold, threshold):
        objects, segments = sep.extract(
            flat, level, err=noise, mask=bad, minarea=5, filter_type="conv", segmentation_map=True
        )
        if len(objects) >= 1.5 * limit:
            break
    usable = (objects["flag"] & sep.OBJ_TRUNC) == 0
    if saturated is not None:
        usable[np.unique(segments[saturated & (segments > 0)]) - 1] = False
    objects = objects[usable]
    objects = objects[np.argsort(-objects["flux"], kind="stable")][:limit]
    x, y, _ = sep.winpos(flat, objects["x"], objects["y"], _WINDOW_SIGMA, mask=bad, subpix=5)
    moved = np.hypot(x - objects["x"], y - objects["y"])
    keep = np.isfinite(moved) & (moved < 2.0)
    flux = objects["flux"].astype(np.float64)
    return StarField(x[keep].astype(np.float64), y[keep].astype(np.float64), flux[keep], shape)


def align(frame: StarField, reference: StarField, *, name: str = "the frame") -> Alignment:
    """Find the similarity that brings a frame's stars onto those of a reference.

    Parameters
    ----------
    frame
        The stars to bring.
    reference
        The stars to bring them to.
    name
        How errors call the frame: its file.

    Returns
    -------
    Alignment
        With a residual below 0.3 pixels, and more matches than chance could make.

    Raises
    ------
    RegistrationFailed
        No transformation matches enough stars.
    """
    best: Alignment | None = None
    if min(len(frame), len(reference)) >= _FEWEST:
        # A mount that flipped turns the field by half; anything else is searched for after that.
        for angles in ((0.0,), (180.0,), tuple(float(k) for k in range(1, 360))):
            best = _best_refined(frame, reference, angles)
            if best is not None:
                return best
    msg = (
        f"{name} cannot be aligned with the field: of its {len(frame)} stars and the reference's "
        f"{len(reference)} too few agree in any shift and turn; is it another field, clouded, or "
        "trailed? Remove it from the folder to go on without it"
    )
    raise RegistrationFailed(msg)


def best_reference(fields: Sequence[StarField], *, start: int | None = None) -> int:
    """Choose the frame that the others overlap best, for the grid of a field without WCS.

    The frames' shifts are measured against one of them, and the frame whose farthest other frame is
    nearest is taken, among those with at least 80 % of the usual number of stars.

    Parameters
    ----------
    fields
        The stars of every frame.
    start
        Index of the frame to measure against, such as the middle of the night; by default the
        frame in the middle of the sequence.

    Returns
    -------
    int
        Index into ``fields``.

    Raises
    ------
    RegistrationFailed
        There are no stars in any frame.
    """
    counts = np.array([len(field) for field in fields])
    if not len(counts) or counts.max() < _FEWEST:
        msg = f"none of {len(fields)} frames holds {_FEWEST} stars to align the others with"
        raise RegistrationFailed(msg)
    rich = counts >= 0.8 * np.median(counts[counts >= _FEWEST])
    middle = len(fields) // 2 if start is None else start
    anchor = min((int(k) for k in np.flatnonzero(rich)), key=lambda k: abs(k - middle))
    shifts = np.full((len(fields), 2), np.nan)
    for k, field in enumerate(fields):
        if len(field) >= _FEWEST:
            found = _best_refined(field, fields[anchor], (0.0,))
            if found is not None:
                shifts[k] = found.matrix[:, 2]
    known = np.flatnonzero(np.isfinite(shifts[:, 0]))
    lowest, highest = shifts[known].min(axis=0), shifts[known].max(axis=0)
    candidates = [int(k) for k in known if rich[k]]
    reach = [np.maximum(shifts[k] - lowest, highest - shifts[k]).max() for k in candidates]
    return candidates[int(np.argmin(reach))]


def fit_similarity(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the (2, 3) similarity that brings ``source`` to ``target``, by least squares.

    Both have shape (n, 2); two points determine it.
    """
    # Centred, so that turn and shift do not trade digits.
    centre = source.mean(axis=0)
    x, y = (source - centre).T
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    design = np.empty((2 * len(x), 4))
    design[0::2] = np.column_stack([x, -y, ones, zeros])
    design[1::2] = np.column_stack([y, x, zeros, ones])
    a, b, dx, dy = np.linalg.lstsq(design, target.ravel(), rcond=None)[0]
    linear = np.array([[a, -b], [b, a]])
    return np.column_stack([linear, np.array([dx, dy]) - linear @ centre])


def _background(image: NDArray[np.float32], bad: NDArray[np.bool_], mesh: int) -> sep.Background:
    filled = np.ascontiguousarray(np.where(bad, 0.0, image), dtype=np.float32)
    width, height = min(mesh, image.shape[1]), min(mesh, image.shape[0])
    return sep.Background(filled, mask=np.ascontiguousarray(bad), bw=width, bh=height)


def _best_refined(
    frame: StarField, reference: StarField, angles: Sequence[float]
) -> Alignment | None:
    """Vote for a shift at every angle; refine the angle with the most votes."""
    source, target = frame.positions, reference.positions
    centre = np.array([frame.shape[1] - 1, frame.shape[0] - 1]) / 2
    tolerance = _VOTE_TOLERANCE if len(angles) == 1 else _TURN_TOLERANCE
    most, start = 0, np.empty((2, 3))
    for angle in angles:
        turn = _rotation(math.radians(angle))
        turned = (source - centre) @ turn.T
        shift, votes = _vote(turned, target, tolerance)
        if votes > most:
            most, start = votes, np.column_stack([turn, shift - turn @ centre])
    return _refine(source, target, start, frame, reference)


def _rotation(angle: float) -> NDArray[np.float64]:
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _vote(
    source: NDArray[np.float64], target: NDArray[np.float64], tolerance: float
) -> tuple[NDArray[np.float64], int]:
    """Return the shift that most pairs of bright stars agree on, and how many do."""
    pairs = (target[:_BRIGHTEST, None] - source[None, :_BRIGHTEST]).reshape(-1, 2)
    cells = np.floor((pairs - pairs.min(axis=0)) / tolerance).astype(np.intp)
    rows, columns = (int(size) for size in cells.max(axis=0) + 1)
    counts = np.bincount(cells[:, 0] * columns + cells[:, 1], minlength=rows * columns)
    # A true shift may lie on the edge between cells, so a cell counts with its neighbours.
    grid = np.pad(counts.reshape(rows, columns), 1)
    beside = grid[:-2] + grid[1:-1] + grid[2:]
    around = beside[:, :-2] + beside[:, 1:-1] + beside[:, 2:]
    winner = np.unravel_index(int(np.argmax(around)), around.shape)
    members = pairs[(np.abs(cells - winner) <= 1).all(axis=1)]
    centre = np.median(members, axis=0)
    close = members[np.abs(members - centre).max(axis=1) <= tolerance]
    return (close if len(close) else members).mean(axis=0), len(close)


def _refine(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    start: NDArray[np.float64],
    frame: StarField,
    reference: StarField,
) -> Alignment | None:
    """Fit again and again with fewer pixels of tolerance; None where the match is by chance."""
    tree = cKDTree(target)
    matrix = start
    for tolerance in _TOLERANCES:
        distance, nearest = tree.query(source @ matrix[:, :2].T + matrix[:, 2])
        close = _one_to_one(distance, nearest, tolerance)
        if close.sum() < _FEWEST:
            return None
        matrix = fit_similarity(source[close], target[nearest[close]])
    residual = target[nearest[close]] - (source[close] @ matrix[:, :2].T + matrix[:, 2])
    rms = float(np.sqrt(np.mean(residual**2)))
    count = int(close.sum())
    area = reference.shape[0] * reference.shape[1]
    by_chance = len(frame) * len(reference) * math.pi * _TOLERANCES[-1] ** 2 / area
    enough = count >= _FEWEST + 6 * by_chance and count >= 0.1 * min(len(frame), len(reference))
    return Alignment(matrix, rms, count) if enough and rms <= _WORST_RMS else None


def _one_to_one(
    distance: NDArray[np.float64], nearest: NDArray[np.int64], tolerance: float
) -> NDArray[np.bool_]:
    """Mark the pairs within a tolerance, the closest only where two stars want one partner."""
    order = np.argsort(distance, kind="stable")
    first = np.zeros(len(distance), dtype=bool)
    first[order[np.unique(nearest[order], return_index=True)[1]]] = True
    return first & (distance < tolerance)
