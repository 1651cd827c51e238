"""Damage to all of a store but its shards: rows 10 to 18 of the fault table."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import zarr_bytes as zb
from fault_injector import OLD, Fault, chunk_file, leave, some_array, some_shard, variant

DAMAGED = ("metadata_corrupt",)
DIFFER = ("consolidated_stale", "metadata_corrupt")


def changed_root(target, change, *, sealed=True, copies=False):
    """Change the root; with its crc32c made right or not, in the ledger's copy too or not."""
    document = zb.read_root(target.store)
    change(document)
    data = zb.seal_root(document) if sealed else zb.as_json(document)
    zb.put(target.store / "zarr.json", data)
    for copy in zb.root_copies(target.store) if copies else ():
        zb.put(copy, data)


def changed_node(path, change):
    document = json.loads(path.read_bytes())
    change(document)
    zb.put(path, zb.as_json(document))


def node_of(document, array):
    return document["consolidated_metadata"]["metadata"][array]


# ------------------------------------------------------------------ 10: zarr.json damaged


@variant(10, "bit of the root")
def root_bit(target, rng):
    path = target.store / "zarr.json"
    data = path.read_bytes()
    before = zb.relied_upon(json.loads(data))
    while True:
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        bad = bytearray(data)
        bad[at] ^= 1 << bit
        try:
            document = json.loads(bad)
            told = document["attributes"]["idfzarr"]["metadata_crc32c"]
            # What the crc32c does not cover is the user's, and no fault.
            if zb.relied_upon(document) == before and told == f"{zb.crc32c(before):08x}":
                continue
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        zb.put(path, bytes(bad))
        return Fault((*DAMAGED, "format_version"), "structure", ("zarr.json",), byte=at)


@variant(10, "root cut off, empty, gone or something else")
def root_lost(target, rng):
    path = target.store / "zarr.json"
    size = path.stat().st_size
    how = rng.randrange(5)
    if how == 0:
        os.truncate(path, rng.randrange(1, size))
    elif how == 1:
        os.truncate(path, 0)
    elif how == 2:
        path.unlink()
    elif how == 3:
        zb.put(path, rng.choice([b"[]", b"null", b"{}", b'"zarr"', b"\0" * size, b"\xff\xfe{}"]))
    else:
        zb.put(path, zb.as_json({"zarr_format": 3, "node_type": "group", "attributes": {}}))
    return Fault(DAMAGED, "structure", ("zarr.json",), told=f"way {how}")


@variant(10, "root without what makes it ours, or without the metadata")
def root_stripped(target, rng):
    name = rng.choice(["idfzarr", "ours", "consolidated", "crc", "nodes"])

    def strip(document):
        if name == "idfzarr":
            document["attributes"].pop("idfzarr")
        elif name == "ours":
            document["attributes"]["idfzarr"] = []
        elif name == "consolidated":
            document.pop("consolidated_metadata")
        elif name == "crc":
            document["attributes"]["idfzarr"].pop("metadata_crc32c")
        else:
            document["consolidated_metadata"]["metadata"]["ra"] = 7

    changed_root(target, strip, sealed=False)
    return Fault(DAMAGED, "structure", ("zarr.json",), told=name)


@variant(10, "array's metadata cut off, empty, gone or no JSON")
def node_lost(target, rng):
    array = rng.choice(["lightcurves", "catalogue", some_array(rng, "coordinate", "image")])
    path = target.store / array / "zarr.json"
    how = rng.randrange(4)
    if how == 0:
        os.truncate(path, rng.randrange(path.stat().st_size))
    elif how == 1:
        path.unlink()
    elif how == 2:
        zb.put(path, rng.choice([b"[]", b"{", b"", b'{"zarr_format": 3}', b"\0" * 99]))
    else:
        zb.flip(path, 0, rng.randrange(7))
    return Fault(DIFFER, "structure", (f"{array}/zarr.json",), told=f"way {how}")


