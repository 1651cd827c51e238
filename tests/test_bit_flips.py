"""Bits that flip on disk: a read says so, or gives the numbers that were written, never others."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from idfzarr.analysis.backend import open_store
from idfzarr.errors import (
    ChunkCorrupt,
    CorruptError,
    FormatVersionError,
    IdfzarrError,
    ShardCorrupt,
    StoreError,
)
from idfzarr.store.cube import Cube, create
from idfzarr.store.published import read_shard
from idfzarr.store.reader import PlainReader
from idfzarr.store.remote_reader import RemoteShardReader

TYPES = ("ch1_auto_original", "ch1_aper2_original", "ch2_iso_clean")
N_OBJECTS, SHARD, N_AORS, CAPACITY = 14, 5, 11, 16  # the last shard lacks an object
CODECS = ("lz4", "zstd", "none")
CRC = 4
ENTRY = 16
ABSENT = 2**64 - 1


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(path, *, codec, objects=N_OBJECTS, types=3, shard=SHARD, aors=N_AORS, capacity=CAPACITY):
    """Return a cube filled with known numbers, and these: (object, type, value, aor)."""
    rng = np.random.default_rng(7)
    cube = create(
        path,
        objects={
            "object_id": np.arange(objects) * 7 + 1000,
            "ra": 265 + np.arange(objects) / 100,
            "dec": 69 - np.arange(objects) / 100,
            "peak": np.arange(objects) / 8,
        },
        types=TYPES[:types],
        aors={"aor": np.arange(aors) + 500, "mjd": 53000.0 + np.arange(aors)},
        shard_objects=shard,
        codec=codec,
        capacity=capacity,
    )
    values = rng.normal(30, 5, size=(objects, types, 3, aors)).astype(np.float32)
    values[:, :, 2] = rng.integers(0, 8, size=(objects, types, aors))
    values[rng.random((objects, types)) < 0.2, :2] = np.nan
    values[:, :, 2][np.isnan(values[:, :, 0])] = 256
    cube.write_block(0, flux=values[:, :, 0], flux_err=values[:, :, 1], flag=values[:, :, 2])
    return cube, values


def same(found, values):
    return found.shape == values.shape and np.array_equal(found, values, equal_nan=True)


# ------------------------------------------------------------------ shards


@dataclass(frozen=True)
class Part:
    """What a byte of a shard belongs to; `slot` is the chunk it can spoil, None for the index."""

    name: str
    slot: int | None


def anatomy(data, *, n_slots, codec):
    """Return the part that every byte of a shard belongs to, by the specification alone."""
    begin = len(data) - n_slots * ENTRY - CRC
    index = np.frombuffer(data[begin:-CRC], dtype="<u8").reshape(n_slots, 2)
    parts: list[Part | None] = [None] * begin
    for slot, (offset, length) in enumerate(index.tolist()):
        entry = "index, absent chunk" if offset == length == ABSENT else "index"
        parts += [Part(entry, None)] * ENTRY
        if entry != "index":
            continue
        chunk = [Part("payload", slot)] * (length - CRC) + [Part("crc32c of a chunk", slot)] * CRC
        if codec == "none":
            for value in range(3):
                room = slice(4 * (value * CAPACITY + N_AORS), 4 * (value + 1) * CAPACITY)
                chunk[room] = [Part("padding", slot)] * (room.stop - room.start)
        parts[offset : offset + length] = chunk
    parts += [Part("index, crc32c", None)] * CRC
    assert len(parts) == len(data)
    assert None not in parts
    return parts


class Shard:
    """A shard whose bytes can be spoilt where they lie, and mended."""

    def __init__(self, cube, number, *, codec):
        self.number = number
        self.first, last = cube.schema.layout.rows(number)
        self.rows = range(self.first, last)
        self.path = Path(cube.path) / "lightcurves" / "c" / f"{number}" / "0" / "0" / "0"
        self.data = self.path.read_bytes()
        self.parts = anatomy(self.data, n_slots=SHARD * len(TYPES), codec=codec)
        self.handle = os.open(self.path, os.O_WRONLY)

    def flip(self, at, bit):
        """Flip a bit as a disk does, in place: no file is replaced."""
        os.pwrite(self.handle, bytes([self.data[at] ^ (1 << bit)]), at)

    def mend(self, at):
        os.pwrite(self.handle, self.data[at : at + 1], at)


@dataclass
class Reads:
    """What reads gave while something was spoilt."""

    cube: Cube
    values: np.ndarray
    # A cube that meets damage looks whether the store was laid out anew, which takes a while.
    by_cube: bool = True
    raised: int = 0
    exact: int = 0

    def one(self, row, column, *, file):
        """Read a lightcurve: true, or an error that names what was asked and the file."""
        name = self.cube.types[column]
        object_id = int(self.cube.objects[row])
        try:
            found = (
                self.cube.values(object_id, name)
                if self.by_cube
                else self.cube._reader.read(row, column)
            )
        except CorruptError as error:
            self.told(error, file, f"lightcurves of object {object_id}, type {name},")
            return False
        return self.true(found, self.values[row, column])

    def told(self, error, file, label=None):
        said = str(error)
        assert str(file) in said, said
        assert "repair the store" in said
        assert isinstance(error, ChunkCorrupt | ShardCorrupt), repr(error)
        if isinstance(error, ChunkCorrupt) and label is not None:
            assert label in said
        self.raised += 1

    def true(self, found, values):
        assert same(found, values), "read without a word, and wrong"
        self.exact += 1
        return True

    def rows(self, rows, *, file):
        """Read all lightcurves of some rows, decoded together."""
        if self.by_cube:
            return self.many(lambda: self.cube.block(rows), self.values[rows], file=file)
        wanted = range(*rows.indices(len(self.values)))
        read = self.cube._reader.read_block
        return self.many(lambda: read(wanted, range(len(TYPES))), self.values[rows], file=file)

    def many(self, read, values, *, file):
        """Read many at once: all true, or an error."""
        try:
            found = read()
        except CorruptError as error:
            self.told(error, file)
            return False
        return self.true(found, values)


def sweep(folder, codec, flips, counts):
    """Flip one bit after another in the shards of a cube and read what it hits, and others."""
    cube, values = made(folder / f"{codec}.zarr", codec=codec)
    shards = [Shard(cube, n, codec=codec) for n in range(3)]
    reads = Reads(Cube(cube.path), values)
    n_types = len(TYPES)
    rng = np.random.default_rng([flips, CODECS.index(codec)])
    # Every third flip hits the index, which takes a smaller share of a small shard's bytes.
    for trial in range(flips):
        shard = shards[int(rng.integers(3))]
        index = len(shard.data) - SHARD * n_types * ENTRY - CRC
        at = int(rng.integers(index if trial % 3 == 0 else 0, len(shard.data)))
        part, bit = shard.parts[at], int(rng.integers(8))
        counts[part.name] += 1
        shard.flip(at, bit)
        if trial % 80 == 0:
            reads.cube = Cube(cube.path)
        elif trial % 4:
            reads.cube._reader.forget(shard.number)  # else the index stays the one read before
        reads.by_cube = trial % 16 < 2
        index_held = trial % 80 and trial % 4 == 0
        slot = int(rng.integers(len(shard.rows) * n_types)) if part.slot is None else part.slot
        row, column = shard.first + slot // n_types, slot % n_types
        hit = reads.one(row, column, file=shard.path)
        assert part.slot is None or not hit, "a chunk that lost a bit was read"
        assert index_held or not hit, "a shard whose index lost a bit was read"
        other = shard.rows[int(rng.integers(len(shard.rows)))], int(rng.integers(n_types))
        good = reads.one(*other, file=shard.path)
        if part.slot is not None and other != (row, column):
            assert good, "damage to one chunk reached another"
        whole = slice(shard.rows.start, shard.rows.stop)
        block = reads.rows(whole, file=shard.path)
        assert part.slot is None or not block
        beside = (shard.rows.stop if shard.number < 2 else 0, column)
        assert reads.one(*beside, file=shard.path), "damage to one shard reached another"
        if trial % 10 == 0:
            by_writers = partial(read_shard, cube._place, cube.schema, shard.number, uuid=cube.uuid)
            assert not reads.many(by_writers, values[whole], file=shard.path)
        if trial % 100 == 0:
            flux = open_store(cube.path)["flux"][whole]
            assert not reads.many(flux.to_numpy, values[whole, :, 0], file=shard.path)
        shard.mend(at)
    reads.cube = Cube(cube.path)
    assert same(reads.cube.block(), values)
    for shard in shards:
        os.close(shard.handle)
    return reads


@pytest.mark.parametrize("flips", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_a_shard_is_read_in_silence(tmp_path, flips):
    counts = Counter()
    each = {c: sweep(tmp_path, c, flips // 3 + (c == "lz4") * (flips % 3), counts) for c in CODECS}
    assert counts.total() == flips
    parts = {"payload", "padding", "crc32c of a chunk", "index", "index, absent chunk"}
    assert all(counts[part] > flips / 600 for part in parts | {"index, crc32c"}), counts
    raised, exact = sum(r.raised for r in each.values()), sum(r.exact for r in each.values())
    assert min(raised, exact) > flips
    told = ", ".join(f"{n} {part}" for part, n in counts.most_common())
    sys.stdout.write(f"{flips} flips: {told}; reads: {raised} refused, {exact} true, 0 wrong\n")


@pytest.mark.parametrize("flips", [90, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_read_in_silence_by_way_of_zarr_python(tmp_path, flips):
    """The way of object storage and of layouts that are not ours."""
    refused = 0
    for codec in CODECS:
        cube, values = made(tmp_path / f"{codec}.zarr", codec=codec)
        reader = PlainReader(cube._place, "lightcurves", cube.schema.layout)
        shard = Shard(cube, 1, codec=codec)
        rng = np.random.default_rng(flips)
        for at in rng.permutation(len(shard.data))[: flips // 3].tolist():
            shard.flip(at, int(rng.integers(8)))
            slot = shard.parts[at].slot or 0
            row, column = shard.first + slot // 3, slot % 3
            with pytest.raises(ChunkCorrupt, match=r"is damaged: .*; repair the store"):
                reader.read(row, column)
            refused += 1
            if shard.parts[at].slot is not None:
                after = (slot + 1) % 15
                found = reader.read(shard.first + after // 3, after % 3)
                assert same(found, values[shard.first + after // 3, after % 3])
            shard.mend(at)
        assert same(reader.read_block(range(N_OBJECTS), range(3)), values)
        os.close(shard.handle)
    assert refused == flips


@pytest.mark.parametrize("way", ["fast index", "plain chunk", "plain index"])
def test_every_error_names_the_lightcurve_that_was_asked_for_and_the_file(tmp_path, way):
    cube, _ = made(tmp_path / "a.zarr", codec="lz4")
    shard = Shard(cube, 1, codec="lz4")
    shard.flip(len(shard.data) - 40 if way.endswith("index") else 9, 3)
    os.close(shard.handle)
    # Any URL is read as object storage is.
    again = Cube(f"local://{cube.path}" if way.startswith("plain") else cube.path)
    assert isinstance(again._reader, RemoteShardReader) == way.startswith("plain")
    with pytest.raises(CorruptError, match="repair the store") as caught:
        again.values(1035, TYPES[0])
    for word in ("lightcurves", "object 1035", f"type {TYPES[0]}", str(shard.path)):
        assert word in str(caught.value)


@pytest.mark.parametrize("codec", CODECS)
def test_a_shard_cut_off_anywhere_is_refused_at_every_length(tmp_path, codec):
    cube, values = made(
        tmp_path / "a.zarr", codec=codec, objects=3, types=2, shard=2, aors=3, capacity=4
    )
    file = Path(cube.path) / "lightcurves/c/0/0/0/0"
    data = file.read_bytes()
    held, cold = Cube(cube.path), Cube(cube.path)
    begin = len(data) - 4 * ENTRY - CRC
    ends = np.frombuffer(data[begin:-CRC], "<u8").reshape(4, 2).sum(axis=1).tolist()
    still_read = 0
    for length in range(len(data)):
        held._reader.forget(0)
        assert same(held.values(1000, TYPES[0]), values[0, 0])
        os.truncate(file, length)
        cold._reader.forget(0)
        with pytest.raises(ShardCorrupt, match=r"lightcurves/c/0/0/0/0 .*repair the store"):
            cold._reader.read(0, 0)
        with pytest.raises(ShardCorrupt, match=r"lightcurves/c/0/0/0/0 .*repair the store"):
            cold._reader.read_block(range(3), range(2))
        if length % 16 == 0:
            with pytest.raises(ShardCorrupt, match=r"lightcurves/c/0/0/0/0 .*repair the store"):
                Cube(cube.path).values(1000, TYPES[0])
        assert same(cold.values(1014, TYPES[1]), values[2, 1])
        # A reader that has the index may go on for a moment with what is there whole.
        for slot in (3, 0):
            try:
                found = held._reader.read(slot // 2, slot % 2)
            except CorruptError as error:
                assert str(file) in str(error)  # noqa: PT017 - either is right
            else:
                still_read += 1
                assert length >= ends[slot]
                assert same(found, values[slot // 2, slot % 2])
        with file.open("r+b") as mended:
            mended.write(data)
    assert len(data) > 200
    assert still_read > 0
    assert same(Cube(cube.path).block(), values)


@pytest.mark.parametrize("codec", CODECS)
def test_longer_damage_is_no_more_silent_than_a_bit(tmp_path, codec):
    """Blocks of zeros as a file system leaves them, bytes in another order, bytes added."""
    cube, values = made(tmp_path / "a.zarr", codec=codec)
    shard = Shard(cube, 0, codec=codec)
    os.close(shard.handle)
    rng = np.random.default_rng(11)
    reads, whole = Reads(cube, values), 0
    for trial in range(72):
        first, last = sorted(rng.integers(0, len(shard.data) + 1, size=2).tolist())
        piece = shard.data[first:last]
        put = [b"\0" * len(piece), b"\xff" * len(piece), rng.bytes(len(piece)), piece[::-1]]
        put += [b"", piece * 2]
        bad = shard.data[:first] + put[trial % 6] + shard.data[last:]
        if bad == shard.data:
            continue
        shard.path.write_bytes(bad)
        reads.cube, reads.by_cube = Cube(cube.path), trial % 8 == 0
        for row in shard.rows:
            for column in range(len(TYPES)):
                reads.one(row, column, file=shard.path)
        # Bytes between the chunks and the index belong to nobody: then all is true.
        whole += not reads.rows(slice(None), file=shard.path)
    assert min(reads.raised, reads.exact) > 100
    assert whole > 50


def test_a_damaged_shard_is_not_written_anew_with_a_good_checksum(tmp_path):
    for codec in CODECS:
        cube, values = made(tmp_path / f"{codec}.zarr", codec=codec)
        shard = Shard(cube, 1, codec=codec)
        at = len(shard.data) // 3
        bad_slot = shard.parts[at].slot
        assert bad_slot is not None
        row, column = shard.first + (bad_slot // 3 + 1) % SHARD, (bad_slot + 1) % 3
        shard.flip(at, 5)
        bad = shard.path.read_bytes()
        new = dict.fromkeys(("flux", "flux_err", "flag"), np.zeros(N_AORS))
        with pytest.raises(ChunkCorrupt, match=rf"of object {1000 + 7 * (5 + bad_slot // 3)}, "):
            Cube(cube.path, mode="r+").write_lightcurve(1000 + 7 * row, TYPES[column], **new)
        assert shard.path.read_bytes() == bad
        # Whole rows need nothing of what was there: they are how a shard is mended by hand.
        part = values[5:10]
        cube.write_block(5, flux=part[:, :, 0], flux_err=part[:, :, 1], flag=part[:, :, 2])
        assert shard.path.read_bytes() == shard.data
        assert same(Cube(cube.path).block(), values)
        os.close(shard.handle)


# ------------------------------------------------------------------ coordinates and metadata


def everything(path):
    """Return all that a cube says: its coordinates, tables, attributes and values."""
    cube = Cube(path)
    found = {name: cube.coordinate(name).tolist() for name in cube.coordinate_names}
    found |= {f"catalogue/{k}": v.tolist() for k, v in cube.table("catalogue").items()}
    found["types"] = cube.types
    found["ours"] = json.dumps([cube.attributes["idfzarr"], cube.attributes["coordinates"]])
    found["attributes"] = [cube.group_attributes(g) for g in ("lightcurves", "mjd", "catalogue")]
    found["values"] = cube.block().tobytes()
    lc = cube.lightcurve(1007, TYPES[1])
    found["lightcurve"] = [np.asarray(v).tobytes() for v in (lc.mjd, lc.flux, lc.flag, lc.ra)]
    return repr(found)


def flipped(data, rng, flips):
    for at in rng.integers(0, len(data), size=flips).tolist():
        bad = bytearray(data)
        bad[at] ^= 1 << int(rng.integers(8))
        yield bytes(bad)


@pytest.mark.parametrize("flips", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_a_coordinate_or_table_is_read_in_silence(tmp_path, flips):
    cube, _ = made(tmp_path / "a.zarr", codec="lz4")
    truth = everything(cube.path)
    rng = np.random.default_rng(flips)
    files = [f for f in Path(cube.path).rglob("c/*") if f.is_file()]
    files += [f for f in Path(cube.path).rglob("c/0/0") if f.is_file()]
    files = [f for f in files if "lightcurves" not in f.parts]
    names = {f.relative_to(cube.path).as_posix().split("/c/")[0] for f in files}
    assert {"object", "ra", "mjd", "type", "aor_name", "catalogue/peak"} <= names
    for file in files:
        name = file.relative_to(cube.path).as_posix().split("/c/")[0]
        data = file.read_bytes()
        for bad in flipped(data, rng, flips):
            file.write_bytes(bad)
            with pytest.raises(ChunkCorrupt, match=rf"'{name}' is damaged: {file} does not match"):
                everything(cube.path)
        for length in range(0, len(data), 31):
            file.write_bytes(data[:length])
            with pytest.raises(ChunkCorrupt, match=f"{file} does not match its crc32c"):
                everything(cube.path)
        file.write_bytes(data)
    assert everything(cube.path) == truth


@pytest.mark.parametrize("flips", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_the_root_is_read_in_silence(tmp_path, flips):
    cube, _ = made(tmp_path / "a.zarr", codec="lz4")
    truth = everything(cube.path)
    root = Path(cube.path) / "zarr.json"
    data, rng, outcomes = root.read_bytes(), np.random.default_rng(flips), Counter()
    for bad in flipped(data, rng, flips):
        root.write_bytes(bad)
        try:
            found = everything(cube.path)
        except (CorruptError, StoreError) as error:
            assert cube.path in str(error)  # noqa: PT017 - either is right
            outcomes[type(error).__name__] += 1
        else:
            assert found == truth, "metadata changed without a word"
            outcomes["true"] += 1
    for length in range(0, len(data), 997):
        root.write_bytes(data[:length])
        with pytest.raises(IdfzarrError, match=r"zarr\.json is no JSON .*; repair the store"):
            everything(cube.path)
    root.write_bytes(data)
    assert everything(cube.path) == truth
    # A bit of the very name `idfzarr` or of the format makes it another's store, or another format.
    assert outcomes["ForeignStore"] + outcomes["FormatVersionError"] < 0.02 * flips
    # What nobody relies on and users may change themselves.
    assert outcomes["true"] < 0.02 * flips
    assert outcomes["MetadataCorrupt"] > 0.96 * flips
    sys.stdout.write(f"{flips} flips of the root: {dict(outcomes)}\n")


def test_a_flipped_format_number_is_refused(tmp_path):
    cube, _ = made(tmp_path / "a.zarr", codec="lz4")
    root = Path(cube.path) / "zarr.json"
    text = root.read_text()
    assert text.count('"format": 1') == 1
    root.write_text(text.replace('"format": 1', '"format": 3'))
    with pytest.raises(FormatVersionError, match="has format 3, this package reads format 1"):
        Cube(cube.path)


def test_a_flipped_bit_of_an_arrays_own_metadata_changes_no_read(tmp_path):
    """This package reads the root's metadata only, whose crc32c it verifies."""
    cube, _ = made(tmp_path / "a.zarr", codec="lz4")
    truth = everything(cube.path)
    rng = np.random.default_rng(1)
    for file in (Path(cube.path) / name / "zarr.json" for name in ("lightcurves", "object", "ra")):
        data = file.read_bytes()
        for bad in flipped(data, rng, 20):
            file.write_bytes(bad)
            assert everything(cube.path) == truth
        file.write_bytes(data)
