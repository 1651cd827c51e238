"""Small published cubes for tests of the inventory, and what is done to them."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager

import numpy as np

from idfzarr.store.place import place_of
from idfzarr.store.writer import CubeWriter

TYPES = ("ch1_auto_original", "ch2_aper2_clean", "ch1_aper3_original")
NOBODY = 65534


def measured(n_aors, n_objects, n_types, seed=1):
    """Return measurements, (object, type, value, aor)."""
    rng = np.random.default_rng(seed)
    block = np.zeros((n_objects, n_types, 3, n_aors), dtype=np.float32)
    block[:, :, 0] = rng.normal(5, 3, block[:, :, 0].shape)
    block[:, :, 1] = 0.25
    return block


def begin_cube(store, *, objects=11, aors=5, shard_objects=4, codec="lz4"):
    """Begin a cube and lay it out: three shards, the last one shorter."""
    rows = np.arange(objects)
    return CubeWriter.begin(store).lay_out(
        objects={"object_id": rows * 3 + 1, "ra": 265 + rows / 99, "dec": 69 - rows / 99},
        types=TYPES,
        aors={"aor": np.arange(aors) + 500, "mjd": 53000.0 + np.arange(aors)},
        shard_objects=shard_objects,
        codec=codec,
    )


def write_shards(writer, shards=None):
    """Write shards, all of them unless told otherwise."""
    layout = writer.schema.layout
    block = measured(layout.n_aors, layout.n_objects, layout.n_types)
    for shard in range(layout.n_shards) if shards is None else shards:
        first, last = layout.rows(shard)
        writer.write_shard(shard, block[first:last])


def make_cube(store, **options):
    """Write and publish a cube; return its writer."""
    writer = begin_cube(store, **options)
    write_shards(writer)
    writer.publish()
    return writer


def copy_to(store, url):
    """Copy a store and its ledger to object storage."""
    for suffix in ("", ".ledger"):
        here, there = place_of(store).beside(suffix), place_of(url).beside(suffix)
        for key in here.keys():
            there.write(key, here.read(key))
    return url


def change_json(path, change):
    """Change a JSON document in place."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def flip(path, at, bit=0):
    """Flip a bit of a file in place."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


@contextmanager
def without_rights(folder):
    """Be a user to whom modes of files mean something, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    for above in (folder, *folder.parents):
        mode = above.stat().st_mode
        if mode & 0o055 != 0o055:
            above.chmod(mode | 0o055)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def told(findings):
    """Return kind and key of findings."""
    return sorted((one.kind, one.where.key) for one in findings)
