"""Indexes of shards, judged against a slow and simple judge of their own."""

from __future__ import annotations

import os
import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_cube import copy_to, flip, make_cube

from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.shard_index import IndexForm, ShardFile, judge_index, read_indexes
from idfzarr.store.place import place_of

ABSENT = 2**64 - 1
SHARDS = [f"lightcurves/c/{k}/0/0/0" for k in range(3)]


def index_of(entries):
    plain = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    return np.frombuffer(plain + struct.pack("<I", google_crc32c.value(plain)), dtype=np.uint8)


def slow_judge(entries, size, form, n_expected):
    """Say what is missing and what is wrong, entry by entry and pair by pair."""
    top = size - (16 * len(entries) + 4)
    missing = {k for k, e in enumerate(entries) if e == (ABSENT, ABSENT) and k < n_expected}
    wrong, inside = set(), []
    for k, (offset, length) in enumerate(entries):
        if (offset, length) == (ABSENT, ABSENT):
            continue
        if ABSENT in {offset, length} or offset + length > top:
            wrong.add(k)
            continue
        inside.append((k, offset, offset + length))
        if not form.shortest <= length <= form.longest:
            wrong.add(k)
    for k, a, b in inside:
        for j, c, d in inside:
            if k != j and max(a, c) < min(b, d):
                wrong |= {k, j}
    return missing, wrong


def whole(n, length, first=0):
    return [(first + k * length, length) for k in range(n)]


numbers = st.one_of(
    st.integers(0, 400), st.sampled_from([ABSENT, ABSENT - 1, 2**63, 2**63 - 1, 2**32])
)
lawless = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=9)
mended = st.builds(
    lambda n, length, changes: [changes.get(k, entry) for k, entry in enumerate(whole(n, length))],
    st.integers(1, 9),
    st.integers(20, 40),
    st.dictionaries(
        st.integers(0, 8), st.one_of(st.just((ABSENT, ABSENT)), st.tuples(numbers, numbers))
    ),
)


@given(st.one_of(lawless, mended), st.integers(0, 400), st.integers(0, 9))
def test_it_judges_as_a_slow_judge_does(entries, payload, n_expected):
    n_expected = min(n_expected, len(entries))
    form = IndexForm(len(entries), 20, 60)
    size = payload + form.n_bytes
    seen = judge_index(index_of(entries), size, form, n_expected=n_expected)
    missing, wrong = slow_judge(entries, size, form, n_expected)
    assert (set(seen.missing), set(seen.wrong)) == (missing, wrong)
    assert seen.problem == ("wrong" if wrong else "")
    assert bool(seen.told) == bool(wrong)
    assert seen.n_present == n_expected - len(missing | {k for k in wrong if k < n_expected})


@pytest.mark.parametrize("n_expected", [0, 5, 8])
def test_what_we_write_is_whole(n_expected):
    entries = whole(n_expected, 30) + [(ABSENT, ABSENT)] * (8 - n_expected)
    form = IndexForm(8, 20, 60)
    seen = judge_index(index_of(entries), 240 + form.n_bytes, form, n_expected=n_expected)
    assert seen.is_whole
    assert seen.n_present == n_expected


def test_every_flipped_bit_of_an_index_is_seen():
    form = IndexForm(6, 20, 60)
    data = bytearray(index_of(whole(6, 30)).tobytes())
    for at in range(8 * len(data)):
        data[at // 8] ^= 1 << at % 8
        seen = judge_index(
            np.frombuffer(bytes(data), np.uint8), 180 + form.n_bytes, form, n_expected=6
        )
        assert seen.problem == "crc", at
        data[at // 8] ^= 1 << at % 8


def test_lengths_follow_from_the_codec():
    plain = IndexForm.of_cube(4, 960, "none")
    assert (plain.shortest, plain.longest) == (964, 964)
    packed = IndexForm.of_cube(4, 960, "lz4")
    assert (packed.shortest, packed.longest) == (20, 980)
    assert IndexForm.of_cube(4, 960, None).longest > 2**60


@pytest.fixture
def cube(tmp_path):
    make_cube(tmp_path / "f.zarr")
    return tmp_path / "f.zarr"


def files_of(store, keys=SHARDS):
    sizes = dict(zip(SHARDS, (12, 12, 9), strict=True))
    return [ShardFile(key, sizes[key], os.lstat(store / key).st_ino) for key in keys]


FORM = IndexForm.of_cube(12, 3 * 32 * 4, "lz4")


def test_files_are_read_alike_by_any_number_of_workers(cube):
    flip(cube / SHARDS[1], -9)
    place = ReadOnlyPlace(place_of(cube))
    for workers in (1, 2, 5):
        seen = read_indexes(place, files_of(cube), FORM, workers=workers)
        assert [one.problem for one in seen] == ["", "crc", ""]
        assert [one.n_present for one in seen] == [12, 0, 9]
        assert [one.size for one in seen] == [(cube / key).stat().st_size for key in SHARDS]
    assert place.counter.n_read == 3 * 3 * FORM.n_bytes


def test_what_is_cut_or_gone_is_told(cube):
    files = files_of(cube)
    os.truncate(cube / SHARDS[0], FORM.n_bytes - 1)
    (cube / SHARDS[1]).unlink()
    os.truncate(cube / SHARDS[2], 0)
    seen = read_indexes(ReadOnlyPlace(place_of(cube)), files, FORM)
    assert [one.problem for one in seen] == ["torn", "vanished", "torn"]
    assert str(FORM.n_bytes) in seen[0].told


def test_a_file_that_was_replaced_is_read_and_a_link_is_not(cube, tmp_path):
    files = files_of(cube)
    other = tmp_path / "other"
    other.write_bytes((cube / SHARDS[0]).read_bytes())
    other.replace(cube / SHARDS[0])
    (tmp_path / "outside").write_bytes((cube / SHARDS[1]).read_bytes())
    (cube / SHARDS[1]).unlink()
    (cube / SHARDS[1]).symlink_to(tmp_path / "outside")
    folder = (cube / SHARDS[2]).parents[1]
    folder.rename(tmp_path / "folder")
    folder.symlink_to(tmp_path / "folder")  # the same inode, and yet somewhere else by now
    files[2] = ShardFile(files[2].key, 9, files[2].inode + 1)
    seen = read_indexes(ReadOnlyPlace(place_of(cube)), files, FORM)
    assert seen[0].is_whole
    assert seen[1].problem == "unreadable"
    assert seen[2].problem in {"unreadable", "vanished"}


def test_a_pipe_is_not_waited_for(cube):
    (cube / SHARDS[0]).unlink()
    os.mkfifo(cube / SHARDS[0])
    seen = read_indexes(ReadOnlyPlace(place_of(cube)), files_of(cube), FORM)
    assert [one.problem for one in seen] == ["unreadable", "", ""]


def test_object_storage_says_the_same(cube, tmp_path):
    flip(cube / SHARDS[1], -30)
    os.truncate(cube / SHARDS[2], 50)
    url = copy_to(cube, f"memory://{tmp_path.name}/f.zarr")
    local = read_indexes(ReadOnlyPlace(place_of(cube)), files_of(cube), FORM)
    remote = read_indexes(ReadOnlyPlace(place_of(url)), files_of(cube), FORM)
    assert [one.problem for one in local] == ["", "crc", "torn"]
    assert [vars(one) for one in remote] == [vars(one) for one in local]


def test_an_absurd_index_is_not_read(cube):
    with pytest.raises(ValueError, match="more than 67108864 and is not read"):
        read_indexes(ReadOnlyPlace(place_of(cube)), files_of(cube), IndexForm(1 << 23))
