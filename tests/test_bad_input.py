"""Bad input: one clear sentence that names the file, the right exit code, and nothing half-made."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from astropy.table import Table

from idfzarr.build.pipeline import build
from idfzarr.errors import SettingsDiffer, StorageFull, StoreMissing, UnfinishedStore
from idfzarr.flags import flag_bit
from idfzarr.store.cube import Cube, flags_of

TYPE = "ch1_aper2_original"
ONE = ("--channel", "ch1", "--types", TYPE, "--scheduler", "synchronous", "-q")


@pytest.fixture
def images(tiny_images, tmp_path):
    """Copy the mosaics of one channel and the AOR table."""
    folder = tmp_path / "images"
    shutil.copytree(tiny_images, folder, ignore=shutil.ignore_patterns("*_ch2_*", "truth*"))
    return folder


def name_of(images, number, kind="sci", channel="ch1"):
    return images / f"IDF_gr{number}_{channel}_{kind}.fits"


def change(path, function):
    """Rewrite the pixels of a FITS file."""
    with fits.open(path) as hdus:
        header, data = hdus[0].header, function(hdus[0].data.copy())
    fits.writeto(path, data, header, overwrite=True)


def said(ended, code, *words):
    """Hold a command that was refused: one sentence on stderr, no result on stdout."""
    assert ended.code == code, ended
    assert ended.out == ""
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("idfzarr: ")
    for word in words:
        assert str(word) in lines[0]


# ---------------------------------------------------------------- one mosaic is bad


def without_unc(images):
    name_of(images, 2, "unc").unlink()
    return name_of(images, 2), "has no unc file"


def all_nan(images):
    change(name_of(images, 2), lambda data: np.full_like(data, np.nan))
    return name_of(images, 2), "holds no finite pixel"


def truncated(images):
    path = name_of(images, 2)
    path.write_bytes(path.read_bytes()[:9000])
    return path, "truncated"


def truncated_unc(images):
    path = name_of(images, 2, "unc")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path, "truncated"


def other_shape(images):
    change(name_of(images, 2, "cov"), lambda data: data[:-3])
    return name_of(images, 2, "cov"), "differ in shape"


def no_fits(images):
    name_of(images, 2).write_text("lost")
    return name_of(images, 2), "not FITS"


def no_row(images):
    table = Table.read(images / "aors.ecsv")
    table[[str(n) != "gr2" for n in table["group_name"]]].write(
        images / "aors.ecsv", overwrite=True
    )
    return name_of(images, 2), "aors.ecsv"


@pytest.mark.parametrize(
    "spoil", [without_unc, all_nan, truncated, truncated_unc, other_shape, no_fits, no_row]
)
def test_a_mosaic_that_cannot_be_used_is_listed_and_the_rest_is_built(
    images, tmp_path, run_cli, spoil
):
    path, words = spoil(images)
    ended = run_cli("build", images, tmp_path / "f.zarr", *ONE)
    assert ended.code == 1
    assert ended.err == ""
    listed = ended.out.split("not in the cube (1):\n")[1].splitlines()
    assert len(listed) == 1
    assert listed[0].startswith("  gr2 ch1: ")
    assert words in listed[0]
    assert str(path) in listed[0]
    cube = Cube(tmp_path / "f.zarr")
    assert cube.coordinate("aor_name").tolist() == ["gr1", "gr3", "gr4"]
    assert np.isfinite(cube.block()[:, 0, 0]).mean() > 0.9
    again = run_cli("build", images, tmp_path / "f.zarr", *ONE)
    assert "nothing changed" in again.out
    assert again.code == 1
    assert again.out.split("not in the cube (1):\n")[1].splitlines() == listed


def test_one_bad_channel_leaves_the_other_of_that_aor(tiny_images, tmp_path, run_cli):
    images = tmp_path / "images"
    shutil.copytree(tiny_images, images)
    change(name_of(images, 3, channel="ch2"), lambda data: np.full_like(data, np.nan))
    ended = run_cli("build", images, tmp_path / "f.zarr", "--types", "ch?_aper2_original", "--json")
    assert ended.code == 1
    told = json.loads(ended.out)
    assert [(s["aor"], s["channel"]) for s in told["skipped"]] == [("gr3", "ch2")]
    assert not told["ok"]
    cube = Cube(tmp_path / "f.zarr")
    row = cube.coordinate("aor_name").tolist().index("gr3")
    assert np.isnan(cube.coordinate("mjd")[row]).tolist() == [False, True]
    values = cube.block()
    assert np.isfinite(values[:, 0, 0, row]).mean() > 0.9
    assert np.isnan(values[:, 1, :2, row]).all()
    assert (flags_of(values[:, 1, 2, row]) == flag_bit("not_observed")).all()
    again = run_cli("build", images, tmp_path / "f.zarr", "--types", "ch?_aper2_original", "--json")
    assert again.code == 1
    assert json.loads(again.out)["skipped"] == told["skipped"]
    others = [k for k in range(4) if k != row]
    assert np.isfinite(values[:, 1, 0][:, others]).mean() > 0.9


def test_a_row_without_an_image_is_listed_and_no_fault(images, tmp_path, run_cli):
    table = Table.read(images / "aors.ecsv")
    table.add_row({name: table[name][0] for name in table.colnames})
    table["group_name"] = [*table["group_name"][:-1], "gr99"]
    table["reqkey"][-1] = 999
    table.write(images / "aors.ecsv", overwrite=True)
    ended = run_cli("build", images, tmp_path / "f.zarr", *ONE)
    assert ended.code == 0
    listed = ended.out.split("not in the cube (1):\n")[1].splitlines()
    assert len(listed) == 1
    assert "gr99" in listed[0]
    assert "aors.ecsv" in listed[0]
    assert Cube(tmp_path / "f.zarr").shape[3] == 4


# ---------------------------------------------------------------- nothing can be built


def test_two_mosaics_of_one_aor_and_channel_are_refused(images, tmp_path, run_cli):
    (images / "again").mkdir()
    shutil.copy(name_of(images, 2), images / "again")
    ended = run_cli("build", images, tmp_path / "f.zarr", *ONE)
    said(ended, 1, "two sci images for AOR gr2 in ch1", name_of(images, 2), "again/IDF_gr2_ch1_sci")
    assert not (tmp_path / "f.zarr").exists()


def test_every_mosaic_bad_is_an_error_and_no_empty_cube(images, tmp_path, run_cli):
    for number in range(1, 5):
        change(name_of(images, number), lambda data: np.full_like(data, np.nan))
    ended = run_cli("build", images, tmp_path / "f.zarr", *ONE)
    said(ended, 1, "not one mosaic can be used", name_of(images, 1), "no finite pixel")
    with pytest.raises((UnfinishedStore, StoreMissing), match=r"f\.zarr"):
        Cube(tmp_path / "f.zarr")
    for number in range(1, 5):
        name_of(images, number).write_text("lost")
    ended = run_cli("build", images, tmp_path / "g.zarr", *ONE)
    said(ended, 1, "not one mosaic in", name_of(images, 1), "not FITS")
    assert not (tmp_path / "g.zarr").exists()


def test_folders_without_mosaics(images, tmp_path, run_cli):
    store = tmp_path / "f.zarr"
    said(run_cli("build", tmp_path / "gone", store, *ONE), 1, tmp_path / "gone", "does not exist")
    (tmp_path / "empty").mkdir()
    said(run_cli("build", tmp_path / "empty", store, *ONE), 1, tmp_path / "empty", "no FITS file")
    file = name_of(images, 1)
    said(run_cli("build", file, store, *ONE), 1, file, "is not a folder")
    ended = run_cli("build", images, store, "--pattern", "other_{aor}.fits", "-q")
    said(ended, 1, images, "none matches", "IDF_gr1_ch1_cov.fits")
    assert (
        list(tmp_path.iterdir()) == [tmp_path / "images", tmp_path / "empty"] or not store.exists()
    )


def test_aor_tables_that_cannot_be_used(images, tmp_path, run_cli):
    store = tmp_path / "f.zarr"
    table = images / "aors.ecsv"
    good = table.read_text()
    ended = run_cli("build", images, store, "--aor-table", tmp_path / "gone.ecsv", *ONE)
    said(ended, 1, tmp_path / "gone.ecsv")
    for text in ("", "no table", good.replace("reqkey", "key"), good[: len(good) // 2]):
        table.write_text(text)
        said(run_cli("build", images, store, *ONE), 1, table)
    other = Table.read(good, format="ascii.ecsv")
    other["group_name"] = [f"x{n}" for n in range(4)]
    other.write(table, overwrite=True)
    said(run_cli("build", images, store, *ONE), 1, table)
    assert not store.exists()


def test_frames_without_any_time_need_a_table(images, tmp_path, run_cli):
    (images / "aors.ecsv").unlink()
    for path in images.glob("*.fits"):
        with fits.open(path, mode="update") as hdus:
            for card in ("DATE-OBS", "DATE_OBS", "MJD-OBS", "MJD_OBS"):
                hdus[0].header.remove(card, ignore_missing=True)
    ended = run_cli("build", images, tmp_path / "f.zarr", *ONE)
    said(ended, 1, name_of(images, 1), "no time of observation", "AOR table")


# ---------------------------------------------------------------- the store's place


def foreign_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    (path / "c").mkdir()
    (path / "c" / "0").write_bytes(b"also mine")


def plain_file(path):
    path.write_text("mine")


def other_zarr(path):
    group = zarr.open_group(path, mode="w")
    group.create_array("lightcurves", data=np.arange(5))


def other_zarr_v2(path):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("lightcurves", data=np.arange(5))


@pytest.mark.parametrize("put", [foreign_folder, plain_file, other_zarr, other_zarr_v2])
def test_what_is_not_ours_is_never_touched(images, tmp_path, run_cli, tree, put):
    store = tmp_path / "f.zarr"
    put(store)
    before = tree(tmp_path)
    for _ in range(2):
        ended = run_cli("build", images, store, *ONE)
        said(ended, 3, store)
        assert tree(tmp_path) == before
    for command in ("info", "stats"):
        said(run_cli(command, store), 3, store)
    assert tree(tmp_path) == before


def test_a_store_that_is_missing_or_unfinished(tmp_path, run_cli):
    for command in (("info",), ("info", "--json"), ("stats",), ("stats", "--json")):
        said(run_cli(*command, tmp_path / "gone.zarr"), 3, "there is no store at", "gone.zarr")


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root writes anywhere"
)
def test_a_folder_that_must_not_be_written_to(images, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    drop = (
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    )
    if drop:
        able = subprocess.run(
            [*drop, sys.executable, "-c", "import idfzarr"],
            check=False,
            capture_output=True,
            env=_environment(),
        )
        if able.returncode != 0:
            pytest.skip("this interpreter cannot be run by another user than root")
    for folder in (tmp_path, *tmp_path.parents):
        if drop and not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    closed.chmod(0o555)
    command = [
        *drop,
        sys.executable,
        "-m",
        "idfzarr",
        "build",
        str(images),
        str(closed / "f.zarr"),
        *ONE,
    ]
    home = tmp_path / "home"  # root's own holds settings that nobody else may read
    home.mkdir()
    home.chmod(0o777)
    at_home = _environment() | {"HOME": str(home)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=at_home)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert len(ended.stderr.strip().splitlines()) == 1
    assert str(closed / "f.zarr") in ended.stderr
    assert "ermission" in ended.stderr
    assert list(closed.iterdir()) == []


def _environment():
    source = Path(sys.modules["idfzarr"].__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(source)}


# ---------------------------------------------------------------- wrong words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--types", "ch1_atuo_original"), ("'atuo'", "auto")),
        (("--types", "ch1_aper*_orignal"), ("no type matches",)),
        (("--types", "ch2_auto_original", "--channel", "ch1"), ("'ch2'", "no mosaic")),
        (("--sky", "plain"), ("'plain'", "'plane'")),
        (("--scheduler", "thread"), ("'thread' is no scheduler", "threads")),
        (("--kinds", "sci"), ("--kinds 'sci'", "sci=sub2d")),
        (("--kinds", "sky=sub2d"), ("'sky' is no kind", "sci")),
        (("--kinds", "unc=unc"), ("how sci images are called",)),
        (("--pattern", "IDF_{channel}.fits"), ("{aor}",)),
        (("--pattern", "IDF_{aor}_{band}.fits"), ("{band}",)),
        (("--channel", "3.6"), ("'3.6' cannot be a channel",)),
        (("--codec", "gzip"), ("gzip", "lz4")),
    ],
)
def test_wrong_words_are_refused_with_the_right_ones(tiny_images, tmp_path, run_cli, words, told):
    said(run_cli("build", tiny_images, tmp_path / "f.zarr", *words, "-q"), 2, *told)
    assert not (tmp_path / "f.zarr" / "zarr.json").exists()
    # and the place is not spoilt by it
    ended = run_cli("build", tiny_images, tmp_path / "f.zarr", "--sky", "plain", "-q")
    assert ended.code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("build",),
        ("build", "images"),
        ("build", "images", "f.zarr", "--threshold", "high"),
        ("build", "images", "f.zarr", "--min-coverage", "2"),
        ("build", "images", "f.zarr", "--shard-objects", "0"),
        ("build", "images", "f.zarr", "--no-such-option"),
        ("no-such-command",),
        ("info",),
        ("stats", "f.zarr", "--top", "0"),
    ],
)
def test_wrong_usage_of_the_command_line_is_code_2(run_cli, words):
    ended = run_cli(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert "Usage" in ended.err


# ---------------------------------------------------------------- other settings, other sources


def begun(images, store, *, until="assembling shards", **how):
    """Build until a step begins, then stop as Ctrl-C does."""

    def stop(label, done, total):
        if label == until and done:
            raise KeyboardInterrupt("stop here")

    with pytest.raises(KeyboardInterrupt, match="stop here"):
        build(
            images, store, channel="ch1", types=TYPE, scheduler="synchronous", progress=stop, **how
        )


def written(folder, tree):
    """Return every file but locks, which are made to be held and stay."""
    return {name: data for name, data in tree(folder).items() if not name.endswith(".lock")}


def test_other_settings_are_refused_on_an_unfinished_and_on_a_finished_store(
    images, tmp_path, run_cli, tree
):
    store = tmp_path / "f.zarr"
    begun(images, store, until="reading mosaics")
    before = written(tmp_path, tree)
    other = ("--types", "ch1_aper3_original", "--channel", "ch1", "-q")
    said(run_cli("build", images, store, *other), 2, store, "types")
    said(
        run_cli("build", images, store, *ONE, "--threshold", "6"),
        2,
        store,
        "threshold",
        "4.0",
        "6.0",
    )
    assert written(tmp_path, tree) == before
    assert run_cli("build", images, store, *ONE).code == 0
    before = written(tmp_path, tree)
    said(
        run_cli("build", images, store, *ONE, "--threshold", "6"),
        2,
        store,
        "threshold",
        "4.0",
        "6.0",
    )
    said(run_cli("build", images, store, *ONE, "--sky", "mesh"), 2, store, "sky")
    assert written(tmp_path, tree) == before
    assert Cube(store).types == (TYPE,)


def test_new_aors_never_change_what_a_finished_store_holds(images, tmp_path, run_cli):
    store = tmp_path / "f.zarr"
    held = tmp_path / "held"
    held.mkdir()
    for kind in ("sci", "unc", "cov"):
        shutil.move(name_of(images, 4, kind), held)
    assert run_cli("build", images, store, *ONE).code == 0
    before = Cube(store)
    for path in list(held.iterdir()):
        shutil.move(path, images)
    ended = run_cli("build", images, store, *ONE)
    assert ended.code == 0
    assert "gr4" in ended.out
    after = Cube(store)
    assert after.uuid == before.uuid
    assert after.coordinate("aor_name").tolist() == ["gr1", "gr2", "gr3", "gr4"]
    assert np.array_equal(after.objects, before.objects)
    assert after.block()[..., :3].tobytes() == before.block().tobytes()
    assert np.isfinite(after.block()[:, 0, 0, 3]).mean() > 0.9


@pytest.mark.parametrize(
    ("until", "how"),
    [
        ("reading mosaics", "brighter"),
        ("reading mosaics", "header only"),
        ("measuring AORs", "one sky pixel"),
        ("measuring AORs", "header only"),
        ("assembling shards", "brighter"),
    ],
)
def test_sources_that_change_under_a_build_are_never_mixed(images, tmp_path, tree, until, how):
    """Either the build refuses to go on, or it gives what the sources as they are now give."""
    store = tmp_path / "f.zarr"
    begun(images, store, until=until)
    path = name_of(images, 1)
    with fits.open(path) as hdus:
        header, data = hdus[0].header, hdus[0].data.copy()
    header["HISTORY"] = "reduced anew"
    if how == "brighter":
        data *= 1.5
    elif how == "one sky pixel":
        data[np.unravel_index(np.nanargmin(np.abs(data - np.nanmedian(data))), data.shape)] *= 1.02
    fits.writeto(path, data, header, overwrite=True)
    fresh = tmp_path / "fresh.zarr"
    build(images, fresh, channel="ch1", types=TYPE, scheduler="synchronous")
    try:
        build(images, store, channel="ch1", types=TYPE, scheduler="synchronous")
    except SettingsDiffer as error:
        assert str(store) in str(error)  # noqa: PT017
        assert until != "reading mosaics"
        with pytest.raises(UnfinishedStore, match="not finished"):
            Cube(store)
        return
    assert tree(store / "lightcurves" / "c") == tree(fresh / "lightcurves" / "c")
    assert tree(store / "images") == tree(fresh / "images")
    assert tree(store / "catalogue") == tree(fresh / "catalogue")


def test_a_field_half_remade_from_other_sources_is_not_taken_for_the_first(
    images, tmp_path, tree, monkeypatch
):
    """The superstack is remade from B and stopped before it is done; then A's files come back."""
    from idfzarr.build import steps

    store, fresh = tmp_path / "f.zarr", tmp_path / "fresh.zarr"
    how = {"channel": "ch1", "types": TYPE, "scheduler": "synchronous"}
    build(images, fresh, **how)

    def before_measuring(label, done, total):
        if label == "measuring AORs":
            raise KeyboardInterrupt("stop here")

    with pytest.raises(KeyboardInterrupt, match="stop here"):
        build(images, store, progress=before_measuring, **how)
    kept = name_of(images, 1).read_bytes()
    change(name_of(images, 1), lambda data: data * 3)

    def written_and_stopped(writer, stack):
        write(writer, stack)
        raise KeyboardInterrupt("stop there")

    write = steps.write_superstack
    with monkeypatch.context() as patch:
        patch.setattr(steps, "write_superstack", written_and_stopped)
        with pytest.raises(KeyboardInterrupt, match="stop there"):
            build(images, store, **how)
    assert tree(store / "images") != tree(fresh / "images")
    name_of(images, 1).write_bytes(kept)
    build(images, store, **how)
    for part in ("images", "catalogue", "lightcurves"):
        assert tree(store / part) == tree(fresh / part)


