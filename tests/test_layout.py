from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import ShardCut, UsageError
from idfzarr.store.layout import Layout, capacity_for

layouts = st.builds(
    lambda n, t, a, room, s: Layout(n, t, a, max(a + room, 1), s),
    st.integers(0, 400),
    st.integers(1, 50),
    st.integers(0, 300),
    st.integers(0, 40),
    st.integers(1, 130),
)


@given(st.integers(0, 100_000))
def test_capacity_leaves_room_and_is_a_multiple_of_sixteen(n):
    capacity = capacity_for(n)
    assert capacity % 16 == 0
    assert n + 16 <= capacity <= n * 33 / 32 + 33


@given(layouts)
def test_shards_cover_every_row_once(layout):
    rows = [r for k in range(layout.n_shards) for r in range(*layout.rows(k))]
    assert rows == list(range(layout.n_objects))
    assert all(layout.rows(layout.shard_of(r))[0] <= r for r in rows)


@given(layouts.filter(lambda layout: layout.n_objects > 0))
def test_slots_of_a_shard_are_its_chunks_in_c_order(layout):
    first, last = layout.rows(layout.n_shards - 1)
    slots = [layout.slot(r, c) for r in range(first, last) for c in range(layout.n_types)]
    assert slots == list(range((last - first) * layout.n_types))
    assert max(slots) < layout.chunks_per_shard


@given(layouts.filter(lambda layout: layout.n_objects > 0), st.data())
def test_a_region_is_whole_shards_or_is_refused_with_ones_that_would_do(layout, data):
    first = data.draw(st.integers(0, layout.n_objects - 1))
    count = data.draw(st.integers(1, layout.n_objects - first))
    last, step = first + count, layout.shard_objects
    whole = first % step == 0 and (last % step == 0 or last == layout.n_objects)
    if whole:
        shards = layout.shards_of_region(first, count)
        assert [r for k in shards for r in range(*layout.rows(k))] == list(range(first, last))
        return
    with pytest.raises(ShardCut, match="cut a shard of") as caught:
        layout.shards_of_region(first, count)
    offers = str(caught.value).split("write ")[1].split(" or ")
    assert offers
    for offer in offers:
        begin, end = (int(n) for n in offer.removeprefix("rows ").split(" to "))
        assert len(layout.shards_of_region(begin, end - begin)) > 0


def test_the_sentence_of_a_cut_names_the_regions_that_would_do():
    layout = Layout(300, 2, 5, 16, 128)
    with pytest.raises(ShardCut, match="write rows 0 to 256 or rows 128 to 256"):
        layout.shards_of_region(10, 246)
    with pytest.raises(ShardCut, match=r"write rows 128 to 256$"):
        layout.shards_of_region(130, 20)
    assert list(layout.shards_of_region(256, 44)) == [2]


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 0), (-1, 1), (0, 301), (300, 1)],
    ids=["none", "before", "long", "after"],
)
def test_a_region_outside_the_cube_is_refused(first, count):
    with pytest.raises(UsageError, match="not in the cube, which has rows 0 to 300"):
        Layout(300, 2, 5, 16, 128).shards_of_region(first, count)


def test_keys_and_shapes_are_those_of_the_design():
    layout = Layout(50_000, 40, 1200, capacity_for(1200))
    assert layout.key(7) == "lightcurves/c/7/0/0/0"
    assert layout.chunk_shape == (1, 1, 3, 1248)
    assert layout.shard_shape == (128, 40, 3, 1248)
    assert layout.shape == (50_000, 40, 3, 1200)
    assert layout.n_shards == 391
    assert layout.rows(390) == (49_920, 50_000)
    with pytest.raises(UsageError, match="there is no shard 391"):
        layout.rows(391)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ((1, 0, 1, 16, 1), "need at least one"),
        ((1, 1, 17, 16, 1), "does not hold 17 AORs; 48 would"),
        ((-1, 1, 1, 16, 1), "cannot be"),
        ((1, 1, 1, 2**40, 1), "more than this package handles"),
        ((1, 2**20, 1, 16, 2**20), "more than this package handles"),
    ],
)
def test_absurd_layouts_are_refused(sizes, reason):
    with pytest.raises(UsageError, match=reason):
        Layout(*sizes)
