"""One store, opened for looking at, shared by all sessions."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.analysis.variability import STATISTICS
from idfzarr.errors import CorruptError, IdfzarrError, UnknownName, closest
from idfzarr.ps1.linking import linked_skycells
from idfzarr.store.arrays import read_array
from idfzarr.store.cube import Cube
from idfzarr.store.images import superstack_channels
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root
from idfzarr.store.schema import VARIABILITY
from idfzarr.viewer.curve_values import date_of
from idfzarr.viewer.field_images import FieldImage
from idfzarr.viewer.field_sources import FieldSources
from idfzarr.viewer.labels import Column
from idfzarr.viewer.object_table import Columns, aor_table, object_table, ranked_types
from idfzarr.viewer.state import DEFAULT_METHODS, Choices

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray
    from scipy.spatial import cKDTree

    from idfzarr.lightcurve import Lightcurve
    from idfzarr.store.place import PlaceLike
    from idfzarr.viewer.field_truth import TruthOverlay

__all__ = ["FIRST_COLUMNS", "FIRST_STATISTICS", "KEPT_LIGHTCURVES", "KEPT_STATISTICS", "Field"]

KEPT_LIGHTCURVES = 1000
"""Lightcurves kept in memory for all sessions together: 25 objects in 40 types, 15 MB of 1,200
AORs."""

KEPT_STATISTICS = 128
"""Statistics kept in memory, each of one type: 26 MB of 50,000 objects."""


FIRST_COLUMNS = 12
"""Columns that the table of the objects shows at first."""

FIRST_STATISTICS = (
    "score", "n", "median", "robust_scatter", "reduced_chi2", "max_pull", "excess_variance",
    "amplitude",
)  # fmt: skip
"""Statistics among them."""


class _Recent:
    """What was used last, by key; threads may share it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: Hashable, value: Any) -> None:
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