@variant(10, "bit of an array's metadata")
def node_bit(target, rng):
    array = rng.choice(["lightcurves", some_array(rng, "coordinate", "image", "catalogue")])
    path = target.store / array / "zarr.json"
    data = path.read_bytes()
    while True:
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        bad = bytearray(data)
        bad[at] ^= 1 << bit
        try:
            if json.loads(bad) == json.loads(data):
                continue  # white space
        except ValueError:
            pass
        zb.put(path, bytes(bad))
        return Fault(DIFFER, "structure", (f"{array}/zarr.json",))


# ------------------------------------------------------------------ 11: copies that differ


@variant(11, "attribute of an array changed in the root's copy, crc32c made right")
def copy_changed(target, rng):
    array = some_array(rng, "coordinate", "image")

    def change(document):
        node_of(document, array)["attributes"]["long_name"] = "another"

    changed_root(target, change)
    return Fault(DIFFER, "structure", (f"{array}/zarr.json", "zarr.json"), "clean", also=DIFFER)


@variant(11, "attribute of an array changed in the root's copy, crc32c left")
def copy_changed_unsealed(target, rng):
    array = some_array(rng, "coordinate", "image")

    def change(document):
        node_of(document, array)["attributes"]["long_name"] = "another"

    changed_root(target, change, sealed=False)
    return Fault(DAMAGED, "structure", ("zarr.json",), also=DIFFER)


@variant(11, "array's own metadata changed")
def own_changed(target, rng):
    array = some_array(rng, "coordinate", "image", "catalogue")

    def change(document):
        how = rng.randrange(3)
        if how == 0:
            document["attributes"]["units"] = "furlong"
        elif how == 1:
            document["fill_value"] = 17
        else:
            document["shape"][0] += rng.choice([-1, 1, 5])

    changed_node(target.store / array / "zarr.json", change)
    return Fault((*DIFFER, "lengths_disagree"), "structure", (f"{array}/zarr.json",))


@variant(11, "cube's own metadata of another length")
def cube_resized(target, rng):
    def change(document):
        document["shape"][rng.choice([0, 3])] += rng.choice([-1, 1])

    changed_node(target.store / "lightcurves/zarr.json", change)
    kinds = (*DIFFER, "lengths_disagree")
    return Fault(kinds, "structure", ("lightcurves/zarr.json",))


# ------------------------------------------------------------------ 12: what belongs to nobody


@variant(12, "shard outside the grid")
def shard_outside(target, rng):
    cube, _, _, shard = some_shard(target, rng)
    first = cube.n_shards + rng.choice([0, 1, 1000])
    key = rng.choice(
        [f"lightcurves/c/{first}/0/0/0", "lightcurves/c/0/1/0/0", "lightcurves/c/0/0/0/2"]
    )
    leave(target.store / key, shard.data)
    return Fault(("key_outside",), "listing", (key,))


@variant(12, "chunk of a plain array outside the grid")
def chunk_outside(target, rng):
    array = some_array(rng, "coordinate", "catalogue", "image")
    key, path = chunk_file(target, array, rng)
    ends = [str(rng.choice([1, 9])) for _ in key.split("/c/")[1].split("/")]
    key = f"{array}/c/{'/'.join(ends)}"
    leave(target.store / key, path.read_bytes())
    return Fault(("key_outside",), "listing", (key,))


@variant(12, "file that belongs to no array")
def file_unknown(target, rng):
    key = rng.choice(
        [
            "notes.txt",
            "lightcurves/.zarray",
            "lightcurves/c/x/0/0/0",
            "lightcurves/c/00/0/0/0",
            "lightcurves/c/-1/0/0/0",
            "lightcurves/c/0/0/0/0.bak",
            "catalogue/ra/notes",
            "images/superstack/ch1/c/0/0",
            "images/picture.png",
            "nowhere/c/0",
            "ra/c/\u0661",
            "ra/c/ 1",
            "ra/c/1e3",
        ]
    )
    leave(target.store / key, rng.randbytes(40))
    return Fault(("file_unknown", "key_outside"), "listing", (key,))


