"""The superstack, against means that the test worked out itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy import ndimage

from idfzarr.errors import ImageShape, UsageError
from idfzarr.imaging.outliers import measure_sharpness
from idfzarr.imaging.sky import Plane
from idfzarr.imaging.superstack import MIN_EPOCHS, Strip, make_superstack

SIZE = 128
SHAPE = (SIZE, SIZE)
NOISE = 1.0


@dataclass
class Frame:
    """An AOR in memory."""

    flux: np.ndarray
    variance: np.ndarray | None
    good: np.ndarray

    def strip(self, y0, y1):
        variance = None if self.variance is None else self.variance[y0:y1]
        return Strip(self.flux[y0:y1], variance, self.good[y0:y1])


def sky(constant=0.0, rms=NOISE):
    return Plane(constant=constant, slope_x=0.0, slope_y=0.0, n_pixels=1000, rms=rms, ok=True)


def star(shape, x0, y0, flux, *, fwhm=3.2, ratio=1.0, angle=0.0):
    """Return a Moffat star (exponent 3) of a total flux, elliptical if asked."""
    y, x = np.indices(shape, dtype=np.float64)
    u = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    v = -(x - x0) * np.sin(angle) + (y - y0) * np.cos(angle)
    core = fwhm / 2 / np.sqrt(2 ** (1 / 3) - 1)
    return 2 * flux / (np.pi * core**2 * ratio) * (1 + (u**2 + (v / ratio) ** 2) / core**2) ** -3.0


STARS = [(25.3, 30.6, 4e4), (90.2, 20.1, 8e3), (40.7, 95.2, 1e5), (100.4, 80.9, 2e3), (64, 64, 600)]


def noise(rng, correlated=0.7):
    field = ndimage.gaussian_filter(rng.normal(size=SHAPE), correlated)
    return NOISE * field / field.std()


def frames(n, seed=0, *, drift=0.01, offset=0.2, roll=True, stars=STARS):
    """Return frames of one field with drift, pointing offsets and a PSF that turns."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        angle = number * np.pi / n if roll else 0.0
        dx, dy = rng.normal(0, offset, 2)
        scale = 1 + rng.normal(0, drift)
        light = sum(
            star(SHAPE, x + dx, y + dy, scale * f, ratio=0.9, angle=angle) for x, y, f in stars
        )
        light = np.asarray(light, dtype=np.float64) + np.zeros(SHAPE)
        variance = NOISE**2 + 0.01 * light
        flux = light + noise(rng) * np.sqrt(variance)
        made.append(
            Frame(flux.astype(np.float32), variance.astype(np.float32), np.ones(SHAPE, bool))
        )
    return made


def raw(stack):
    """Return the mean before its background was removed."""
    return stack.flux + stack.background


def plain_mean(made):
    """Return the weighted mean of everything."""
    flux = np.array([frame.flux for frame in made], dtype=np.float64)
    weight = 1 / np.array([frame.variance for frame in made], dtype=np.float64)
    return (flux * weight).sum(0) / weight.sum(0)


def circle(x0, y0, radius):
    y, x = np.indices(SHAPE)
    return np.hypot(x - x0, y - y0) <= radius


