"""What people and programs are shown of an inventory: nothing left out, nothing that can harm."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from made_inventories import MadeGroup, MadeInventory, damaged

from idfzarr.care import report, report_html, report_pictures, report_text
from idfzarr.care.completeness import bars, binned, level_text, map_lines
from idfzarr.care.finding import KINDS, Where, finding
from idfzarr.care.plan_text import plan_text
from idfzarr.care.plan_text import report_text as done_text
from idfzarr.care.repair_plan import Action, Outcome, RepairPlan, RepairReport
from idfzarr.care.report_words import alike, severity_counts, size_text, verdict, visible
from idfzarr.errors import UsageError

HOSTILE = (
    '<script>alert("x")</script>',
    "\x1b[2J\x1b]0;title\x07",
    "a\u202etxt.exe",
    "[bold red]markup[/]",
    'line\r\nbreak,"quoted"',
    '=HYPERLINK("http://x","y")',
    "\udcff\udc80",
    "$\\frac{1}{0}$",
    "]]>--><svg onload=alert(1)>",
    "n" * 5000,
)


def hostile_inventory():
    found = tuple(
        finding("file_unknown", Where(name, name, type=name, n_bytes=5), f"found {name}")
        for name in HOSTILE
    )
    names = np.array(HOSTILE, dtype=object)
    groups = tuple(MadeGroup(name, name, states={"foreign": 1}) for name in HOSTILE)
    known = {
        "type": np.linspace(0, 1, len(HOSTILE)),
        "type_name": names,
        "shard_type": np.full((3, len(HOSTILE)), 0.5),
        "aor": np.ones((4, len(HOSTILE))),
        "channel_name": names,
    }
    return MadeInventory(found, groups, known, url=f"/data/{HOSTILE[0]}/{HOSTILE[1]}")


def many(n=5000):
    return tuple(
        finding("chunk_corrupt", Where("lightcurves", f"lightcurves/c/{k}/0/0/0"), "crc32c differs")
        for k in range(n)
    )


# ---------------------------------------------------------------- words


@given(st.text())
def test_what_is_visible_has_no_control_characters(text):
    shown = visible(text)
    assert len(shown) <= 400 * 10
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", shown)
    shown.encode("utf-8")
    if text.isascii() and text.isprintable() and len(text) <= 400:
        assert shown == text


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_999, "1.0 MB"), (3.2e15, "3.2 PB")],
)
def test_sizes(count, told):
    assert size_text(count) == told


@given(st.lists(st.tuples(st.sampled_from(list(KINDS)), st.integers(0, 9)), max_size=60))
def test_findings_put_together_are_all_there_and_the_worst_come_first(drawn):
    found = [finding(kind, Where(key=str(k)), "x") for kind, k in drawn]
    groups = alike(found)
    together = [one for group in groups for one in group.findings]
    assert sorted(map(id, together)) == sorted(map(id, found))
    ranks = [("error", "warning", "note").index(g.severity) for g in groups]
    assert ranks == sorted(ranks)
    assert len({(g.severity, g.kind) for g in groups}) == len(groups)


def test_the_verdict():
    assert verdict(MadeInventory()) == "healthy"
    assert verdict(damaged()) == "damaged: 1 shard torn, 1 chunk corrupt, 1 partial file; 1 note"
    pending = finding("shard_pending", Where(key="lightcurves/c/1/0/0/0"), "not there")
    going = MadeInventory((pending,), live=True)
    assert verdict(going) == "healthy so far, 1 shard not built yet; a writer is at work"
    stray = finding("file_unknown", Where(key="x"), "x")
    assert verdict(MadeInventory((stray,))).startswith("to tidy up: 1 file unknown")
    foreign = finding("codec_unknown", Where(array="a"), "x")
    assert verdict(MadeInventory((foreign,))).startswith("not sound: 1 codec unknown")


# ---------------------------------------------------------------- for programs


def test_json_has_all_and_is_strict():
    inventory = damaged(
        findings=many(), sampled=0.05, completeness={"shard": np.array([1, np.nan])}
    )
    text = report.json_text(inventory)

    def refuse(constant):
        raise AssertionError(constant)

    told = json.loads(text, parse_constant=refuse)
    assert len(told["findings"]) == 5000
    assert told["counts"] == {
        "severity": {"error": 5000, "warning": 0, "note": 0},
        "kind": {"chunk_corrupt": 5000},
    }
    assert told["findings"][7]["key"] == "lightcurves/c/7/0/0/0"
    assert told["findings"][7]["fault"] == 7
    assert told["completeness"]["shard"] == [1.0, None]
    assert (told["ok"], told["exit_code"], told["sampled"]) == (False, 1, 0.05)
    assert told["groups"][0]["n_present_chunks"] == 20_000


def test_json_gives_names_back_as_they_are():
    told = json.loads(report.json_text(hostile_inventory()))
    assert [one["key"] for one in told["findings"]] == list(HOSTILE)


def test_csv_is_rfc_4180_with_a_row_for_each_finding():
    inventory = damaged()
    text = report.csv_text(inventory)
    assert text.endswith("\r\n")
    assert text.count("\r\n") == len(inventory.findings) + 1
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == report.COLUMNS
    for row, one in zip(rows, inventory.findings, strict=True):
        flat = one.to_dict()
        for column in report.COLUMNS:
            if column == "fault":
                assert int(row[column]) == KINDS[one.kind].fault
            else:
                assert row[column] == ("" if flat[column] is None else str(flat[column]))


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_csv_holds_no_formula(begin):
    one = finding("file_unknown", Where(key=f"{begin}1+1", object=-7), f"{begin}cmd|' /C calc'!A0")
    rows = list(csv.DictReader(io.StringIO(report.csv_text(MadeInventory((one,))), newline="")))
    assert rows[0]["key"] == f"'{begin}1+1"
    assert rows[0]["message"].startswith(f"'{begin}")
    assert rows[0]["object"] == "-7"  # a number is no formula


def test_csv_takes_every_name_apart_again():
    text = report.csv_text(hostile_inventory())
    keys = [row["key"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert keys == [f"'{n}" if n.startswith("=") else n for n in HOSTILE]


def test_the_dataset_holds_findings_groups_and_completeness():
    inventory = damaged()
    ds = report.dataset(inventory)
    assert ds.sizes["finding"] == 4
    assert [str(kind) for kind in ds.kind.values] == [f.kind for f in inventory.findings]
    assert ds.object.values.tolist() == [-1, 1234, -1, -1]
    assert int(ds.first_byte[1]) == 512
    errors = ds.isel(finding=ds.severity == "error")
    assert errors.sizes["finding"] == 2
    assert int(ds.group_bytes.sel(group="lightcurves")) == 20_000_000
    known = inventory.completeness
    np.testing.assert_array_equal(ds.completeness_shard_type, known["shard_type"])
    assert ds.completeness_shard.dims == ("shard",)
    assert ds.completeness_shard_type.dims == ("shard", "measurement")
    assert [str(n) for n in ds.measurement.values] == [str(n) for n in known["type_name"]]
    assert ds.completeness_aor.dims == ("aor", "channel")
    assert list(ds[["kind", "key"]].to_dataframe().kind) == [f.kind for f in inventory.findings]
    empty = report.dataset(MadeInventory())
    assert empty.sizes["finding"] == 0
    assert set(empty) >= set(report.COLUMNS)
    assert isinstance(empty, xr.Dataset)


@pytest.mark.parametrize("inside", ["x.csv", "lightcurves/x.csv"])
@pytest.mark.parametrize("suffix", ["", ".ledger", ".quarantine"])
def test_no_report_goes_where_an_inventory_only_reads(tmp_path, inside, suffix):
    target = tmp_path / f"field.zarr{suffix}" / inside
    target.parent.mkdir(parents=True)
    with pytest.raises(UsageError, match="which an inventory only reads"):
        report.check_outside(target, str(tmp_path / "field.zarr/"))
    (tmp_path / "way").symlink_to(target.parent)
    with pytest.raises(UsageError, match="which an inventory only reads"):
        report.check_outside(tmp_path / "way" / "y.csv", str(tmp_path / "field.zarr"))
    assert report.check_outside(tmp_path / "x.csv", str(tmp_path / "field.zarr"))
    with pytest.raises(UsageError, match="it is a folder"):
        report.check_outside(tmp_path, str(tmp_path / "field.zarr"))
    with pytest.raises(UsageError, match="there is no folder"):
        report.check_outside(tmp_path / "no" / "x.csv", str(tmp_path / "field.zarr"))


def test_a_report_is_written_whole(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("old")
    report.write_whole(path, report.csv_text(hostile_inventory()))
    assert b"\\udcff" in path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]


# ---------------------------------------------------------------- for people


def test_the_text_says_the_verdict_first_and_every_finding():
    inventory = damaged()
    lines = report_text.text(inventory).splitlines()
    assert lines[0] == f"{inventory.url}: {verdict(inventory)}"
    together = " ".join(" ".join(lines).split())
    for one in inventory.findings:
        assert one.message in together
        assert one.where.key in together
    assert "nobody has written to it for 3 h (likely)" in together
    assert "20.0 MB" in together
    assert "64.0 MB" in together
    assert "97.6%" in together
    assert all(line == line.rstrip() and len(line) <= 100 for line in lines)


def test_five_thousand_alike_do_not_flood():
    text = report_text.text(damaged(findings=many()))
    assert "chunk corrupt (5,000)" in text
    assert "… and 4,980 more; --json has all" in text
    assert text.count("lightcurves/c/") == 20
    assert len(text.splitlines()) < 60
    page = report_html.page(damaged(findings=many()))
    assert page.count("lightcurves/c/") == 200
    assert "… and 4,800 more" in page
    assert "more;" not in report_text.text(damaged(findings=many(20)))


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_no_name_can_harm_a_terminal(width):
    text = report_text.text(hostile_inventory(), width=width)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    text.encode("utf-8")
    assert "[boldred]" in "".join(text.split())
    assert "\\x1b[2J" in text


def test_the_map_never_flatters():
    assert level_text(np.array([0, 1e-9, 0.999999, 1, np.nan])) == "·▁▇█?"
    fractions = np.ones(100_000)
    fractions[77_777] = 0.999
    drawn = level_text(binned(fractions, 60))
    assert drawn.count("▇") == 1
    assert drawn.count("█") == 59
    (line,) = map_lines({"shard": fractions})
    assert "99.9%" in line
    (line,) = map_lines({"shard": np.zeros(5)})
    assert "0%" in line
    assert "█" not in line
    (line,) = map_lines({"type": np.array([0.99999] * 3), "type_name": np.array(["a", "b", "c"])})
    assert "·" in line
    assert "a … c" in line


@given(
    st.lists(st.one_of(st.floats(0, 1), st.just(np.nan)), min_size=1, max_size=300),
    st.integers(1, 80),
)
def test_bins_keep_the_mean_and_the_unknown(values, width):
    fractions = np.array(values)
    means = binned(fractions, width)
    assert means.size == min(width, fractions.size)
    edges = np.linspace(0, fractions.size, means.size + 1).astype(int)
    for mean, begin, end in zip(means, edges[:-1], edges[1:], strict=True):
        known = fractions[begin:end][np.isfinite(fractions[begin:end])]
        assert (np.isnan(mean) and not known.size) or np.isclose(mean, known.mean())


def test_the_map_stays_small():
    rng = np.random.default_rng(1)
    known = {
        "shard": rng.random(3000),
        "type": rng.random(200),
        "type_name": np.array([f"ch1_r{k}_original" for k in range(200)]),
        "aor": rng.random((1200, 2)),
        "channel_name": np.array(["ch1", "ch2"]),
    }
    lines = map_lines(known, width=100)
    assert 10 < len(lines) <= 20
    assert all(len(line) <= 112 for line in lines)
    assert sum(bar.fractions.size for bar in bars(known) if bar.unit == "type") == 200
    assert map_lines({}) == ()


# ---------------------------------------------------------------- the page


class Page(HTMLParser):
    """What a browser would load or run, and whether tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.open = set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in {"meta", "br", "path", "use", "rect", "image", "line", "circle"}:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "xlink:href", "data", "action", "srcset"}:
                self.loads.append(value)

    def handle_startendtag(self, tag, attrs):
        before = len(self.open)
        self.handle_starttag(tag, attrs)
        del self.open[before:]

    def handle_endtag(self, tag):
        if tag in {"path", "use", "rect", "image", "line", "circle"}:
            return
        assert self.open, tag
        assert self.open.pop() == tag


