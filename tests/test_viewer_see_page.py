"""See in a browser: stamps are the pixels of the store, as every control asks for them."""

from __future__ import annotations

import numpy as np
import pytest
from viewer_browser import Visit, chromium, serving
from viewer_simulated import simulated_field

from idfzarr.viewer.field import Field
from idfzarr.viewer.stamp_figure import rgba_of_png
from idfzarr.viewer.stamps import aor_stamp, ps1_stamp, render, superstack_stamp

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

FIRST, SECOND, OWN = "superstack stamp of ch1", "superstack stamp of ch2", "stamp of an AOR"


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
def middle(field):
    """Return the object nearest to the middle of the field."""
    x, y = (field.objects[name].to_numpy() for name in ("x", "y"))
    return int(field.cube.objects[int(np.argmin(np.hypot(x - 48, y - 48)))])


@pytest.fixture(scope="module")
def served(store):
    with serving(store) as server:
        yield server


@pytest.fixture
def visit(browser):
    seen = Visit(browser)
    yield seen
    seen.close()


def looks(**changed):
    asked = {"stretch": "asinh", "low": 1.0, "high": 99.5, "colour_map": "gray"}
    return asked | changed


def stack(field, middle, channel="ch1", side=30.0):
    return superstack_stamp(field, middle, channel, side).pixels


def test_stretch_colours_cuts_side_and_marks(visit, served, field, middle):
    visit.open(served.address(page="see", object=middle))
    pixels = stack(field, middle)
    visit.wait_picture(FIRST, render(pixels, **looks()))
    visit.wait_picture(SECOND, render(stack(field, middle, "ch2"), **looks()))
    for stretch in ("log", "sqrt", "linear"):
        visit.press(stretch)
        visit.wait_choice("stretch", stretch)
        visit.wait_picture(FIRST, render(pixels, **looks(stretch=stretch)))
    visit.choose("Colours", "viridis")
    visit.wait_choice("colour_map", "viridis")
    asked = looks(stretch="linear", colour_map="viridis")
    visit.wait_picture(FIRST, render(pixels, **asked))
    visit.write("Bright [%]", "90")
    asked["high"] = 90.0
    visit.wait_picture(FIRST, render(pixels, **asked))
    visit.write("Dark [%]", "20")
    asked["low"] = 20.0
    visit.wait_picture(FIRST, render(pixels, **asked))
    visit.slide("Side", "ArrowLeft", 4)
    visit.wait_picture(FIRST, render(stack(field, middle, side=26.0), **asked))

    (outlines,) = (one for one in visit.data(FIRST, "xs"))
    assert len(outlines) > 0
    visit.flip("Apertures")
    visit.wait_choice("show_apertures", "0")
    visit.wait_paths(FIRST, [], "xs")
    visit.choose("Mark objects", "all")
    visit.wait_choice("show_objects", "all")
    here = field.rows([middle])[0]
    scale = superstack_stamp(field, middle, "ch1", 26.0).scale
    x, y = (field.objects[name].to_numpy() for name in ("x", "y"))
    near = np.maximum(abs(x - x[here]), abs(y - y[here])) * scale
    inside = np.count_nonzero(near < 12.0) - 1
    visit.page.wait_for_function(
        """() => Bokeh.documents[0].get_model_by_name("superstack stamp of ch1").renderers
        .some((r) => (r.data_source.data.xs?.length ?? 0) > 0)"""
    )
    (rings,) = (one for one in visit.data(FIRST, "xs"))
    assert inside <= len(rings) <= np.count_nonzero(near < 14.0) - 1


def test_aors_in_turn_by_number_and_blinking(visit, served, field, middle):
    visit.open(served.address(page="see", object=middle))
    aors = field.aors.sort_values("number")["aor"].tolist()

    def own(aor, channel="ch1"):
        return render(aor_stamp(field, middle, channel, aor, 30.0).pixels, **looks())

    for button, aor in (
        ("Image of the next AOR", aors[0]), ("Image of the next AOR", aors[1]),
        ("Image of the next AOR", aors[2]), ("Image of the AOR before", aors[1]),
    ):  # fmt: skip
        visit.press(button)
        visit.wait_choice("aor", aor)
        visit.wait_picture(OWN, own(aor))
    visit.write("AOR reqkey", str(aors[5]))
    visit.wait_picture(OWN, own(aors[5]))
    visit.choose("Channel", "ch2")
    visit.wait_choice("image_channel", "ch2")
    visit.wait_picture(OWN, own(aors[5], "ch2"))
    visit.flip("Blink with the superstack")
    visit.wait_choice("blink", "1")
    for _ in range(2):
        visit.wait_picture(OWN, render(stack(field, middle, "ch2"), **looks()))
        visit.wait_picture(OWN, own(aors[5], "ch2"))
    visit.flip("Blink with the superstack")
    visit.wait_choice("blink", None)
    visit.wait_picture(OWN, own(aors[5], "ch2"))
    visit.page.wait_for_timeout(900)
    visit.wait_picture(OWN, own(aors[5], "ch2"))


def test_ps1_follows_the_object_and_the_side(visit, served, field, middle):
    visit.open(served.address(page="see", object=middle))
    visit.wait_picture("PS1 stamp", rgba_of_png(ps1_stamp(field, middle, 30.0).png))
    visit.slide("Side", "ArrowRight", 2)
    visit.wait_picture("PS1 stamp", rgba_of_png(ps1_stamp(field, middle, 32.0).png))
    visit.press("Next object")
    visit.page.wait_for_function(
        "(was) => new URLSearchParams(location.search).get('object') !== was", arg=str(middle)
    )
    other = int(visit.choices()["object"])
    visit.wait_picture("PS1 stamp", rgba_of_png(ps1_stamp(field, other, 32.0).png))
