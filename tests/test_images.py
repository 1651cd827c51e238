from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from idfzarr.errors import ChunkCorrupt, ChunkMissing, StoreMissing, UnknownName, UsageError
from idfzarr.store.cube import create
from idfzarr.store.images import (
    SuperstackImages,
    read_superstack,
    superstack_channels,
    write_superstack,
)

HEADER = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 265.0,
    "CRVAL2": 69.0,
    "CRPIX1": 600.5,
    "CRPIX2": 500.5,
    "CDELT1": -0.6 / 3600,
    "CDELT2": 0.6 / 3600,
    "NAXIS": 2,
}


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Spare the disk: what fsync is for is tested by the order of the calls, in test_cube.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def field(shape=(1100, 1300), channel="ch1", seed=0, **more):
    rng = np.random.default_rng(seed)
    flux = rng.normal(size=shape).astype(np.float32)
    flux[: shape[0] // 3] = np.nan
    return SuperstackImages(
        channel=channel,
        flux=flux,
        err=np.abs(flux) + 1,
        coverage=rng.integers(0, 9, size=shape).astype(np.float32),
        segmentation=rng.integers(0, 70000, size=shape).astype(np.int32),
        header=HEADER,
        attributes={"unit": "MJy/sr", "n_aors": 12},
        **more,
    )


def published(path, *images):
    cube = create(path, objects=[1], types=["ch1_auto_original"], aors={"aor": [1], "mjd": [1.0]})
    for image in images:
        write_superstack(cube.writer, image)
    cube.writer.publish(complete=False)
    return cube


def test_a_superstack_comes_back_pixel_for_pixel(tmp_path):
    images = field()
    published(tmp_path / "a.zarr", images, field(channel="ch2", seed=1))
    back = read_superstack(tmp_path / "a.zarr", "ch1")
    for name, image in images.planes().items():
        assert np.array_equal(back.planes()[name], image, equal_nan=name != "segmentation")
        assert back.planes()[name].dtype == image.dtype
    assert back.header == HEADER
    assert back.attributes == {"unit": "MJy/sr", "n_aors": 12}
    assert superstack_channels(tmp_path / "a.zarr") == ("ch1", "ch2")
    sky = WCS(back.header).pixel_to_world_values(599.5, 499.5)
    assert np.allclose(sky, (265.0, 69.0))


def test_zarr_reads_the_same_pixels(tmp_path):
    images = field()
    published(tmp_path / "a.zarr", images)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")["images/superstack/ch1"]
    assert np.array_equal(group["flux"][...], images.flux, equal_nan=True)
    assert np.array_equal(group["segmentation"][...], images.segmentation)
    assert group["flux"].attrs["units"] == "MJy/sr"
    assert group["flux"].metadata.dimension_names == ("y", "x")
    assert group["flux"].chunks == (1024, 1024)
    assert group.attrs["header"]["CTYPE1"] == "RA---TAN"


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 40))
def test_any_shape_will_do(tmp_path_factory, height, width):
    path = tmp_path_factory.mktemp("i") / "a.zarr"
    images = field((height, width))
    published(path, images)
    back = read_superstack(path, "ch1")
    assert np.array_equal(back.flux, images.flux, equal_nan=True)


def test_a_frame_without_wcs_or_segments_is_fine(tmp_path):
    flux = np.ones((4, 5), np.float32)
    images = SuperstackImages("ch1", flux, flux, flux, header={"CRVAL1": float("nan"), "A": True})
    published(tmp_path / "a.zarr", images)
    back = read_superstack(tmp_path / "a.zarr", "ch1")
    assert back.segmentation is None
    assert back.header == {"A": True}


def test_images_that_do_not_belong_together_are_refused(tmp_path):
    flux = np.ones((4, 5), np.float32)
    with pytest.raises(UsageError, match=r"one shape, not flux \(4, 5\), err \(4, 4\)"):
        published(tmp_path / "a.zarr", SuperstackImages("ch1", flux, flux[:, :4], flux))
    with pytest.raises(UsageError, match=r"superstack of '\.\./x'"):
        published(tmp_path / "b.zarr", SuperstackImages("../x", flux, flux, flux))


def test_what_is_not_there_or_damaged_is_told(tmp_path):
    published(tmp_path / "a.zarr", field((30, 40)))
    with pytest.raises(UnknownName, match="no superstack of 'ch3'; nearest: 'ch1'"):
        read_superstack(tmp_path / "a.zarr", "ch3")
    with pytest.raises(StoreMissing, match="there is no store"):
        read_superstack(tmp_path / "b.zarr", "ch1")
    chunk = Path(tmp_path / "a.zarr" / "images" / "superstack" / "ch1" / "err" / "c" / "0" / "0")
    good = chunk.read_bytes()
    for byte in range(0, len(good), 97):
        bad = bytearray(good)
        bad[byte] ^= 16
        chunk.write_bytes(bad)
        with pytest.raises(ChunkCorrupt, match="'images/superstack/ch1/err' is damaged"):
            read_superstack(tmp_path / "a.zarr", "ch1")
    chunk.unlink()
    with pytest.raises(ChunkMissing, match="superstack/ch1/err' is missing"):
        read_superstack(tmp_path / "a.zarr", "ch1")
