"""Stores as bytes, read and written by the specifications alone, for tests that trust no code.

Zarr v3 (https://zarr-specs.readthedocs.io/en/latest/v3/core/), its codecs ``sharding_indexed``,
``crc32c`` and ``vlen-utf8``, and what the README says of the root and of the ledger; with json,
struct and google_crc32c, and nothing of the package.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

ABSENT = 2**64 - 1
ENTRY = 16
CRC = 4


def crc32c(data):
    return int(google_crc32c.value(bytes(data)))


def sealed(data):
    """Return bytes with their crc32c after them, as the codec stores it."""
    return bytes(data) + struct.pack("<I", crc32c(data))


def is_sealed(data):
    return len(data) >= CRC and sealed(data[:-CRC]) == bytes(data)


def put(path, data):
    """Write a file as it stands there afterwards: its mode stays, and nothing is renamed."""
    Path(path).write_bytes(data)


def flip(path, at, bit):
    """Flip one bit of a file in place."""
    with Path(path).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))


# ------------------------------------------------------------------ shards


@dataclass(frozen=True)
class Shard:
    """A shard whose index is at its end: bytes, and (offset, length) of every slot."""

    data: bytes
    entries: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, data, n_slots):
        index = data[-index_bytes(n_slots) :]
        numbers = struct.unpack(f"<{2 * n_slots}Q", index[:-CRC])
        return cls(bytes(data), tuple(zip(numbers[::2], numbers[1::2], strict=True)))

    @property
    def index_at(self):
        return len(self.data) - index_bytes(len(self.entries))

    @property
    def present(self):
        return [slot for slot, entry in enumerate(self.entries) if entry != (ABSENT, ABSENT)]

    def chunk(self, slot):
        offset, length = self.entries[slot]
        return self.data[offset : offset + length]

    def with_entries(self, changed):
        """Return the bytes with other entries in the index, its crc32c made right."""
        entries = list(self.entries)
        for slot, entry in changed.items():
            entries[slot] = entry
        return self.data[: self.index_at] + index_of(entries)

    def without(self, slot):
        """Return the bytes of the shard as if a chunk had never been written."""
        payload, entries = b"", list(self.entries)
        for k in self.present:
            entries[k] = (ABSENT, ABSENT) if k == slot else (len(payload), self.entries[k][1])
            payload += b"" if k == slot else self.chunk(k)
        return payload + index_of(entries)


def index_bytes(n_slots):
    return n_slots * ENTRY + CRC


def index_of(entries):
    flat = [number for entry in entries for number in entry]
    return sealed(struct.pack(f"<{len(flat)}Q", *flat))


@dataclass(frozen=True)
class Cube:
    """What the metadata of ``lightcurves`` and the coordinate ``object`` say."""

    store: Path
    types: tuple[str, ...]
    objects: tuple[int, ...]
    shard_objects: int
    n_shards: int

    @classmethod
    def of(cls, store):
        node = json.loads((store / "lightcurves/zarr.json").read_bytes())
        rows = node["shape"][0]
        step = node["chunk_grid"]["configuration"]["chunk_shape"][0]
        raw = (store / "object/c/0").read_bytes()
        ids = struct.unpack(f"<{rows}q", raw[: 8 * rows])
        return cls(store, tuple(node["attributes"]["type"]), ids, step, -(-rows // step))

    @property
    def n_slots(self):
        return self.shard_objects * len(self.types)

    def key(self, number):
        return f"lightcurves/c/{number}/0/0/0"

    def path(self, number):
        return self.store / self.key(number)

    def shard(self, number):
        return Shard.of(self.path(number).read_bytes(), self.n_slots)

    def name(self, number, slot):
        """Return object and type of a slot of a shard."""
        row, column = divmod(slot, len(self.types))
        return self.objects[number * self.shard_objects + row], self.types[column]

    def chunks(self):
        """Return the encoded bytes of every chunk by shard and slot."""
        found = {}
        for number in range(self.n_shards):
            if self.path(number).is_file():
                shard = self.shard(number)
                found |= {(number, slot): shard.chunk(slot) for slot in shard.present}
        return found


# ------------------------------------------------------------------ strings


def read_strings(data):
    """Decode a chunk of the codec ``vlen-utf8``: how many, then length and bytes of each."""
    count, at, found = struct.unpack_from("<I", data)[0], 4, []
    for _ in range(count):
        length = struct.unpack_from("<I", data, at)[0]
        found.append(data[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return found, data[at:]


def strings(values):
    """Encode a chunk of the codec ``vlen-utf8``."""
    parts = [struct.pack("<I", len(values))]
    for value in values:
        parts += [struct.pack("<I", len(value.encode())), value.encode()]
    return b"".join(parts)


# ------------------------------------------------------------------ metadata


def read_root(store):
    return json.loads((store / "zarr.json").read_bytes())


def relied_upon(document):
    """Return what the crc32c of a root covers: our attribute, `coordinates`, all metadata."""
    ours = {k: v for k, v in document["attributes"]["idfzarr"].items() if k != "metadata_crc32c"}
    covered = [
        ours,
        document["attributes"].get("coordinates"),
        document["consolidated_metadata"]["metadata"],
    ]
    return json.dumps(covered, sort_keys=True, separators=(",", ":")).encode()


def seal_root(document):
    """Return a root's bytes, its crc32c made right."""
    crc = f"{crc32c(relied_upon(document)):08x}"
    document["attributes"]["idfzarr"]["metadata_crc32c"] = crc
    return as_json(document)


def as_json(document):
    return (json.dumps(document, indent=2) + "\n").encode()


def ledger_of(store):
    return store.with_name(store.name + ".ledger")


def root_copies(store):
    return sorted(ledger_of(store).glob("root-*.json"))


def nodes(store):
    """Return the paths of arrays, by the consolidated metadata, and their metadata."""
    found = read_root(store)["consolidated_metadata"]["metadata"]
    return {path: node for path, node in found.items() if node["node_type"] == "array"}


# ------------------------------------------------------------------ the ledger


def ledger_files(store):
    return sorted(ledger_of(store).glob("*.jsonl"))


def ledger_line(document):
    """Return a record as a line with its crc32c."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return f'{text[:-1]},"line_crc32c":"{crc32c(text.encode()):08x}"}}\n'.encode()


def ledger_records(store):
    """Return all records of a ledger, in the order of their time."""
    found = []
    for path in ledger_files(store):
        for line in path.read_bytes().splitlines(keepends=True):
            document = json.loads(line)
            document.pop("line_crc32c")
            assert ledger_line(document) == line
            found.append(document)
    return sorted(found, key=lambda r: (r["t"], r["writer"], r["n"]))


# ------------------------------------------------------------------ trees


def tree_of(folder):
    """Return every entry below a folder: what it is, mode, time of change, bytes or target."""
    told = os.lstat(folder)
    found, waiting = {".": (told.st_mode, told.st_mtime_ns, None)}, [os.fspath(folder)]
    cut = len(waiting[0]) + 1
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                told, held = entry.stat(follow_symlinks=False), None
                if entry.is_symlink():
                    held = os.readlink(entry.path)  # noqa: PTH115 - it is called very often
                elif entry.is_dir():
                    waiting.append(entry.path)
                elif stat.S_ISREG(told.st_mode):
                    held = read_all(entry.path) if told.st_size < 1 << 30 else told.st_size
                found[entry.path[cut:]] = (told.st_mode, told.st_mtime_ns, held)
    return found


def read_all(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, os.fstat(handle).st_size)
    finally:
        os.close(handle)
