"""Damage to the files of shards and of plain chunks: rows 1 to 9 of the fault table."""

from __future__ import annotations

import json
import os
import shutil

import zarr_bytes as zb
from fault_injector import ARRAYS, Fault, chunk_file, leave, some_array, some_shard, variant


def shard_fault(cube, number, kinds, level, **more):
    return Fault(kinds, level, (cube.key(number),), **more)


def chunk_fault(cube, number, slot, kinds, level, **more):
    name, kind = cube.name(number, slot)
    return shard_fault(cube, number, kinds, level, object=name, type=kind, **more)


# ------------------------------------------------------------------ 1: temporary files


PARTIAL = (".partial", ".idfzarr.partial")  # zarr-python's and ours


@variant(1, "partial file beside a shard")
def partial_shard(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    data = shard.data[: rng.randrange(len(shard.data))]
    name = f"{path.name}.{rng.randbytes(16).hex()}{rng.choice(PARTIAL)}"
    leave(path.with_name(name), data)
    return Fault(("partial_file",), "listing", (f"{cube.key(number)[:-1]}{name}",))


@variant(1, "partial file of metadata or a column")
def partial_metadata(target, rng):
    array = some_array(rng, "coordinate", "catalogue")
    key = rng.choice(["zarr.json", f"{array}/zarr.json", f"{array}/c/0", "new/c/0/1"])
    key = f"{key}.{rng.randbytes(16).hex()}{rng.choice(PARTIAL)}"
    leave(target.store / key, rng.choice([b"", b'{"zarr_fo', b"\0" * 500]))
    return Fault(("partial_file",), "listing", (key,))


@variant(1, "partial file in the ledger's folder")
def partial_ledger(target, rng):
    key = f"vm-77-{rng.randbytes(4).hex()}.jsonl.{rng.randbytes(16).hex()}.partial"
    leave(zb.ledger_of(target.store) / key, b"")
    return Fault(("partial_file",), "listing", (key,), beside="ledger")


@variant(1, "staging of a build that is over")
def staging_left(target, rng):
    cube, _, _, shard = some_shard(target, rng)
    staging = target.store / "staging"
    document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    leave(staging / "zarr.json", zb.as_json(document))
    for batch in range(rng.randrange(1, 4)):
        leave(staging / f"c/{batch}/0/0/0", shard.data)
    assert cube.n_shards > 0
    return Fault(("staging_left",), "listing", ("staging/",))


@variant(1, "work folder of a build that is over")
def work_left(target, rng):
    work = target.store.with_name(target.store.name + ".work")
    for number in range(rng.randrange(1, 4)):
        leave(work / f"kept/{number}.npy", rng.randbytes(300))
    return Fault(("staging_left",), "listing", (), beside="work")


# ------------------------------------------------------------------ 2, 3: shards that are not there


@variant(2, "shard removed")
def shard_removed(target, rng):
    cube, number, path, _ = some_shard(target, rng)
    path.unlink()
    return shard_fault(cube, number, ("shard_missing",), "listing")


@variant(2, "folder of a shard removed")
def shard_folder_removed(target, rng):
    cube, number, path, _ = some_shard(target, rng)
    shutil.rmtree(path.parents[rng.choice([0, 1, 2])])
    return shard_fault(cube, number, ("shard_missing",), "listing")


@variant(2, "chunk of a plain array removed")
def plain_chunk_removed(target, rng):
    key, path = chunk_file(target, some_array(rng, *ARRAYS), rng)
    path.unlink()
    return Fault(("shard_missing", "chunk_missing"), "structure", (key,), "told")


@variant(3, "build stopped before all shards were written", base="begun")
def shard_pending(target, rng):
    node = json.loads((target.store / "lightcurves/zarr.json").read_bytes())
    step = node["chunk_grid"]["configuration"]["chunk_shape"][0]
    done = {r["key"] for r in zb.ledger_records(target.store) if r["kind"] == "done"}
    keys = {f"lightcurves/c/{k}/0/0/0" for k in range(-(-node["shape"][0] // step))} - done
    told = f"{len(keys)} shards to come"
    # A build that was stopped is gone on with: that is no fault, and all there is to say is a note.
    kinds = ("shard_pending",) if keys else ()
    return Fault(kinds, "listing", tuple(keys), "stays", told=told)


@variant(3, "shard that no ledger knows of, in a store that never was finished", base="begun")
def shard_taken_back(target, rng):
    number = rng.randrange(3)
    key = f"lightcurves/c/{number}/0/0/0"
    (target.store / key).unlink(missing_ok=True)
    for path in zb.ledger_files(target.store):
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line).get("key") != key]
        path.write_bytes(b"".join(_numbered(kept)))
    return Fault(("shard_pending",), "listing", (key,), "stays")


def _numbered(lines):
    """Return lines of one writer counted anew, since a gap in the numbers would tell."""
    for number, line in enumerate(lines):
        document = json.loads(line)
        document.pop("line_crc32c")
        yield zb.ledger_line(document | {"n": number})


# ------------------------------------------------------------------ 4 to 9: bytes of shards


@variant(4, "entry of a chunk emptied")
def entry_emptied(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    slot = rng.choice(shard.present)
    zb.put(path, shard.with_entries({slot: (zb.ABSENT, zb.ABSENT)}))
    return chunk_fault(cube, number, slot, ("chunk_missing",), "structure")


@variant(4, "chunk never written")
def chunk_left_out(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    slot = rng.choice(shard.present)
    zb.put(path, shard.without(slot))
    return chunk_fault(cube, number, slot, ("chunk_missing", "shard_torn"), "structure")


@variant(5, "cut in the payload")
def cut_in_payload(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    os.truncate(path, rng.randrange(1, shard.index_at))
    return shard_fault(cube, number, ("shard_torn",), "listing")


@variant(5, "cut in the index")
def cut_in_index(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    os.truncate(path, rng.randrange(shard.index_at, len(shard.data)))
    return shard_fault(cube, number, ("shard_torn",), "listing")


@variant(5, "cut to nothing")
def cut_to_nothing(target, rng):
    cube, number, path, _ = some_shard(target, rng)
    os.truncate(path, 0)
    return shard_fault(cube, number, ("shard_torn",), "listing")


@variant(5, "grown")
def grown(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    size = rng.choice([1, 4, 16, 512, len(shard.data)])
    more = rng.choice([b"\0" * size, rng.randbytes(size)])
    zb.put(path, shard.data + more)
    return shard_fault(cube, number, ("shard_torn",), "listing")


@variant(5, "end lost in a power cut, the size is right")
def end_of_zeros(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    at = rng.randrange(len(shard.data) - 20)
    zb.put(path, shard.data[:at] + b"\0" * (len(shard.data) - at))
    return shard_fault(cube, number, ("shard_torn", "index_corrupt"), "structure")


@variant(5, "chunk of a plain array cut")
def plain_chunk_cut(target, rng):
    key, path = chunk_file(target, some_array(rng, *ARRAYS), rng)
    size = path.stat().st_size
    os.truncate(path, rng.choice([0, rng.randrange(size)]))
    return Fault(("shard_torn", "chunk_corrupt"), "scrub", (key,), "told")


@variant(6, "bit of the index")
def index_bit(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    zb.flip(path, rng.randrange(shard.index_at, len(shard.data) - zb.CRC), rng.randrange(8))
    return shard_fault(cube, number, ("index_corrupt",), "structure")


@variant(6, "bit of the crc32c of the index")
def index_crc_bit(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    zb.flip(path, len(shard.data) - 1 - rng.randrange(zb.CRC), rng.randrange(8))
    return shard_fault(cube, number, ("index_corrupt",), "structure")


@variant(6, "index of noise")
def index_of_noise(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    noise = rng.randbytes(len(shard.data) - shard.index_at)
    zb.put(path, shard.data[: shard.index_at] + noise)
    return shard_fault(cube, number, ("index_corrupt",), "structure")


def _flip_in_chunk(target, rng, first, last):
    """Flip a bit of a chunk between two of its bytes, counted from its ends."""
    cube, number, path, shard = some_shard(target, rng)
    slot = rng.choice(shard.present)
    offset, length = shard.entries[slot]
    at = rng.randrange(offset + first, offset + length + last)
    zb.flip(path, at, rng.randrange(8))
    return chunk_fault(cube, number, slot, ("chunk_corrupt",), "scrub", byte=at)


@variant(7, "bit of the payload")
def payload_bit(target, rng):
    return _flip_in_chunk(target, rng, 0, -zb.CRC)


@variant(7, "bit of the header of a chunk")
def header_bit(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    slot = rng.choice(shard.present)
    at = shard.entries[slot][0] + rng.randrange(16)
    zb.flip(path, at, rng.randrange(8))
    return chunk_fault(cube, number, slot, ("chunk_corrupt",), "scrub", byte=at)


@variant(7, "block of zeros in a chunk")
def zeros_in_chunk(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    slot = rng.choice(shard.present)
    offset, length = shard.entries[slot]
    data = shard.data[:offset] + b"\0" * length + shard.data[offset + length :]
    zb.put(path, data)
    return chunk_fault(cube, number, slot, ("chunk_corrupt",), "scrub", byte=offset)


def _flip_plain(target, rng, group, after="told"):
    key, path = chunk_file(target, some_array(rng, group), rng)
    at = rng.randrange(path.stat().st_size)
    zb.flip(path, at, rng.randrange(8))
    return Fault(("chunk_corrupt", "shard_torn"), "scrub", (key,), after)


@variant(7, "bit of a coordinate")
def coordinate_bit(target, rng):
    return _flip_plain(target, rng, "coordinate", "mended")


@variant(7, "bit of a column of the catalogue")
def catalogue_bit(target, rng):
    return _flip_plain(target, rng, "catalogue")


@variant(7, "bit of an image of the superstack")
def image_bit(target, rng):
    return _flip_plain(target, rng, "image")


@variant(7, "bit of a column of statistics")
def statistics_bit(target, rng):
    return _flip_plain(target, rng, "variability", "mended")


WRONG = ("wrong_shard", "shard_torn")


@variant(8, "two shards exchanged")
def shards_exchanged(target, rng):
    cube = zb.Cube.of(target.store)
    one, other = rng.sample(range(cube.n_shards), 2)
    data = cube.path(one).read_bytes(), cube.path(other).read_bytes()
    zb.put(cube.path(one), data[1])
    zb.put(cube.path(other), data[0])
    also = (*WRONG, "chunk_missing")
    return shard_fault(cube, one, also, "scrub", also=also)


@variant(8, "a shard in the place of its neighbour")
def shard_copied(target, rng):
    cube = zb.Cube.of(target.store)
    zb.put(cube.path(0), cube.path(1).read_bytes())
    assert rng is not None
    return shard_fault(cube, 0, WRONG, "scrub")


@variant(8, "shard of before the last append", base="grown")
def shard_of_before(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    before = zb.Cube.of(target.older).path(number).read_bytes()
    assert before != shard.data
    zb.put(path, before)
    return shard_fault(cube, number, WRONG, "scrub")


@variant(8, "two chunks exchanged, all checksums right")
def chunks_exchanged(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    one, other = rng.sample(shard.present, 2)
    entries = {one: shard.entries[other], other: shard.entries[one]}
    zb.put(path, shard.with_entries(entries))
    return shard_fault(cube, number, ("wrong_shard", "index_wrong"), "scrub")


@variant(9, "entry beyond the end of the file")
def entry_outside(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    slot = rng.choice(shard.present)
    offset, length = shard.entries[slot]
    size = len(shard.data)
    bad = [
        (size + offset, length),
        (offset, size),
        (zb.ABSENT - 3, length),
        (offset, 1 << 63),
        (zb.ABSENT, length),
        (offset, zb.ABSENT),
    ]
    zb.put(path, shard.with_entries({slot: rng.choice(bad)}))
    return shard_fault(cube, number, ("index_wrong",), "structure")


@variant(9, "entries that overlap")
def entries_overlap(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    one, other = rng.sample(shard.present, 2)
    offset, length = shard.entries[one]
    size = rng.choice([length, shard.entries[other][1], length // 2 + 1])
    zb.put(path, shard.with_entries({other: (offset, size)}))
    return shard_fault(cube, number, ("index_wrong",), "structure")


@variant(9, "entry that reaches into the index")
def entry_in_index(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    slot = shard.present[-1]
    offset, length = shard.entries[slot]
    zb.put(path, shard.with_entries({slot: (offset, length + rng.randrange(1, 40))}))
    return shard_fault(cube, number, ("index_wrong",), "structure")


@variant(9, "entry for a row that does not exist, upon another")
def entry_too_many(target, rng):
    cube = zb.Cube.of(target.store)
    number = cube.n_shards - 1
    shard = cube.shard(number)
    absent = sorted(set(range(cube.n_slots)) - set(shard.present))
    entry = shard.entries[rng.choice(shard.present)]
    zb.put(cube.path(number), shard.with_entries({rng.choice(absent): entry}))
    return shard_fault(cube, number, ("index_wrong",), "structure")


@variant(9, "entry too short or shifted")
def entry_shifted(target, rng):
    cube, number, path, shard = some_shard(target, rng)
    slot = rng.choice(shard.present)
    offset, length = shard.entries[slot]
    entry = rng.choice([(offset + 1, length - 1), (offset, length - 1), (offset, 0)])
    zb.put(path, shard.with_entries({slot: entry}))
    return shard_fault(cube, number, ("index_wrong", "chunk_corrupt", "wrong_shard"), "scrub")
