"""Look in a browser: every control of the lightcurves changes what is drawn as it should."""

from __future__ import annotations

from urllib.parse import urlsplit

import numpy as np
import pytest
from viewer_browser import FIGURES, Visit, chromium, serving
from viewer_simulated import simulated_field

from idfzarr.viewer.curves import prepare
from idfzarr.viewer.field import Field
from idfzarr.viewer.link import restored_state

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

CLEAN, ORIGINAL = "ch1_aper2_clean", "ch1_aper2_original"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulated_field(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def field(store):
    return Field(store)


@pytest.fixture(scope="module")
def served(store):
    with serving(store) as server:
        yield server


@pytest.fixture
def visit(browser):
    seen = Visit(browser)
    yield seen
    seen.close()


@pytest.fixture
def look(visit, served, field):
    """Return a function that opens the page Look with choices."""
    chosen = int(field.cube.objects[int(np.nanargmin(field.objects["ch1_mag"].to_numpy()))])

    def opened(**choices):
        asked = {"page": "look", "object": chosen, "types": CLEAN, "time_axis": "mjd"} | choices
        visit.open(served.address(**asked))
        visit.wait_figure("lightcurve")
        return visit

    return opened


def drawn(visit, field):
    """Return the curves that the address asks for, computed here."""
    state, refused = restored_state(urlsplit(visit.page.url).query, field.choices())
    assert refused == ()
    return prepare(field, state).curves


def expect(visit, field, *, figure="lightcurve", groups=("kept",), column="y", name="y"):
    """Wait until a figure's points are those of a group of the curves."""
    for group in groups:
        parts = [getattr(one, name)[getattr(one, group)] for one in drawn(visit, field)]
        values = np.concatenate(parts).astype(np.float32)
        assert len(values)
        visit.wait_data(figure, column, values)


def test_types_panels_units_and_axes(look, field):
    visit = look()
    expect(visit, field)
    visit.choose("Types", ORIGINAL, more=True)
    visit.wait_choice("types", f"{CLEAN},{ORIGINAL}")
    expect(visit, field)
    assert len(drawn(visit, field)) == 2
    visit.press("panels")
    visit.wait_choice("layout", "panels")
    visit.wait_figure("lightcurve 2")
    for figure, curve in zip(("lightcurve", "lightcurve 2"), drawn(visit, field), strict=True):
        visit.wait_data(figure, "y", curve.y[curve.kept])
    visit.press("overlaid")
    visit.wait_choice("layout", None)
    expect(visit, field)

    visit.press("mag")
    visit.wait_choice("unit", "mag")
    expect(visit, field)
    before = sorted(max(visit.data("lightcurve", "y"), key=len))
    visit.choose("System", "Vega")
    visit.wait_choice("system", "Vega")
    expect(visit, field)
    assert np.all(np.array(before) - sorted(max(visit.data("lightcurve", "y"), key=len)) > 2)
    axis = field.choices().aor_columns[0]
    visit.choose("Time axis", axis)
    visit.wait_choice("time_axis", axis)
    expect(visit, field, column="x", name="x")


def test_switches_of_calibration_errors_flags_and_truth(look, field):
    visit = look()
    (curve,) = drawn(visit, field)
    visit.wait_paths("lightcurve", [curve.truth.y])
    visit.flip("Simulated")
    visit.wait_choice("show_truth", "0")
    visit.wait_paths("lightcurve", [])
    visit.flip("Calibrated")
    visit.wait_choice("calibrated", "0")
    raw = field.cube.lightcurve(curve.object_id, CLEAN).good().flux
    visit.wait_data("lightcurve", "flux", raw)
    calibrated = field.cube.lightcurve(curve.object_id, CLEAN).calibrated().good().flux
    assert not np.allclose(np.sort(raw), np.sort(calibrated), rtol=1e-5)

    bars = f"""() => {FIGURES}.get("lightcurve").model.renderers
      .filter((r) => r.glyph.type === "Segment" && r.visible).length"""
    assert visit.page.evaluate(bars) > 0
    visit.flip("Errors")
    visit.wait_choice("show_errors", "0")
    visit.page.wait_for_function(f"() => ({bars})() === 0")

    size = f"""() => {FIGURES}.get("lightcurve").model.renderers
      .filter((r) => r.glyph.type === "Scatter").map((r) => r.glyph.size.value ?? r.glyph.size)"""
    visit.slide("Point size", "ArrowRight", 3)
    visit.wait_choice("marker_size", "9")
    visit.page.wait_for_function(f"() => ({size})().includes(9)")


def test_objects_are_compared_and_no_longer(look, field):
    ids = [int(one) for one in field.cube.objects[:3]]
    visit = look(object=ids[0], selection=",".join(map(str, ids)))
    visit.press("Draw the selected objects")
    visit.wait_choice("compared", ",".join(map(str, ids[1:])))
    curves = drawn(visit, field)
    assert [one.object_id for one in curves] == ids
    expect(visit, field)
    visit.press("Draw this object alone")
    visit.wait_choice("compared", None)
    expect(visit, field)
    assert len(drawn(visit, field)) == 1


def test_clipping_smoothing_binning_and_rates(look, field):
    visit = look(object=int(field.cube.objects[0]))
    whole = drawn(visit, field)[0]
    visit.flip("Sigma clip")
    visit.wait_choice("clip_on", "1")
    visit.write("Sigma", "1")
    visit.page.wait_for_function(
        "() => Number(new URLSearchParams(location.search).get('clip_sigma')) === 1"
    )
    expect(visit, field, groups=("kept", "clipped"))
    (curve,) = drawn(visit, field)
    assert 0 < curve.clipped.sum() < whole.kept.sum()
    visit.flip("Sigma clip")
    visit.wait_choice("clip_on", None)
    visit.wait_data("lightcurve", "y", whole.y[whole.kept])

    visit.flip("Smoothed line")
    visit.wait_choice("smooth_on", "1")
    (curve,) = drawn(visit, field)
    visit.wait_paths("lightcurve", [curve.smooth.y])
    visit.page.get_by_role("textbox", name="Window [d]").nth(1).fill("60")
    visit.page.get_by_role("textbox", name="Window [d]").nth(1).press("Enter")
    visit.page.wait_for_function(
        "() => Number(new URLSearchParams(location.search).get('smooth_window')) === 60"
    )
    (wider,) = drawn(visit, field)
    visit.wait_paths("lightcurve", [wider.smooth.y])
    assert not np.allclose(wider.smooth.y, curve.smooth.y)
    visit.flip("Smoothed line")

    visit.flip("Binned points")
    visit.wait_choice("bin_on", "1")
    visit.write("Width", "200")
    visit.choose("Joined by", "median")
    visit.wait_choice("bin_method", "median")
    (curve,) = drawn(visit, field)
    binned = curve.binned.columns()
    visit.wait_data("lightcurve", "n", binned["n"])
    assert 1 < len(binned["n"]) < whole.kept.sum()
    assert sum(binned["n"]) == whole.kept.sum()
    visit.flip("Binned points")

    visit.flip("Clip by rate")
    visit.wait_choice("rate_on", "1")
    visit.write("From [%]", "30")
    visit.page.wait_for_function(
        "() => Number(new URLSearchParams(location.search).get('rate_low')) === 30"
    )
    (curve,) = drawn(visit, field)
    expect(visit, field)
    assert any("rate" in name.lower() for name in visit.figures())


def test_slider_and_zoom_agree(look, field):
    visit = look()
    expect(visit, field)
    begin = visit.ranges("lightcurve")
    visit.slide("Times", "ArrowRight", 12)  # days, from the day before the first measurement
    first = min(field.cube.coordinate("mjd")[:, 0])
    visit.page.wait_for_function(
        f"""(least) => {{ const x = {FIGURES}.get("lightcurve").model.x_range
        const at = Number(new URLSearchParams(location.search).get("start"))
        return at > least && Math.abs(x.start - at) < 1e-3 }}""",
        arg=float(first) + 9.5,
    )
    expect(visit, field)
    slid = visit.ranges("lightcurve")
    assert slid["x1"] == begin["x1"]
    begin = slid
    visit.page.get_by_title("Box Zoom").first.click()
    third = (begin["x1"] - begin["x0"]) / 3
    middle = (begin["y0"] + begin["y1"]) / 2
    half = (begin["y1"] - begin["y0"]) / 2.2
    visit.drag(
        "lightcurve",
        (begin["x0"] + third, middle - half), (begin["x1"] - third, middle + half),
    )  # fmt: skip
    visit.page.wait_for_function(
        f"""(was) => {{ const x = {FIGURES}.get("lightcurve").model.x_range
        const asked = new URLSearchParams(location.search)
        return x.start > was && Math.abs(x.start - Number(asked.get("start"))) < 0.05
          && Math.abs(x.end - Number(asked.get("end"))) < 0.05 }}""",
        arg=begin["x0"] + third / 2,
    )
    zoomed = visit.ranges("lightcurve")
    assert zoomed["x0"] == pytest.approx(begin["x0"] + third, abs=third / 10)
    wanted = [(zoomed[name] - 40587) * 86_400_000 for name in ("x0", "x1")]
    visit.page.wait_for_function(
        """(wanted) => { const see = (root) => [...root.querySelectorAll("*")].flatMap((el) => [
          ...(el.matches("input[aria-label=Times]") ? [el] : []),
          ...(el.shadowRoot ? see(el.shadowRoot) : [])])
        const found = see(document)
        return found.length === 2 && found.every((el, at) =>
          Math.abs(el.getAttribute("aria-valuenow") - wanted[at]) < 1.1 * 86400000) }""",
        arg=wanted,
    )
    visit.page.get_by_title("Reset").first.click()
    visit.wait_choice("start", None)
    visit.wait_choice("end", None)
    expect(visit, field)


def test_images_of_aors_in_turn_and_other_searches_for_periods(look, field):
    visit = look()
    (curve,) = drawn(visit, field)
    rows = np.flatnonzero(curve.kept)
    aors = [int(one) for one in curve.aor[rows[np.argsort(curve.mjd[rows], kind="stable")]]]
    for button, aor in (
        ("Image of the next AOR", aors[0]), ("Image of the next AOR", aors[1]),
        ("Image of the AOR before", aors[0]),
    ):  # fmt: skip
        visit.press(button)
        visit.wait_choice("aor", aor)
        visit.page.get_by_text(f"reqkey {aor}", exact=True).wait_for()
    assert len(max(visit.data("AOR stamp", "image"), key=len)) == 1

    visit.page.get_by_text("click a peak to fold with it").wait_for()
    power = visit.data("periodogram", "power")
    visit.choose("Method", "box")
    visit.wait_choice("period_method", "box")
    changed = f"""(was) => JSON.stringify({FIGURES}.get("periodogram").model.renderers
        .map((r) => r.data_source.data.power).filter((c) => c != null)
        .map((c) => Array.from(c))) !== JSON.stringify(was)"""
    visit.page.wait_for_function(changed, arg=power)
    visit.page.get_by_text("click a peak to fold with it").wait_for()
    visit.page.locator(".tabulator-cell[tabulator-field=power]").first.click()
    visit.page.wait_for_function("() => new URLSearchParams(location.search).has('period')")
    best = visit.data("periodogram", "period")[-1][0]
    period = float(visit.choices()["period"])
    assert period == pytest.approx(best, rel=1e-6)
    for button, factor in (
        ("Fold with half", 0.5), ("Go back to the period", 1), ("Fold with twice", 2),
    ):  # fmt: skip
        visit.press(button)
        visit.page.wait_for_function(
            "(p) => Math.abs(new URLSearchParams(location.search).get('period') / p - 1) < 1e-6",
            arg=period * factor,
        )
    visit.write("Zero point", "53000.5")
    visit.wait_choice("epoch", "53000.5")
    visit.press("Fold no longer")
    visit.wait_choice("period", None)