@variant(12, "array that the root does not know")
def array_unknown(target, rng):
    name = rng.choice(["ra", "catalogue/ra"])
    place = target.store / f"{name}_2"
    shutil.copytree(target.store / name, place)
    keys = (f"{name}_2/",)
    kinds = ("file_unknown", "consolidated_stale")
    return Fault(kinds, "structure", keys, "clean", also=kinds)


# ------------------------------------------------------------------ 13: half a change


@variant(13, "append killed before its commit", base="appending")
def append_killed(target, rng):
    age(target)
    assert rng is not None
    also = ("staging_left", "partial_file", "consolidated_stale", "update_unfinished")
    return Fault(("update_unfinished",), "structure", (), "clean", beside=None, also=also)


@variant(13, "append killed after its commit", base="committed")
def append_not_in_place(target, rng):
    age(target)
    assert rng is not None
    also = ("staging_left", "partial_file", "consolidated_stale", "update_unfinished")
    kinds = ("update_unfinished", "consolidated_stale")
    return Fault(kinds, "structure", (), "clean", beside=None, also=also)


def age(target):
    """Make everything three days old, as it is when somebody looks at last."""
    for folder in (target.store, zb.ledger_of(target.store)):
        for path in folder.rglob("*"):
            then = path.stat().st_mtime - OLD
            os.utime(path, (then, then))


@variant(13, "arrays of different lengths, crc32c made right")
def lengths_disagree(target, rng):
    array = rng.choice(["mjd", "dx", "zeropoint", "ra", "aor_name"])

    def change(document):
        node = node_of(document, array)
        axis = next(k for k, d in enumerate(node["dimension_names"]) if d in {"aor", "object"})
        node["shape"][axis] += rng.choice([-1, -2])
        changed_node(target.store / array / "zarr.json", lambda own: own.update(node))

    changed_root(target, change)
    kinds = ("lengths_disagree", *DIFFER)
    keys = (f"{array}/zarr.json", "zarr.json")
    also = (*kinds, "statistics_stale")
    return Fault(kinds, "structure", keys, "clean", also=also)


# ------------------------------------------------------------------ 14: coordinates


def _duplicate_number(target, rng, array, size):
    path = target.store / array / "c/0"
    data = path.read_bytes()
    one, other = rng.sample(range(size), 2)
    values = list(struct.unpack(f"<{(len(data) - 4) // 8}q", data[:-4]))
    values[one] = values[other]
    zb.put(path, zb.sealed(struct.pack(f"<{len(values)}q", *values)))
    kinds = ("coordinate_duplicate",)
    keys = (f"{array}/c/0", f"{array}/zarr.json")
    return Fault(kinds, "full", keys, "stays", also=(*kinds, "coordinate_unsorted"))


@variant(14, "object id twice, checksum made right")
def object_twice(target, rng):
    return _duplicate_number(target, rng, "object", 9)


@variant(14, "AOR twice, checksum made right")
def aor_twice(target, rng):
    return _duplicate_number(target, rng, "aor", 4)


@variant(14, "name of a type or an AOR twice, checksum made right")
def name_twice(target, rng):
    array = rng.choice(["type", "aor_name"])
    path = target.store / array / "c/0"
    names, _ = zb.read_strings(path.read_bytes()[:-4])
    n_names = 3 if array == "type" else 4
    one, other = rng.sample(range(n_names), 2)
    names[one] = names[other]
    zb.put(path, zb.sealed(zb.strings(names)))
    keys = (f"{array}/c/0", f"{array}/zarr.json")
    # The names stand in the attributes of the cube too, and differ now.
    also = ("coordinate_duplicate", "metadata_corrupt", "consolidated_stale", "chunk_corrupt")
    return Fault(("coordinate_duplicate",), "full", keys, "stays", also=also)


