"""The page of a store's health: what the inventory says, and nothing that a store says as HTML."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser

import pytest

import idfzarr
from idfzarr.errors import StoreError
from idfzarr.store.ledger import Ledger
from idfzarr.viewer.field import Field
from idfzarr.viewer.health import health_html, health_of


class Seen(HTMLParser):
    """Tags, attributes and words of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data.strip())

    @property
    def text(self):
        return " ".join(word for word in self.words if word)


@pytest.fixture
def copied(tiny_store, tmp_path):
    """Return a copy of the built store, with a name that would be a tag."""
    target = tmp_path / "<img src=y onerror=alert(0)>.zarr"
    shutil.copytree(tiny_store.store, target)
    shutil.copytree(f"{tiny_store.store}.ledger", f"{target}.ledger")
    return target


def test_a_healthy_store_is_pictured_whole(tiny_store, tree):
    before = tree(tiny_store.store.parent)
    field = Field(tiny_store.store)
    seen = Seen(health_html(health_of(field), dark=False))
    assert "healthy" in seen.words
    assert seen.tags.count("svg") == 3
    for name in field.types:
        assert name in seen.words
    assert f"AORs {field.channels[0]}" in seen.words
    assert field.cube.uuid in seen.words
    assert f"{len(field.cube.objects):,} x {len(field.types)} x {len(field.cube.aors)}" in seen.text
    assert "the store was published" in seen.words
    assert "idfzarr" in seen.text
    assert tree(tiny_store.store.parent) == before


def test_sizes_are_those_of_the_inventory(tiny_store):
    found = idfzarr.inventory(tiny_store.store, level="structure")
    health = health_of(Field(tiny_store.store))
    assert health.inventory.n_bytes == found.n_bytes > 10_000
    assert health.inventory.findings == found.findings
    assert f"in {found.n_files} files" in Seen(health_html(health, dark=False)).text


def test_it_is_looked_at_once_until_asked_again(copied):
    field = Field(copied)
    first = health_of(field)
    assert health_of(Field(copied)) is first
    shard = max((copied / "lightcurves" / "c").rglob("*"))
    shard.unlink()
    assert health_of(field).inventory.ok
    again = health_of(field, anew=True)
    assert not again.inventory.ok
    seen = Seen(health_html(again, dark=True))
    assert "shard missing" in seen.text
    assert "damaged" in seen.text


def test_colours_are_those_of_the_page(tiny_store):
    health = health_of(Field(tiny_store.store))
    light, dark = (health_html(health, dark=dark) for dark in (False, True))
    assert light != dark
    assert Seen(light).text.count("#e4e7e6") < Seen(dark).text.count("#e4e7e6")


def test_nothing_of_a_store_is_a_tag(copied):
    hostile = "<img src=x onerror=alert(1)>"
    ledger = Ledger(copied, Field(copied).cube.uuid)
    ledger.append("note", text=hostile)
    (copied / f"{hostile}\x1b[2J").write_bytes(b"")
    root = copied / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["title"] = f"</td><script>alert(2)</script>{hostile}"
    root.write_text(json.dumps(document))
    field = Field(copied)
    html = health_html(health_of(field, anew=True), dark=False)
    seen = Seen(html)
    assert {"script", "img"}.isdisjoint(seen.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    assert hostile in seen.text
    assert "<img src=y onerror=alert(0)>.zarr" in seen.words
    assert "</td><script>alert(2)</script>" in seen.text
    assert "\x1b" not in html
    assert "file unknown" in seen.text


def test_a_time_that_no_calendar_knows_is_only_a_number(copied, monkeypatch):
    monkeypatch.setattr("idfzarr.store.ledger.time.time_ns", lambda: 10**30)
    Ledger(copied, Field(copied).cube.uuid).append("note", text="late")
    assert str(10**30) in Seen(health_html(health_of(Field(copied), anew=True), dark=False)).text


def test_a_store_that_vanished_is_one_of_our_errors(copied):
    field = Field(copied)
    shutil.rmtree(copied)
    with pytest.raises(StoreError, match=r"there is no store at .*onerror"):
        health_of(field, anew=True)