@pytest.mark.parametrize("made", [damaged, hostile_inventory, MadeInventory])
def test_the_page_asks_for_nothing_and_runs_nothing(made):
    text = report_html.page(made())
    page = Page(text)
    assert page.open == []
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert all(load.startswith(("#", "data:")) for load in page.loads), page.loads
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    assert "default-src 'none'" in text
    assert text.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    text.encode("utf-8")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_the_page_is_the_same_for_the_same_inventory():
    assert report_html.page(damaged()) == report_html.page(damaged())


def test_names_are_escaped_once():
    text = report_html.page(hostile_inventory())
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in text
    assert "&amp;lt;" not in text


def test_pictures_are_svg_in_the_colours_of_the_page():
    inventory = damaged()
    drawn = [
        report_pictures.shard_picture(inventory),
        report_pictures.aor_picture(inventory),
        report_pictures.size_picture(inventory),
    ]
    for svg in drawn:
        root = ET.fromstring(svg)  # noqa: S314 - drawn here
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "currentColor" in svg
        assert "var(--good)" in svg
        assert "#0102" not in svg
    assert "ch2_aper4_original" in drawn[0]
    assert "AORs ch2" in drawn[1]
    assert "20.0 MB of 64.0 MB" in drawn[2]
    assert "var(--bad)" not in drawn[1]  # an AOR that is not observed is no fault
    bare = MadeInventory(groups=())
    assert report_pictures.shard_picture(bare) == ""
    assert report_pictures.aor_picture(bare) == ""
    assert report_pictures.size_picture(bare) == ""
    assert "<figure>" not in report_html.page(bare)


