"""Objects, against the truth of fields made here and against SExtractor on a real mosaic."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import sep
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy import ndimage
from scipy.spatial import cKDTree

from idfzarr.errors import ImageError, ImageShape, UsageError
from idfzarr.flags import flag_bit
from idfzarr.imaging.detection import detect, seen_sky, sky_order
from idfzarr.imaging.sky import rough_plane
from idfzarr.imaging.superstack import Strip, Superstack, make_superstack

N_AORS = 40


def superstack(flux, err=1.0, *, coverage=N_AORS):
    """Return a superstack as if it had been made."""
    flux = np.asarray(flux, dtype=np.float32)
    full = np.broadcast_to(np.asarray(err, dtype=np.float32), flux.shape).copy()
    seen = np.broadcast_to(np.asarray(coverage, dtype=np.int16), flux.shape).copy()
    return Superstack(
        flux=flux,
        err=full,
        coverage=seen,
        clipped=np.zeros(flux.shape, np.int16),
        background=np.zeros(flux.shape, np.float32),
        scatter=full,
        n_aors=N_AORS,
    )


def add_star(image, x0, y0, flux, *, fwhm=3.3, reach=40):
    """Add a Moffat star (exponent 3) of a total flux."""
    ny, nx = image.shape
    rows = slice(max(int(y0) - reach, 0), min(int(y0) + reach + 1, ny))
    columns = slice(max(int(x0) - reach, 0), min(int(x0) + reach + 1, nx))
    y, x = np.mgrid[rows, columns]
    core = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    square = ((x - x0) ** 2 + (y - y0) ** 2) / core**2
    image[rows, columns] += 2 * flux / (np.pi * core**2) * (1 + square) ** -3.0


def noise(rng, shape, correlated=1.0):
    """Return unit noise whose neighbours are correlated, as in resampled mosaics."""
    field = ndimage.gaussian_filter(rng.normal(size=shape), correlated)
    return field / field.std()


# of unit noise of that correlation, in a circle of 3 pixels
APERTURE_NOISE = np.sqrt(np.pi * 9) * 3.1


def scattered(rng, shape, count, apart):
    """Return positions that keep their distance."""
    chosen = []
    while len(chosen) < count:
        place = rng.uniform(8, np.array(shape) - 9)
        if all(np.hypot(*(place - other)) > apart for other in chosen):
            chosen.append(place)
    y, x = np.array(chosen).T
    return x, y


@pytest.fixture(scope="module")
def field():
    """Two channels of 250 stars, the last only in ch2: x, y, flux and the superstacks."""
    rng = np.random.default_rng(1)
    shape = (420, 400)
    x, y = scattered(rng, shape, 250, apart=12)
    flux = APERTURE_NOISE * 6 * 10 ** rng.uniform(0, 2.5, x.size)
    flux[-1] = 12 * APERTURE_NOISE
    images = {name: noise(rng, shape) for name in ("ch1", "ch2")}
    for number, (x0, y0, f) in enumerate(zip(x, y, flux, strict=True)):
        add_star(images["ch2"], x0, y0, f)
        if number < x.size - 1:
            add_star(images["ch1"], x0, y0, 1.3 * f)
    return x, y, flux, {name: superstack(image) for name, image in images.items()}


@pytest.fixture(scope="module")
def found(field):
    return detect(field[3])


def nearest(catalogue, x, y):
    tree = cKDTree(np.stack([catalogue["x"], catalogue["y"]], axis=1))
    return tree.query(np.stack([np.atleast_1d(x), np.atleast_1d(y)], axis=1))


def test_nearly_all_stars_are_found_and_nothing_else(field, found):
    x, y, flux, _ = field
    distance, _ = nearest(found.catalogue, x, y)
    bright = 0.7 * flux / APERTURE_NOISE > 10
    assert bright.sum() > 100
    assert np.mean(distance[bright] < 1.0) >= 0.98
    truth = cKDTree(np.stack([x, y], axis=1))
    places = np.stack([found.catalogue["x"], found.catalogue["y"]], axis=1)
    assert np.count_nonzero(truth.query(places)[0] > 2.0) <= 1


def test_centres_sizes_and_fluxes_are_those_of_the_stars(field, found):
    x, y, flux, _ = field
    distance, row = nearest(found.catalogue, x, y)
    bright = np.flatnonzero((distance < 1) & (flux > 60 * APERTURE_NOISE))
    objects = found.catalogue[row[bright]]
    assert bright.size > 50
    assert np.sqrt(np.mean(distance[bright] ** 2)) < 0.08
    assert np.median(objects["fwhm"]) == pytest.approx(3.4, rel=0.08)  # with the pixel
    assert np.median(objects["ellipticity"]) < 0.08
    ratio = objects["flux_auto_ch2"] / flux[bright]
    assert np.median(ratio) == pytest.approx(0.94, abs=0.05)  # a Kron ellipse holds 90 % or more
    assert np.std(ratio) < 0.06
    assert np.median(objects["flux_auto_ch1"] / objects["flux_auto_ch2"]) == pytest.approx(
        1.3, rel=0.01
    )


def test_errors_count_the_correlation_in(field, found):
    assert found.correlation["ch1"] == pytest.approx(2.2, rel=0.1)
    table = found.catalogue
    area = np.pi * table["kron_a"] * table["kron_b"]
    inside = (table["flags"] & flag_bit("edge")) == 0
    expected = np.sqrt(area) * found.correlation["ch2"]
    np.testing.assert_allclose(table["flux_auto_err_ch2"][inside], expected[inside], rtol=0.15)
    np.testing.assert_allclose(
        table["snr_ch2"], table["flux_auto_ch2"] / table["flux_auto_err_ch2"], rtol=1e-6
    )


def test_a_dropout_is_found_and_its_channel_named(field, found):
    x, y, *_ = field
    distance, row = nearest(found.catalogue, x[-1], y[-1])
    assert distance[0] < 0.5
    named = found.catalogue["detected_in"][row[0]].split("+")
    assert "ch2" in named
    assert "ch1" not in named
    assert found.catalogue["snr_ch1"][row[0]] < 3
    everywhere = found.catalogue["detected_in"] == "ch1+ch2+both"
    assert np.mean(everywhere) > 0.8


def test_what_only_one_channel_shows_is_added_beside_a_brighter_object():
    rng = np.random.default_rng(2)
    images = {name: noise(rng, (128, 128), 0.5) for name in ("ch1", "ch2")}
    add_star(images["ch1"], 60.0, 60.0, 6000.0)
    add_star(images["ch2"], 64.5, 60.0, 6000.0)
    # in neither alone but in both together
    for image in images.values():
        add_star(image, 30.0, 100.0, 60.0)
    result = detect({name: superstack(image) for name, image in images.items()})
    distance, row = nearest(result.catalogue, [60.0, 64.5, 30.0], [60.0, 60.0, 100.0])
    assert (distance < 1.0).all()
    assert len(set(row)) == 3
    assert "ch2" not in result.catalogue["detected_in"][row[0]].split("+")
    assert "ch1" not in result.catalogue["detected_in"][row[1]].split("+")
    assert result.catalogue["detected_in"][row[2]].endswith("both")


def test_one_channel_is_named_alone():
    image = noise(np.random.default_rng(3), (100, 100))
    add_star(image, 50.2, 40.7, 900.0)
    result = detect({"ch1": superstack(image)})
    assert list(result.catalogue["detected_in"]) == ["ch1"]
    assert "flux_auto_ch2" not in result.catalogue.colnames
    assert result.catalogue["neighbour_distance"][0] == np.inf
    assert result.catalogue["isolated"][0]


def test_noise_alone_shows_less_than_one_object_per_field():
    rng = np.random.default_rng(4)
    count = 0
    for correlated in (0.6, 1.0, 1.3) * 2:
        try:
            images = {name: superstack(noise(rng, (512, 512), correlated)) for name in ("a", "b")}
            count += len(detect(images).catalogue)
        except ImageError:
            continue
    assert count < 6


def test_table_and_segmentation_belong_together(found):
    table, segmentation = found.catalogue, found.segmentation
    assert segmentation.dtype == np.int32
    np.testing.assert_array_equal(table["object_id"], np.arange(1, len(table) + 1))
    labels, pixels = np.unique(segmentation[segmentation > 0], return_counts=True)
    np.testing.assert_array_equal(labels, table["object_id"])
    np.testing.assert_array_equal(pixels, table["npix"])
    at = np.rint(table["y"]).astype(int), np.rint(table["x"]).astype(int)
    np.testing.assert_array_equal(segmentation[at], table["object_id"])
    assert (table["kron_a"] >= table["kron_b"]).all()
    assert (table["kron_a"] >= 3.5 * table["a"] - 1e-9).all()
    assert (table["kron_a"] <= 8 * table["a"] + 1e-9).all()
    for name in ("x", "y", "kron_a", "kron_b", "theta", "flux_auto_ch1", "snr_ch2", "fwhm"):
        assert np.isfinite(table[name]).all(), name
    assert np.isnan(table["ra"]).all()


def test_the_same_field_gives_the_same_objects(field, found):
    again = detect(field[3])
    np.testing.assert_array_equal(again.segmentation, found.segmentation)
    for name in found.catalogue.colnames:
        np.testing.assert_array_equal(again.catalogue[name], found.catalogue[name], err_msg=name)


def tan(shape, ra=265.0, dec=69.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cdelt = [-0.6 / 3600, 0.6 / 3600]
    return wcs


def test_objects_stand_in_the_order_of_the_sky(field, found):
    wcs = tan((420, 400))
    table = detect(field[3], wcs=wcs).catalogue
    sky = wcs.pixel_to_world(table["x"], table["y"])
    np.testing.assert_allclose(table["ra"], sky.ra.deg, rtol=0, atol=1e-9)
    np.testing.assert_allclose(table["dec"], sky.dec.deg, rtol=0, atol=1e-9)
    band = np.floor(table["dec"] * 180)
    assert (np.diff(band) >= 0).all()
    assert (np.diff(table["ra"])[np.diff(band) == 0] >= 0).all()
    assert sorted(table["x"]) == sorted(found.catalogue["x"])


def test_a_field_across_zero_hours_is_not_torn_apart():
    ra = np.array([359.99, 0.01, 359.98, 0.02])
    dec = np.full(4, 10.0)
    order = sky_order(np.zeros(4), np.zeros(4), ra, dec)
    np.testing.assert_array_equal(order, [2, 0, 1, 3])


def test_without_a_wcs_the_order_is_by_bands_of_y():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 300, (2, 200))
    for sky in ({}, {"ra": np.full(200, np.nan), "dec": np.full(200, np.nan)}):
        order = sky_order(x, y, **sky)
        assert sorted(order) == list(range(200))
        band = y[order] // 32
        assert (np.diff(band) >= 0).all()
        assert (np.diff(x[order])[np.diff(band) == 0] >= 0).all()


def test_photon_noise_in_the_error_does_not_flatten_a_bright_star():
    rng = np.random.default_rng(6)
    image = noise(rng, (200, 200), 0.5)
    light = np.zeros(image.shape)
    add_star(light, 100.3, 90.6, 3e5)
    plain = detect({"ch1": superstack(image + light)}).catalogue
    photon = detect({"ch1": superstack(image + light, np.sqrt(1 + light))}).catalogue
    brightest = [table[np.argmax(table["flux_auto_ch1"])] for table in (plain, photon)]
    for name in ("a", "b", "kron_radius", "fwhm", "x", "y"):
        assert brightest[0][name] == pytest.approx(brightest[1][name], rel=0.05), name
    assert brightest[1]["flux_auto_err_ch1"] > 5 * brightest[0]["flux_auto_err_ch1"]


def test_objects_that_few_aors_saw_are_dropped():
    rng = np.random.default_rng(7)
    coverage = np.full((160, 160), N_AORS)
    coverage[:, 80:] = 15
    image = noise(rng, coverage.shape) * np.sqrt(N_AORS / coverage)
    err = np.sqrt(N_AORS / coverage)
    add_star(image, 40.0, 80.0, 4000.0)
    add_star(image, 120.0, 80.0, 4000.0)
    stack = superstack(image, err, coverage=coverage)
    both = detect({"ch1": stack}, min_coverage=0.3).catalogue
    np.testing.assert_array_equal(np.sort(both["n_coverage_ch1"]), [15, N_AORS])
    one = detect({"ch1": stack}, min_coverage=0.5)
    assert list(one.catalogue["n_coverage_ch1"]) == [N_AORS]
    assert set(np.unique(one.segmentation)) == {0, 1}
    # what was clipped has been seen
    hit = replace(stack, coverage=stack.coverage - 1, clipped=stack.clipped + 1)
    assert list(detect({"ch1": hit}, min_coverage=1.0).catalogue["n_coverage_ch1"]) == [N_AORS]


def test_uneven_coverage_gives_no_false_objects():
    rng = np.random.default_rng(8)
    coverage = np.full((300, 300), N_AORS)
    coverage[100:200] = 9
    coverage[:, 200:] = 4
    coverage[:20] = 0
    err = np.sqrt(N_AORS / np.maximum(coverage, 1.0))
    image = np.where(coverage > 0, noise(rng, coverage.shape) * err, np.nan)
    add_star(image, 150.0, 250.0, 800.0)
    stack = superstack(image, np.where(coverage > 0, err, np.nan), coverage=coverage)
    table = detect({"ch1": stack}, min_coverage=0.05).catalogue
    assert len(table) == 1
    assert (table["x"][0], table["y"][0]) == pytest.approx((150.0, 250.0), abs=0.3)


def test_edges_and_holes_are_flagged():
    image = noise(np.random.default_rng(9), (160, 160))
    for x, y in ((1.0, 80.0), (80.0, 80.0), (120.0, 30.0)):
        add_star(image, x, y, 8000.0)
    image[78:80, 85:87] = np.nan
    table = detect({"ch1": superstack(image)}).catalogue
    _, row = nearest(table, [1.0, 80.0, 120.0], [80.0, 80.0, 30.0])
    flags = table["flags"][row]
    assert flags[0] & flag_bit("edge")
    assert flags[1] & flag_bit("masked_pixels")
    assert flags[2] == 0


def test_neighbours_are_told():
    image = noise(np.random.default_rng(10), (240, 240), 0.5)
    for x, y, flux in (
        (40.0, 40.0, 5000.0),
        (46.0, 40.0, 2000.0),  # a pair
        (120.0, 40.0, 5000.0),  # alone
        (60.0, 180.0, 1e6),
        (85.0, 180.0, 1200.0),  # faint, 25 px from a star a thousand times brighter
        (200.0, 200.0, 5000.0),
        (230.0, 200.0, 300.0),  # 30 px from a star that is not
    ):
        add_star(image, x, y, flux, reach=80)
    table = detect({"ch1": superstack(image)}).catalogue
    places = np.array([(40, 40), (46, 40), (120, 40), (60, 180), (85, 180), (200, 200), (230, 200)])
    distance, row = nearest(table, *places.T)
    assert (distance < 1).all()
    assert len(set(row)) == 7
    assert list(table["isolated"][row]) == [False, False, True, True, False, True, True]
    assert table["neighbour_distance"][row[0]] == pytest.approx(6.0, abs=0.3)
    named = (table["flags"] & flag_bit("neighbour")) > 0
    np.testing.assert_array_equal(named, ~table["isolated"])


def test_sky_is_what_keeps_its_distance():
    rng = np.random.default_rng(11)
    segmentation = np.zeros((40, 50), np.int32)
    segmentation[rng.integers(0, 40, 6), rng.integers(0, 50, 6)] = 3
    objects = np.argwhere(segmentation > 0)
    y, x = np.indices(segmentation.shape)
    distance = np.min([np.hypot(y - r, x - c) for r, c in objects], axis=0)
    np.testing.assert_array_equal(seen_sky(segmentation, grow=5.0), distance > 5.0)
    good = rng.uniform(size=segmentation.shape) < 0.5
    np.testing.assert_array_equal(
        seen_sky(segmentation, grow=5.0, good=good), (distance > 5.0) & good
    )
    assert seen_sky(np.zeros((5, 5), np.int32)).all()


def test_nothing_found_is_an_error_that_says_how_it_was_searched():
    image = superstack(noise(np.random.default_rng(12), (64, 96)))
    with pytest.raises(
        ImageError, match=r"no object found on IDF \(ch1; 96 x 64 .* above 50 times"
    ):
        detect({"ch1": image}, threshold=50.0, field="IDF")
    unseen = superstack(np.full((64, 64), np.nan), np.nan, coverage=0)
    with pytest.raises(ImageError, match="no object found on the field"):
        detect({"ch1": unseen, "ch2": unseen})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold above 0"),
        ({"min_coverage": 1.5}, "coverage between 0 and 1, found 4.0 and 1.5"),
    ],
)
def test_what_cannot_be_searched_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        detect({"ch1": superstack(np.zeros((32, 32)))}, **arguments)


def test_superstacks_must_be_there_and_of_one_shape():
    with pytest.raises(UsageError, match="none was given"):
        detect({})
    stacks = {"ch1": superstack(np.zeros((32, 32))), "ch2": superstack(np.zeros((32, 40)))}
    with pytest.raises(ImageShape, match=r"found ch1 \(32, 32\), ch2 \(32, 40\)"):
        detect(stacks)


class Frame:
    """An AOR in memory."""

    def __init__(self, flux, variance, good):
        self.flux, self.variance, self.good = flux, variance, good

    def strip(self, y0, y1):
        return Strip(self.flux[y0:y1], self.variance[y0:y1], self.good[y0:y1])


def stack_of(files, cards=("sci", "unc")):
    """Return the superstack of FITS files."""
    layers, skies = [], []
    for file in files:
        flux = np.squeeze(fits.getdata(file)).astype(np.float32)
        unc = file.with_name(file.name.replace(*cards))
        variance = np.squeeze(fits.getdata(unc)).astype(np.float32) ** 2
        good = np.isfinite(flux) & np.isfinite(variance)
        layers.append(Frame(flux, variance, good))
        skies.append(rough_plane(flux, ~good))
    return make_superstack(layers, skies, layers[0].flux.shape)


def test_one_bright_star_in_small_real_exposures_is_one_object(data_folder):
    files = sorted((data_folder / "irac_bcd_xo3").glob("*sub2d.fits"))
    assert len(files) == 11
    table = detect({"ch2": stack_of(files, ("sub2d", "unc2d"))}).catalogue
    assert len(table) == 1
    image = np.squeeze(fits.getdata(files[5]))
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    assert (table["x"][0], table["y"][0]) == pytest.approx((column, row), abs=1.0)
    assert table["snr_ch2"][0] > 30


def test_the_simulated_field_is_found_with_its_dropout_and_transient(tmp_path):
    from idfzarr.imaging.simulate import simulate

    simulate(tmp_path, aors=9, objects=130, size=224, seed=3)
    truth = Table.read(tmp_path / "truth.ecsv")

    def number(file):
        return int(re.search(r"gr(\d+)_", file.name)[1])

    stacks = {
        channel: stack_of(sorted(tmp_path.glob(f"*_{channel}_sci.fits"), key=number))
        for channel in ("ch1", "ch2")
    }
    result = detect(stacks)
    table = result.catalogue
    distance, row = nearest(table, truth["x"], truth["y"])
    alone = np.asarray(truth["isolated"], dtype=bool)
    per_pixel = 1e-6 / (0.6 / 206264.806) ** 2 * 1e-6  # microjansky to MJy/sr
    significance = np.max(
        [
            truth[f"flux_{c}"]
            * truth[f"energy_{c}_aper2"]
            * per_pixel
            / (np.nanmedian(stacks[c].err) * np.sqrt(np.pi * 9) * result.correlation[c])
            for c in stacks
        ],
        axis=0,
    )
    clear = alone & (significance > 10)
    assert clear.sum() >= 10
    assert np.mean(distance[clear] < 1.5) >= 0.95
    apart = cKDTree(np.stack([truth["x"], truth["y"]], axis=1))
    false = apart.query(np.stack([table["x"], table["y"]], axis=1))[0] > 3.0
    assert np.count_nonzero(false) <= 0.03 * len(table)
    for kind in ("dropout", "transient"):
        which = np.flatnonzero(truth["variable"] == kind)
        assert which.size == 1
        assert distance[which[0]] < 1.0, kind
        if kind == "dropout":
            assert "ch1" not in table["detected_in"][row[which[0]]].split("+")


SETTINGS = (
    "-c /dev/null -PARAMETERS_NAME out.param -FILTER_NAME default.conv -CATALOG_NAME out.cat "
    "-CATALOG_TYPE ASCII_HEAD -DETECT_THRESH 3 -DETECT_MINAREA 5 -BACK_SIZE 32 -DEBLEND_NTHRESH 32 "
    "-DEBLEND_MINCONT 0.005 -MASK_TYPE NONE -GAIN_KEY NONE -SATUR_KEY NONE -VERBOSE_TYPE QUIET"
)


@pytest.fixture(scope="module")
def glimpse(data_folder, tmp_path_factory):
    """Return the real crowded mosaic as a superstack, and SExtractor's catalogue of it."""
    program = shutil.which("source-extractor") or shutil.which("sex")
    if program is None:
        pytest.skip("needs the program source-extractor")
    folder = tmp_path_factory.mktemp("sextractor")
    image = fits.getdata(data_folder / "glimpse_ch2_mosaic" / "spitzer_example_image.fits")
    image = np.ascontiguousarray(image[:, :512], dtype=np.float32)
    blank = ~np.isfinite(image)
    image[blank] = np.nanmedian(image)
    fits.writeto(folder / "image.fits", image)
    names = "XWIN_IMAGE YWIN_IMAGE X_IMAGE Y_IMAGE FLUX_AUTO FLUXERR_AUTO FLAGS A_IMAGE B_IMAGE"
    (folder / "out.param").write_text("\n".join(names.split()) + "\n")
    (folder / "default.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    subprocess.run([program, "image.fits", *SETTINGS.split()], cwd=folder, check=True)
    theirs = Table.read(folder / "out.cat", format="ascii.sextractor")
    background = sep.Background(image, bw=32, bh=32)
    stack = superstack(np.where(blank, np.nan, image - background.back()), background.globalrms)
    return stack, theirs


def test_a_real_crowded_field_is_seen_as_sextractor_sees_it(glimpse):
    stack, theirs = glimpse
    # their threshold is 3 times the scatter of a pixel, ours is in widths of the filtered sky;
    # white noise of unit scatter is 3/8 wide after their filter
    width = 0.375 * detect({"ch2": stack}).correlation["ch2"]
    result = detect({"ch2": stack}, threshold=3.0 / width, deblend_contrast=0.005)
    table = result.catalogue
    assert len(theirs) > 1500
    assert 0.9 < len(table) / len(theirs) < 1.1
    distance, row = nearest(table, theirs["XWIN_IMAGE"] - 1, theirs["YWIN_IMAGE"] - 1)
    assert np.mean(distance < 1) > 0.9
    ours = table[row]
    same = (distance < 0.3) & (theirs["FLAGS"] == 0) & ours["isolated"]
    same &= theirs["FLUX_AUTO"] > 30 * theirs["FLUXERR_AUTO"]
    assert np.count_nonzero(same) > 20
    assert np.median(distance[same]) < 0.05
    ratio = np.asarray(ours["flux_auto_ch2"] / theirs["FLUX_AUTO"])[same]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.02)
    for axis in ("a", "b"):
        shape = np.asarray(ours[axis] / theirs[f"{axis.upper()}_IMAGE"])[same]
        assert np.median(shape) == pytest.approx(1.0, abs=0.05)
