"""Others read what this package writes, value by value; this package reads what others write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import xarray as xr
import zarr
from adopting import publish_as_it_stands
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from idfzarr.analysis.backend import open_store
from idfzarr.errors import ChunkMissing, UsageError
from idfzarr.store.cube import Cube, create
from idfzarr.store.reader import PlainReader, ShardReader
from idfzarr.store.remote_reader import RemoteShardReader

TYPES = ("ch1_auto_original", "ch1_aper2_original", "ch2_iso_clean")
CODECS = ("lz4", "zstd", "none")
STRINGS = ("aor_name", "channel", "type", "type_channel", "type_image", "type_method", "unit")
DIMS = ("object", "type", "value", "aor")
ONE = (9, 1)  # an object of the last shard, which lacks some, and a type
AOR = 3


def measured(objects, types, aors, *, seed):
    """Return (object, type, value, aor): whatever a float32 and a flag may be."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(objects, types, 3, aors)).astype(np.float32)
    values[:, :, 2] = rng.integers(0, 65536, size=(objects, types, aors))
    values[rng.random((objects, types)) < 0.15, :2] = np.nan
    values[0, 0, :2, :4] = [[-0.0, 1e-42, 3.4e38, -np.inf], [0.0, 1e-45, np.inf, np.nan]]
    values[:, :, 2][~np.isfinite(values[:, :, 0])] = 256
    return values