# ------------------------------------------------------------------ 15: codecs and versions


@variant(15, "unknown codec, in every copy")
def codec_unknown(target, rng):
    array = rng.choice(["lightcurves", some_array(rng, "coordinate", "catalogue", "image")])

    def change(document):
        node = node_of(document, array)
        chain = node["codecs"]
        if chain[0]["name"] == "sharding_indexed":
            chain = chain[0]["configuration"]["codecs"]
        chain[rng.randrange(len(chain))] = {"name": "zfpz", "configuration": {"rate": 3}}
        changed_node(target.store / array / "zarr.json", lambda own: own.update(node))

    changed_root(target, change, copies=True)
    keys = (f"{array}/zarr.json", f"{array}/c/0/0/0/0")
    return Fault(("codec_unknown",), "structure", keys, "stays")


@variant(15, "format of a later version, in every copy")
def format_later(target, rng):
    def change(document):
        document["attributes"]["idfzarr"]["format"] = rng.choice([2, 3, "2"])

    changed_root(target, change, copies=True)
    return Fault(("format_version",), "structure", ("zarr.json",), "stays")


@variant(15, "unknown data type, in every copy")
def data_type_unknown(target, rng):
    array = some_array(rng, "catalogue", "image")

    def change(document):
        node = node_of(document, array)
        node["data_type"] = rng.choice(["float8_e4m3", {"name": "posit16", "configuration": {}}])
        changed_node(target.store / array / "zarr.json", lambda own: own.update(node))

    changed_root(target, change, copies=True)
    kinds = ("codec_unknown", "format_version")
    return Fault(kinds, "structure", (f"{array}/zarr.json",), "stays")


# ------------------------------------------------------------------ 16: rights and links


@variant(16, "shard, column, metadata or folder that nobody may read")
def unreadable(target, rng):
    key = rng.choice(
        [
            "lightcurves/c/1/0/0/0",
            "lightcurves/c/0",
            "catalogue/ra/c/0",
            "ra/zarr.json",
            "images",
            "zarr.json",
        ]
    )
    path = target.store / key
    mode = path.stat().st_mode
    level = "listing" if path.is_dir() else "structure"
    path.chmod(0)
    also = ("unreadable",)
    keys = (key,) if path.is_file() else (key, f"{key}/")
    return Fault(("unreadable",), level, keys, "stays", also=also, undo=lambda: path.chmod(mode))


@variant(16, "link that leaves the store, where a file was")
def link_for_file(target, rng):
    key = rng.choice(["lightcurves/c/1/0/0/0", "ra/c/0", "ra/zarr.json", "catalogue/ra/c/0"])
    path, outside = target.store / key, target.store.parent / "outside"
    outside.mkdir(exist_ok=True)
    shutil.move(path, outside / "file")
    path.symlink_to(rng.choice([str(outside / "file"), "/etc/hostname", "/nowhere/at/all"]))
    return Fault(("symlink",), "listing", (key,), "told")


@variant(16, "link that leaves the store, where a folder was")
def link_for_folder(target, rng):
    key = rng.choice(["lightcurves/c/1", "images/superstack", "catalogue", "variability"])
    path, outside = target.store / key, target.store.parent / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    return Fault(("symlink",), "listing", (key, f"{key}/"), "told")


@variant(16, "link that leads round in a circle")
def link_in_circle(target, rng):
    key = rng.choice(["loop", "images/superstack/loop", "lightcurves/c/7", "catalogue/up"])
    path = target.store / key
    path.symlink_to(rng.choice([".", "..", str(target.store), path.name]))
    return Fault(("symlink",), "listing", (key,), "told")


# ------------------------------------------------------------------ 17: sources


