"""The viewer's page in a browser: every way to an object, every control, and nothing foreign."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from viewer_browser import Visit, chromium, serving
from viewer_simulated import simulated_field

import idfzarr

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

HOSTILE = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return simulated_field(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def cube(field):
    return idfzarr.Cube(field)


@pytest.fixture(scope="module")
def served(field):
    with serving(field) as server:
        yield server


@pytest.fixture
def visit(browser):
    """Return a new page; at the end it must have asked for nothing foreign and logged no error."""
    seen = Visit(browser)
    yield seen
    seen.close()


def ids(cube):
    return [int(one) for one in cube.objects]


def test_every_way_to_an_object_leads_there_and_the_address_follows(visit, served, cube):
    first, second, third = ids(cube)[2:5]
    visit.open(served.address(object=first)).shows_object(first)
    row = cube.row(second)
    ra, dec = (float(cube.coordinate(name)[row]) for name in ("ra", "dec"))
    visit.click("sky map", ra, dec)
    visit.shows_object(second)
    visit.wait_url(f"object={second}")
    search = visit.page.get_by_role("textbox", name=re.compile("^Find an object"))
    search.fill(str(third))
    search.press("Enter")
    visit.shows_object(third)
    search.fill(f"{ra:.6f} {dec:.6f}")
    search.press("Enter")
    visit.shows_object(second)
    cell = visit.page.get_by_role("gridcell", name=str(first), exact=True).first
    cell.click()
    visit.shows_object(first)
    search.fill("999999")
    search.press("Enter")
    visit.page.get_by_text("there is no object 999999").wait_for()
    visit.shows_object(first)


def test_box_query_and_keys_go_through_a_selection(visit, served, cube):
    visit.open(served.address(object=ids(cube)[0]))
    view = visit.ranges("sky map")
    visit.page.get_by_title("Box Select").first.click()
    middle = (view["x0"] + view["x1"]) / 2
    visit.drag("sky map", (view["x0"], view["y0"]), (middle, view["y1"]))
    ra = cube.coordinate("ra")
    inside = [one for one, at in zip(ids(cube), ra, strict=True) if at > middle]
    assert 3 < len(inside) < len(ra)
    visit.wait_url("selection=" + ",".join(map(str, inside)))
    visit.page.keyboard.press("j")
    visit.wait_url(f"object={inside[1] if inside[0] == ids(cube)[0] else inside[0]}(&|$)")
    query = visit.page.get_by_role("textbox", name=re.compile("^Condition"))
    query.fill("object <= 5")
    query.press("Enter")
    known = [one for one in ids(cube) if one <= 5]
    visit.page.get_by_text(f"{len(known)} of {len(ra)} objects").wait_for()
    visit.page.get_by_role("button", name=re.compile("^Select every object")).click()
    visit.wait_url(rf"selection=\d+(,\d+){{{len(known) - 1}}}$")
    chosen = re.search(r"selection=([\d,]+)", visit.page.url)[1].split(",")
    assert sorted(map(int, chosen)) == known  # in the order of the table
    query.fill("objct <= 5")
    query.press("Enter")
    visit.page.get_by_text("the objects have no column 'objct'").wait_for()


def test_lightcurves_are_those_of_the_cube_and_change_with_the_controls(visit, served, cube):
    chosen, type_ = ids(cube)[1], "ch1_aper2_clean"
    visit.open(served.address(page="look", object=chosen, types=type_, time_axis="mjd"))
    visit.wait_figure("lightcurve")
    expected = cube.lightcurve(chosen, type_).calibrated().good()
    drawn = next(one for one in visit.data("lightcurve", "flux") if one)
    np.testing.assert_allclose(sorted(drawn), sorted(expected.flux), rtol=1e-6)
    before = visit.ranges("lightcurve")
    assert before["y1"] > before["y0"]
    visit.page.get_by_role("button", name="mag", exact=True).click()
    visit.wait_url("unit=mag")
    visit.page.wait_for_function(
        "() => Bokeh.documents[0].get_model_by_name('lightcurve').y_range.start"
        " > Bokeh.documents[0].get_model_by_name('lightcurve').y_range.end"
    )  # the brighter stands higher
    visit.page.get_by_role("switch", name=re.compile("^Smoothed line")).click()
    visit.wait_url("smooth_on=1")
    assert any(len(one) == 1 for one in visit.data("lightcurve", "xs"))
    x, y, aor = (max(visit.data("lightcurve", name), key=len)[0] for name in ("x", "y", "aor"))
    visit.click("lightcurve", x, y)
    visit.wait_url(rf"aor={int(aor)}(&|$)")
    window = visit.page.get_by_role("textbox", name=re.compile("^Width")).first
    window.fill("rubbish")
    window.press("Enter")
    visit.page.get_by_text("'rubbish' is no number").wait_for()


def test_a_period_is_found_typed_taken_from_a_peak_and_undone(visit, served, cube):
    visit.open(served.address(page="look", object=ids(cube)[1]))
    visit.wait_figure("folded")
    visit.page.get_by_text("click a peak to fold with it").wait_for()
    period = visit.page.get_by_role("textbox", name=re.compile("^Period"))
    period.fill("12.5")
    period.press("Enter")
    visit.wait_url("period=12.5(&|$)")
    phases = visit.data("folded", "x")
    assert phases
    assert all(0 <= one < 2 for one in phases[0])
    peaks = visit.data("periodogram", "chance")
    best = visit.data("periodogram", "period")[-1][0]
    assert peaks
    power = visit.data("periodogram", "power")[-1][0]
    visit.click("periodogram", best, power)
    visit.wait_url(f"period={best:.6f}"[:12])
    visit.page.get_by_role("button", name=re.compile("^Go back to the period")).click()
    visit.wait_url("period=12.5(&|$)")
    slider = visit.page.get_by_role("slider", name=re.compile("^Fine period"))
    slider.focus()
    slider.press("ArrowRight")
    visit.wait_url(r"period=12\.50\d+")


def test_a_shared_address_shows_the_same_in_another_browser(visit, browser, served, cube):
    chosen = ids(cube)[3]
    visit.open(served.address(page="look", object=chosen, unit="mag", period=7.25, dark=1))
    visit.wait_figure("lightcurve")
    visit.page.keyboard.press("j")
    visit.wait_url(rf"object=(?!{chosen}\b)\d+")
    url = visit.page.url
    other = Visit(browser, alone=True)
    other.open(url)
    other.wait_figure("lightcurve")
    other.shows_object(int(re.search(r"object=(\d+)", url)[1]))
    theirs, ours = (
        [one for one in seen.data("lightcurve", "flux") if one] for seen in (other, visit)
    )
    assert theirs == ours != []
    assert other.labels()["lightcurve"] == visit.labels()["lightcurve"]
    other.close()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"object": "424242"}, "'424242'"),
        ({"object": "<script>window.hacked=1</script>"}, "<script>window.hacked=1</script>"),
        ({"unit": "parsec"}, "'parsec'"),
        ({"wrong": "1"}, "'wrong'"),
    ],
    ids=["no such object", "a script", "no such unit", "no such choice"],
)
def test_a_wrong_address_is_said_and_the_rest_is_shown(visit, served, asked, sentence):
    visit.open(served.address(**asked, statistic="n"))
    visit.page.get_by_text(re.compile("the address (asks|names|says)")).wait_for()
    assert sentence in visit.page.get_by_role("alert").inner_text()
    assert visit.page.evaluate("() => window.hacked") is None
    assert "statistic=n" in visit.page.url


def test_a_store_that_vanishes_is_said_and_the_page_stays(browser, field, tmp_path):
    gone = tmp_path / "gone.zarr"
    shutil.copytree(field, gone)
    known = ids(idfzarr.Cube(gone))
    with serving(gone) as server:
        server.may_fail = True
        seen = Visit(browser).open(server.address(object=known[0]))
        shutil.rmtree(gone)
        search = seen.page.get_by_role("textbox", name=re.compile("^Find an object"))
        search.fill(str(known[-1]))
        search.press("Enter")
        seen.page.get_by_text(re.compile("store cannot be read|not there any more")).wait_for()
        assert "Traceback" not in seen.page.get_by_role("alert").inner_text()
        seen.turn_to("Look")
        seen.close()
        assert "Traceback" in server.log


def test_hostile_names_are_shown_as_text_and_run_nowhere(browser, tmp_path):
    store = tmp_path / f"{HOSTILE.replace('/', '')}.zarr"
    n = 6
    cube = idfzarr.create(
        store,
        objects={
            "object_id": np.arange(n) + 1, "ra": 265 + np.arange(n) / 50,
            "dec": 69 + np.arange(n) / 70, HOSTILE: np.arange(n) * 1.0,
            "note": np.array([HOSTILE] * n),
        },
        types=["ch1_aper2_clean"],
        aors={"aor": np.arange(12) + 5, "mjd": 53000.0 + np.arange(12),
              "aor_name": np.array([HOSTILE] * 12)},
    )  # fmt: skip
    shape = (n, 1, 12)
    rng = np.random.default_rng(3)
    cube.write_block(
        0, flux=rng.normal(50, 5, shape), flux_err=np.full(shape, 2.0), flag=np.zeros(shape, int)
    )
    with serving(store) as server:
        seen = Visit(browser).open(server.address(object=1))
        for part in ("Look", "See", "Judge", "Find"):
            seen.turn_to(part)
            seen.settle()
        seen.wait_figure("sky map")
        seen.page.mouse.move(*seen.pixel("sky map", 265.02, 69.0143))
        search = seen.page.get_by_role("textbox", name=re.compile("^Find an object"))
        search.fill(HOSTILE)
        search.press("Enter")
        seen.page.get_by_role("alert").get_by_text("is no position").wait_for()
        assert seen.page.evaluate("() => window.hacked") is None
        assert HOSTILE in seen.page.title()
        seen.close()
