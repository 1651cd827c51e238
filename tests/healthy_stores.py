"""Stores with nothing wrong, as many kinds as there are: a strategy of recipes, and their cook.

Cubes of every layout and state, also those that look strange: all-NaN objects, masks of zeros,
nothing observed, no objects, a build or an append under way; and plain Zarr v2 and v3 stores as
zarr-python and xarray make them.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr
import zarr
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

import idfzarr
from idfzarr.store.append import begin_append, begin_replace
from idfzarr.store.relayout import begin_relayout, relayout
from idfzarr.store.writer import CubeWriter

NAMES = ("ch1_auto_original", "ch2_aper2_clean", "ch1_aper3_original")
NOT_OBSERVED = 256
LOST = ("nothing", "an object", "an AOR", "borders", "everything")
STATES = (
    "published",
    "begun",
    "laid out",
    "staged in part",
    "shards in part",
    "appended",
    "appending",
    "replaced",
    "replacing",
    "with more types",
    "laid out anew",
    "copied alone",
    "with attributes of a user",
    "created",
    "created and filled in part",
)


@dataclass(frozen=True)
class CubeRecipe:
    """A cube and what has been done to it."""

    state: str
    objects: int
    types: int
    aors: int
    shard_objects: int
    codec: str
    precision: float | None
    lost: str
    zeros: bool
    seed: int

    def make(self, folder):
        """Make it in a folder and return where it is."""
        store = folder / "field.zarr"
        if self.state.startswith("created"):
            return self._created(store)
        writer = CubeWriter.begin(store, settings={"sky": "plane"})
        if self.state == "begun":
            return store
        writer = writer.lay_out(
            objects=self._objects(),
            types=NAMES[: self.types],
            aors=self._aors(0, self.aors),
            shard_objects=self.shard_objects,
            codec=self.codec,
            precision=self.precision,
            staging_aors=2,
        )
        if self.state == "laid out":
            return store
        in_part = {"staged in part": 0.5, "shards in part": 1.5}.get(self.state, 2)
        self._measure(writer, range(self.aors), in_part=in_part)
        if in_part < 2:
            return store
        self._tables(writer)
        writer.publish()
        return self._changed(store, folder)

    def _objects(self):
        rows = np.arange(self.objects)
        sky = {"ra": 265 + rows / 99, "dec": 69 - rows / 99} if self.seed % 2 else {}
        return {"object_id": rows * 3 + 1, "peak": rows / 8, **sky}

    def _aors(self, first, last):
        keys = np.arange(first, last, dtype=np.int64) + 500
        mjd = 53000.0 + keys[::-1] if self.seed % 3 else 53000.0 + keys
        return {"aor": keys, "mjd": mjd.astype(np.float64)}

    def _values(self, keys, n_types):
        """Return what is measured, (aor, object, type, value)."""
        rng = np.random.default_rng([self.seed, *keys, n_types])
        out = np.empty((len(keys), self.objects, n_types, 3), dtype=np.float32)
        out[..., 0] = 0 if self.zeros else rng.normal(5, 20, size=out.shape[:-1])
        out[..., 1] = 0.25 if self.zeros else rng.uniform(0.5, 9, size=out.shape[:-1])
        out[..., 2] = 0 if self.zeros else rng.choice([0, 16, 34, 2048], size=out.shape[:-1])
        gone = np.zeros(out.shape[:-1], dtype=bool)
        if self.lost == "everything":
            gone[...] = True
        elif self.lost == "an object" and self.objects:
            gone[:, self.seed % self.objects] = True
        elif self.lost == "an AOR" and len(keys):
            gone[0] = True
        elif self.lost == "borders":
            gone[:1] = gone[-1:] = gone[:, :1] = gone[:, -1:] = True
        out[gone, :2], out[gone, 2] = np.nan, NOT_OBSERVED
        return out

    def _measure(self, writer, keys, *, in_part=2, n_types=None):
        keys = list(keys)
        n_types = self.types if n_types is None else n_types
        n_batches = writer.n_batches
        for batch in range(n_batches if in_part >= 1 else n_batches // 2):
            first, last = writer.batch_aors(batch)
            writer.write_staging(batch, self._values(keys[first:last], n_types))
        n_shards = writer.schema.layout.n_shards
        for shard in range(n_shards if in_part >= 2 else int(in_part) * n_shards // 2):
            writer.write_shard(shard, writer.assemble(shard))

    def _tables(self, writer):
        layout = writer.schema.layout
        writer.write_coordinate("zeropoint", np.zeros((layout.n_types, layout.n_aors), np.float32))
        median = np.full((layout.n_objects, layout.n_types), np.nan, dtype=np.float32)
        told = {"n_aors": layout.n_aors}
        if layout.n_objects:
            dims = ("object", "type")
            writer.write_table("variability", {"median": median}, dims=dims, attributes=told)

    def _changed(self, store, folder):
        more = range(self.aors, self.aors + 2)
        if self.state in {"appended", "appending"}:
            writer = begin_append(store, aors=self._aors(more[0], more[-1] + 1), staging_aors=2)
            self._measure(writer, more, in_part=2 if self.state == "appended" else 1.5)
            if self.state == "appended":
                self._tables(writer)
                writer.publish()
        elif self.state in {"replaced", "replacing"} and self.aors:
            writer = begin_replace(store, aors=[500], staging_aors=2)
            self._measure(writer, [0], in_part=2 if self.state == "replaced" else 1.5)
            if self.state == "replaced":
                writer.publish()
        elif self.state == "with more types":
            added = ("ch1_iso_original",)
            writer = begin_relayout(store, types=added, staging_aors=2)
            self._measure(writer, range(self.aors), n_types=1)
            self._tables(writer)
            writer.publish()
        elif self.state == "laid out anew":
            relayout(store, capacity=64)
        elif self.state == "copied alone":
            shutil.copytree(store, folder / "copy.zarr")
            return folder / "copy.zarr"
        elif self.state == "with attributes of a user":
            # Not by zarr-python, whose change of an attribute drops the consolidated metadata.
            document = json.loads((store / "zarr.json").read_bytes())
            document["attributes"]["observers"] = ["\u00c5ngstr\u00f6m", {"note": None}]
            (store / "zarr.json").write_text(json.dumps(document))
        return store

    def _created(self, store):
        cube = idfzarr.create(
            store,
            objects=self._objects(),
            types=NAMES[: self.types],
            aors=self._aors(0, self.aors),
            shard_objects=self.shard_objects,
            codec=self.codec,
            precision=self.precision,
        )
        if "filled" in self.state and self.objects and self.aors:
            values = self._values(list(range(self.aors)), self.types).transpose(1, 2, 3, 0)
            part = values[: self.shard_objects]
            cube.write_block(0, flux=part[:, :, 0], flux_err=part[:, :, 1], flag=part[:, :, 2])
        return store


def cubes(*states):
    """Return recipes of cubes, of all states unless some are given."""
    return st.builds(
        CubeRecipe,
        state=st.sampled_from(states or STATES),
        objects=st.integers(1, 9),
        types=st.integers(1, 3),
        aors=st.integers(1, 6),
        shard_objects=st.integers(1, 5),
        codec=st.sampled_from(["lz4", "zstd", "none"]),
        precision=st.sampled_from([None, 0.01]),
        lost=st.sampled_from(LOST),
        zeros=st.booleans(),
        seed=st.integers(0, 999),
    )


# ------------------------------------------------------------------ others' stores

DTYPES = ("float32", "float64", "int16", "uint8", "int64", "bool", "complex64")


@dataclass(frozen=True)
class ArrayRecipe:
    """A plain array, filled in part."""

    shape: tuple[int, ...]
    dtype: str
    chunk: int
    sharded: bool
    compressor: str
    filled: float
    empty_chunks: bool
    path: str

    def make(self, group, version):
        """Make it in a group."""
        chunks = tuple(max(1, min(self.chunk, n)) for n in self.shape)
        options = {}
        if version == 3:
            named = {"zstd": ZstdCodec(), "gzip": GzipCodec(), "blosc": BloscCodec(), "none": None}
            options["compressors"] = named[self.compressor]
            if self.sharded and self.shape and min(self.shape) > 0:
                options["shards"] = tuple(2 * n for n in chunks)
        else:
            import numcodecs

            named = {"zstd": numcodecs.Zstd(), "gzip": numcodecs.GZip(), "none": None}
            options["compressors"] = named.get(self.compressor, numcodecs.Blosc())
        array = group.create_array(
            self.path,
            shape=self.shape,
            dtype=self.dtype,
            chunks=chunks,
            attributes={"units": "\u00b5Jy", "range": [0, 1e300]},
            config={"write_empty_chunks": self.empty_chunks},
            **options,
        )
        count = int(self.filled * self.shape[0]) if self.shape else 1
        if count and self.shape:
            values = np.arange(np.prod((count, *self.shape[1:]))).reshape(count, *self.shape[1:])
            array[:count] = values.astype(self.dtype)
        elif count:
            array[...] = np.asarray(7).astype(self.dtype)


@dataclass(frozen=True)
class PlainRecipe:
    """A store of Zarr v2 or v3 that is none of ours."""

    version: int
    arrays: tuple[ArrayRecipe, ...]
    consolidated: bool
    dataset: bool
    alone: bool

    def make(self, folder):
        """Make it in a folder and return where it is."""
        store = folder / "plain.zarr"
        if self.dataset:
            ds = xr.Dataset(
                {"flux": (("y", "x"), np.arange(12.0).reshape(3, 4))},
                coords={"x": [1, 2, 3, 4], "name": ("y", np.array(["a", "b", "\u00e9"]))},
            )
            with warnings.catch_warnings():  # strings of fixed length have no specification yet
                warnings.simplefilter("ignore")
                ds.to_zarr(store, zarr_format=self.version, consolidated=self.consolidated)
            return store
        if self.alone:
            first = self.arrays[0]
            root = zarr.open_group(folder / "above", mode="w", zarr_format=self.version)
            first.make(root, self.version)
            return folder / "above" / first.path
        root = zarr.open_group(store, mode="w", zarr_format=self.version)
        for number, recipe in enumerate(self.arrays):
            home = root.require_group(f"g{number}") if number % 2 else root
            recipe.make(home, self.version)
        if self.consolidated:
            zarr.consolidate_metadata(store, zarr_format=self.version)
        return store


def plain_stores():
    """Return recipes of stores that are none of ours."""
    arrays = st.builds(
        ArrayRecipe,
        shape=st.lists(st.integers(0, 7), max_size=3).map(tuple),
        dtype=st.sampled_from(DTYPES),
        chunk=st.integers(1, 5),
        sharded=st.booleans(),
        compressor=st.sampled_from(["zstd", "gzip", "blosc", "none"]),
        filled=st.sampled_from([0.0, 0.5, 1.0]),
        empty_chunks=st.booleans(),
        path=st.sampled_from(["a", "flux", "c", "data_1", "\u00e9toile", "with space"]),
    )
    many = st.lists(arrays, min_size=1, max_size=3, unique_by=lambda a: a.path).map(tuple)
    return st.builds(
        PlainRecipe,
        version=st.sampled_from([2, 3]),
        arrays=many,
        consolidated=st.booleans(),
        dataset=st.booleans(),
        alone=st.booleans(),
    )


def healthy_stores():
    """Return recipes of stores with nothing wrong."""
    return st.one_of(cubes(), cubes(), plain_stores())