def _source(target, rng):
    name = f"IDF_gr{rng.randrange(1, 5)}_ch{rng.randrange(1, 3)}_{rng.choice(['sci', 'unc'])}.fits"
    return target.images / name


@variant(17, "mosaic that is gone")
def source_missing(target, rng):
    path = _source(target, rng)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    return Fault(
        ("source_missing",),
        "full",
        (),
        "stays",
        beside=None,
        names=path.name,
        undo=lambda: aside.rename(path),
    )


@variant(17, "mosaic with another bit, size and time as they were")
def source_changed(target, rng):
    path = _source(target, rng)
    data, times = path.read_bytes(), path.stat()

    def put(content):
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    at = rng.randrange(2880, len(data))
    put(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
    return Fault(
        ("source_changed",),
        "full",
        (),
        "stays",
        beside=None,
        names=path.name,
        undo=lambda: put(data),
    )


@variant(17, "mosaic cut off")
def source_cut(target, rng):
    path = _source(target, rng)
    data, times = path.read_bytes(), path.stat()

    def back():
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    os.truncate(path, rng.randrange(len(data)))
    return Fault(("source_changed",), "full", (), "stays", beside=None, names=path.name, undo=back)


# ------------------------------------------------------------------ 18: the ledger


def _ledger(target, rng):
    path = rng.choice(zb.ledger_files(target.store))
    return path, path.read_bytes()


def ledger_fault(path, *, also=(), kinds=("ledger_damaged",)):
    return Fault(kinds, "listing", (path.name,), "told", beside="ledger", also=also)


@variant(18, "bit of a line of the ledger")
def ledger_bit(target, rng):
    path, data = _ledger(target, rng)
    at = rng.choice([k for k in range(len(data)) if data[k : k + 1] != b"\n"])
    zb.flip(path, at, rng.randrange(8))
    return ledger_fault(path)


@variant(18, "ledger cut in a line")
def ledger_cut(target, rng):
    path, data = _ledger(target, rng)
    ends = [k for k in range(len(data)) if data[k : k + 1] == b"\n"]
    # Not so far up that shards are unknown: that would be another fault besides.
    first = data.index(b'"kind":"published"')
    at = rng.choice([k for k in range(first, len(data)) if k not in ends and k + 1 not in ends])
    if data[at - 1 : at] == b"\n":
        at += 5
    os.truncate(path, at)
    return ledger_fault(path)


@variant(18, "line of the ledger gone")
def ledger_line_gone(target, rng):
    path, data = _ledger(target, rng)
    lines = data.splitlines(keepends=True)
    lines.pop(rng.randrange(1, len(lines) - 1))
    path.write_bytes(b"".join(lines))
    return ledger_fault(path, kinds=("ledger_damaged", "ledger_absent"))


@variant(18, "ledger of noise")
def ledger_of_noise(target, rng):
    path, data = _ledger(target, rng)
    path.write_bytes(rng.randbytes(len(data)))
    return ledger_fault(path, also=("ledger_absent",))


@variant(18, "ledger of another store")
def ledger_foreign(target, rng):
    other = f"{rng.randbytes(4).hex()}-0000-4000-8000-{rng.randbytes(6).hex()}"
    for file in zb.ledger_files(target.store):
        lines = []
        for line in file.read_bytes().splitlines():
            document = json.loads(line)
            document.pop("line_crc32c")
            lines.append(zb.ledger_line(document | {"uuid": other}))
        file.write_bytes(b"".join(lines))
    return Fault(
        ("ledger_absent", "ledger_damaged"),
        "structure",
        (),
        "told",
        beside="",
        names="",
    )


@variant(18, "ledger removed")
def ledger_removed(target, rng):
    folder = zb.ledger_of(target.store)
    if rng.random() < 0.5:
        shutil.rmtree(folder)
    else:
        for path in Path(folder).iterdir():
            path.unlink()
    return Fault(("ledger_absent",), "listing", (), "told", beside=None)
