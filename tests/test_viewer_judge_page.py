"""Judge and Health in a browser: what is typed is kept, what is saved equals the cube."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.io import votable
from astropy.table import Table
from viewer_browser import Visit, chromium, serving
from viewer_field import TYPES, make_field

from idfzarr.flags import flag_bit
from idfzarr.store.cube import Cube
from idfzarr.viewer.lists import ObjectLists
from idfzarr.viewer.notes import Notes

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

HOSTILE = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / f"{HOSTILE}.zarr"
    make_field(path)
    return path


@pytest.fixture(scope="module")
def served(store, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMP_HUB", f"std-lockurl:file://{tmp_path_factory.mktemp('no')}/hub")
        with serving(store) as server:
            yield server


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser):
    seen = Visit(browser)
    yield seen
    seen.close()


def named(visit, role, start):
    return visit.page.get_by_role(role, name=re.compile(f"^{start}")).first


def saved(visit, button):
    """Press a button that saves a file; returns its name and bytes."""
    with visit.page.expect_download() as waiting:
        named(visit, "button", button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_notes_tags_and_lists_are_kept_beside_the_store_and_others_see_them(
    browser, visit, served, store, tree
):
    before = tree(store)
    text = f"dims twice {HOSTILE}"
    uuid = Cube(store).uuid
    visit.open(served.address(page="judge", object=11, selection="11,5,8"))
    note = named(visit, "textbox", "Note")
    note.fill("dims")
    named(visit, "button", "Write the note down").click()
    visit.page.get_by_text("written 2").wait_for()
    assert Notes(store, uuid).of(11).text == "dims"
    tag = named(visit, "textbox", "New tag")
    tag.fill("my tag")
    tag.press("Enter")
    visit.page.get_by_role("gridcell", name="my tag").wait_for()
    note.fill(text)
    named(visit, "button", "Next object").click()  # what was typed is not lost
    visit.wait_url("object=5")
    visit.page.wait_for_function(AREA, arg="")
    kept = Notes(store, uuid).of(11)
    assert (kept.text, kept.tags) == (text, ("my tag",))
    assert Notes(store, uuid).of(5).is_empty
    lines = (store.parent / f"{store.name}.notes/notes.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["object"] == 11

    field = named(visit, "textbox", "Name of a new list")
    field.fill(f"faint {HOSTILE}")
    field.press("Enter")
    named(visit, "button", "Save the selected objects under this name$").click()
    visit.page.get_by_text("saved 3 objects as faint").wait_for()
    lists = ObjectLists(store, uuid)
    assert lists.load(f"faint {HOSTILE}").objects == (11, 5, 8)
    named(visit, "button", "Select the objects of this table").click()
    visit.wait_url("selection=11(&|$)")
    named(visit, "button", "Select the objects of this list$").click()
    visit.wait_url("selection=11,5,8")
    visit.shows_object(11)
    named(visit, "button", "Delete this list").click()
    visit.page.get_by_text("is deleted").wait_for()
    assert lists.all() == ()

    other = Visit(browser, alone=True).open(served.address(page="judge", object=5))
    other.page.get_by_role("gridcell", name="my tag").click()
    other.shows_object(11)
    other.page.wait_for_function(AREA, arg=text)
    name, content = saved(other, "Save all tags and notes")
    assert name.endswith("_notes.csv")
    assert [row["tags"] for row in csv.DictReader(io.StringIO(content.decode()))] == ["my tag"]
    for seen in (visit, other):
        assert seen.page.evaluate("() => window.hacked") is None
    other.close()
    assert tree(store) == before


# Whether a text area has this text.
AREA = """(text) => {
  const see = (root) => [...root.querySelectorAll("*")].some((el) =>
    (el.tagName === "TEXTAREA" && !el.ariaHidden && el.value === text)
    || (el.shadowRoot && see(el.shadowRoot)))
  return see(document)
}"""


def test_files_equal_the_cube_the_program_runs_and_health_is_shown(
    visit, served, store, monkeypatch, tree
):
    before = tree(store)
    visit.open(
        served.address(page="judge", object=11, types=TYPES[0], time_axis="mjd", selection="11,8")
    )
    name, content = saved(visit, "Save the measurements of this view as CSV")
    want = Cube(store).lightcurve(11, TYPES[0]).calibrated()
    assert name == "img_src_x_onerror_window.hacked_1_11_ch1_aper2_clean.csv"
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    flux = np.array([float(row["flux"]) for row in rows], dtype=np.float32)
    assert flux.tobytes() == want.flux.tobytes()
    _, content = saved(visit, "Save the selected objects' table as CSV")
    assert [row["object"] for row in csv.DictReader(io.StringIO(content.decode()))] == ["11", "8"]
    for form, head in (("PNG", b"\x89PNG"), ("SVG", b"<?xml")):
        name, content = saved(visit, f"Save the lightcurve as {form}")
        assert content.startswith(head)
        assert name.endswith(form.lower())

    name, content = saved(visit, "Save the program as a file")
    assert name.endswith(".py")
    monkeypatch.setattr(plt, "show", plt.close)
    names = {}
    exec(compile(content, name, "exec"), names)  # noqa: S102 - our own program
    (curve,) = names["curves"]
    np.testing.assert_array_equal(curve["y"][curve["kept"]], want.good().flux.astype(float))
    assert visit.page.get_by_label("Program of this view").inner_text().strip() in content.decode()

    named(visit, "button", "Save the folded lightcurve as PNG").click()
    visit.page.get_by_text("no period is chosen").wait_for()
    named(visit, "button", "Send the measurements of this view").click()
    visit.page.get_by_text("no SAMP hub runs on this machine").wait_for()
    look_at_health(visit, store)
    assert visit.page.evaluate("() => window.hacked") is None
    assert tree(store) == before


def look_at_health(visit, store):
    visit.turn_to("Health")
    visit.page.get_by_text("healthy", exact=True).first.wait_for()
    visit.page.get_by_text("Lightcurves by type and shard").wait_for()
    visit.page.get_by_text(Cube(store).uuid).first.wait_for()
    assert visit.page.locator("svg[role=img]").count() == 3
    stray = store / "stray.txt"
    stray.write_text("x")
    try:
        named(visit, "button", "Take the inventory").click()
        visit.page.get_by_text("stray.txt").first.wait_for()
        name, content = saved(visit, "Save every finding")
        assert name.endswith("findings.csv")
        assert b"stray.txt" in content
    finally:
        stray.unlink()


def table_of(form, content):
    """Read a table back as other programs do."""
    file = io.BytesIO(content)
    if form == "VOTable":
        return votable.parse_single_table(file).to_table()
    return Table.read(file, format={"CSV": "ascii.csv", "FITS": "fits"}[form])


def column_of(table, name):
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan).astype(np.float32)


@pytest.mark.parametrize("form", ["CSV", "FITS", "VOTable"])
def test_tables_in_every_form_equal_the_cube(visit, served, store, form):
    cube = Cube(store)
    asked = {"object": 11, "types": TYPES[0], "selection": "11,5"}
    visit.open(served.address(page="judge", **asked))
    name, content = saved(visit, f"Save the measurements of this view as {form}")
    assert name.endswith({"CSV": ".csv", "FITS": ".fits", "VOTable": ".vot"}[form])
    table, want = table_of(form, content), cube.lightcurve(11, TYPES[0]).calibrated()
    assert len(table) == len(want.flux)
    for column in ("flux", "flux_err"):
        np.testing.assert_array_equal(column_of(table, column), getattr(want, column))
    np.testing.assert_array_equal(np.asarray(table["aor"], dtype=np.int64), cube.aors)

    visit.flip("Only points that are kept")
    _, content = saved(visit, f"Save the measurements of this view as {form}")
    kept = table_of(form, content)
    np.testing.assert_array_equal(column_of(kept, "flux"), want.good().flux)
    assert len(kept) < len(table)

    _, content = saved(visit, f"Save the selected objects' table as {form}")
    chosen = table_of(form, content)
    assert [int(one) for one in chosen["object"]] == [11, 5]
    rows = [cube.row(11), cube.row(5)]
    np.testing.assert_array_equal(np.asarray(chosen["ra"]), cube.coordinate("ra")[rows])

    _, content = saved(visit, f"Save whole lightcurves of the selection as {form}")
    whole = table_of(form, content)
    ids = np.asarray(whole["object"], dtype=np.int64)
    for one in (11, 5):
        want = cube.lightcurve(one, TYPES[0]).calibrated()
        np.testing.assert_array_equal(column_of(whole[ids == one], "flux"), want.flux)
    assert set(ids.tolist()) == {11, 5}


def test_every_picture_is_saved(visit, served):
    visit.open(served.address(page="judge", object=11, types=TYPES[0], period=7.3))
    for what in ("lightcurve", "folded lightcurve", "periodogram"):
        sizes = {}
        for form, head in (("PNG", b"\x89PNG"), ("SVG", b"<?xml")):
            name, content = saved(visit, f"Save the {what} as {form}")
            assert content.startswith(head)
            assert name.endswith(form.lower())
            sizes[form] = len(content)
        assert min(sizes.values()) > 5_000


def test_flagged_points_are_set_apart_by_the_flags_that_are_chosen(visit, served, store):
    visit.open(served.address(page="look", object=11, types=TYPES[0], time_axis="mjd"))
    visit.wait_figure("lightcurve")
    curve = Cube(store).lightcurve(11, TYPES[0]).calibrated()
    good = curve.good().flux
    flagged = curve.flux[(curve.flag & flag_bit("saturated")) != 0]
    assert len(flagged) > 3
    visit.wait_data("lightcurve", "flux", good)
    visit.wait_data("lightcurve", "flux", flagged)
    visit.flip("Flagged")
    visit.wait_choice("show_flagged", "0")
    visit.wait_data("lightcurve", "flux", [])
    visit.wait_data("lightcurve", "flux", good)
    visit.choose("Flags that set apart", "saturated", more=True)
    visit.wait_data("lightcurve", "flux", [*good, *flagged])
