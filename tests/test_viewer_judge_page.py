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
from viewer_browser import Visit, chromium, serving
from viewer_field import TYPES, make_field

from idfzarr.store.cube import Cube
from idfzarr.viewer.lists import ObjectLists
from idfzarr.viewer.notes import Notes

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

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

    other = Visit(browser).open(served.address(page="judge", object=5))
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
