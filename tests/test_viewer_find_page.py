"""Find in a browser: every control of the sky map, the catalogue and the statistics."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from viewer_browser import Visit, chromium, serving
from viewer_simulated import simulated_field

from idfzarr.viewer.field import Field

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

TYPE = "ch2_aper2_clean"


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


# Cells of a column of the table, as they are seen.
CELLS = """(name) => {
  const find = (root) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.matches(".tabulator-row .tabulator-cell[tabulator-field=" + name + "]"))
        return el.closest(".tabulator-table")
      const inside = el.shadowRoot && find(el.shadowRoot)
      if (inside) return inside
    }
    return null
  }
  const cells = find(document)?.querySelectorAll(`.tabulator-cell[tabulator-field="${name}"]`)
  return [...(cells ?? [])].map((cell) => cell.textContent)
}"""


def wait_cells(visit, name, expected):
    """Wait until a column of the table is this, from the top of the page."""
    visit.page.wait_for_function(
        f"([name, wanted]) => ({CELLS})(name).join() === wanted.join()", arg=[name, expected]
    )


def told(visit, text):
    visit.page.get_by_text(text, exact=True).wait_for()


def degrees(values):
    return [f"{value:.6f}" for value in values[:12]]


def test_a_lasso_selects_what_lies_within(visit, served, field):
    visit.open(served.address())
    ra, dec = (field.objects[name].to_numpy() for name in ("ra", "dec"))
    ends = visit.ranges("sky map")

    def place(across, up):
        return (
            ends["x0"] + across * (ends["x1"] - ends["x0"]),
            ends["y0"] + up * (ends["y1"] - ends["y0"]),
        )

    corners = [place(0.02, 0.03), place(0.97, 0.05), place(0.04, 0.93)]
    places = np.stack([ra, dec], axis=-1)
    inside = Polygon(corners).contains_points(places)
    room = 0.01 * (ends["y1"] - ends["y0"])
    assert (Polygon(corners).contains_points(places, radius=room) == inside).all()
    assert 3 < inside.sum() < len(ra) - 3
    visit.page.get_by_title("Lasso Select").first.click()
    mouse = visit.page.mouse
    mouse.move(*visit.pixel("sky map", *corners[0]))
    mouse.down()
    for corner in [*corners[1:], corners[0]]:
        mouse.move(*visit.pixel("sky map", *corner), steps=12)
    mouse.up()
    chosen = [int(one) for one in field.cube.objects[inside]]
    visit.wait_choice("selection", ",".join(map(str, chosen)))
    visit.press("Select nothing")
    visit.wait_choice("selection", None)


def test_checkboxes_select_and_unselect(visit, served, field):
    visit.open(served.address())
    wait_cells(visit, "ra", degrees(by_score(field)["ra"].to_numpy()))
    first = [int(one) for one in by_score(field)["object"].to_numpy()[:3]]
    boxes = visit.page.locator(".tabulator-row input[type=checkbox]")
    boxes.nth(0).click()
    visit.wait_choice("selection", first[0])
    boxes.nth(2).click()
    visit.page.wait_for_function(
        "(ids) => (new URLSearchParams(location.search).get('selection') ?? '').split(',')"
        ".sort().join() === ids.sort().join()",
        arg=[str(first[0]), str(first[2])],
    )
    boxes.nth(0).click()
    visit.wait_choice("selection", first[2])


def by_score(field):
    """Return the objects as the table has them at first, the most variable ones in front."""
    table = field.table_of(field.choices().default_statistic_type)
    return table.sort_values("score", ascending=False, kind="stable", na_position="last")


def test_a_column_is_filtered_and_the_box_keeps_what_was_typed(visit, served, field):
    visit.open(served.address())
    table, total = by_score(field), len(field.objects)
    ra = table["ra"].to_numpy()
    limit = round(float(np.median(ra)), 5)
    kept = ra[ra > limit]
    assert 5 < len(kept) < 12
    told(visit, f"{total} of {total} objects")
    visit.page.get_by_role("button", name="Next Page").click()
    wait_cells(visit, "ra", degrees(ra[12:]))
    box = visit.page.locator('input[aria-label="filter of ra"]')

    def filter_by(text):
        box.fill(text)
        box.press("Enter")

    filter_by(f"> {limit}")
    told(visit, f"{len(kept)} of {total} objects")
    wait_cells(visit, "ra", degrees(kept))  # on the first page again
    visit.press("Select every object that meets")
    visit.page.wait_for_function(
        "(n) => (new URLSearchParams(location.search).get('selection') ?? '').split(',')"
        ".length === n",
        arg=len(kept),
    )
    chosen = {int(one) for one in visit.choices()["selection"].split(",")}
    assert chosen == set(table["object"][table["ra"] > limit])

    head(visit, "ra").click()
    wait_cells(visit, "ra", degrees(np.sort(kept)))
    visit.turn_to("Look")
    visit.turn_to("Find")
    visit.press("Toggle theme")
    visit.wait_choice("dark", "1")
    wait_cells(visit, "ra", degrees(np.sort(kept)))
    assert box.input_value() == f"> {limit}"
    dec = visit.page.locator('input[aria-label="filter of dec"]')
    high = round(float(np.median(table["dec"][table["ra"] > limit])), 5)
    dec.fill(f"<={high}")
    dec.press("Enter")
    both = table[(table["ra"] > limit) & (table["dec"] <= high)]
    assert 0 < len(both) < len(kept)
    wait_cells(visit, "ra", degrees(np.sort(both["ra"].to_numpy())))
    dec.fill("")
    dec.press("Tab")  # leaving a box filters too
    wait_cells(visit, "ra", degrees(np.sort(kept)))

    filter_by("> rubbish")
    visit.page.get_by_text("the filter '> rubbish' is no condition").wait_for()
    assert box.input_value() == "> rubbish"
    filter_by("> 999")
    told(visit, f"0 of {total} objects")
    filter_by("")
    told(visit, f"{total} of {total} objects")
    wait_cells(visit, "ra", degrees(np.sort(ra)))


def head(visit, name):
    return visit.page.locator(
        f'.tabulator-col[tabulator-field="{name}"] .tabulator-col-title'
    ).first


def test_a_click_on_a_column_sorts_rises_falls_and_ends(visit, served, field):
    visit.open(served.address())
    ra = by_score(field)["ra"].to_numpy()
    wait_cells(visit, "ra", degrees(ra))
    head(visit, "ra").click()
    wait_cells(visit, "ra", degrees(np.sort(ra)))
    head(visit, "ra").click()
    wait_cells(visit, "ra", degrees(np.sort(ra)[::-1]))
    head(visit, "ra").click()
    wait_cells(visit, "ra", degrees(field.objects["ra"].to_numpy()))


def test_order_and_filters_are_in_the_address_and_come_back(visit, served, field, browser):
    from playwright.sync_api import expect

    table = by_score(field)
    limit = round(float(np.median(table["ra"])), 5)
    kept = table[table["ra"] > limit]["ra"].to_numpy()
    first, second = (int(one) for one in table["object"][:2])
    visit.open(served.address(object=first))
    visit.page.wait_for_timeout(1200)  # who steps on sooner leaves no entry in the history
    box = visit.page.locator('input[aria-label="filter of ra"]')
    box.fill(f"> {limit}")
    box.press("Enter")
    visit.wait_choice("column_filters", f"ra=%3E+{limit}")
    head(visit, "ra").click()
    visit.wait_choice("sorted_by", "ra")
    wait_cells(visit, "ra", degrees(np.sort(kept)))

    other = Visit(browser)  # somebody else, who was sent the address
    other.open(visit.page.url)
    wait_cells(other, "ra", degrees(np.sort(kept)))
    expect(other.page.locator('input[aria-label="filter of ra"]')).to_have_value(f"> {limit}")
    assert other.choices() == visit.choices()
    head(other, "ra").click()
    other.wait_choice("sorted_by", "-ra")
    wait_cells(other, "ra", degrees(np.sort(kept)[::-1]))
    other.close()

    visit.write("Find an object", str(second))
    visit.wait_choice("object", second)
    visit.page.wait_for_timeout(1200)
    box.fill("")
    box.press("Enter")
    visit.wait_choice("column_filters", None)
    for order in ("-ra", ""):  # falling, and as the store has them
        head(visit, "ra").click()
        visit.wait_choice("sorted_by", order)
    wait_cells(visit, "ra", degrees(field.objects["ra"].to_numpy()))
    visit.page.go_back()
    visit.wait_choice("object", first)
    visit.wait_choice("sorted_by", "ra")
    wait_cells(visit, "ra", degrees(np.sort(kept)))
    expect(box).to_have_value(f"> {limit}")
    visit.page.go_forward()
    visit.wait_choice("object", second)
    wait_cells(visit, "ra", degrees(field.objects["ra"].to_numpy()))


def test_the_columns_of_the_table_are_chosen_and_filters_stay(visit, served, field):
    visit.open(served.address())
    table = by_score(field)
    box = visit.page.locator('input[aria-label="filter of ra"]')
    limit = round(float(np.median(table["ra"])), 5)
    box.fill(f"> {limit}")
    box.press("Enter")
    kept = table[table["ra"] > limit]
    wait_cells(visit, "ra", degrees(kept["ra"].to_numpy()))
    assert visit.page.evaluate(CELLS, "skewness") == []
    visit.choose("Columns of the table", "skewness", more=True)
    visit.page.wait_for_function(f"() => ({CELLS})('skewness').length > 0")
    wait_cells(visit, "ra", degrees(kept["ra"].to_numpy()))
    shown = [float(one.replace("–", "nan")) for one in visit.page.evaluate(CELLS, "skewness")]
    np.testing.assert_allclose(shown, kept["skewness"].to_numpy()[:12], rtol=1e-4)
    assert box.input_value() == f"> {limit}"
    visit.choose("Columns of the table", "ra", more=True)  # its filter goes with it
    told(visit, f"{len(table)} of {len(table)} objects")


def test_the_page_turns_dark_and_light_by_a_click(visit, served):
    visit.open(served.address())
    visit.wait_figure("sky map")

    def colours():
        return visit.page.evaluate(
            """() => [Bokeh.documents[0].get_model_by_name("sky map").xaxis?.axis_label_text_color
              ?? Bokeh.documents[0].get_model_by_name("sky map").below[0].axis_label_text_color,
              getComputedStyle(document.body).colorScheme]"""
        )

    light = colours()
    visit.press("Toggle theme")
    visit.wait_choice("dark", "1")
    visit.page.wait_for_function(
        """(was) => Bokeh.documents[0].get_model_by_name("sky map").below[0]
        .axis_label_text_color !== was""",
        arg=light[0],
    )
    assert visit.page.locator(".mui-dark").count() > 0
    visit.press("Toggle theme")
    visit.wait_choice("dark", None)
    visit.page.wait_for_function(
        """(was) => Bokeh.documents[0].get_model_by_name("sky map").below[0]
        .axis_label_text_color === was""",
        arg=light[0],
    )


def test_statistics_colour_the_map_and_are_counted(visit, served, field):
    visit.open(served.address())
    visit.choose("Statistic", "robust_scatter")
    visit.wait_choice("statistic", "robust_scatter")
    visit.choose("of type", TYPE)
    visit.wait_choice("statistic_type", TYPE)
    values = field.statistic("robust_scatter", TYPE).astype(float)
    visit.wait_data("sky map", "value", values[np.isfinite(values)])
    heights = np.sort(np.concatenate(visit.data("statistic against magnitude", "y")))
    assert np.isin(np.round(np.log10(values[values > 0]), 6), np.round(heights, 6)).all()

    visit.choose("Histogram of", "dec")
    visit.wait_choice("column", "dec")
    dec = field.objects["dec"].to_numpy()
    for name, value in (
        ("N", f"{dec.size}"), ("mean", f"{dec.mean():.4g}"), ("median", f"{np.median(dec):.4g}"),
        ("std", f"{dec.std():.4g}"),
    ):  # fmt: skip
        visit.page.get_by_text(re.compile(rf"^{name}\s+{re.escape(value)}$")).first.wait_for()
    (counts,) = visit.data("histogram", "top")
    (left,), (right,) = visit.data("histogram", "left"), visit.data("histogram", "right")
    edges = np.append(left, right[-1])
    np.testing.assert_array_equal(counts, np.histogram(dec, bins=edges)[0])
    assert sum(counts) >= 0.9 * dec.size


def test_the_keys_say_themselves_and_f_folds(visit, served):
    visit.open(served.address())
    visit.page.keyboard.press("?")
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_text("fold with the strongest period").wait_for()
    visit.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    visit.press("Say the keys")
    dialog.get_by_text("next object of the selection").wait_for()
    visit.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    search = visit.named("textbox", "Find an object")
    search.press("?")
    search.press("f")
    assert search.input_value() == "?f"  # typed, not obeyed
    assert visit.choices().get("page") is None
    visit.turn_to("Look")
    visit.page.get_by_text("click a peak to fold with it").wait_for()
    visit.page.mouse.click(640, 20)
    visit.page.keyboard.press("f")
    visit.page.wait_for_function(
        "() => new URLSearchParams(location.search).get('period') !== null"
    )
    best = visit.data("periodogram", "period")[-1][0]
    assert float(visit.choices()["period"]) == pytest.approx(best, rel=1e-6)
    assert max(map(len, visit.data("folded", "x"))) > 10
    visit.page.keyboard.press("f")
    visit.wait_choice("period", None)
