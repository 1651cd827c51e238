"""The store of skycells: written whole or not at all, read by others, damage found."""

from __future__ import annotations

import io
import json
import multiprocessing as mp
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr
from astropy.io import fits

from idfzarr.errors import (
    ChunkCorrupt,
    ForeignStore,
    FormatVersionError,
    ImageUnreadable,
    MetadataCorrupt,
    ShardCorrupt,
    StorageFull,
    StoreExists,
    StoreMissing,
    UnknownName,
    UsageError,
)
from idfzarr.ps1 import sky_partial
from idfzarr.ps1.headers import read_image_cards
from idfzarr.ps1.skystore import SkycellStore, create_skystore, is_skystore
from idfzarr.testing.ps1_files import file_bytes
from idfzarr.testing.ps1_sky import PS1Sky

NAME = "skycell.1405.053"
GROUP = f"1405/{NAME}"
KINDS = {"image": "i", "mask": "i_mask", "weight": "i_wt"}


@pytest.fixture(scope="session")
def served() -> dict[str, SimpleNamespace]:
    """Return what the archive serves of one skycell in one band, by kind."""
    sky = PS1Sky(seed=3, size=(640, 530), around=(332.0, 2.0))
    found = {}
    for kind in KINDS:
        data = file_bytes(sky, NAME, "i", kind)
        cards = read_image_cards(io.BytesIO(data))
        with fits.open(io.BytesIO(data), do_not_scale_image_data=True) as opened:
            pixels = np.array(opened[1].data)
        if kind == "mask":
            pixels = pixels.astype(np.int16).view(np.uint16) ^ np.uint16(0x8000)
        found[kind] = SimpleNamespace(
            pixels=pixels, cards=cards.image, primary=cards.primary, data=data
        )
    assert found["image"].pixels.shape == (530, 640)
    return found


def put(store: SkycellStore, served, kind: str = "image", name: str = NAME, **more):
    one = served[kind]
    told = {"cards": one.cards, "primary_cards": one.primary} | more
    return store.write(name, "i", kind, told.pop("pixels", one.pixels), **told)