class Field:
    """A store that is looked at; nothing is ever written.

    Parameters
    ----------
    path
        The store, or a `Cube` of it.
    truth
        Folder of the simulation that the images came from; looked for where the ledger says the
        images were, and beside the store, unless given.

    Raises
    ------
    StoreError
        There is no finished store of ours.

    Notes
    -----
    Threads may share a field. What grows with the number of objects is read when it is first
    needed and kept: choosing another object reads that object's lightcurves and nothing more.
    """

    def __init__(self, path: PlaceLike | Cube, *, truth: str | Path | None = None) -> None:
        self.cube = path if isinstance(path, Cube) else Cube(path)
        self._asked_truth = truth
        self._place = place_of(self.cube.path)
        self._root = read_root(self._place)
        self._curves = _Recent(KEPT_LIGHTCURVES)
        self._statistics = _Recent(KEPT_STATISTICS)
        self._lock = threading.RLock()
        self.units = dict(zip(self.types, map(str, self.cube.coordinate("unit")), strict=True))
        self.ranked = ranked_types(self.cube)
        self.objects, self._object_columns = object_table(
            self.cube, self._read, self._root.metadata, ranked=self.ranked, units=self.units
        )
        self.aors, self._aor_columns = aor_table(self.cube, self._root.metadata)
        # pandas takes longer to find a column than numpy to do something with it
        self._arrays = {str(name): self.objects[name].to_numpy() for name in self.objects.columns}
        names = self.aors["aor_name" if "aor_name" in self.aors else "aor"]
        self.aor_names = names.to_numpy().astype(object)

    def _read(self, path: str) -> NDArray[Any]:
        """Read an array of a table, also of a store that was laid out anew since."""
        node = self._root.metadata[path]
        try:
            return read_array(self._place, path, node)
        except CorruptError:
            now = read_root(self._place)
            if now.generation == self._root.generation or path not in now.metadata:
                raise
            known = tuple(slice(0, n) for n in node["shape"])
            return read_array(self._place, path, now.metadata[path])[known]

    # ---------------------------------------------------------------- what it is

    @property
    def path(self) -> str:
        """Path or URL of the store."""
        return self.cube.path

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the measurement types."""
        return self.cube.types

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return self.cube.channels

    @cached_property
    def has_sky(self) -> bool:
        """Whether positions on the sky are known."""
        return bool(np.isfinite(self.cube.coordinate("ra")).any())

    @property
    def map_axes(self) -> tuple[str, str]:
        """Columns of the map's axes: ra and dec, or x and y where the frames have no WCS."""
        return ("ra", "dec") if self.has_sky else ("x", "y")

    @cached_property
    def statistics(self) -> tuple[str, ...]:
        """Names of the statistics in the store, those of the registry first."""
        head = f"{VARIABILITY}/"
        shape = list(self.cube.shape[:2])
        there = [
            path.removeprefix(head)
            for path, node in self._root.metadata.items()
            if path.startswith(head) and node.get("shape") == shape
        ]
        order = ["score", *(one.name for one in STATISTICS)]
        return tuple(sorted(there, key=lambda n: (order.index(n) if n in order else 99, n)))

    @cached_property
    def covered(self) -> int:
        """AORs that the statistics were computed from."""
        told = self._root.metadata.get(VARIABILITY, {}).get("attributes", {})
        return int(told.get("n_aors", self.cube.shape[3]))

    @cached_property
    def skycells(self) -> str | None:
        """Path of the PS1 skycells that the cube is linked with; None where there are none."""
        return linked_skycells(self.cube.path)

    def choices(self) -> Choices:
        """Return what there is to choose from."""
        mjd = self.cube.coordinate("mjd")
        known = mjd[np.isfinite(mjd)]
        ranked = next(iter(self.ranked.values()), "")
        statistic = next(iter(self.statistics), "")
        return Choices(
            types=self.types,
            channels=self.channels,
            aor_columns=self.aor_columns,
            statistics=self.statistics,
            columns=self.numeric_columns,
            first_mjd=float(known.min()) if known.size else 0.0,
            last_mjd=float(known.max()) if known.size else 1.0,
            first_object=self._first_object(statistic, ranked),
            default_types=self._first_types(),
            default_statistic=statistic,
            default_statistic_type=ranked,
            default_column=f"{self.channels[0]}_mag" if self.ranked else "x",
            knows=self.knows,
            table_columns=self._table_columns,
            default_table_columns=self._first_table_columns(),
            has_truth=self.sources.truth_folder is not None,
            has_ps1=self.skycells is not None,
            image_channels=superstack_channels(self._place),
        )

    @cached_property
    def _table_columns(self) -> tuple[str, ...]:
        """Columns of the table, what people ask for most in front."""
        magnitudes = [f"{channel}_mag" for channel in self.channels]
        first = [name for name in ("ra", "dec", *magnitudes) if name in self.objects]
        names = [*first, *self.statistics, *self._arrays]
        return tuple(dict.fromkeys(name for name in names if name != "object"))

    def _first_table_columns(self) -> tuple[str, ...]:
        known = self._table_columns
        first = [name for name in known if name in {"ra", "dec"} or name.endswith("_mag")]
        wanted = (*(name for name in FIRST_STATISTICS if name in self.statistics), *known)
        return tuple(list(dict.fromkeys([*first, *wanted]))[:FIRST_COLUMNS])

    def _first_types(self) -> tuple[str, ...]:
        own = set(self.types)
        found = []
        for channel, ranked in self.ranked.items():
            names = [f"{channel}_{method}" for method in DEFAULT_METHODS]
            found.append(next((name for name in names if name in own), ranked))
        return tuple(found)

    def _first_object(self, statistic: str, type_: str) -> int | None:
        """Return the object where the statistic is largest, which is worth looking at."""
        if not len(self.objects):
            return None
        if not statistic:
            return int(self.cube.objects[0])
        values = self.statistic(statistic, type_)
        return int(
            self.cube.objects[int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))]
        )

    def knows(self, object_id: int) -> bool:
        """Say whether there is an object of that id."""
        try:
            self.cube.row(object_id)
        except UnknownName:
            return False
        return True

    # ---------------------------------------------------------------- columns

    @cached_property
    def numeric_columns(self) -> tuple[str, ...]:
        """Columns of the objects that are numbers, besides the id."""
        kinds = self.objects.dtypes
        return tuple(n for n in self.objects.columns if n != "object" and kinds[n].kind in "iufb")

    @property
    def aor_columns(self) -> tuple[str, ...]:
        """Numbers of the AORs, those by type (as the zero point) too; without the time itself."""
        nodes = self._root.metadata
        by_type = [
            name
            for name in self.cube.coordinate_names
            if nodes.get(name, {}).get("dimension_names") == ["type", "aor"]
        ]
        return (*(name for name in self._aor_columns if name != "mjd"), *by_type)

    def statistic(self, name: str, type: str) -> NDArray[np.float32]:
        """Return a statistic of all objects in one type.

        Raises
        ------
        UnknownName
            There is no such statistic or type.
        """
        column = self.cube.column(type)
        kept = self._statistics.get((name, type))
        if kept is None:
            if name not in self.statistics:
                near = closest(name, self.statistics)
                msg = f"{self.path} has no statistic {name!r}{near}"
                raise UnknownName(msg)
            kept = np.ascontiguousarray(self._read(f"{VARIABILITY}/{name}")[:, column])
            kept.flags.writeable = False
            self._statistics.put((name, type), kept)
        found: NDArray[np.float32] = kept
        return found

    def table_of(self, type: str, names: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the objects with statistics of one type.

        Parameters
        ----------
        type
            The type.
        names
            Of the statistics; others are passed over. All of them unless given.

        Raises
        ------
        UnknownName
            There is no such type.
        """
        wanted = [name for name in self.statistics if names is None or name in names]
        return self.objects.assign(**{name: self.statistic(name, type) for name in wanted})

    def read_ahead(self) -> threading.Thread:
        """Begin to read what the first page shows, while its packages are imported.

        Returns
        -------
        Thread
            Under way; what it cannot read is told to whoever asks for it.
        """
        chosen = self.choices()

        def read() -> None:
            with suppress(IdfzarrError, OSError):
                self.table_of(chosen.default_statistic_type, chosen.default_table_columns)
                self.nearest(0.0, 0.0)

        made = threading.Thread(target=read, name="idfzarr-read-ahead", daemon=True)
        if chosen.default_statistic_type:
            made.start()
        return made

    def columns(self, type: str = "") -> Columns:
        """Return the columns that a query may name, read when they are asked for.

        Parameters
        ----------
        type
            Whose statistics stand there without a type before their name.
        """
        return Columns(
            self.objects, self.statistic, names=self.statistics, types=self.types, chosen=type
        )

    def described(self, name: str, type: str = "") -> Column:
        """Say what a column of the objects, of the AORs or a statistic is.

        Parameters
        ----------
        name
            Of the column.
        type
            Whose statistic, or along whose AORs.
        """
        if name in self._object_columns:
            return self._object_columns[name]
        if name in self._aor_columns:
            return self._aor_columns[name]
        whose, dot, statistic = name.rpartition(".")
        own, of = (statistic, whose) if dot else (name, type)
        path = f"{VARIABILITY}/{own}" if own in self.statistics else own
        told = self._root.metadata.get(path, {}).get("attributes", {})
        unit = str(told.get("units", ""))
        if own in self.statistics:
            unit = self.units.get(of, "") if unit == "flux" else unit
            words = own.replace("_", " ")
            return Column(name, f"{words} in {of}" if of else words, unit)
        return Column(name, str(told.get("long_name", own)), unit)

    def along_aors(self, name: str, type: str) -> NDArray[np.float64]:
        """Return numbers of the AORs as they are for one type, shape (aor,).

        Raises
        ------
        UnknownName
            There is no such type, or nothing of that name along the AORs.
        """
        column = self.cube.column(type)
        by_channel = f"{name}_{self.channel_of(type)}"
        known = next((n for n in (name, by_channel) if n in self.aors.columns), None)
        if known is None and name not in self.aor_columns:
            msg = f"the AORs have no column {name!r}{closest(name, self.aor_columns)}"
            raise UnknownName(msg)
        values = self.cube.coordinate(name)[column] if known is None else self.aors[known]
        return np.asarray(values, dtype=np.float64)

    def channel_of(self, type: str) -> str:
        """Return the channel of a type."""
        return str(self.cube.coordinate("type_channel")[self.cube.column(type)])

    def row_of(
        self, object_id: int, type: str = "", names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Return what is known of one object, by name, with statistics of a type.

        Parameters
        ----------
        object_id
            The object.
        type
            The type; no statistics unless given.
        names
            Of the statistics; others are passed over. All of them unless given.

        Raises
        ------
        UnknownName
            There is no such object or type.
        """
        row = self.cube.row(object_id)
        found = {name: values[row] for name, values in self._arrays.items()}
        wanted = self.statistics if names is None else names
        own = [name for name in wanted if type and name in self.statistics]
        return found | {name: self.statistic(name, type)[row] for name in own}

    @cached_property
    def dates(self) -> dict[str, NDArray[np.datetime64]]:
        """Times of the AORs as dates, by channel, (aor,)."""
        mjd = self.cube.coordinate("mjd")
        return {name: date_of(mjd[:, c]) for c, name in enumerate(self.channels)}

    def number_of(self, object_id: int, name: str) -> float:
        """Return a number of one object; NaN where there is no such column.

        Raises
        ------
        UnknownName
            There is no such object.
        """
        row = self.cube.row(object_id)
        return float(self._arrays[name][row]) if name in self._arrays else np.nan

    # ---------------------------------------------------------------- lightcurves

    def lightcurves(self, object_id: int, types: Sequence[str]) -> tuple[Lightcurve, ...]:
        """Return lightcurves of one object, in the order of `types`, as stored.

        Raises
        ------
        UnknownName
            There is no such object or type.
        CorruptError
            One of them is damaged.
        """
        found = {name: self._curves.get((object_id, name)) for name in types}
        wanted = [name for name, curve in found.items() if curve is None]
        if wanted:
            for curve in self.cube.lightcurves([object_id], wanted):
                found[curve.type] = curve
                self._curves.put((object_id, curve.type), curve)
        return tuple(found[name] for name in types)

    # ---------------------------------------------------------------- places

    @cached_property
    def _tree(self) -> cKDTree:
        from scipy.spatial import cKDTree

        return cKDTree(self._flat(*(self.objects[n].to_numpy() for n in self.map_axes)))

    @cached_property
    def _middle(self) -> tuple[float, float]:
        """Middle of the field, degrees; right ascension without minding where it begins anew."""
        ra, dec = (self.objects[name].to_numpy() for name in ("ra", "dec"))
        first = float(ra[np.flatnonzero(np.isfinite(ra))[0]])
        return first + float(np.nanmedian((ra - first + 180.0) % 360.0 - 180.0)), float(
            np.nanmedian(dec)
        )

    def _flat(self, across: Any, up: Any) -> NDArray[np.float64]:
        """Return places on a plane on which distances are nearly those of the map."""
        places = np.stack(np.broadcast_arrays(np.asarray(across, float), np.asarray(up, float)), -1)
        if self.has_sky:
            ra, dec = self._middle
            turned = (places[..., 0] - ra + 180.0) % 360.0 - 180.0
            places[..., 0] = turned * np.cos(np.radians(dec))
        flat: NDArray[np.float64] = np.nan_to_num(places, nan=1e9)
        return flat

    def nearest(self, across: float, up: float) -> int | None:
        """Return the object nearest to a place on the map; None where there are no objects.

        Parameters
        ----------
        across, up
            In the units of `map_axes`: degrees or pixels.
        """
        if not len(self.objects) or not (np.isfinite(across) and np.isfinite(up)):
            return None
        _, row = self._tree.query(self._flat(across, up))
        return int(self.cube.objects[row])

    def within(self, across: tuple[float, float], up: tuple[float, float]) -> NDArray[np.int64]:
        """Return the ids of the objects in a box of the map, in the order of the cube."""
        h, v = (self.objects[name].to_numpy() for name in self.map_axes)
        inside = (h >= min(across)) & (h <= max(across)) & (v >= min(up)) & (v <= max(up))
        found: NDArray[np.int64] = self.cube.objects[inside]
        return found

    def rows(self, object_ids: Iterable[int]) -> NDArray[np.intp]:
        """Return the positions of objects in the table; raises `UnknownName`."""
        return np.array([self.cube.row(int(one)) for one in object_ids], dtype=np.intp)

    # ---------------------------------------------------------------- images, sources, truth

    def image(self, channel: str) -> FieldImage:
        """Return the superstack of a channel.

        Raises
        ------
        UnknownName
            The store has no superstack of that channel.
        """
        made: FieldImage = self._once(
            ("image", channel), lambda: FieldImage.open(self._place, channel)
        )
        return made

    @cached_property
    def sources(self) -> FieldSources:
        """Where the mosaics are that the store was made from."""
        return FieldSources.of(self.cube, asked_truth=self._asked_truth)

    @property
    def truth(self) -> TruthOverlay | None:
        """What was simulated; None where the field was observed, or nobody knows any more."""
        folder = self.sources.truth_folder
        if folder is None:
            return None
        # The truth brings the simulator along, which nobody else waits for.
        from idfzarr.viewer.field_truth import read_overlay

        made: TruthOverlay = self._once(("truth",), lambda: read_overlay(folder, self.cube))
        return made

    def _once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """Make a thing that is kept as long as the field, one thread for all."""
        with self._lock:
            kept: dict[tuple[str, ...], Any] = self.__dict__.setdefault("_made", {})
            if key not in kept:
                kept[key] = make()
            return kept[key]
