"""What lies in a store, put down as what it is, without a link followed or a file opened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_cube import copy_to, make_cube, without_rights

from idfzarr.care import walking
from idfzarr.care.listing import Grid, list_store
from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.walking import Sort, walk
from idfzarr.errors import UsageError
from idfzarr.store.place import place_of


@pytest.fixture
def store(tmp_path):
    make_cube(tmp_path / "f.zarr")
    return tmp_path / "f.zarr"


def nodes_of(store):
    root = json.loads((store / "zarr.json").read_bytes())
    return root["consolidated_metadata"]["metadata"]


def listed(store):
    return list_store(ReadOnlyPlace(place_of(store)), nodes_of(store))


def files_below(folder):
    return [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()]


def test_every_file_belongs_to_somebody(store):
    listing = listed(store)
    files = files_below(store)
    assert listing.n_files == len(files) > 40
    assert listing.n_bytes == sum(p.stat().st_size for p in files)
    assert sum(tally.n_files for tally in listing.owned.values()) == listing.n_files
    assert sum(tally.n_bytes for tally in listing.owned.values()) == listing.n_bytes
    assert list(listing.strays()) == []
    numbers, sizes, _ = listing.chunks["lightcurves"].in_order()
    assert numbers.tolist() == [0, 1, 2]
    wanted = [(store / f"lightcurves/c/{k}/0/0/0").stat().st_size for k in range(3)]
    assert sizes.tolist() == wanted
    assert listing.metadata.keys() == nodes_of(store).keys() | {""}


@given(st.lists(st.integers(0, 5), max_size=4), st.data())
def test_keys_and_numbers_of_chunks_go_together(counts, data):
    grid = Grid("a/b", tuple(counts))
    for number in range(grid.n_chunks):
        assert grid.place(grid.key(number).removeprefix("a/b/")) == number
    at = data.draw(st.tuples(*[st.integers(0, 9)] * len(counts)))
    number = grid.place("/".join(["c", *map(str, at)]))
    inside = all(i < n for i, n in zip(at, counts, strict=True))
    assert (number >= 0) == inside


@pytest.mark.parametrize(
    "inner",
    ["c/00/0", "c/-1/0", "c/+1/0", "c/ 1/0", "c/\u0661/0", "c/1e3/0", "c/0", "c/0/0/0", "c",
     "0/0", "c/0/", "c//0", "C/0/0", "c/0x1/0", "c/" + "9" * 30 + "/0", "zarr.json"],
)  # fmt: skip
def test_a_chunk_has_one_spelling(inner):
    assert Grid("a", (3, 3)).place(inner) is None


def test_what_belongs_to_nobody_is_put_down_once(store):
    put(store / "notes.txt", b"12345")
    put(store / "ra/c/notes", b"1")
    put(store / "lightcurves/c/00/0/0/0", b"1")
    put(store / "lightcurves/c/3/0/0/0", b"123")
    put(store / "lightcurves/c/0/0/0/1", b"123")
    put(store / "strange/a/c/0", b"12")
    put(store / "strange/zarr.json", b"{}")
    put(store / "staging/c/0/0/0/0", b"1234")
    put(store / "staging/next/mjd/zarr.json", b"{}")
    put(store / "ra/c/0.77.idfzarr.partial", b"1")
    listing = listed(store)
    assert [(s.key, s.tally.n_files, s.tally.n_bytes) for s in listing.strays()] == [
        ("lightcurves/c/00/0/0/0", 1, 1),
        ("notes.txt", 1, 5),
        ("ra/c/notes", 1, 1),
        ("strange", 2, 4),
    ]
    outside = [(path, seen.key, seen.size) for path, seen in listing.outside]
    assert sorted(outside) == [
        ("lightcurves", "lightcurves/c/0/0/0/1", 3),
        ("lightcurves", "lightcurves/c/3/0/0/0", 3),
    ]
    assert (listing.staging.n_files, listing.staging.n_bytes) == (2, 6)
    assert listing.waiting == {"mjd"}
    assert [seen.key for seen in listing.partial] == ["ra/c/0.77.idfzarr.partial"]


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_links_are_seen_and_not_followed(store, tmp_path):
    put(tmp_path / "secret/file", b"1")
    n_files = listed(store).n_files
    for name, target in {"a": "..", "b": ".", "lightcurves/loop": "loop", "c": "/"}.items():
        (store / name).symlink_to(target)
    (store / "ra/c/0").unlink()
    (store / "ra/c/0").symlink_to(tmp_path / "secret/file")
    listing = listed(store)
    keys = ["a", "b", "c", "lightcurves/loop", "ra/c/0"]
    assert sorted(seen.key for seen in listing.links) == keys
    assert listing.n_files == n_files - 1
    assert listing.is_blocked("ra/c/0")
    assert listing.is_blocked("a/f.zarr/zarr.json")
    assert not listing.is_blocked("dec/c/0")
    assert not listing.is_blocked("ra")


def test_depth_is_bounded(store):
    try:
        here = os.open(store, os.O_RDONLY)
        for _ in range(1200):  # beyond what a path may have, too
            os.mkdir("deeper", dir_fd=here)
            there = os.open("deeper", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = there
        os.close(here)
        listing = listed(store)
        (deep,) = listing.deep
        assert deep.key.count("/") + 1 == walking.MOST_DEPTH
    finally:
        subprocess.run(["rm", "-rf", store / "deeper"], check=True)


def test_the_number_of_entries_is_bounded(store, monkeypatch):
    monkeypatch.setattr(walking, "MOST_ENTRIES", 50)
    listing = listed(store)
    assert listing.is_cut
    assert listing.is_blocked("lightcurves/c/0/0/0/0")


def test_pipes_and_sockets_are_no_files(store):
    os.mkfifo(store / "pipe")
    listing = listed(store)
    assert [seen.key for seen in listing.specials] == ["pipe"]


def test_what_may_not_be_read_is_told(store):
    (store / "ra/c/0").chmod(0)
    (store / "catalogue").chmod(0)
    try:
        with without_rights(store):
            listing = listed(store)
    finally:
        (store / "catalogue").chmod(0o755)
    assert sorted(seen.key for seen in listing.unreadable) == ["catalogue", "ra/c/0"]
    assert listing.is_blocked("catalogue/ra/zarr.json")
    assert "catalogue" not in listing.owned


def test_names_of_any_bytes(store):
    names = [b"\xff\xfe", b"new\nline", b"\x1b[2J", "\u202e".encode(), b" ", b"-rf"]
    for name in names:
        (store / os.fsdecode(name)).write_bytes(b"1")
    listing = listed(store)
    assert [s.key for s in listing.strays()] == sorted(os.fsdecode(name) for name in names)


def test_folders_that_vanish_are_no_trouble(store, monkeypatch):
    plain = os.open

    def opened(path, flags, *args, dir_fd=None):
        if path == "catalogue":
            shutil.rmtree(store / "catalogue")
        return plain(path, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", opened)
    listing = listed(store)
    assert "catalogue/ra" not in listing.owned
    assert listing.unreadable == []


def test_a_walk_sees_what_the_system_sees(store):
    place = ReadOnlyPlace(place_of(store))
    seen = {one.key: one for one in walk(place)}
    paths = {p.relative_to(store).as_posix(): p for p in files_below(store)}
    assert seen.keys() == paths.keys()
    for key, one in seen.items():
        status = paths[key].stat()
        assert one.sort is Sort.FILE
        assert (one.size, one.mtime_ns, one.inode) == (
            status.st_size, status.st_mtime_ns, status.st_ino,
        )  # fmt: skip
    inside = {one.key for one in walk(place, "catalogue")}
    assert inside == {key for key in paths if key.startswith("catalogue/")}
    assert list(place.keys("catalogue")) == sorted(inside)


def test_object_storage_is_listed_alike(store, tmp_path):
    put(store / "strange/c/0", b"12")
    url = copy_to(store, f"memory://{tmp_path.name}/f.zarr")
    here, there = listed(store), list_store(ReadOnlyPlace(place_of(url)), nodes_of(store))
    assert (there.n_files, there.n_bytes) == (here.n_files, here.n_bytes)
    assert [s.key for s in there.strays()] == [s.key for s in here.strays()] == ["strange/c/0"]
    assert there.chunks.keys() == here.chunks.keys()


def test_nothing_can_be_written(store):
    place = ReadOnlyPlace(place_of(store))
    for act in (lambda: place.write("a", b""), lambda: place.remove("zarr.json"),
                lambda: place.remove_tree("")):  # fmt: skip
        with pytest.raises(UsageError, match="an inventory changes nothing"):
            act()
    with pytest.raises(OSError, match="no key of a store"):
        place.read("../f.zarr/zarr.json")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        place.read("nowhere/c/0")
