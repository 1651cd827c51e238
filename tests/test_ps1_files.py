"""The pretended Pan-STARRS1 files: are they what the archive's are, and is their sky true?"""

from __future__ import annotations

import gzip
import io
import math
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from idfzarr.errors import UsageError
from idfzarr.ps1 import skycell
from idfzarr.ps1.headers import header_of, read_image_cards
from idfzarr.ps1.pixels import Scaling, flux_of_disk, sigma_of_disk
from idfzarr.testing.ps1_files import (
    COMPRESSIONS,
    KINDS,
    PS1Sky,
    clean,
    disk_pixels,
    exposure,
    file_bytes,
    file_name,
    parse_file_name,
    relative_path,
    true_flux,
    write_files,
)

SKY = PS1Sky(seed=5)
CELL = "skycell.1405.053"
A = 2.5 * math.log10(math.e)


def table_of(made):
    """Return header and raw bytes of the compressed table, as it stands in the file."""
    with fits.open(io.BytesIO(made), disable_image_compression=True) as opened:
        at = opened[1].fileinfo()["datLoc"]
        return opened[1].header.copy(), made[at:]


def disk_of(made):
    """Return integers on disk and header, by astropy, which is told not to scale."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(made), do_not_scale_image_data=True) as opened:
            header = opened[1].header.copy()
            return opened[1].data.copy(), header


def dn_of(made):
    """Return counts by the formulae in the comments of the header itself."""
    disk, header = disk_of(made)
    with fits.open(io.BytesIO(made), disable_image_compression=True) as opened:
        header = opened[1].header.copy()
    v = header["BZERO"] + header["BSCALE"] * disk.astype(float)
    v[disk == header["ZBLANK"]] = np.nan
    return header["BOFFSET"] + header["BSOFTEN"] * (np.exp(v / A) - np.exp(-v / A)), header


def rice_row(packed, length):
    """Undo Rice compression of one row of 16-bit integers, bit by bit.

    White, Becker & Greenfield (FITS Standard 4.0, section 10.4.1): first pixel in 16 bits, then
    blocks of 32 differences, each with a 4-bit number of split bits less one; 15 is unpacked.
    """
    bits = "".join(f"{byte:08b}" for byte in packed)
    last, at, values = int(bits[:16], 2), 16, []
    while len(values) < length:
        split, at = int(bits[at : at + 4], 2) - 1, at + 4
        for _ in range(min(32, length - len(values))):
            if split == -1:
                coded = 0
            elif split == 14:
                coded, at = int(bits[at : at + 16], 2), at + 16
            else:
                stop = bits.index("1", at)
                low = bits[stop + 1 : stop + 1 + split]
                coded = ((stop - at) << split) | (int(low, 2) if low else 0)
                at = stop + 1 + split
            step = ~(coded >> 1) if coded & 1 else coded >> 1
            last = (last + step) & 0xFFFF
            values.append(last)
    return np.array(values, dtype=np.uint16).view(np.int16)


@pytest.mark.parametrize("kind", KINDS)
def test_layout_and_header_are_those_of_the_archive(kind):
    made = file_bytes(SKY, CELL, "i", kind)
    with fits.open(io.BytesIO(made), disable_image_compression=True) as opened:
        assert opened[0].header["NAXIS"] == 0
        assert len(opened) == 2
        header = opened[1].header
        assert header["XTENSION"] == "BINTABLE"
        assert (header["ZTILE1"], header["ZTILE2"]) == (256, 1)
        assert (header["ZNAXIS1"], header["ZNAXIS2"], header["NAXIS2"]) == (256, 250, 250)
        assert (header["ZCMPTYPE"], header["ZBITPIX"]) == ("RICE_1", 16)
        assert 200 < len(header) < 350
        for name in ("RADESYS", "EQUINOX", "TIMESYS", "PC1_1", "CD1_1", "CHECKSUM", "EXTNAME"):
            assert name not in header
        assert [header[f"PC00{i}00{j}"] for i in (1, 2) for j in (1, 2)] == [-1, 0, 0, 1]
        assert header["FPA.ZP"] == 25.0
        assert header["FPA.FILTER"] == "i.00000"
        assert header["SKYCELL"] == CELL
        assert header["TESS_ID"] == "RINGS.V3"
        inputs = [header[f"EXP_{n:04d}"] for n in range(header["NINPUTS"])]
        assert header["EXPTIME"] == pytest.approx(sum(inputs))
        assert (header.get("BLANK"), header.get("ZBLANK")) == (
            (None, None) if kind == "mask" else (32767, 32767)
        )
        assert ("MSKNUM" in header) == (kind == "mask")
    assert len(made) % 2880 == 0


def test_some_headers_lack_imageid():
    found = {"IMAGEID" in table_of(file_bytes(SKY, f"1405.{c:03d}", "r"))[0] for c in range(50, 60)}
    assert found == {True, False}


def test_rows_are_rice_by_a_decoder_of_our_own():
    made = file_bytes(SKY, CELL, "r")
    header, data = table_of(made)
    disk, _ = disk_pixels(SKY, CELL, "r")
    descriptors = np.frombuffer(data[: 8 * 250], dtype=">i4").reshape(250, 2)
    assert header["NAXIS1"] == 8
    for row in (0, 3, 101, 249):
        size, at = descriptors[row]
        heap = data[header.get("THEAP", 2000) + at :][:size]
        np.testing.assert_array_equal(rice_row(heap, 256), disk[row])


@pytest.mark.parametrize("kind", ["image", "weight"])
def test_border_of_three_pixels_has_no_value(kind):
    disk, _ = disk_of(file_bytes(SKY, CELL, "z", kind))
    mask, _ = disk_pixels(SKY, CELL, "z", "mask")
    blank = disk == 32767
    border = np.ones(disk.shape, dtype=bool)
    border[3:-3, 3:-3] = False
    assert blank[border].all()
    np.testing.assert_array_equal(blank, (mask & (1 | 8 | 32)) > 0)
    assert 0 < blank[~border].sum() < 0.05 * blank.size


@pytest.mark.parametrize("band", "gy")
def test_clean_stars_add_up_to_their_flux(band):
    dn, header = dn_of(file_bytes(SKY, CELL, band))
    per_dn = 3631e6 * 10 ** (-0.4 * 25) / header["EXPTIME"]
    variance = dn_of(file_bytes(SKY, CELL, band, "weight"))[0]
    stars = SKY.stars(CELL)
    good = np.flatnonzero(clean(SKY, CELL, stars))
    assert len(good) > 40
    pull = []
    for i in good:
        x, y = round(stars.x[i]), round(stars.y[i])
        box = np.s_[y - 7 : y + 8, x - 7 : x + 8]
        others = np.hypot(stars.x - stars.x[i], stars.y - stars.y[i])
        if np.sort(others)[1] < 17:
            continue
        sigma = math.sqrt(variance[box][variance[box] > 0].sum())
        pull.append((dn[box].sum() - stars.flux(band)[i] / per_dn) / sigma)
    assert len(pull) > 20
    assert abs(np.mean(pull)) < 4 / math.sqrt(len(pull))
    assert 0.6 < np.std(pull) < 1.4


def test_weight_is_the_variance_of_the_noise_and_scaled_on_its_own():
    dn, header = dn_of(file_bytes(SKY, CELL, "r"))
    variance, of_weight = dn_of(file_bytes(SKY, CELL, "r", "weight"))
    assert of_weight["BSOFTEN"] > 10 * header["BSOFTEN"]
    assert of_weight["BOFFSET"] != header["BOFFSET"]
    truth = true_flux(SKY, CELL, "r") / exposure(SKY, CELL, "r").microjansky_per_dn
    mask, _ = disk_pixels(SKY, CELL, "r", "mask")
    low = (mask & 64) > 0
    assert low.sum() > 100
    assert (variance[low & ~np.isnan(variance)] <= 0).all()
    good = np.isfinite(dn) & ~low
    pull = (dn[good] - truth[good]) / np.sqrt(variance[good])
    assert np.std(pull) == pytest.approx(1, abs=0.02)
    assert np.mean(pull) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("sky", [SKY, PS1Sky(seed=5, size=(600, 530))], ids=["small", "larger"])
@pytest.mark.parametrize("other", ["skycell.1405.054", "skycell.1405.063", "skycell.1405.064"])
def test_neighbours_agree_where_they_overlap(sky, other):
    here, there = sky.window(CELL), sky.window(other)
    dx, dy = there.column - here.column, there.row - here.row
    x0, y0 = max(dx, 0), max(dy, 0)
    x1, y1 = min(here.nx, there.nx + dx), min(here.ny, there.ny + dy)
    assert (x1 - x0) * (y1 - y0) > 300
    for kind, tolerance in (("image", 0.01), ("weight", 0.01)):
        one = dn_of(file_bytes(sky, CELL, "r", kind))[0][y0:y1, x0:x1]
        two = dn_of(file_bytes(sky, other, "r", kind))[0][y0 - dy : y1 - dy, x0 - dx : x1 - dx]
        both = np.isfinite(one) & np.isfinite(two)
        assert both.sum() > 100
        # Each has integers of its own, a few thousand to a sigma; of stars, of the asinh.
        scale = np.maximum(np.abs(one[both]), np.nanstd(one))
        assert (np.abs(one - two)[both] / scale).max() < tolerance
    one = disk_pixels(sky, CELL, "r", "mask")[0][y0:y1, x0:x1]
    two = disk_pixels(sky, other, "r", "mask")[0][y0 - dy : y1 - dy, x0 - dx : x1 - dx]
    inside = ((one | two) & 8) == 0
    np.testing.assert_array_equal(one[inside], two[inside])


def test_a_window_shows_the_pixels_of_the_survey_on_both_sides_of_a_border():
    ra, dec = 331.0, 1.2
    sky = PS1Sky(seed=2, size=(200, 180), around=(ra, dec))
    best = skycell.best(ra, dec)
    window = sky.window(best)
    assert window.step == 1.0
    assert (window.left, window.bottom) == (int(window.left), int(window.bottom))
    x, y = skycell.sky_to_pixel(best, ra, dec)
    assert window.left < float(x) < window.left + 200
    assert window.bottom < float(y) < window.bottom + 180
    assert len(sky.stars(best)) > 20


def test_stars_are_the_same_in_every_projection_cell():
    # Where two zones meet: their skycells have grids of their own.
    ra, dec = 64.5, 27.990585819085737
    names = skycell.containing(ra, dec)
    assert len({skycell.parse(name).projection for name in names}) > 1
    alpha, delta, magnitude = SKY.stars_in_cone(ra, dec, 0.08)
    assert len(alpha) > 5
    for name in names:
        stars, window = SKY.stars(name), SKY.window(name)
        x, y = window.pixels(*skycell.sky_to_pixel(name, alpha, delta))
        inside = (x > 0) & (y > 0) & (x < window.nx) & (y < window.ny)
        assert inside.any()
        for star, value in zip(alpha[inside], magnitude["r"][inside], strict=True):
            nearest = np.abs(stars.ra - star).argmin()
            assert stars.ra[nearest] == star
            assert stars.magnitude["r"][nearest] == value


@pytest.mark.parametrize("dec", [89.99, 87.5, 0.0, -29.5])
def test_stars_of_a_cone_are_found_whatever_the_cone(dec):
    # The stars of a cone are those of a larger cone that lie inside it.
    few = SKY.stars_in_cone(0.02, dec, 0.1)
    many = SKY.stars_in_cone(0.5, dec, 0.9)
    near = PS1Sky(seed=5)._stars_near(0.02, dec, 0.4)
    from idfzarr.testing.ps1_sky import _separation

    inside = _separation(many[0], many[1], 0.02, dec) <= 0.1
    assert len(few[0]) > 5
    assert sorted(few[1]) == sorted(many[1][inside])
    assert set(few[1]) <= set(near[1])


def test_wcs_of_the_header_leads_to_the_stars():
    made = file_bytes(SKY, CELL, "r")
    header, _ = table_of(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(header_of(read_image_cards(io.BytesIO(made)).image), naxis=2)
    stars = SKY.stars(CELL)
    x, y = wcs.all_world2pix(stars.ra, stars.dec, 0)
    # 0.2 mas at the edge of a projection cell, from the rounded scale of the headers.
    np.testing.assert_allclose(x, stars.x, atol=1e-3)
    np.testing.assert_allclose(y, stars.y, atol=1e-3)
    assert header["CDELT1"] == pytest.approx(header["CDELT2"])


def test_full_size_is_the_grid_of_the_survey():
    sky = PS1Sky(size=None)
    for name in (CELL, "skycell.2643.034", "skycell.0635.000"):
        window = sky.window(name)
        assert (window.ny, window.nx) == skycell.shape(name)
        assert (window.left, window.bottom, window.step) == (0, 0, 1)


@pytest.mark.slow
def test_full_size_file():
    sky = PS1Sky(size=None)
    made = file_bytes(sky, CELL, "g")
    # 66,974,400 bytes in the archive.
    assert 0.9 < len(made) / 66_974_400 < 1.1
    header, _ = table_of(made)
    cards = skycell.wcs_cards(CELL)
    for name in ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"):
        assert header[name] == cards[name]
    assert header["CDELT1"] == 6.94444461259988e-05
    assert (header["ZNAXIS1"], header["ZNAXIS2"]) == (6240, 6243)
    disk, _ = disk_of(made)
    assert disk.shape == (6243, 6240)
    assert (disk[3:-3, 3:-3] != 32767).mean() > 0.9


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_masks_of_every_form_hold_the_same_bits(compression):
    made = file_bytes(SKY, "skycell.1405.054", "r", "mask", compression=compression)
    truth, meaning = disk_pixels(SKY, "skycell.1405.054", "r", "mask")
    with fits.open(io.BytesIO(made)) as opened:
        pixels, header = opened[1].data, opened[1].header
        assert pixels.dtype.kind == ("i" if compression == "signed" else "u")
        np.testing.assert_array_equal(pixels.astype(np.int64) & 0xFFFF, truth)
        bits = {header[f"MSKNAM{n:02d}"]: header[f"MSKVAL{n:02d}"] for n in range(18)}
    assert meaning is None
    assert header["MSKNUM"] == 18
    assert bits["STARCORE"] == 4096
    assert bits["MASK.VALUE"] == 8575
    for name in ("DETECTOR", "BLANK", "SAT", "LOW", "SUSPECT", "CR", "SPIKE", "GHOST", "STREAK"):
        assert (truth & bits[name]).any(), name
    for name in ("STARCORE", "CONV.POOR", "MARK.VALUE"):
        assert (truth & bits[name]).any(), name


@pytest.mark.parametrize("compression", ["RICE_1", "GZIP_1", "none"])
def test_images_of_every_form_hold_the_same_integers(compression):
    truth, _ = disk_pixels(SKY, CELL, "r")
    disk, _ = disk_of(file_bytes(SKY, CELL, "r", compression=compression))
    np.testing.assert_array_equal(disk, truth)


def test_readers_of_this_package_find_the_truth():
    made = file_bytes(SKY, CELL, "i")
    disk, _ = disk_of(made)
    scaling = Scaling.from_header(header_of(read_image_cards(io.BytesIO(made)).image))
    flux = flux_of_disk(disk, scaling)
    weight = file_bytes(SKY, CELL, "i", "weight")
    own = Scaling.from_header(header_of(read_image_cards(io.BytesIO(weight)).image))
    sigma = sigma_of_disk(disk_of(weight)[0], own)
    good = np.isfinite(flux) & np.isfinite(sigma)
    assert good.mean() > 0.9
    pull = (flux - true_flux(SKY, CELL, "i"))[good] / sigma[good]
    assert np.std(pull) == pytest.approx(1, abs=0.02)


def test_bytes_follow_from_the_arguments_alone():
    once = file_bytes(PS1Sky(seed=5), CELL, "r")
    file_bytes(PS1Sky(seed=6), "skycell.1944.003", "g")
    assert file_bytes(PS1Sky(seed=5), "1405.053", "r") == once
    others = [
        file_bytes(PS1Sky(seed=6), CELL, "r"),
        file_bytes(SKY, CELL, "i"),
        file_bytes(SKY, CELL, "r", "weight"),
        file_bytes(SKY, "skycell.1405.054", "r"),
    ]
    assert len({once, *others}) == 5


def test_checksums_hold_where_they_are_asked_for():
    made = file_bytes(SKY, CELL, "r", checksums=True)
    with fits.open(io.BytesIO(made), checksum=True, disable_image_compression=True) as opened:
        assert "DATASUM" in opened[1].header
        assert opened[1].verify_checksum() == 1
        assert opened[1].verify_datasum() == 1
    np.testing.assert_array_equal(disk_of(made)[0], disk_pixels(SKY, CELL, "r")[0])


def test_names_and_paths():
    assert file_name("1405.053", "g") == "rings.v3.skycell.1405.053.stk.g.unconv.fits"
    assert file_name("635.000", "y", "mask") == "rings.v3.skycell.0635.000.stk.y.unconv.mask.fits"
    assert relative_path(CELL, "r", "weight") == (
        "1405/053/rings.v3.skycell.1405.053.stk.r.unconv.wt.fits"
    )
    for kind in KINDS:
        found = parse_file_name(file_name(CELL, "z", kind))
        assert (found.skycell, found.band, found.kind) == (CELL, "z", kind)
    for wrong in ("", "rings.v3.skycell.1405.053.stk.u.unconv.fits", "../" + file_name(CELL, "r")):
        assert parse_file_name(wrong) is None


def test_a_folder_of_downloads(tmp_path):
    tree = write_files(tmp_path / "tree", SKY, ["635.002"], kinds=["image"])
    # The ragged south: no g, no y.
    assert [p.name.split(".")[-3] for p in tree] == ["r", "i", "z"]
    assert tree[0] == tmp_path / "tree" / relative_path("635.002", "r")
    assert write_files(tmp_path, SKY, ["635.001"]) == ()
    (packed,) = write_files(
        tmp_path, SKY, [CELL], bands="r", kinds=["mask"], extension=".fits.gz", flat=True
    )
    assert packed.name == "rings.v3.skycell.1405.053.stk.r.unconv.mask.fits.gz"
    assert gzip.decompress(packed.read_bytes()) == file_bytes(SKY, CELL, "r", "mask")


def test_what_cannot_be_made_is_said():
    with pytest.raises(UsageError, match="pixels a side, not"):
        PS1Sky(size=(8, 8))
    with pytest.raises(UsageError, match="bands are g, r, i, z, y, not 'u'"):
        file_bytes(SKY, CELL, "u")
    with pytest.raises(UsageError, match="kinds are image, mask, weight, not 'num'"):
        file_bytes(SKY, CELL, "r", "num")
    with pytest.raises(UsageError, match="packed as RICE_1"):
        file_bytes(SKY, CELL, "r", compression="PLIO_1")
    with pytest.raises(UsageError, match=r"end in \.fits"):
        write_files(None, SKY, [CELL], extension=".zip")