def test_two_aors_give_the_weighted_mean_of_scaled_images_unclipped():
    rng = np.random.default_rng(1)
    one, two = rng.normal(10, 1, SHAPE), rng.normal(26, 2, SHAPE)
    two[5, 5] = 1e5
    var_one, var_two = rng.uniform(0.5, 2, SHAPE), rng.uniform(1, 8, SHAPE)
    slanted = Plane(constant=10.0, slope_x=0.01, slope_y=-0.02, n_pixels=9, rms=1.0, ok=True)
    layers = [
        Frame(one.astype(np.float32), var_one.astype(np.float32), np.ones(SHAPE, bool)),
        Frame(two.astype(np.float32), var_two.astype(np.float32), np.ones(SHAPE, bool)),
    ]
    stack = make_superstack(layers, [slanted, sky(20.0)], SHAPE, scales=[1.0, 2.0])
    a, b = one - slanted.image(SHAPE), (two - 20.0) / 2.0
    wa, wb = 1 / var_one, 4 / var_two
    np.testing.assert_allclose(raw(stack), (wa * a + wb * b) / (wa + wb), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(stack.err, 1 / np.sqrt(wa + wb), rtol=1e-5)
    assert (stack.coverage == 2).all()
    assert not stack.clipped.any()
    assert stack.n_aors == 2


def test_one_aor_is_its_own_superstack():
    (frame,) = frames(1, 3)
    stack = make_superstack([frame], [sky()], SHAPE)
    np.testing.assert_allclose(raw(stack), frame.flux, rtol=1e-5, atol=1e-5)
    assert np.isnan(stack.scatter).all()
    assert (stack.seen == 1).all()


def test_aors_without_variance_weigh_by_the_scatter_of_their_sky():
    rng = np.random.default_rng(2)
    images = [rng.normal(0, s, SHAPE).astype(np.float32) for s in (1.0, 3.0, 1.0)]
    layers = [Frame(image, None, np.ones(SHAPE, bool)) for image in images]
    skies = [sky(rms=1.0), sky(rms=3.0), sky(rms=float("nan"))]  # the last counts as the median, 2
    stack = make_superstack(layers, skies, SHAPE, clip=50.0)
    weights = np.array([1.0, 1 / 9, 1 / 4])
    expected = np.tensordot(weights / weights.sum(), np.array(images), axes=1)
    np.testing.assert_allclose(raw(stack), expected, atol=1e-5)
    np.testing.assert_allclose(stack.err, 1 / np.sqrt(weights.sum()), rtol=1e-5)


def test_bad_pixels_count_nowhere():
    made = frames(6, 4, stars=[])
    made[0].good[10:20, 10:20] = False
    made[0].flux[10:20, 10:20] = 1e7
    made[1].flux[15, 15] = np.nan
    made[2].variance[15, 15] = 0.0
    for frame in made:
        frame.good[50, 60] = False
    stack = make_superstack(made, [sky()] * 6, SHAPE, clip=20.0)
    expected = np.full(SHAPE, 6)
    expected[10:20, 10:20] = 5
    expected[15, 15] = 3
    expected[50, 60] = 0
    np.testing.assert_array_equal(stack.coverage, expected)
    assert np.isnan(stack.flux[50, 60])
    assert np.isnan(stack.err[50, 60])
    assert np.isfinite(stack.flux[expected > 0]).all()
    assert np.abs(raw(stack)[10:20, 10:20]).max() < 5


def test_sky_is_unbiased_and_as_wide_as_its_error():
    stack = make_superstack(frames(40, 5, stars=[]), [sky()] * 40, SHAPE)
    pull = raw(stack) / stack.err
    assert abs(pull.mean()) < 0.05
    assert pull.std() == pytest.approx(1.0, rel=0.06)
    assert np.median(stack.scatter / stack.err) == pytest.approx(1.0, rel=0.05)
    assert 0.0005 < stack.clipped.mean() / 40 < 0.01  # 3 sigma of a Gaussian: 0.0027


def test_star_cores_keep_their_flux_under_drift_pointing_and_roll():
    made = frames(40, 6)
    stack = make_superstack(made, [sky()] * 40, SHAPE)
    everything = plain_mean(made)
    for x, y, flux in STARS[:4]:
        inside = circle(x, y, 4)
        kept = raw(stack)[inside].sum() / everything[inside].sum()
        assert kept == pytest.approx(1.0, abs=0.002), f"star of {flux:g}"
        assert stack.clipped[inside].mean() < 0.02 * 40


@pytest.mark.parametrize(("aors", "at"), [((7, 31), (70.4, 45.2)), ((11, 12), (44.0, 92.0))])
def test_a_transient_in_two_of_forty_aors_survives_at_its_mean(aors, at):
    # alone on the sky, and in the wings of the brightest star
    quiet, loud = frames(40, 7), frames(40, 7)
    for aor in aors:
        loud[aor].flux += star(SHAPE, *at, 1500.0).astype(np.float32)
    inside = circle(*at, 5)
    before, after = (make_superstack(made, [sky()] * 40, SHAPE) for made in (quiet, loud))
    expected = (plain_mean(loud) - plain_mean(quiet))[inside].sum()
    found = (raw(after) - raw(before))[inside].sum()
    assert expected > 40  # or the test could pass on nothing
    assert found == pytest.approx(expected, rel=0.05)


def test_what_is_seen_once_is_clipped_even_with_the_shape_of_a_star():
    quiet, loud = frames(40, 8), frames(40, 8)
    loud[9].flux += star(SHAPE, 70.4, 45.2, 1500.0).astype(np.float32)
    inside = circle(70.4, 45.2, 3)
    before, after = (make_superstack(made, [sky()] * 40, SHAPE) for made in (quiet, loud))
    added = (plain_mean(loud) - plain_mean(quiet))[inside].sum()
    assert abs((raw(after) - raw(before))[inside].sum()) < 0.05 * added
    assert after.clipped[45, 70] >= 1


def test_a_star_that_fades_once_is_not_made_constant():
    bright = [(64.2, 64.7, 5e3)]
    made = frames(40, 9, stars=bright)
    made[17].flux -= star(SHAPE, *bright[0][:2], 3e3, ratio=0.9).astype(np.float32)
    stack = make_superstack(made, [sky()] * 40, SHAPE)
    inside = circle(64.2, 64.7, 3)
    expected = plain_mean(made)[inside].sum()
    assert raw(stack)[inside].sum() == pytest.approx(expected, rel=0.003)


def hits(rng, count):
    """Return cosmic rays on native pixels twice the size, some of them tracks, resampled."""
    native = np.zeros((SIZE // 2, SIZE // 2))
    for _ in range(count):
        y, x = rng.uniform(2, SIZE // 2 - 3, 2)
        angle, length = rng.uniform(0, np.pi), rng.choice([1, 1, 1, 6])
        for step in range(length):
            row, column = int(y + step * np.sin(angle)), int(x + step * np.cos(angle))
            if 0 <= row < native.shape[0] and 0 <= column < native.shape[1]:
                native[row, column] += 20 + rng.exponential(150)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = np.indices(SHAPE) - SIZE / 2
    at = [(np.cos(turn) * y - np.sin(turn) * x) / 2, (np.sin(turn) * y + np.cos(turn) * x) / 2]
    return ndimage.map_coordinates(native, np.array(at) + SIZE / 4, order=1)


def test_cosmic_rays_are_clipped_on_the_sky_and_beside_stars():
    rng = np.random.default_rng(10)
    clean, struck = frames(40, 10), frames(40, 10)
    rays = [hits(rng, 12).astype(np.float32) for _ in struck]
    for frame, ray in zip(struck, rays, strict=True):
        frame.flux += ray
    before, after = (make_superstack(made, [sky()] * 40, SHAPE) for made in (clean, struck))
    hit = np.max(rays, axis=0) > 10
    assert hit.mean() > 0.1
    left = (raw(after) - raw(before)) / before.err
    added = (plain_mean(struck) - plain_mean(clean)) / before.err
    assert np.abs(left[hit]).sum() < 0.1 * np.abs(added[hit]).sum()
    assert np.mean(np.abs(left[hit]) > 2) < 0.03
    for x, y, _ in STARS[:3]:
        inside = circle(x, y, 4)
        # a hit of some per cent of a core is within what drift and pointing do to it
        assert raw(after)[inside].sum() == pytest.approx(raw(before)[inside].sum(), rel=0.005)


def test_a_hit_on_top_of_a_star_is_clipped():
    clean, struck = frames(40, 11), frames(40, 11)
    x, y, _ = STARS[1]
    row, column = round(y), round(x)
    struck[20].flux[row, column] += 1.0 * clean[20].flux[row, column]
    before, after = (make_superstack(made, [sky()] * 40, SHAPE) for made in (clean, struck))
    assert after.clipped[row, column] >= 1
    assert raw(after)[row, column] == pytest.approx(raw(before)[row, column], rel=0.002)


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_the_result_does_not_depend_on_the_strips(rows):
    rng = np.random.default_rng(12)
    made = frames(12, 12)
    for number, frame in enumerate(made):
        frame.flux += hits(rng, 8).astype(np.float32)
        if number in {3, 4}:
            frame.flux += star(SHAPE, 70.0, 41.0, 3e4).astype(np.float32)  # wings of 10 px
    whole = make_superstack(made, [sky()] * 12, SHAPE)
    memory = 12 * (SIZE + 4) * 10 * (rows + 4)
    strips = make_superstack(made, [sky()] * 12, SHAPE, memory=memory)
    assert whole.clipped.sum() > 200
    for name in ("flux", "err", "coverage", "clipped", "scatter", "background"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(strips, name), err_msg=name)


def test_memory_bounds_the_strips_that_are_asked_for():
    asked = []

    class Watched(Frame):
        def strip(self, y0, y1):
            asked.append(y1 - y0)
            return super().strip(y0, y1)

    made = [Watched(f.flux, f.variance, f.good) for f in frames(5, 13)]
    told = []
    make_superstack(
        made,
        [sky()] * 5,
        SHAPE,
        memory=5 * (SIZE + 4) * 10 * 20,
        progress=lambda label, done, total: told.append((label, done, total)),
    )
    assert max(asked) <= 20
    assert told[-1] == ("superstack", 2 * SIZE, 2 * SIZE)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_what_is_left_of_the_sky_is_removed_and_stars_are_not():
    y, x = np.indices(SHAPE)
    tilt = 0.5 + 0.004 * x - 0.002 * y
    made = frames(10, 14)
    for frame in made:
        frame.flux += tilt.astype(np.float32)
    stack = make_superstack(made, [sky()] * 10, SHAPE)
    assert np.abs(stack.background - tilt).max() < 0.35
    clear = np.ones(SHAPE, bool)
    for x0, y0, _ in STARS:
        clear &= ~circle(x0, y0, 25)
    assert clear.mean() > 0.3
    assert abs(np.median(stack.flux[clear])) < 0.1


@pytest.mark.parametrize("n", [MIN_EPOCHS, 5])
def test_few_aors_are_clipped_from_three_on(n):
    made = frames(n, 15, stars=[])
    made[0].flux[30, 30] += 500
    stack = make_superstack(made, [sky()] * n, SHAPE)
    assert stack.clipped[30, 30] == 1
    assert abs(raw(stack)[30, 30]) < 4


def test_sharpness_is_measured_on_stars():
    image = sum(star(SHAPE, x, y, f) for x, y, f in STARS).astype(np.float32)
    sharpness = measure_sharpness(image, 0.1)
    centred = star((21, 21), 10.0, 10.0, 1.0)
    y, x = np.indices(centred.shape)
    ring = np.isin((x - 10) ** 2 + (y - 10) ** 2, (4, 5))
    assert sharpness.n_stars == len(STARS)
    assert sharpness.ratio == pytest.approx(centred[ring].mean() / centred.max(), rel=0.25)
    assert sharpness.half_width == pytest.approx(1.6, rel=0.25)
    assert measure_sharpness(np.zeros(SHAPE, np.float32), 1.0).n_stars == 0


@pytest.mark.parametrize(
    ("layers", "skies", "scales", "message"),
    [
        (0, 0, None, "at least one, found 0 AORs"),
        (2, 1, None, "found 2 AORs, 1 skies"),
        (2, 2, [1.0], "2 skies and 1 scales"),
        (2, 2, [1.0, 0.0], r"must be a positive number, found 0\.0"),
        (2, 2, [1.0, float("nan")], "must be a positive number, found nan"),
    ],
)
def test_what_cannot_be_stacked_is_refused(layers, skies, scales, message):
    with pytest.raises(UsageError, match=message):
        make_superstack(frames(layers), [sky()] * skies, SHAPE, scales=scales)


def test_an_image_of_another_shape_is_refused():
    made = frames(3, 16)
    made[1] = Frame(np.zeros((SIZE, 60), np.float32), None, np.ones((SIZE, 60), bool))
    with pytest.raises(ImageShape, match="AOR number 1 should have the shape"):
        make_superstack(made, [sky()] * 3, SHAPE)


def test_a_field_that_nothing_has_seen_is_blank():
    made = frames(4, 17, stars=[])
    for frame in made:
        frame.good[:] = False
    stack = make_superstack(made, [sky()] * 4, SHAPE)
    assert np.isnan(stack.flux).all()
    assert not stack.coverage.any()