def members(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.fixture
def filled(tmp_path: Path, served) -> SkycellStore:
    store = create_skystore(tmp_path / "skycells.zarr")
    for kind in KINDS:
        assert put(store, served, kind, provenance={"source": "local", "size": 3})
    return store


def test_what_was_served_is_kept_bit_for_bit(filled, served):
    assert [str(a) for a in filled.arrays()] == [f"{NAME} {n}" for n in ("i", "i_mask", "i_wt")]
    for kind in KINDS:
        pixels = filled.read(NAME, "i", kind)
        assert pixels.dtype == served[kind].pixels.dtype.newbyteorder("=")
        np.testing.assert_array_equal(pixels, served[kind].pixels)
        told = filled.attributes("1405.053", "i", kind)
        assert tuple(told["header"]) == served[kind].cards
        assert tuple(told["primary_header"]) == served[kind].primary
        assert told["provenance"] == {"source": "local", "size": 3}
        assert filled.has(NAME, "i", kind, verify=True)
        assert filled.shape(NAME, "i", kind) == (530, 640)
    scale = filled.attributes(NAME, "i", "image")["scale"]
    header = fits.Header.fromstring("".join(served["image"].cards))
    assert {"BSCALE", "BZERO", "BSOFTEN", "BOFFSET", "EXPTIME"} <= set(scale)
    for card in ("BSCALE", "BZERO", "BSOFTEN", "BOFFSET", "EXPTIME"):
        assert scale[card] == header[card]
    assert scale["BLANK"] == 32767
    assert filled.attributes(NAME, "i", "weight")["scale"]["BSOFTEN"] != scale["BSOFTEN"]


def test_other_programs_read_it(filled, served):
    path = f"{filled.url}/{GROUP}"
    for kind, called in KINDS.items():
        array = zarr.open_array(f"{path}/{called}", mode="r")
        np.testing.assert_array_equal(array[...], served[kind].pixels)
        assert array.metadata.dimension_names == ("y", "x")
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/{called}"}}
        theirs = tensorstore.open(spec, read=True).result()
        np.testing.assert_array_equal(theirs[3:500, 500:].read().result(), array[3:500, 500:])
    assert array.fill_value == 32767
    group = zarr.open_group(filled.url, mode="r")
    assert sorted(group[GROUP].array_keys()) == ["i", "i_mask", "i_wt"]


def test_plain_xarray_makes_asinh_values_of_the_integers(filled, served):
    plain = xr.open_zarr(f"{filled.url}/{GROUP}", consolidated=False, chunks=None)
    with fits.open(io.BytesIO(served["image"].data)) as opened:
        asinh = opened[1].data  # astropy applies BSCALE, BZERO and BLANK
    assert np.isnan(asinh).any()
    # astropy scales in single precision, where values near zero are differences of large ones
    np.testing.assert_allclose(plain["i"].values, asinh, rtol=1e-6, atol=5e-7)
    assert plain["i_mask"].attrs["flag_meanings"].split()[0] == "detector"
    assert plain["i_mask"].dtype == np.uint16


def test_one_file_for_the_pixels_of_an_array(filled, tree):
    files = sorted(tree(Path(filled.url)))
    arrays = [f"{GROUP}/{a}/{f}" for a in KINDS.values() for f in ("c/0/0", "zarr.json")]
    assert files == sorted(["zarr.json", "1405/zarr.json", f"{GROUP}/zarr.json", *arrays])


def test_windows(filled, served):
    window = (slice(500, 530), slice(400, 613))
    np.testing.assert_array_equal(
        filled.read(NAME, "i", "image", window), served["image"].pixels[window]
    )
    with pytest.raises(UsageError, match="does not fit"):
        filled.read(NAME, "i", "image", (slice(0, 531), slice(0, 5)))


def test_what_is_not_there(filled):
    assert not filled.has(NAME, "g", "image")
    assert not filled.has("1405.054", "i", "image", verify=True)
    with pytest.raises(UnknownName, match=r"there is no skycell\.1405\.053 g_wt in .* fetch it"):
        filled.read(NAME, "g", "weight")
    with pytest.raises(UsageError, match="no band 'w'"):
        filled.has(NAME, "w", "image")
    with pytest.raises(UsageError, match="no name of a skycell"):
        filled.has("../../etc", "i", "image")


def test_a_second_write_leaves_the_first_unless_it_is_to_replace_it(filled, served, tree):
    before = tree(Path(filled.url))
    other = served["image"].pixels[::-1]
    assert put(filled, served, pixels=other) is False
    assert tree(Path(filled.url)) == before
    assert put(filled, served, pixels=other, replace=True) is True
    np.testing.assert_array_equal(filled.read(NAME, "i", "image"), other)
    assert sorted(tree(Path(filled.url))) == sorted(before)


def test_reading_is_refused_to_write(filled, served):
    reading = SkycellStore(filled.url)
    with pytest.raises(UsageError, match="open for reading"):
        put(reading, served)
    with pytest.raises(UsageError, match="open for reading"):
        reading.remove_abandoned()
    with pytest.raises(UsageError, match="not 'w'"):
        SkycellStore(filled.url, "w")


@pytest.mark.parametrize(
    ("kind", "change", "error", "match"),
    [
        ("image", {"pixels": np.zeros((5, 5), np.int32)}, UsageError, "int16 or float32"),
        ("mask", {"pixels": np.zeros((5, 5), np.int16)}, UsageError, "is uint16"),
        ("image", {"pixels": np.zeros(5, np.int16)}, UsageError, "two axes"),
        ("image", {"pixels": np.zeros((0, 5), np.int16)}, UsageError, "two axes"),
        ("image", {"cards": ["x" * 81]}, ImageUnreadable, "card that is none"),
        ("image", {"cards": ["BSOFTEN = 3.0"]}, ImageUnreadable, "no BOFFSET"),
        ("image", {"provenance": {"t": float("nan")}}, UsageError, "JSON"),
        ("image", {"provenance": {"t": object()}}, UsageError, "JSON"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, served, tree, kind, change, error, match):
    store = create_skystore(tmp_path / "s.zarr")
    with pytest.raises(error, match=match):
        put(store, served, kind, **change)
    assert list(tree(tmp_path / "s.zarr")) == ["zarr.json"]


def test_floats_whose_integers_are_lost_are_kept_and_not_scaled_again(filled, served):
    asinh = np.random.default_rng(1).normal(0, 1, (530, 640)).astype(np.float32)
    asinh[:3] = np.nan
    one = served["image"]
    filled.write(NAME, "g", "image", asinh, cards=one.cards)
    np.testing.assert_array_equal(filled.read(NAME, "g", "image"), asinh)
    scale = filled.attributes(NAME, "g", "image")["scale"]
    assert (scale["BSCALE"], scale["BZERO"]) == (1.0, 0.0)
    assert scale["BSOFTEN"] > 0


def _write(url: str, served, gate, results) -> None:
    store = SkycellStore(url, "r+")
    gate.wait(30)
    results.put([put(store, served, kind) for kind in KINDS])


def test_of_many_writers_one_wins_and_the_others_leave_nothing(tmp_path, served, tree):
    context = mp.get_context("fork")
    url = str(tmp_path / "s.zarr")
    create_skystore(url)
    gate, results = context.Barrier(6), context.Queue()
    writers = [context.Process(target=_write, args=(url, served, gate, results)) for _ in range(6)]
    for writer in writers:
        writer.start()
    won = [results.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join()
    assert [sum(column) for column in zip(*won, strict=True)] == [1, 1, 1]
    store = SkycellStore(url)
    assert all(store.has(NAME, "i", kind, verify=True) for kind in KINDS)
    assert len(tree(Path(url))) == 9
    assert members(f"{url}/{GROUP}") == ["i", "i_mask", "i_wt", "zarr.json"]


def _create(url: str, gate, results) -> None:
    gate.wait(30)
    results.put(create_skystore(url, exist_ok=True).uuid)


def test_many_may_create_a_store_at_once(tmp_path):
    context = mp.get_context("fork")
    url = str(tmp_path / "below" / "s.zarr")
    gate, results = context.Barrier(6), context.Queue()
    makers = [context.Process(target=_create, args=(url, gate, results)) for _ in range(6)]
    for maker in makers:
        maker.start()
    uuids = {results.get(timeout=60) for _ in makers}
    for maker in makers:
        maker.join()
    assert uuids == {SkycellStore(url).uuid}
    assert members(url) == ["zarr.json"]


def test_a_root_that_is_coming_is_no_foreign_file(tmp_path):
    url = tmp_path / "s.zarr"
    url.mkdir()
    coming = url / "zarr.json.0123.idfzarr.partial"
    coming.write_bytes(b"{")
    assert not is_skystore(url)
    with pytest.raises(StoreMissing, match="no store of skycells"):
        SkycellStore(url)
    store = create_skystore(url)
    assert SkycellStore(url).uuid == store.uuid
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "zarr.json.notes").write_bytes(b"{")
    with pytest.raises(ForeignStore, match="holds files and no store"):
        create_skystore(tmp_path / "other")


@pytest.mark.parametrize("is_made", [True, False], ids=["made meanwhile", "lost"])
def test_a_coming_root_may_be_cleared_by_whoever_made_the_store(tmp_path, monkeypatch, is_made):
    url, made, link = tmp_path / "s.zarr", [], os.link

    def late(partial, target):
        monkeypatch.setattr(os, "link", link)
        Path(partial).unlink()
        if is_made:
            made.append(create_skystore(url).uuid)
        link(partial, target)

    monkeypatch.setattr(os, "link", late)
    if is_made:
        assert create_skystore(url, exist_ok=True).uuid == made[0]
        assert members(url) == ["zarr.json"]
    else:
        with pytest.raises(FileNotFoundError, match=r"zarr\.json"):
            create_skystore(url, exist_ok=True)


def _write_slowly(url: str, served, ready) -> None:
    def pieces():
        yield b"x" * 1000
        ready.set()
        time.sleep(60)

    sky_partial.place_folder(
        SkycellStore(url, "r+").place, f"{GROUP}/g", pieces(), lambda size: b"{}"
    )


def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(filled, served):
    context = mp.get_context("fork")
    ready = context.Event()
    writer = context.Process(target=_write_slowly, args=(filled.url, served, ready))
    writer.start()
    assert ready.wait(30)
    group = Path(filled.url, GROUP)
    (partial,) = group.glob("g.*.partial")
    own = group / "i.mine.partial"  # not named as ours are
    own.mkdir()
    assert filled.remove_abandoned() == []
    assert partial.is_dir()
    assert not filled.has(NAME, "g", "image")
    assert {a.band for a in filled.arrays()} == {"i"}
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert filled.remove_abandoned() == [str(partial)]
    assert not partial.exists()
    assert own.is_dir()
    assert put(filled, served) is False


def test_an_empty_partial_folder_is_removed(filled):
    for number, inner in enumerate(["", "c", "c/0"]):
        Path(filled.url, GROUP, f"z.{number:032x}.partial", inner).mkdir(parents=True)
    assert len(filled.remove_abandoned()) == 3


def _write_many(url: str, served) -> None:
    store = SkycellStore(url, "r+")
    for cell in range(100):
        for kind in KINDS:
            put(store, served, kind, name=f"skycell.1405.{cell:03d}")


def test_killed_anywhere_every_array_is_whole_or_not_there(tmp_path, served):
    context = mp.get_context("fork")
    rng = np.random.default_rng(5)
    url = str(tmp_path / "s.zarr")
    store = create_skystore(url)
    for attempt in range(60):
        if attempt >= 12 and store.arrays():
            break
        writer = context.Process(target=_write_many, args=(url, served))
        writer.start()
        time.sleep(float(rng.uniform(0.02, 0.25)) * (1 + attempt // 12))  # of a slow machine more
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        for array in store.arrays():
            assert store.has(array.name, array.band, array.kind, verify=True)
    assert store.arrays()
    store.remove_abandoned()
    left = [p for p in Path(url).rglob("*") if ".partial" in p.name]
    assert left == []


def test_a_full_disk_leaves_nothing(filled, served, monkeypatch):
    def full(handle, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sky_partial, "write_all", full)
    with pytest.raises(StorageFull, match="free some space"):
        filled.write(NAME, "g", "image", served["image"].pixels, cards=served["image"].cards)
    assert members(f"{filled.url}/{GROUP}") == ["i", "i_mask", "i_wt", "zarr.json"]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_damaged_chunk_spoils_its_windows_only(filled):
    flip(Path(filled.url, GROUP, "i", "c/0/0"), 100)
    with pytest.raises(ChunkCorrupt, match=r"chunk 0 of .*/i/c/0/0 is damaged"):
        filled.read(NAME, "i", "image")
    assert filled.read(NAME, "i", "image", (slice(0, 9), slice(512, 600))).shape == (9, 88)
    assert filled.has(NAME, "i", "image")
    assert not filled.has(NAME, "i", "image", verify=True)


def test_a_damaged_index_a_cut_shard_and_one_of_another_array(filled, served):
    shard = Path(filled.url, GROUP, "i", "c/0/0")
    whole = shard.read_bytes()
    flip(shard, len(whole) - 20)
    with pytest.raises(ShardCorrupt, match="index"):
        filled.read(NAME, "i", "image")
    for size in (0, 10, len(whole) - 1):
        shard.write_bytes(whole[:size])
        assert not filled.has(NAME, "i", "image")
        with pytest.raises(ShardCorrupt, match=r"repair the store"):
            filled.read(NAME, "i", "image")
    shard.write_bytes(Path(filled.url, GROUP, "i_wt", "c/0/0").read_bytes())
    with pytest.raises(ShardCorrupt, match="not the shard that belongs to its metadata"):
        filled.read(NAME, "i", "image")
    shard.unlink()
    with pytest.raises(ShardCorrupt, match="cut off"):
        filled.read(NAME, "i", "image")
    with pytest.raises(StoreExists, match="is there and damaged"):
        put(filled, served)
    assert put(filled, served, replace=True)
    assert filled.has(NAME, "i", "image", verify=True)


def test_a_changed_scaling_is_found_and_attributes_of_users_are_not_minded(filled):
    path = Path(filled.url, GROUP, "i", "zarr.json")
    text = path.read_text()
    array = zarr.open_array(path.parent, mode="r+")
    array.attrs["mine"] = 1
    assert filled.attributes(NAME, "i", "image")["mine"] == 1
    told = json.loads(text)
    told["attributes"]["scale"]["BSOFTEN"] *= 2
    path.write_text(json.dumps(told))
    with pytest.raises(MetadataCorrupt, match="does not match its own crc32c"):
        filled.attributes(NAME, "i", "image")
    assert not filled.has(NAME, "i", "image")


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"attributes": 3}', "\xff"])
def test_hostile_metadata_is_an_error_of_ours(filled, text):
    Path(filled.url, GROUP, "i", "zarr.json").write_text(text, encoding="latin-1")
    with pytest.raises(MetadataCorrupt, match="repair the store"):
        filled.read(NAME, "i", "image")


def test_an_array_moved_to_another_name_is_not_taken_for_it(filled):
    group = Path(filled.url, GROUP)
    shutil.copytree(group / "i", group / "g")
    with pytest.raises(MetadataCorrupt, match=r"is that of skycell\.1405\.053 i image, not of"):
        filled.read(NAME, "g", "image")


def test_stores_that_are_none(tmp_path, filled):
    with pytest.raises(StoreMissing, match="no store of skycells at"):
        SkycellStore(tmp_path / "nothing")
    other = tmp_path / "other.zarr"
    zarr.create_group(other)
    with pytest.raises(ForeignStore, match="no attribute 'idfzarr_ps1'"):
        SkycellStore(other)
    with pytest.raises(ForeignStore, match="no attribute"):
        create_skystore(other)
    with pytest.raises(StoreExists, match="already"):
        create_skystore(filled.url)
    assert create_skystore(filled.url, exist_ok=True).uuid == filled.uuid
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("a")
    with pytest.raises(ForeignStore, match="holds files and no store"):
        create_skystore(tmp_path / "files")
    assert is_skystore(filled.url)
    assert not is_skystore(other)
    root = Path(filled.url, "zarr.json")
    told = json.loads(root.read_text())
    told["attributes"]["idfzarr_ps1"]["format"] = 99
    root.write_text(json.dumps(told))
    with pytest.raises(FormatVersionError, match="has format 99"):
        SkycellStore(filled.url)


def test_arrays_by_glob_and_nothing_that_is_none(filled, served):
    put(filled, served, name="skycell.0635.000")
    group = Path(filled.url, GROUP)
    shutil.copytree(group / "i", group / "i_temp_1")
    (group / "z").mkdir()  # no metadata: a folder somebody made
    Path(filled.url, "1405", "skycell.1406.053", "i").mkdir(parents=True)
    names = [a.name for a in filled.arrays()]
    assert names == ["skycell.0635.000", NAME, NAME, NAME]
    assert {a.name for a in filled.arrays("skycell.06*")} == {"skycell.0635.000"}
    assert filled.arrays("nothing") == []


def test_object_storage(served):
    url = "memory://ps1/s.zarr"
    store = create_skystore(url)
    try:
        assert put(store, served)
        assert put(store, served) is False
        np.testing.assert_array_equal(
            SkycellStore(url).read(NAME, "i", "image"), served["image"].pixels
        )
        assert [str(a) for a in SkycellStore(url).arrays()] == [f"{NAME} i"]
        assert store.has(NAME, "i", "image", verify=True)
        assert store.remove_abandoned() == []
    finally:
        fsspec.filesystem("memory").rm("/ps1", recursive=True)


def test_no_larger_than_what_is_served(tmp_path):
    sky = PS1Sky(seed=4, size=(1536, 1536), around=(332.0, 2.0))
    data = file_bytes(sky, NAME, "i", "image")
    with fits.open(io.BytesIO(data), do_not_scale_image_data=True) as opened:
        pixels = np.array(opened[1].data)
    store = create_skystore(tmp_path / "s.zarr")
    cards = read_image_cards(io.BytesIO(data))
    store.write(NAME, "i", "image", pixels, cards=cards.image, primary_cards=cards.primary)
    files = [p for p in (tmp_path / "s.zarr" / GROUP / "i").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 1.05 * len(data)