# ---------------------------------------------------------------- a full disk


class Disk:
    """A disk on which only so many writes find room; the last that fits is torn in the middle."""

    def __init__(self, monkeypatch, room):
        self.writes = 0
        real = os.write

        def write(handle, data):
            self.writes += 1
            if self.writes == room and len(data) > 1:
                return real(handle, bytes(data)[: len(data) // 2])
            if self.writes >= room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(handle, data)

        monkeypatch.setattr(os, "write", write)


@pytest.fixture(scope="module")
def undisturbed(tiny_images, tmp_path_factory):
    """Build one channel once; return its store and how many writes it took."""
    store = tmp_path_factory.mktemp("undisturbed") / "f.zarr"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, room=10**9)
        build(tiny_images, store, channel="ch1", types=TYPE, scheduler="synchronous")
    return store, disk.writes


@pytest.mark.parametrize("share", [0.0, 0.02, 0.35, 0.7, 0.99])
def test_a_full_disk_is_said_and_nothing_half_made_is_trusted(
    tiny_images, tmp_path, monkeypatch, run_cli, chunks, undisturbed, share
):
    reference, writes = undisturbed
    assert writes > 100
    store = tmp_path / "f.zarr"
    with monkeypatch.context() as patch:
        disk = Disk(patch, room=max(1, int(share * writes)))
        ended = run_cli("build", tiny_images, store, *ONE)
    assert disk.writes >= share * writes
    said(ended, 1, "no room for", store, "free some space")
    with pytest.raises((UnfinishedStore, StoreMissing), match=r"f\.zarr"):
        Cube(store)
    if store.exists():
        with pytest.raises(FileNotFoundError, match=r"f\.zarr"):
            xr.open_zarr(store)
    assert not list(tmp_path.rglob("*.partial"))
    assert run_cli("build", tiny_images, store, *ONE).code == 0
    assert chunks(store) == chunks(reference)


def test_a_full_disk_reaches_the_caller_as_its_own_error(tiny_images, tmp_path, monkeypatch):
    for scheduler in ("threads", "synchronous"):
        with monkeypatch.context() as patch:
            Disk(patch, room=12)
            with pytest.raises(StorageFull, match=r"no room for .* bytes of .*f\.zarr") as caught:
                build(
                    tiny_images,
                    tmp_path / scheduler / "f.zarr",
                    channel="ch1",
                    types=TYPE,
                    scheduler=scheduler,
                )
        assert caught.value.kind == "storage_full"


# ---------------------------------------------------------------- as a process


def test_a_real_process_keeps_results_and_progress_apart(images, tmp_path):
    truncated(images)
    command = [sys.executable, "-m", "idfzarr", "build", str(images), str(tmp_path / "f.zarr")]
    command += ["--channel", "ch1", "--types", TYPE]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    assert ended.returncode == 1
    for word in ("Traceback", "Warning"):
        assert word not in ended.stdout + ended.stderr
    assert "reading mosaics" in ended.stderr
    assert "reading mosaics" not in ended.stdout
    assert "not in the cube (1):" in ended.stdout
    assert str(name_of(images, 2)) in ended.stdout
    assert "not in the cube" not in ended.stderr
    missing = subprocess.run(
        [sys.executable, "-m", "idfzarr", "info", str(tmp_path / "gone.zarr")],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(),
    )
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr.startswith("idfzarr: there is no store at ")
