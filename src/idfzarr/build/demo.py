"""The whole main job on a simulated field: simulate, build, find the variables, draw them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.analysis.ranking import rank_store
from idfzarr.build.pipeline import build
from idfzarr.errors import StoreExists, StoreMissing
from idfzarr.imaging.simulate import read_simulation, simulate
from idfzarr.imaging.simulated_truth import Truth, matched_rows, read_truth
from idfzarr.progress import Progress, silent
from idfzarr.store.cube import Cube

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.analysis.ranking import Ranking
    from idfzarr.build.report import BuildReport

__all__ = ["LEAST_RECOVERED", "Demonstration", "Recovery", "demonstrate", "match_truth", "recover"]

LEAST_RECOVERED = 0.8
"""Fraction of the injected variables that the demonstration must find."""

_LISTED = 1.25
"""Objects looked at, over the variables injected: so many false alarms are allowed at most."""

_DRAWN = 6
_METHOD = "aper2_clean"


@dataclass(frozen=True)
class Recovery:
    """What became of the injected variables.

    Attributes
    ----------
    injected
        How many there are.
    recovered
        Their ids in the truth that stand among the `listed` most variable objects.
    listed
        How many objects were looked at.
    missed
        ``(id, kind)`` of the others.
    """

    injected: int
    recovered: tuple[int, ...]
    listed: int
    missed: tuple[tuple[int, str], ...]

    @property
    def completeness(self) -> float:
        """Fraction of the injected variables that were found."""
        return len(self.recovered) / max(1, self.injected)

    @property
    def purity(self) -> float:
        """Fraction of the objects looked at that were injected as variables."""
        return len(self.recovered) / max(1, self.listed)


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration did and found.

    Attributes
    ----------
    store, images, picture
        Where the cube, the mosaics and the drawing are.
    report
        Of the build.
    ranking
        The most variable objects.
    recovery
        Held against the truth.
    seconds
        Wall time of it all.
    """

    store: Path
    images: Path
    picture: Path
    report: BuildReport
    ranking: Ranking
    recovery: Recovery
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the build is whole and enough variables were recovered."""
        return self.report.ok and self.recovery.completeness >= LEAST_RECOVERED

    def to_text(self) -> str:
        """Return the page that ends the demonstration."""
        found = self.recovery
        verdict = "well" if self.ok else f"FAILED: fewer than {LEAST_RECOVERED:.0%}"
        lines = [
            self.report.to_text(),
            "",
            "the most variable objects:",
            _first_lines(self.ranking.to_text(), 11),
            "",
            (
                f"{len(found.recovered)} of {found.injected} injected variables are among the "
                f"first {found.listed} ({found.completeness:.0%}, "
                f"purity {found.purity:.0%}): {verdict}"
            ),
        ]
        if found.missed:
            lines.append("missed: " + ", ".join(f"{kind} {id_}" for id_, kind in found.missed))
        first = self.ranking.rows[0] if self.ranking.rows else None
        lines += ["", f"done in {self.seconds:.0f} s; a picture of some of them: {self.picture}"]
        lines += ["", "next:", f"  python -m idfzarr info {self.store}"]
        lines += [f"  python -m idfzarr stats {self.store} --top 10"]
        if first is not None:
            lines.append(
                f"  python -c \"import idfzarr; print(idfzarr.Cube('{self.store}')"
                f".lightcurve({first['object']}, '{first['type']}').to_table())\""
            )
        extra = "" if _has_viewer() else "python -m pip install 'idfzarr[viewer]' && "
        lines += ["", "look at it in the browser:", f"  {extra}python -m idfzarr view {self.store}"]
        return "\n".join(lines)


def _has_viewer() -> bool:
    """Return whether the packages of the viewer are installed."""
    return all(find_spec(name) is not None for name in ("panel", "panel_material_ui", "hvplot"))


def _first_lines(text: str, count: int) -> str:
    lines = text.splitlines()
    return "\n".join("  " + line for line in [*lines[:count], *lines[-1:]])


def match_truth(truth: Truth, cube: Cube) -> NDArray[np.intp]:
    """Return the row of the cube that each true object is, -1 for those that were not detected."""
    return matched_rows(truth, cube.coordinate("x"), cube.coordinate("y"))


def recover(truth: Truth, cube: Cube, ranking: Ranking) -> Recovery:
    """Hold the most variable objects against the injected variables.

    Parameters
    ----------
    truth
        Of the simulated field.
    cube
        Its cube.
    ranking
        The objects to look at.

    Returns
    -------
    Recovery
        Which were found.
    """
    rows = match_truth(truth, cube)
    ranked = {cube.row(object_id) for object_id in ranking.objects}
    variables = np.flatnonzero(np.asarray(truth.table["varies"], dtype=bool))
    ids = np.asarray(truth.table["id"])
    kinds = [str(kind) for kind in truth.table["variable"]]
    found = [k for k in variables if rows[k] in ranked]
    return Recovery(
        injected=len(variables),
        recovered=tuple(int(ids[k]) for k in found),
        listed=len(ranking.objects),
        missed=tuple((int(ids[k]), kinds[k]) for k in variables if k not in set(found)),
    )


def demonstrate(
    folder: str | Path,
    *,
    aors: int = 64,
    objects: int = 600,
    size: int = 512,
    seed: int = 1,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Demonstration:
    """Run the main job on a simulated field and hold the result against the truth.

    Parameters
    ----------
    folder
        Where everything goes; a demonstration that was made there before is gone on with.
    aors, objects, size, seed
        Of the simulated field, see `idfzarr.imaging.simulate.simulate`.
    scheduler, workers
        See `idfzarr.build.pipeline.build`.
    progress
        Told how far each step is.

    Returns
    -------
    Demonstration
        What was found; ``ok`` says whether at least 80 % of the variables were.

    Raises
    ------
    StoreExists
        The folder holds another simulated field, or other files.
    """
    begun = time.perf_counter()
    root = Path(folder)
    images, store = root / "images", root / "field.zarr"
    _simulate_once(images, aors=aors, objects=objects, size=size, seed=seed, progress=progress)
    report = build(images, store, scheduler=scheduler, workers=workers, progress=progress)
    truth, cube = read_truth(images), Cube(store)
    listed = int(np.ceil(_LISTED * np.count_nonzero(truth.table["varies"])))
    ranking = rank_store(cube, top=listed)
    recovery = recover(truth, cube, ranking)
    picture = root / "variables.png"
    _draw(picture, truth, cube, recovery, ranking)
    return Demonstration(
        store, images, picture, report, ranking, recovery, time.perf_counter() - begun
    )


def _simulate_once(
    images: Path, *, aors: int, objects: int, size: int, seed: int, progress: Progress
) -> None:
    """Simulate the field unless it lies there already."""
    try:
        there = read_simulation(images)
    except StoreMissing:
        simulate(images, aors=aors, objects=objects, size=size, seed=seed, progress=progress)
        return
    asked = (aors, objects, size, seed)
    if (there.n_aors, there.n_objects, there.size, there.seed) != asked:
        msg = (
            f"{images} holds another simulated field ({there.n_aors} AORs, {there.n_objects} "
            f"objects, {there.size} px, seed {there.seed}): give the demonstration another folder"
        )
        raise StoreExists(msg)
    if not there.complete:
        simulate(
            images,
            aors=aors,
            objects=objects,
            size=size,
            seed=seed,
            overwrite=True,
            progress=progress,
        )


def _chosen(truth: Truth, cube: Cube, recovery: Recovery, ranking: Ranking) -> list[int]:
    """Return rows of the truth to draw: the most variable object of each kind, in order."""
    rows = match_truth(truth, cube)
    order = {cube.row(object_id): k for k, object_id in enumerate(ranking.objects)}
    found = [truth.row(object_id) for object_id in recovery.recovered]
    found.sort(key=lambda k: order[int(rows[k])])
    kinds: dict[str, int] = {}
    for k in found:
        kinds.setdefault(str(truth.table["variable"][k]), k)
    return list(kinds.values())[:_DRAWN]


def _draw(path: Path, truth: Truth, cube: Cube, recovery: Recovery, ranking: Ranking) -> None:
    """Draw recovered lightcurves over the true ones."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = _chosen(truth, cube, recovery, ranking)
    n_rows = max(1, -(-len(chosen) // 2))
    figure = Figure(figsize=(11, 2.6 * n_rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, 2, squeeze=False)
    rows = match_truth(truth, cube)
    for axis, k in zip(axes.flat, chosen, strict=False):
        _draw_one(axis, truth, cube, k, int(cube.objects[rows[k]]))
    for axis in axes.flat[len(chosen) :]:
        axis.set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


_COLOURS = {"ch1": "#1f5fa8", "ch2": "#c2571a"}


def _draw_one(axis: Any, truth: Truth, cube: Cube, row: int, object_id: int) -> None:
    told = truth.table[row]
    for c, channel in enumerate(truth.channels):
        lc = cube.lightcurve(object_id, f"{channel}_{_METHOD}").calibrated().good()
        colour = _COLOURS.get(channel, "black")
        order = np.argsort(truth.mjd[:, c])
        share = float(told[f"energy_{channel}_{_METHOD.split('_', maxsplit=1)[0]}"])
        true = truth.flux[row, c] * share * np.median(truth.zeropoint[:, c])
        axis.plot(
            truth.mjd[order, c], true[order], color=colour, lw=1, alpha=0.6, label=f"{channel} true"
        )
        axis.errorbar(
            lc.mjd,
            lc.flux,
            lc.flux_err,
            fmt=".",
            ms=4,
            lw=0.8,
            color=colour,
            label=f"{channel} measured",
        )
    axis.set_title(f"object {object_id}: {told['variable']}", fontsize=10)
    axis.set_xlabel("MJD (UTC) [d]")
    axis.set_ylabel("flux in 3 px [µJy]")
    axis.margins(x=0.02)
