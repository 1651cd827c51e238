"""Stamps show the object in their middle, read a window only, and their apertures fit."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from astropy.io import fits
from old_skycells import make_store as make_skycells

from idfzarr.errors import ImageMissing, ImageUnreadable, UnknownName, UsageError
from idfzarr.ps1 import skycell
from idfzarr.ps1.linking import link_skycells
from idfzarr.store.images import read_superstack
from idfzarr.testing.ps1_files import PS1Sky
from idfzarr.viewer.field import Field
from idfzarr.viewer.field_sources import FieldSources
from idfzarr.viewer.stamps import aor_stamp, ps1_stamp, render, superstack_stamp


@pytest.fixture(scope="module")
def field(small_store):
    return Field(small_store.store)


@pytest.fixture(scope="module")
def bright(field):
    """Return a bright object away from the edges."""
    x, y = field.cube.coordinate("x"), field.cube.coordinate("y")
    inside = (np.abs(x - 64) < 40) & (np.abs(y - 64) < 40)
    mag = np.where(inside, field.objects["ch1_mag"].to_numpy(), np.inf)
    return int(field.cube.objects[np.nanargmin(mag)])


def test_the_pixels_are_the_superstacks(field, bright, small_store):
    stamp = superstack_stamp(field, bright, "ch1", 15.0)
    image = read_superstack(small_store.store, "ch1").flux
    x, y = (field.number_of(bright, name) for name in ("x", "y"))
    left, low, right, high = stamp.bounds
    scale = stamp.scale
    column, row = round(x + left / scale + 0.5), round(y + low / scale + 0.5)
    ny, nx = stamp.pixels.shape
    np.testing.assert_array_equal(stamp.pixels, image[row : row + ny, column : column + nx])
    assert left < 0 < right
    assert low < 0 < high
    assert right - left == pytest.approx(15.0, abs=scale)
    peak = np.unravel_index(np.nanargmax(stamp.pixels), stamp.pixels.shape)
    across, up = left + (peak[1] + 0.5) * scale, low + (peak[0] + 0.5) * scale
    assert np.hypot(across, up) < 1.5 * scale


def test_beyond_the_edge_there_is_nothing(field):
    x, y = field.cube.coordinate("x"), field.cube.coordinate("y")
    outer = int(field.cube.objects[np.argmin(np.minimum(x, y))])
    stamp = superstack_stamp(field, outer, "ch2", 60.0)
    assert np.isnan(stamp.pixels).any()
    assert np.isfinite(stamp.pixels).any()
    rgba = render(stamp.pixels)
    np.testing.assert_array_equal(rgba[..., 3] == 0, np.isnan(stamp.pixels))


def test_the_aors_own_stamp_is_its_mosaic(field, bright, small_store):
    aor = int(field.cube.aors[2])
    stamp = aor_stamp(field, bright, "ch1", aor, 15.0)
    path = field.sources.mosaics[str(field.aor_names[2]), "ch1"].found()
    assert path.parent == small_store.images
    image = fits.getdata(path)
    x, y = (field.number_of(bright, name) for name in ("x", "y"))
    column, row = (
        round(x + stamp.left / stamp.scale + 0.5),
        round(y + stamp.low / stamp.scale + 0.5),
    )
    n = len(stamp.pixels)
    np.testing.assert_array_equal(stamp.pixels, image[row : row + n, column : column + n])
    assert stamp.aor == aor
    assert stamp.bounds == pytest.approx(superstack_stamp(field, bright, "ch1", 15.0).bounds)


def test_a_mosaic_is_found_beside_a_store_that_was_moved(small_store, bright, tmp_path):
    name = small_store.store.name
    for one in (name, f"{name}.ledger", small_store.images.name):
        shutil.copytree(small_store.store.parent / one, tmp_path / one)
    moved = Field(tmp_path / name)
    mosaics = moved.sources.mosaics
    assert len(mosaics) == 2 * small_store.aors
    assert {one.path.parent for one in mosaics.values()} == {small_store.images}
    gone = {k: replace(one, path=tmp_path / "gone" / one.path.name) for k, one in mosaics.items()}
    moved.__dict__["sources"] = FieldSources(gone)  # as if the first folder were not there
    aors = [int(one) for one in moved.cube.aors[:2]]
    first, second = (gone[str(one), "ch1"] for one in moved.aor_names[:2])
    assert first.found() == tmp_path / small_store.images.name / first.path.name
    assert np.isfinite(aor_stamp(moved, bright, "ch1", aors[0]).pixels).mean() > 0.9
    first.elsewhere.unlink()
    with pytest.raises(ImageMissing, match=r"mosaic of AOR .* in ch1 is not there: it was .*gone"):
        aor_stamp(moved, bright, "ch1", aors[0])
    second.elsewhere.write_bytes(b"x" * second.size)
    with pytest.raises(ImageUnreadable, match="cannot be read as a FITS image"):
        aor_stamp(moved, bright, "ch1", aors[1])
    second.elsewhere.write_bytes(b"x")
    with pytest.raises(ImageMissing, match="is not there"):
        aor_stamp(moved, bright, "ch1", aors[1])
    moved.__dict__["sources"] = FieldSources()
    with pytest.raises(ImageMissing, match="the ledger names no mosaic"):
        aor_stamp(moved, bright, "ch1", aors[1])


def test_only_the_window_of_a_mosaic_is_read(field, bright, monkeypatch):
    seen = []
    original = fits.hdu.image.Section.__getitem__

    def watched(self, key):
        found = original(self, key)
        seen.append(found.size)
        return found

    monkeypatch.setattr(fits.hdu.image.Section, "__getitem__", watched)
    stamp = aor_stamp(field, bright, "ch2", int(field.cube.aors[1]), 9.0)
    assert max(seen) == stamp.pixels.size  # astropy joins it from rows
    assert sum(seen) <= 2 * stamp.pixels.size
    assert stamp.pixels.size < 400


def test_outlines_are_those_of_the_apertures(field, bright, small_store):
    types = ["ch1_aper2_clean", "ch2_aper2_original", "ch1_auto_clean", "ch1_iso_clean", "other"]
    stamp = superstack_stamp(field, bright, "ch1", 30.0, types=types)
    found = {outline.method: outline for outline in stamp.outlines}
    assert list(found) == ["aper2", "auto", "iso"]
    circle = np.hypot(found["aper2"].x, found["aper2"].y)
    np.testing.assert_allclose(circle, 3.0 * stamp.scale)
    kron = np.hypot(found["auto"].x, found["auto"].y)
    assert kron.max() == pytest.approx(field.number_of(bright, "kron_a") * stamp.scale, rel=1e-3)
    assert kron.min() == pytest.approx(field.number_of(bright, "kron_b") * stamp.scale, rel=1e-2)
    labels = read_superstack(small_store.store, "ch1").segmentation
    x, y = (field.number_of(bright, name) for name in ("x", "y"))
    own = labels == labels[round(y), round(x)]
    rows, columns = np.nonzero(own)
    iso = found["iso"]
    assert np.nanmin(iso.x) == pytest.approx((columns.min() - 0.5 - x) * stamp.scale)
    assert np.nanmax(iso.y) == pytest.approx((rows.max() + 0.5 - y) * stamp.scale)
    edges = np.abs(np.diff(np.pad(own, 1).astype(int), axis=0)).sum()
    edges += np.abs(np.diff(np.pad(own, 1).astype(int), axis=1)).sum()
    assert np.isnan(iso.x).sum() == edges


@pytest.mark.parametrize("stretch", ["linear", "log", "sqrt", "asinh"])
def test_a_stretch_keeps_the_order_and_the_ends(stretch):
    pixels = np.linspace(-3, 9, 100).reshape(10, 10)
    rgba = render(pixels, stretch=stretch, low=0, high=100)
    grey = rgba[..., 0].ravel().astype(int)
    assert grey[0] == 0
    assert grey[-1] == 255
    assert (np.diff(grey) >= 0).all()
    half = {"linear": 127, "log": 229, "sqrt": 180, "asinh": 197}[stretch]
    assert grey[49:51].mean() == pytest.approx(half, abs=4)
    cut = render(pixels, stretch=stretch, low=20, high=80)[..., 0].ravel()
    assert (cut[:20] == 0).all()
    assert (cut[-20:] == 255).all()


def test_an_image_without_a_value_is_transparent():
    assert not render(np.full((3, 4), np.nan)).any(axis=(0, 1))[3]
    assert render(np.zeros((3, 4)), colour_map="viridis").shape == (3, 4, 4)


def test_what_cannot_be_shown(field, bright):
    with pytest.raises(UnknownName, match="no superstack of 'ch3'; nearest"):
        superstack_stamp(field, bright, "ch3")
    with pytest.raises(UnknownName, match="no object 424242"):
        superstack_stamp(field, 424242, "ch1")
    with pytest.raises(UsageError, match="more than 0 arcsec"):
        superstack_stamp(field, bright, "ch1", -1.0)
    with pytest.raises(UsageError, match="no AOR 7"):
        aor_stamp(field, bright, "ch1", 7)
    with pytest.raises(UsageError, match="'lin' is no stretch"):
        render(np.ones((2, 2)), stretch="lin")
    with pytest.raises(UsageError, match="'grey' is no colour map"):
        render(np.ones((2, 2)), colour_map="grey")
    with pytest.raises(UsageError, match="percentiles"):
        render(np.ones((2, 2)), low=60, high=40)
    with pytest.raises(UsageError, match="has no skycells"):
        ps1_stamp(field, bright)


def test_ps1_in_colour_where_the_cube_is_linked(small_store, bright, tmp_path):
    shutil.copytree(small_store.store, tmp_path / "field.zarr")
    field = Field(tmp_path / "field.zarr")
    ra, dec = (field.number_of(bright, name) for name in ("ra", "dec"))
    sky = PS1Sky(seed=1, size=(200, 200), around=(ra, dec))
    make_skycells(
        tmp_path / "ps1.zarr", sky, [skycell.best(ra, dec)], bands="gri", kinds=("image",)
    )
    link_skycells(tmp_path / "field.zarr", tmp_path / "ps1.zarr")
    linked = Field(tmp_path / "field.zarr")
    assert linked.choices().has_ps1
    stamp = ps1_stamp(linked, bright, 20.0)
    assert stamp.png.startswith(b"\x89PNG")
    assert stamp.bands == ("i", "r", "g")
    assert "PS1 irg" in stamp.title