def test_a_large_store_gives_a_small_page():
    rng = np.random.default_rng(3)
    known = {
        "shard_type": rng.random((20_000, 40)),
        "shard": rng.random(20_000),
        "aor": rng.random((5_000, 2)) > 0.2,
    }
    text = report_html.page(damaged(findings=many(), completeness=known))
    assert len(text) < 2_000_000


def test_the_fragment_for_a_notebook_touches_nothing_around_it():
    text = report_html.fragment(damaged())
    Page(text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert style.startswith(".idfzarr-inventory {")
    assert style.count("{") == style.count("}")
    assert "body" not in re.sub(r"tbody", "", style)


# ---------------------------------------------------------------- plans


def a_plan():
    return RepairPlan(
        "/data/field.zarr",
        "3f2b",
        (
            Action("rewrite_shard", "lightcurves/c/3/0/0/0", "2 of 8 chunks are gone", 4096),
            Action("quarantine", "x\x1b[2J.partial", "half-written", 1000),
            Action("quarantine", "a.jsonl", "a damaged line", 10, {"beside": "ledger"}),
        ),
        ("object 7, ch1_auto_original: its mosaic is not there",),
    )


def test_a_plan_prints_every_item_the_totals_and_the_command():
    text = plan_text(a_plan(), command="idfzarr repair field.zarr --apply")
    for action in a_plan().actions:
        assert visible(action.key) in text
        assert action.reason in text
        assert size_text(action.n_bytes) in text
    assert "ledger:a.jsonl" in text
    assert "move to quarantine: 2, 1.0 kB" in text
    assert "total: 3 actions, 5.1 kB" in text
    assert "its mosaic is not there" in text
    assert text.splitlines()[-1] == "to do it: idfzarr repair field.zarr --apply"
    assert "\x1b" not in text
    assert plan_text(RepairPlan("s", None), command="x") == "s: nothing to do"


def test_what_was_done_is_told_with_the_way_back():
    first, second, third = a_plan().actions
    done = RepairReport(
        "/data/field.zarr",
        (
            Outcome(first, "failed", "the mosaic cannot be read"),
            Outcome(second, "done", "moved"),
            Outcome(third, "unneeded", "it is gone"),
        ),
        (),
        "20261121T000000Z-ab",
    )
    text = done_text(done)
    assert text.startswith("/data/field.zarr: 1 done, 1 needed no more, 1 FAILED")
    assert "the mosaic cannot be read" in text
    assert "moved to quarantine: 1 item, 1.0 kB" in text
    assert "/data/field.zarr.quarantine/20261121T000000Z-ab" in text
    assert text.endswith("idfzarr inventory /data/field.zarr --restore 20261121T000000Z-ab")
    assert done_text(RepairReport("s", (), ())) == "s: nothing to do"
    lost = tuple(f"AOR gr{k}" for k in range(128))
    flood = done_text(RepairReport("s", done.outcomes[:1], lost, "batch"), left="lost")
    assert "… and 108 more; --json has all" in flood
    assert "--restore" not in flood  # nothing was moved


def test_severities_are_counted_zeros_too():
    assert severity_counts(()) == {"error": 0, "warning": 0, "note": 0}
