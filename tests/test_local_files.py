"""Files on disk: found where they are, and never outside the folders that were named."""

from __future__ import annotations

import os

import pytest

from idfzarr.errors import ImageUnreadable, UsageError
from idfzarr.ps1.local_files import EXTENSIONS, LocalFiles, opened_inside
from idfzarr.ps1.sky_keys import sky_array

ARRAY = sky_array("0635.000", "r", "weight")
STEM = "rings.v3.skycell.0635.000.stk.r.unconv.wt"


def put(folder, path, body=b"x"):
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(body)
    return target


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize(
    "place",
    [
        "0635/000/{}",
        "{}",
        "rings.v3.skycell/0635/000/{}",
        "0635/{}",
        "skycell.0635.000/{}",
        "0635/skycell.0635.000/{}",
        "some/where/else/{}",
    ],
)
def test_files_are_found_wherever_people_keep_them(tmp_path, place, extension):
    wanted = put(tmp_path, place.format(STEM + extension))
    put(tmp_path, place.format(STEM.replace(".wt", "") + extension))
    found = LocalFiles.of(tmp_path)
    assert found.present
    assert found.candidates(ARRAY) == [wanted]
    assert found.candidates(sky_array("0635.001", "r", "weight")) == []


def test_several_files_are_tried_plain_ones_first(tmp_path):
    for folder in ("0635/000", "old"):
        for extension in reversed(EXTENSIONS):
            put(tmp_path, f"{folder}/{STEM}{extension}")
    found = [p.relative_to(tmp_path).as_posix() for p in LocalFiles.of(tmp_path).candidates(ARRAY)]
    assert found[:3] == [f"0635/000/{STEM}{extension}" for extension in EXTENSIONS]
    assert len(found) == 6


def test_templates_and_globs_of_ones_own(tmp_path):
    wanted = put(tmp_path, "PS1/r/night7/cell_635_000_var.fits.gz")
    put(tmp_path, "PS1/g/night7/cell_635_000_var.fits.gz")
    own = LocalFiles.of([tmp_path / "no", tmp_path], ["PS1/{band}/*/cell_*_{cell}_var"])
    assert own.candidates(ARRAY) == [wanted]
    exact = LocalFiles.of(tmp_path, ["{kind}/{skycell}-{band}{suffix}.fits"])
    wanted = put(tmp_path, "weight/skycell.0635.000-r.wt.fits")
    assert exact.candidates(ARRAY) == [wanted]
    assert exact.candidates(sky_array("0635.000", "r", "image")) == []


@pytest.mark.parametrize(
    "template",
    [
        "../{stem}",
        "/etc/{stem}",
        "a/../../{stem}",
        "{nothing}",
        "{",
        "{0}",
        "{stem.x}",
        "",
        "{stem}/..",
        "a\0{stem}",
    ],
)
def test_templates_that_lead_out_are_refused(tmp_path, template):
    with pytest.raises(UsageError, match="template"):
        LocalFiles.of(tmp_path, [template])


def test_links_that_lead_out_are_refused(tmp_path):
    outside = put(tmp_path, "outside/secret.fits", b"secret")
    root = tmp_path / "root"
    root.mkdir()
    inside = put(root, "kept/real.fits", b"good")
    (root / "out.fits").symlink_to(outside)
    (root / "in.fits").symlink_to(inside)
    (root / "folder").symlink_to(outside.parent)
    (root / "dangling.fits").symlink_to(root / "nothing")
    (root / "loop.fits").symlink_to(root / "loop.fits")
    os.mkfifo(root / "pipe.fits")
    roots = LocalFiles.of(root).roots
    with opened_inside(root / "in.fits", roots) as handle:
        assert os.read(handle, 9) == b"good"
    for name, why in (
        ("out.fits", "leads out"),
        ("folder/secret.fits", "leads out"),
        ("../outside/secret.fits", "leads out"),
        ("dangling.fits", "cannot be opened"),
        ("loop.fits", "cannot be opened"),
        ("pipe.fits", "no plain file"),
        ("kept", "no plain file"),
    ):
        with pytest.raises(ImageUnreadable, match=why), opened_inside(root / name, roots):
            pass


def test_folders_that_are_not_there_are_empty(tmp_path):
    none = LocalFiles.of(tmp_path / "none")
    assert not none.present
    assert none.candidates(ARRAY) == []
