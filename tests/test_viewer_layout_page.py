"""Each part of the viewer's page as it is laid out: controls named, explained and apart."""

from __future__ import annotations

import re

import pytest
from viewer_browser import CONTROLS, Visit, chromium, overlap, serving
from viewer_simulated import simulated_field

import idfzarr

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(300)]

FEWEST = {"find": 10, "look": 30, "see": 12, "judge": 20, "health": 3}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return simulated_field(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def served(field):
    with serving(field) as server:
        yield server


@pytest.mark.parametrize("part", ["find", "look", "see", "judge", "health"])
def test_controls_are_named_explained_and_apart_and_nothing_scrolls_sideways(
    browser, served, field, part
):
    chosen = [int(one) for one in idfzarr.Cube(field).objects[:3]]
    seen = Visit(browser, width=1280, height=1000)
    seen.open(served.address(page=part, selection=",".join(map(str, chosen))))
    for width in (1280, 1920):
        seen.page.set_viewport_size({"width": width, "height": 1000})
        seen.page.wait_for_timeout(400)  # until the figures have their new width
        assert seen.page.evaluate("() => document.documentElement.scrollWidth") <= width
        found = seen.page.evaluate(CONTROLS)
        assert len(found) >= FEWEST[part]
        assert [one for one in found if not one["name"]] == []
        assert [one["name"] for one in found if not one["tip"]] == []
        assert [one["name"] for one in found if one["box"][2] > width] == []
        clashes = [
            (one["name"], other["name"])
            for at, one in enumerate(found)
            for other in found[at + 1 :]
            if overlap(one["box"], other["box"])
        ]
        assert clashes == []
    for name, labels in seen.labels().items():
        for label in labels:
            assert re.search(r"\[.+\]$", label), (name, label)
    seen.close()


def test_a_tooltip_comes_where_the_pointer_rests(browser, served):
    seen = Visit(browser).open(served.address(page="look"))
    tip = seen.page.get_by_role("tooltip")
    for place, sentence in (
        (seen.page.locator("label", has_text="Calibrated").locator("svg").first, "Apply the ens"),
        (seen.named("button", "Draw this object alone"), "Draw this object alone"),
    ):
        place.hover()
        tip.filter(has_text=sentence).wait_for()
        seen.page.mouse.move(2, 2)
        tip.wait_for(state="detached")
    seen.close()