def made(path, *, codec="lz4", objects=10, types=3, aors=7, shard=4, capacity=9, seed=2):
    """Return a cube open for writing, filled, and its values."""
    values = measured(objects, types, max(aors, 4), seed=seed)[..., :aors]
    cube = create(
        path,
        objects={
            "object_id": 2**60 + 3 * np.arange(objects),  # no double holds these
            "ra": 265 + np.arange(objects) / 7,
            "dec": 69 - np.arange(objects) / 3,
            "kron": np.arange(objects) / 9,
            "detected_in": ["ch1", "ch1+ch2"] * (objects // 2) + ["ch2"] * (objects % 2),
        },
        types=TYPES[:types],
        aors={
            "aor": 2**55 + np.arange(aors),
            "aor_name": [f"Dunkelfeld α-{n}" for n in range(aors)],
            "mjd_ch1": 53000.0 + np.arange(aors) / 3,
            "mjd_ch2": 53000.5 + np.arange(aors) / 3,
            "exptime": 100.0 + np.arange(aors),
        },
        channels=["ch1", "ch2"],
        shard_objects=shard,
        codec=codec,
        capacity=capacity,
    )
    cube.write_block(0, flux=values[:, :, 0], flux_err=values[:, :, 1], flag=values[:, :, 2])
    return cube, values


def same(found, wanted):
    """Say whether arrays are the same, minus zero and the last bit too; any NaN is NaN."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return False
    if wanted.dtype.kind != "f":
        return found.tolist() == wanted.tolist()
    both_nan = np.isnan(found) & np.isnan(wanted)
    signs = np.signbit(found) == np.signbit(wanted)
    return found.dtype == wanted.dtype and bool(np.all(both_nan | ((found == wanted) & signs)))


# ------------------------------------------------------------------ who reads


@dataclass(frozen=True)
class Written:
    """A store, and what every array in it must say."""

    path: str
    truth: dict[str, np.ndarray]

    @property
    def numbers(self):
        return [name for name, values in self.truth.items() if values.dtype.kind in "if"]


@pytest.fixture(scope="module", params=CODECS)
def written(request, tmp_path_factory):
    """A store in shards, the last of them an edge, with every codec."""
    cube, values = made(tmp_path_factory.mktemp("written") / "a.zarr", codec=request.param)
    n = np.arange(7)
    truth = {
        "lightcurves": values,
        "object": 2**60 + 3 * np.arange(10),
        "type": np.array(TYPES),
        "value": np.array(["flux", "flux_err", "flag"]),
        "aor": 2**55 + n,
        "aor_name": np.array([f"Dunkelfeld α-{k}" for k in n]),
        "channel": np.array(["ch1", "ch2"]),
        "type_channel": np.array(["ch1", "ch1", "ch2"]),
        "type_image": np.array(["original", "original", "clean"]),
        "type_method": np.array(["auto", "aper2", "iso"]),
        "ra": 265 + np.arange(10) / 7,
        "dec": 69 - np.arange(10) / 3,
        "x": np.full(10, np.nan),
        "mjd": np.stack([53000.0 + n / 3, 53000.5 + n / 3], axis=1),
        "exptime": np.stack([100.0 + n, 100.0 + n], axis=1),
        "catalogue/kron": np.arange(10) / 9,
        "catalogue/detected_in": np.array(["ch1", "ch1+ch2"] * 5),
    }
    codecs = cube._root.metadata["lightcurves"]["codecs"][0]["configuration"]["codecs"]
    compressors = [c["configuration"]["cname"] for c in codecs if c["name"] == "blosc"]
    assert compressors == [request.param] * (request.param != "none")
    assert len(list(Path(cube.path).glob("lightcurves/c/*/0/0/0"))) == 3
    return Written(cube.path, truth)


WHOLE = (slice(None),) * 4
SELECTIONS = {
    "one lightcurve": (ONE[0], ONE[1], slice(None), slice(None)),
    "one AOR": (slice(None), slice(None), slice(None), AOR),
    "part of an object": (4, slice(1, 3), 0, slice(2, 6)),
}


def by_zarr(written, *, use_consolidated):
    group = zarr.open_group(written.path, mode="r", use_consolidated=use_consolidated)
    assert group["lightcurves"].attrs["type"] == list(TYPES)
    found = {name: group[name][...] for name in written.truth}
    return found | {name: group["lightcurves"][key] for name, key in SELECTIONS.items()}


def by_zarrs(written):
    pytest.importorskip("zarrs", reason="needs the package zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_group(written.path, mode="r")["lightcurves"]
        assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        return by_zarr(written, use_consolidated=True)


def by_tensorstore(written):
    def opened(name):
        place = {"driver": "file", "path": f"{written.path}/{name}/"}
        return ts.open({"driver": "zarr3", "kvstore": place}, read=True).result()

    found = {name: opened(name).read().result() for name in written.numbers}
    cube = opened("lightcurves")
    # It knows no Zarr strings: names are repeated in the attributes for its like.
    attributes = cube.spec().to_json()["metadata"]["attributes"]
    found |= {name: np.array(attributes[name]) for name in ("type", "value", "aor_name")}
    return found | {name: cube[key].read().result() for name, key in SELECTIONS.items()}


def by_xarray(written, *, consolidated):
    with (
        xr.open_zarr(written.path, consolidated=consolidated, chunks=None) as root,
        xr.open_zarr(
            written.path, group="catalogue", consolidated=consolidated, chunks=None
        ) as table,
    ):
        assert root["lightcurves"].dims == DIMS
        assert set(root.coords) >= set(written.truth) - {"lightcurves"} - {
            name for name in written.truth if "/" in name
        }
        found = {}
        for name in written.truth:
            of = table if "/" in name else root
            found[name] = of[name.rpartition("/")[2]].to_numpy()
        cube = root["lightcurves"]
        found["one lightcurve"] = cube.sel(object=2**60 + 27, type=TYPES[1]).to_numpy()
        found["one AOR"] = cube.sel(aor=2**55 + AOR).to_numpy()
        labels = {"object": 2**60 + 12, "type": list(TYPES[1:]), "value": "flux"}
        found["part of an object"] = cube.sel(labels)[:, 2:6].to_numpy()
    return found


# zarrita takes the crc32c off without looking at it; that it finds its way is what is tested.
ZARRITA = """
import { mkdir, writeFile } from "node:fs/promises";
import FileSystemStore from "@zarrita/storage/fs";
import * as zarr from "zarrita";

const [path, out, text] = process.argv.slice(2);
const { names, selections } = JSON.parse(text);
const files = new FileSystemStore(path);
const consolidated = await zarr.withConsolidatedMetadata(files, { format: "v3" });
const listed = consolidated.contents().map((node) => node.path);
const written = {};

async function put(label, array, selection) {
  const chunk = await zarr.get(array, selection);
  const told = { dtype: array.dtype, shape: chunk.shape, file: `${Object.keys(written).length}` };
  if (array.dtype === "string") {
    told.strings = Array.from(chunk.data);
  } else {
    const { buffer, byteOffset, byteLength } = chunk.data;
    await writeFile(`${out}/${told.file}`, new Uint8Array(buffer, byteOffset, byteLength));
  }
  written[label] = told;
}

await mkdir(out, { recursive: true });
for (const [kind, store] of Object.entries({ own: files, consolidated })) {
  const root = await zarr.open.v3(store, { kind: "group" });
  for (const name of names) {
    await put(`${kind} ${name}`, await zarr.open.v3(root.resolve(name), { kind: "array" }));
  }
  const cube = await zarr.open.v3(root.resolve("lightcurves"), { kind: "array" });
  for (const [name, selection] of Object.entries(selections)) {
    const key = selection.map((one) => (Array.isArray(one) ? zarr.slice(...one) : one));
    await put(`${kind} ${name}`, cube, key);
  }
}
const cube = await zarr.open.v3(zarr.root(files).resolve("lightcurves"), { kind: "array" });
console.log(JSON.stringify({ written, listed, attributes: cube.attrs }));
"""


def node_modules():
    """Return the folder where npm put zarrita, or skip and say what is missing."""
    if shutil.which("node") is None:
        pytest.skip("needs the program node")
    folder = os.environ.get("IDFZARR_NODE_MODULES")
    if not folder:
        pytest.skip(
            "needs the program zarrita: `npm install --prefix FOLDER zarrita`, then set "
            "IDFZARR_NODE_MODULES to FOLDER"
        )
    modules = Path(folder) / "node_modules"
    if not (modules / "zarrita" / "package.json").is_file():
        pytest.skip(f"needs the program zarrita: IDFZARR_NODE_MODULES has none in {modules}")
    return modules


def by_zarrita(written, folder):
    (folder / "node_modules").symlink_to(node_modules())
    script = folder / "read.mjs"
    script.write_text(ZARRITA)

    def spelled(key):
        return [
            (None if one == slice(None) else [one.start, one.stop])
            if isinstance(one, slice)
            else one
            for one in key
        ]

    asked = {
        "names": list(written.truth),
        "selections": {name: spelled(key) for name, key in SELECTIONS.items()},
    }
    done = subprocess.run(
        ["node", str(script), written.path, str(folder / "out"), json.dumps(asked)],
        capture_output=True,
        check=False,
        timeout=120,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {f"/{name}" for name in written.truth} <= set(told["listed"])
    assert told["attributes"]["type"] == list(TYPES)
    found = {}
    for label, array in told["written"].items():
        if "strings" in array:
            found[label] = np.array(array["strings"]).reshape(array["shape"])
        else:
            plain = np.fromfile(folder / "out" / array["file"], dtype=array["dtype"])
            found[label] = plain.reshape(array["shape"])
    assert len(found) == 2 * (len(written.truth) + len(SELECTIONS))
    return found


def check(written, found, *, lacks=()):
    wanted = written.truth | {n: written.truth["lightcurves"][k] for n, k in SELECTIONS.items()}
    assert set(wanted) - set(found) == set(lacks)
    for name, values in found.items():
        assert same(values, wanted[name]), name


@pytest.mark.parametrize("use_consolidated", [True, False])
def test_zarr_python_reads_every_value(written, use_consolidated):
    check(written, by_zarr(written, use_consolidated=use_consolidated))


def test_zarrs_reads_every_value(written):
    check(written, by_zarrs(written))


def test_tensorstore_reads_every_value(written):
    absent = {"channel", "type_channel", "type_image", "type_method", "catalogue/detected_in"}
    check(written, by_tensorstore(written), lacks=absent)


@pytest.mark.parametrize("consolidated", [True, False])
def test_xarray_reads_every_value(written, consolidated):
    check(written, by_xarray(written, consolidated=consolidated))


def test_zarrita_reads_every_value_outside_python(written, tmp_path):
    found = by_zarrita(written, tmp_path)
    for kind in ("own ", "consolidated "):
        check(written, {k.removeprefix(kind): v for k, v in found.items() if k.startswith(kind)})


def test_the_readers_here_would_see_one_wrong_value(written):
    """What all of the above rests on."""
    for name, values in written.truth.items():
        wrong = values.copy()
        wrong.flat[-1] = wrong.flat[0] if values.dtype.kind == "U" else 5
        if name not in {"value", "catalogue/detected_in"}:
            assert same(values, values.copy())
        assert not same(wrong, values), name
    assert not same(np.float32([-0.0]), np.float32([0.0]))
    assert not same(np.float32([np.nan]), np.float32([0.0]))


# ------------------------------------------------------------------ what others write


def chain(compressor=None, *, crc=True, endian="little", transpose=False, dims=4):
    """Return a chain of codecs as ``zarr.json`` spells it."""
    links = [{"name": "bytes", "configuration": {"endian": endian}}]
    if transpose:
        order = list(range(dims))[::-1]
        links.insert(0, {"name": "transpose", "configuration": {"order": order}})
    if compressor is not None:
        links.append(compressor)
    return links + [{"name": "crc32c"}] * crc


def blosc(cname, shuffle):
    configuration = {"cname": cname, "clevel": 3, "shuffle": shuffle, "blocksize": 0}
    return {"name": "blosc", "configuration": configuration | {"typesize": 4}}


GZIP = {"name": "gzip", "configuration": {"level": 4}}
ZSTD = {"name": "zstd", "configuration": {"level": 2, "checksum": True}}
BARE_ZSTD = {"name": "zstd", "configuration": {"level": 2, "checksum": False}}
BLOSCS = [
    blosc(cname, shuffle)
    for cname in ("lz4", "zstd", "zlib", "blosclz", "lz4hc")
    for shuffle in ("noshuffle", "shuffle", "bitshuffle")
]


def document(shape, *, grid, inner=None, codecs, at="end", index_crc=True, separator="/"):
    """Return the metadata of a cube in some layout, sharded if inner chunks are given."""
    if inner is not None:
        configuration = {
            "chunk_shape": list(inner),
            "codecs": codecs,
            "index_codecs": chain(crc=index_crc),
            "index_location": at,
        }
        codecs = [{"name": "sharding_indexed", "configuration": configuration}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": separator}},
        "fill_value": "NaN",
        "codecs": codecs,
        "dimension_names": list(DIMS),
    }


def put_by_zarr(folder, metadata, values):
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps(metadata))
    array = zarr.open_array(folder, mode="r+", config={"write_empty_chunks": True})
    array[...] = values


def put_by_tensorstore(folder, metadata, values):
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": metadata,
        "store_data_equal_to_fill_value": True,
    }
    ts.open(spec, create=True).result().write(values).result()


PUT = {"zarr-python": put_by_zarr, "tensorstore": put_by_tensorstore}


def laid_out_by(writer, cube, values, metadata, *, mode="r"):
    """Write the cube's array anew as another program would, publish it, and open it."""
    attributes = dict(cube._root.metadata["lightcurves"]["attributes"])
    cube._place.remove_tree("lightcurves")
    PUT[writer](Path(cube.path) / "lightcurves", metadata | {"attributes": attributes}, values)
    publish_as_it_stands(cube)
    return Cube(cube.path, mode=mode)


def reads_alike(cube, values, *, fast):
    """Check every way of reading against the numbers written."""
    assert isinstance(cube._reader, ShardReader if fast else PlainReader)
    ids, types, n = cube.objects.tolist(), cube.types, values.shape[3]
    assert same(cube.block(), values)
    part = slice(n // 3, n)
    assert same(cube.block(slice(None, -3, -1), types[-1], aors=part), values[:-3:-1, -1:, :, part])
    pairs = [(i, i % len(types)) for i in range(len(ids))][:: 1 if fast else 3]
    found = cube.pairs([ids[i] for i, _ in pairs], [types[t] for _, t in pairs])
    assert same(found, np.array([values[pair] for pair in pairs]))
    assert all(same(cube.values(ids[i], types[t]), values[i, t]) for i, t in pairs)
    lc = cube.lightcurve(ids[-1], types[0])
    assert same(lc.flux, values[-1, 0, 0])
    assert lc.flag.tolist() == values[-1, 0, 2].tolist()
    dataset = open_store(cube.path)
    assert same(dataset["flux_err"][-2:].to_numpy(), values[-2:, :, 1])
    assert same(dataset["flag"][0].to_numpy(), values[0, :, 2].astype(np.uint16))


SHAPE = (6, 2, 3, 7)
OURS = {"grid": (4, 2, 3, 9), "inner": (1, 1, 3, 9)}
FAST = {
    "zlib": {**OURS, "codecs": chain(blosc("zlib", "shuffle"))},
    "blosclz": {**OURS, "codecs": chain(blosc("blosclz", "noshuffle"))},
    "zstd": {**OURS, "codecs": chain(blosc("zstd", "bitshuffle"))},
    "one-shard": {"grid": (64, 2, 3, 7), "inner": (1, 1, 3, 7), "codecs": chain()},
    "shard-an-object": {"grid": (1, 2, 3, 30), "inner": (1, 1, 3, 30), "codecs": chain()},
}
PLAIN = {
    "along-aor": {"grid": (4, 2, 3, 9), "inner": (1, 1, 3, 3), "codecs": chain()},
    "aor-shards": {"grid": (2, 1, 3, 4), "inner": (1, 1, 1, 2), "codecs": chain(BLOSCS[0])},
    "index-first": {**OURS, "codecs": chain(), "at": "start"},
    "index-without-crc32c": {**OURS, "codecs": chain(), "index_crc": False},
    "gzip": {**OURS, "codecs": chain(GZIP, crc=False)},
    "zstd-with-checksum": {**OURS, "codecs": chain(ZSTD, crc=False)},
    "big-endian": {**OURS, "codecs": chain(endian="big")},
    "transposed": {**OURS, "codecs": chain(BLOSCS[1], transpose=True)},
    "dots": {**OURS, "codecs": chain(), "separator": "."},
    "unsharded": {"grid": (1, 1, 3, 9), "codecs": chain(BLOSCS[2])},
    "unsharded-gzip-along-aor": {"grid": (3, 2, 3, 2), "codecs": chain(GZIP)},
    "one-chunk": {"grid": (16, 3, 3, 8), "codecs": chain(BARE_ZSTD, crc=False)},
}


@pytest.mark.parametrize("layout", [*FAST, *PLAIN])
@pytest.mark.parametrize("writer", PUT)
def test_a_cube_that_others_laid_out_reads_alike(tmp_path, writer, layout):
    cube, values = made(tmp_path / "a.zarr", objects=SHAPE[0], types=SHAPE[1])
    other = laid_out_by(writer, cube, values, document(SHAPE, **(FAST | PLAIN)[layout]))
    reads_alike(other, values, fast=layout in FAST)


@st.composite
def layouts(draw):
    """Return a shape and any layout of it: chunks, shards, codecs, index."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 3)), 3, draw(st.integers(1, 6)))
    compressor = draw(st.sampled_from([None, None, GZIP, ZSTD, BARE_ZSTD, *BLOSCS]))
    codecs = chain(
        compressor,
        crc=draw(st.sampled_from([True, True, False])),
        endian=draw(st.sampled_from(["little", "little", "big"])),
        transpose=draw(st.sampled_from([False, False, True])),
    )
    if draw(st.booleans()):
        room = shape[3] + draw(st.integers(0, 3))
        inner = (1, 1, 3, room)
        grid = (draw(st.integers(1, 7)), shape[1], 3, room)
    else:
        inner = tuple(draw(st.integers(1, n + 1)) for n in shape)
        grid = tuple(n * draw(st.integers(1, 3)) for n in inner)
    if draw(st.sampled_from([False, False, False, True])):
        return shape, document(shape, grid=inner, codecs=codecs)
    at, crc = draw(st.sampled_from(["end", "end", "start"])), draw(st.booleans())
    how = {"grid": grid, "inner": inner, "at": at, "index_crc": crc or draw(st.booleans())}
    return shape, document(shape, codecs=codecs, **how)


def is_ours(shape, metadata):
    """Say by design.md section 2 whether the fast path must know a layout."""
    grid = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])
    first = metadata["codecs"][0]
    if first["name"] != "sharding_indexed":
        return False
    how = first["configuration"]
    inner = tuple(how["chunk_shape"])
    names = [link["name"] for link in how["codecs"]]
    return (
        inner == (1, 1, 3, grid[3])
        and grid[1:3] == (shape[1], 3)
        and grid[3] >= shape[3]
        and names in (["bytes", "crc32c"], ["bytes", "blosc", "crc32c"])
        and how["codecs"][0]["configuration"]["endian"] == "little"
        and how["index_location"] == "end"
        and len(how["index_codecs"]) == 2
    )


def any_layout_reads_alike(tmp_path_factory, layout, writer, seed):
    shape, metadata = layout
    path = tmp_path_factory.mktemp("layout") / "a.zarr"
    cube, values = made(
        path, objects=shape[0], types=shape[1], aors=shape[3], capacity=None, seed=seed
    )
    other = laid_out_by(writer, cube, values, metadata)
    reads_alike(other, values, fast=is_ours(shape, metadata))


ANY = (layouts(), st.sampled_from(sorted(PUT)), st.integers(0, 99))


@settings(max_examples=15)
@given(*ANY)
def test_any_layout_and_codec_reads_alike(tmp_path_factory, layout, writer, seed):
    any_layout_reads_alike(tmp_path_factory, layout, writer, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(*ANY)
def test_very_many_layouts_and_codecs_read_alike(tmp_path_factory, layout, writer, seed):
    any_layout_reads_alike(tmp_path_factory, layout, writer, seed)


def test_the_defaults_of_zarr_python_for_a_cube_and_its_coordinates_read_alike(tmp_path):
    """No layout of ours at all: its own compressor, filters and strings, shards of its choice."""
    cube, values = made(tmp_path / "a.zarr", objects=6, types=2)
    truth = {name: cube.coordinate(name) for name in cube.coordinate_names}
    group = zarr.open_group(cube.path, mode="r+", use_consolidated=False)
    crc = [BloscCodec(), Crc32cCodec()]
    how = {
        "mjd": {"chunks": (2, 1), "shards": (4, 2)},
        "ra": {"chunks": (3,), "compressors": [GzipCodec()]},
        "object": {"chunks": (4,), "compressors": crc},
        "aor": {"chunks": (7,), "compressors": [ZstdCodec(checksum=True)]},
        "aor_name": {"chunks": (2,)},
        "type": {},
    }
    for name, told in how.items():
        dims, attributes = group[name].metadata.dimension_names, dict(group[name].attrs)
        data = truth[name].astype(object) if name in STRINGS else truth[name]
        array = group.create_array(
            name,
            shape=data.shape,
            dtype=str if name in STRINGS else data.dtype,
            dimension_names=dims,
            attributes=attributes,
            overwrite=True,
            **told,
        )
        array[...] = data
    attributes = dict(group["lightcurves"].attrs)
    array = group.create_array(
        "lightcurves",
        data=values,
        fill_value=np.nan,
        dimension_names=DIMS,
        attributes=attributes,
        overwrite=True,
    )
    assert array.shards is None
    publish_as_it_stands(cube)
    other = Cube(cube.path)
    for name, wanted in truth.items():
        found = other.coordinate(name)
        assert found.dtype.kind == wanted.dtype.kind
        assert same(found, wanted), name
    reads_alike(other, values, fast=False)


def test_a_fill_value_that_is_not_nan_is_read_as_zarr_says(tmp_path):
    cube, values = made(tmp_path / "a.zarr", objects=6, types=2)
    values[4, 1] = 0.0
    metadata = document(SHAPE, **OURS, codecs=chain()) | {"fill_value": 0.0}
    cube._place.remove_tree("lightcurves")
    folder = Path(cube.path) / "lightcurves"
    folder.mkdir()
    (folder / "zarr.json").write_text(json.dumps(metadata | {"attributes": {}}))
    zarr.open_array(folder, mode="r+")[...] = values  # leaves out the chunk that is all fill value
    publish_as_it_stands(cube)
    assert same(by_zarr_python(cube.path), values)
    assert same(Cube(cube.path).block(), values)


def by_zarr_python(path):
    return zarr.open_group(path, mode="r")["lightcurves"][...]


FOREIGN = {
    name: PLAIN[name] for name in ("gzip", "unsharded", "along-aor", "index-first", "big-endian")
}


@pytest.mark.parametrize("how", ["write_block", "write_lightcurve"])
@pytest.mark.parametrize("layout", FOREIGN)
def test_a_layout_that_is_not_ours_is_written_rightly_or_not_at_all(tmp_path, tree, layout, how):
    cube, values = made(tmp_path / "a.zarr", objects=6, types=2)
    metadata = document(SHAPE, **FOREIGN[layout])
    other = laid_out_by("zarr-python", cube, values, metadata, mode="r+")
    before, wanted = tree(Path(other.path)), values.copy()
    rows, column = (slice(0, 4), slice(None)) if how == "write_block" else (1, 1)
    wanted[rows, column] = 1.0
    new = {name: wanted[rows, column][..., n, :] for n, name in enumerate(["flux", "flux_err"])}
    new["flag"] = wanted[rows, column][..., 2, :]
    try:
        if how == "write_block":
            other.write_block(0, **new)
        else:
            other.write_lightcurve(int(other.objects[1]), TYPES[1], **new)
    except UsageError:
        wanted = values
        assert tree(Path(other.path)) == before
    assert same(by_zarr_python(other.path), wanted)
    assert same(Cube(other.path).block(), wanted)


def test_a_shard_that_is_gone_is_an_error_on_object_storage_too(tmp_path):
    """What the ledger calls done must be there."""
    cube, values = made(tmp_path / "a.zarr")
    again = Cube(f"local://{cube.path}")  # any URL is read as object storage is
    assert isinstance(again._reader, RemoteShardReader)
    (Path(cube.path) / cube.schema.layout.key(1)).unlink()
    assert same(again.values(2**60, TYPES[0]), values[0, 0])
    with pytest.raises(ChunkMissing, match=r"calls lightcurves/c/1/0/0/0 of .* done"):
        again.values(2**60 + 15, TYPES[0])
    with pytest.raises(ChunkMissing, match=r"calls lightcurves/c/1/0/0/0 of .* done"):
        again.block([0, 5])
