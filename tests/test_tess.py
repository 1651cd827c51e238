"""Skycells under the CCDs of TESS, against counts measured apart, tesswcs, and the inverse WCS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from idfzarr.errors import ImageMissing, ImageUnreadable, MissingExtra, UnknownName, UsageError
from idfzarr.ps1 import grid as tessellation
from idfzarr.ps1 import skycell, tess
from idfzarr.ps1.tess_table import tabled_wcs


@pytest.mark.parametrize(
    ("sector", "camera", "ccd", "count"),
    [(20, 3, 3, 1017), (21, 2, 1, 973), (14, 4, 4, 985), (26, 2, 2, 953), (100, 1, 1, 848)],
)
def test_counts_by_overlap(sector, camera, ccd, count):
    names = tess.skycells(sector=sector, camera=camera, ccd=ccd)
    assert len(names) == count == len(set(names))
    assert list(names) == sorted(names)


@pytest.mark.parametrize(("camera", "ccd"), [(1, 1), (4, 4)])
def test_the_far_south_has_none(camera, ccd):
    assert tess.skycells(sector=1, camera=camera, ccd=ccd) == ()


def test_the_earlier_toolkit_s_rule():
    names = tess.skycells(sector=20, camera=3, ccd=3, rule="centre")
    assert len(names) == 1234
    # Its definition through the inverse WCS: the middle within 150 pixels of the CCD.
    wcs = tess.ccd_wcs(20, 3, 3).wcs
    near = skycell.in_cone(*wcs.all_pix2world(1068, 1024, 1), 12.0)
    ra, dec = np.transpose([skycell.centre(n) for n in near])
    x, y = wcs.all_world2pix(ra, dec, 1, quiet=True)
    inside = (np.abs(x - 1068.5) <= 1024 + 150) & (np.abs(y - 1024.5) <= 1024 + 150)
    assert set(names) == {n for n, yes in zip(near, inside, strict=True) if yes}


def test_overlap_equals_samples_through_the_inverse_wcs():
    wcs = tess.ccd_wcs(14, 4, 4).wcs
    found = set(tess.skycells(sector=14, camera=4, ccd=4))
    near = skycell.in_cone(*wcs.all_pix2world(1068, 1024, 1), 9.5)
    rows = np.array([skycell.parse(n).row for n in near])
    width = tessellation.grid().width[rows // 100][:, None]
    height = tessellation.grid().height[rows // 100][:, None]
    t = np.linspace(0, 1, 17)
    u, v = (part.ravel()[None] for part in np.meshgrid(t, t))
    vectors = tessellation.grid().deproject(
        (rows // 100)[:, None], (rows % 100)[:, None], 0.5 + u * width, 0.5 + v * height
    )
    ra, dec = tessellation.sky_of(vectors)
    x, y = wcs.all_world2pix(ra.ravel(), dec.ravel(), 1, quiet=True)

    def hits(slack):
        inside = (x >= 44.5 - slack) & (x <= 2092.5 + slack)
        inside &= (y >= 0.5 - slack) & (y <= 2048.5 + slack)
        return {n for n, yes in zip(near, inside.reshape(ra.shape).any(axis=1), strict=True) if yes}

    assert hits(0) <= found <= hits(5)
    assert len(hits(0)) > 900


def test_padding_is_around_and_apart():
    chosen = tess.select(sector=26, camera=2, ccd=2, padding=True)
    assert len(chosen.names) == 953
    assert len(chosen.padding) > 50
    assert not set(chosen.padding) & set(chosen.names)
    assert chosen.all == tuple(sorted(chosen.names + chosen.padding))
    assert chosen.all == tess.skycells(sector=26, camera=2, ccd=2, padding=True)
    around = {n for name in chosen.names for n in skycell.neighbours(name)}
    assert set(chosen.padding) == around - set(chosen.names)
    assert not chosen.predicted
    assert chosen.notice == ""
    assert "sector 26" in chosen.source


@pytest.mark.parametrize("sector", [1, 20, 56, 97, 108])
def test_the_table_is_that_of_tesswcs(sector):
    tesswcs = pytest.importorskip("tesswcs", reason="the extra tess is not installed")
    for camera in (1, 2, 3, 4):
        for ccd in (1, 2, 3, 4):
            ours = tessellation.unit_vectors(*tess.outline(tess.ccd_wcs(sector, camera, ccd).wcs))
            wcs = tesswcs.WCS.from_sector(sector, camera, ccd)
            theirs = tessellation.unit_vectors(*tess.outline(wcs))
            apart = np.degrees(np.linalg.norm(ours - theirs, axis=1)).max() * 3600
            assert apart < 0.01  # arcsec, of pixels of 21


@pytest.mark.parametrize("sector", [1, 20, 57, 108])
def test_the_projection_of_the_table_is_that_of_astropy(sector):
    for camera in (1, 2, 3, 4):
        for ccd in (1, 2, 3, 4):
            tabled = tabled_wcs(sector, camera, ccd)
            wcs = tess.ccd_wcs(sector, camera, ccd).wcs
            assert isinstance(wcs, WCS)
            for margin in (0, 150):
                ours, theirs = (
                    tessellation.unit_vectors(*tess.outline(one, margin=margin))
                    for one in (tabled, wcs)
                )
                apart = np.degrees(np.linalg.norm(ours - theirs, axis=1)).max() * 3.6e6
                assert apart < 1e-4  # milliarcseconds
            zero = tabled.all_pix2world(np.array([1000.0]), np.array([7.0]), 0)
            np.testing.assert_allclose(zero, wcs.all_pix2world([1000.0], [7.0], 0), rtol=1e-12)
    assert tabled_wcs(109, 1, 1) is None


def test_no_astropy_is_needed_for_what_the_table_knows():
    """Its import takes longer than all the rest, and the whole is to take a second at most."""
    code = (
        "import sys; from idfzarr.ps1 import tess; "
        "assert len(tess.skycells(sector=20, camera=3, ccd=3)) == 1017; "
        "assert len(tess.skycells(sector=20, camera=3, ccd=3, rule='centre')) == 1234; "
        "assert 'astropy' not in sys.modules"
    )
    source = Path(sys.modules["idfzarr"].__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_later_sectors_are_predicted_and_say_so_in_a_field(capfd):
    pytest.importorskip("tesswcs", reason="the extra tess is not installed")
    chosen = tess.select(sector=120, camera=3, ccd=3)
    assert chosen.predicted
    assert "predicted" in chosen.notice
    assert "tesswcs" in chosen.source
    assert len(chosen.names) > 500
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UsageError, match="no pointing of sector 500 is known"):
        tess.select(sector=500, camera=1, ccd=1)


def test_without_tesswcs_later_sectors_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tesswcs", None)
    assert len(tess.skycells(sector=20, camera=3, ccd=3)) == 1017
    with pytest.raises(MissingExtra, match=r"pip install 'idfzarr\[tess\]'"):
        tess.skycells(sector=109, camera=1, ccd=1)


def write_ffi(path, wcs):
    image = fits.ImageHDU(np.zeros((4, 4), np.float32), header=wcs.to_header(relax=True))
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)


def test_a_wcs_and_an_image_do_instead_of_a_sector(tmp_path):
    seen = tess.ccd_wcs(20, 3, 3)
    wanted = tess.skycells(sector=20, camera=3, ccd=3)
    assert tess.select(wcs=seen.wcs).names == wanted
    write_ffi(tmp_path / "ffi.fits", seen.wcs)
    chosen = tess.select(wcs=tess.ffi_wcs(tmp_path / "ffi.fits"))
    assert chosen.names == wanted
    assert chosen.source.endswith("ffi.fits")


def test_four_corners_do_too():
    wcs = tess.ccd_wcs(20, 3, 3).wcs
    ra, dec = wcs.all_pix2world([44.5, 2092.5, 2092.5, 44.5], [0.5, 0.5, 2048.5, 2048.5], 1)
    found = set(skycell.in_polygon(ra, dec))
    wanted = set(tess.skycells(sector=20, camera=3, ccd=3))
    assert len(found & wanted) > 990
    assert len(found ^ wanted) < 20  # sides are curved by the distortion


def test_images_that_say_nothing_are_refused(tmp_path):
    with pytest.raises(ImageMissing, match="no full-frame image"):
        tess.ffi_wcs(tmp_path / "none.fits")
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "plain.fits")
    with pytest.raises(ImageUnreadable, match="no WCS of the sky"):
        tess.ffi_wcs(tmp_path / "plain.fits")
    (tmp_path / "page.fits").write_text("<html>" + " " * 4000)
    with pytest.raises(ImageUnreadable, match="is not FITS"):
        tess.ffi_wcs(tmp_path / "page.fits")
    (tmp_path / "cut.fits").write_bytes((tmp_path / "plain.fits").read_bytes()[:1000])
    with pytest.raises(ImageUnreadable, match="ends within a header"):
        tess.ffi_wcs(tmp_path / "cut.fits")
    with pytest.raises(ImageUnreadable, match="cannot be read"):
        tess.ffi_wcs(tmp_path)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"sector": 0, "camera": 1, "ccd": 1}, "sector must be a whole number"),
        ({"sector": 20, "camera": 5, "ccd": 1}, "camera must be a whole number from 1 to 4"),
        ({"sector": 20, "camera": 1, "ccd": True}, "ccd must be a whole number"),
        ({"sector": 20.5, "camera": 1, "ccd": 1}, "sector must be a whole number .* is 20.5"),
        ({"sector": 20, "camera": 1}, "need a sector, a camera and a CCD"),
        ({}, "or a WCS"),
        ({"sector": 20, "camera": 1, "ccd": 1, "wcs": 1}, "not both"),
        ({"wcs": "no"}, "a WCS of the sky is needed"),
        ({"sector": 20, "camera": 3, "ccd": 3, "rule": "near"}, "no rule 'near'"),
    ],
)
def test_bad_questions_are_refused(asked, sentence):
    with pytest.raises(UsageError, match=sentence):
        tess.select(**asked)


MASTER = """NAME,RA,pixel_indices,pad_skycell_top,pad_skycell_left,special_padding_needed
skycell.1405.053,1.5,"{long}","skycell.1405.063, skycell.1405.064",skycell.635.011/skycell.635.012,0
skycell.0714.000,2.5,"1,2",,nan,1
"""


def test_the_master_list_of_the_earlier_toolkit(tmp_path):
    path = tmp_path / "tess_s0020_3_3_master_skycells_list.csv"
    path.write_text("\ufeff" + MASTER.format(long=",".join(map(str, range(60_000)))))
    chosen = tess.from_csv(path)
    assert chosen.names == ("skycell.0714.000", "skycell.1405.053")
    assert chosen.padding == (
        "skycell.0635.011",
        "skycell.0635.012",
        "skycell.1405.063",
        "skycell.1405.064",
    )
    assert chosen.repaired == 2
    assert "2 names" in chosen.notice
    assert tess.from_csv(str(path), padding=False).padding == ()


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("RA,DEC\n1,2\n", UsageError, "no column NAME|is not a list"),
        ("", UsageError, "is not a list of skycells"),
        ("NAME\n", UsageError, "names no skycell"),
        ("NAME\nskycell.1405.053\n../../etc\n", UsageError, "line 3, column NAME: '..'"),
        ("NAME\nskycell.9999.053\n", UnknownName, "line 2, column NAME: there is no"),
        ("NAME,pad_skycell_top\n1405.053,x\n", UsageError, "line 2, column pad_skycell_top"),
    ],
    ids=range(6),
)
def test_other_lists_are_refused(tmp_path, text, error, sentence):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(error, match=sentence):
        tess.from_csv(path)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        tess.from_csv(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(UsageError, match="is not a list of skycells"):
        tess.from_csv(tmp_path / "binary.csv")
