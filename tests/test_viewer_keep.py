"""What is taken away equals what is in the cube: files, pictures, and tables sent by SAMP."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import subprocess
import threading
import time
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.votable import parse_single_table
from astropy.table import Table
from viewer_field import MJD, N_AORS, OBJECTS, TYPES, make_field

from idfzarr.errors import UsageError
from idfzarr.flags import flag_bit
from idfzarr.viewer import keep
from idfzarr.viewer.curves import prepare
from idfzarr.viewer.field import Field
from idfzarr.viewer.keep import (
    FORMATS,
    KeptFile,
    file_name,
    selection_file,
    selection_lightcurves,
    view_file,
)
from idfzarr.viewer.pictures import PICTURES, picture_file
from idfzarr.viewer.samp import find_hub, send_file
from idfzarr.viewer.state import ViewerState

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    path = tmp_path_factory.mktemp("keep") / "<b>field$x$.zarr"
    make_field(path)
    return Field(path)


def state_of(field, **chosen):
    return ViewerState(field.choices(), **({"object": 11, "types": TYPES[:1]} | chosen))


def read(kept):
    """Return a file's columns, read by another program than wrote it."""
    if kept.name.endswith(".csv"):
        rows = list(csv.DictReader(io.StringIO(kept.content.decode())))
        return {name: np.array([value(row[name]) for row in rows]) for name in rows[0]}
    if kept.name.endswith(".fits"):
        with fits.open(io.BytesIO(kept.content), checksum=True) as hdus:
            hdus.verify("exception")
            table = Table.read(hdus[1])
    else:
        table = parse_single_table(io.BytesIO(kept.content)).to_table()
    return {("mjd" if name == "time" else name): np.asarray(table[name]) for name in table.colnames}


def value(word):
    """Return what a cell means."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word or "nan")
    return word


def text(values):
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


# ------------------------------------------------------------------ the view


@pytest.mark.parametrize("form", FORMATS)
def test_the_view_has_the_bits_of_the_cube(field, form):
    columns = read(view_file(field, state_of(field, start=53100.0, end=53400.0), form))
    by_hand = field.cube.lightcurve(11, TYPES[0]).calibrated().during(53100, 53400)
    assert 20 < len(by_hand) < N_AORS
    assert columns["flux"].astype(np.float32).tobytes() == by_hand.flux.tobytes()
    assert columns["flux_err"].astype(np.float32).tobytes() == by_hand.flux_err.tobytes()
    np.testing.assert_array_equal(columns["mjd"], by_hand.mjd)
    np.testing.assert_array_equal(columns["aor"], by_hand.aor)
    np.testing.assert_array_equal(columns["flag"], by_hand.flag)
    assert "mag" not in columns


@pytest.mark.parametrize("form", FORMATS)
def test_a_column_says_how_each_measurement_is_drawn(field, form):
    state = state_of(field, types=TYPES[:2], clip_on=True, clip_sigma=4.0)
    columns = read(view_file(field, state, form))
    drawn = np.array(text(columns["drawn"]))
    for number, curve in enumerate(prepare(field, state)):
        own = np.array(text(columns["type"])) == TYPES[number]
        for group in ("kept", "flagged", "clipped"):
            aors = columns["aor"][own & (drawn == group)]
            np.testing.assert_array_equal(aors, curve.aor[getattr(curve, group)])
    assert (drawn == "clipped").sum() >= 1
    assert (drawn == "flagged").sum() == 11  # one of them was never measured
    only = read(view_file(field, state, form, kept_only=True))
    assert set(text(only["drawn"])) == {"kept"}
    assert len(only["flux"]) == (drawn == "kept").sum()
    hidden = read(view_file(field, state_of(field, show_flagged=False), form))
    assert text(hidden["drawn"]).count("hidden") == 6


def test_magnitudes_are_those_that_are_drawn(field):
    state = state_of(field, types=TYPES, unit="mag", system="Vega")
    for form in FORMATS:
        columns = read(view_file(field, state, form))
        types = np.array(text(columns["type"]))
        for curve in prepare(field, state):
            own = (types == curve.type) & np.isin(columns["aor"], curve.aor[curve.kept])
            assert own.sum() > 50
            np.testing.assert_array_equal(columns["mag"][own], curve.y[curve.kept])
    kept = view_file(field, state, "votable")
    table = parse_single_table(io.BytesIO(kept.content))
    told = table.get_field_by_id_or_name("mag").description
    assert " ".join(told.split()) == "magnitude as drawn: " + "; ".join(
        f"{name}: Vega mag" for name in TYPES
    )


def test_files_tell_units_and_store(field):
    kept = view_file(field, state_of(field), "fits")
    header = fits.getheader(io.BytesIO(kept.content), 1)
    assert header["STOREID"] == field.cube.uuid
    assert header["OBJECT"] == "11"
    assert "uJy" in {header.get(f"TUNIT{k}") for k in range(1, header["TFIELDS"] + 1)}
    assert kept.name == "b_field_x_11_ch1_aper2_clean.fits"
    assert kept.said == f"{N_AORS} measurements of 1 lightcurve"


@pytest.mark.parametrize("form", FORMATS)
def test_several_lightcurves_in_one_file(field, form):
    columns = read(view_file(field, state_of(field, compared=[5, 8], types=TYPES), form))
    pairs = set(zip(columns["object"].tolist(), text(columns["type"]), strict=True))
    assert pairs == {(id_, name) for id_ in (11, 5) for name in TYPES}  # 8 was never measured
    assert len(columns["flux"]) == 6 * N_AORS - 1


def test_nothing_to_write_is_a_sentence(field):
    with pytest.raises(UsageError, match="no measurement is drawn"):
        view_file(field, state_of(field, object=8), "csv")
    with pytest.raises(UsageError, match="no measurement is drawn"):
        view_file(field, state_of(field, types=[]), "fits")
    with pytest.raises(UsageError, match="no format 'excel'"):
        view_file(field, state_of(field), "excel")
    with pytest.raises(UsageError, match="nothing is selected"):
        selection_file(field, state_of(field), "csv")
    with pytest.raises(UsageError, match="select objects"):
        selection_lightcurves(field, state_of(field), "csv")


def test_more_than_the_page_gives_away_is_refused(field, monkeypatch):
    monkeypatch.setattr(keep, "MOST_ROWS", 100)
    with pytest.raises(UsageError, match="180 measurements, more than the 100"):
        selection_lightcurves(field, state_of(field, selection=[11, 5]), "csv")


# ------------------------------------------------------------------ the selection


@pytest.mark.parametrize("form", FORMATS)
def test_the_selection_is_the_catalogue_in_its_order(field, form):
    columns = read(selection_file(field, state_of(field, selection=[8, 11]), form))
    assert columns["object"].tolist() == [8, 11]
    frame = field.objects.set_index("object").loc[[8, 11]]
    for name in ("ra", "dec", "x", "flux_auto_ch1"):
        np.testing.assert_array_equal(columns[name].astype(float), frame[name].to_numpy(float))
    assert [str(one) for one in columns["isolated"]] == ["True", "True"]


def test_truth_values_are_booleans_that_stil_reads(field, tmp_path):
    kept = selection_file(field, state_of(field, selection=[8, 5]), "votable")
    assert b'datatype="bit"' not in kept.content
    table = parse_single_table(io.BytesIO(kept.content))
    (column,) = (one for one in table.fields if one.name == "isolated")
    assert column.datatype == "boolean"
    assert column.description == field.described("isolated", "").label
    assert table.array["isolated"].tolist() == [True, False]
    stilts = shutil.which("stilts")
    if stilts is None:
        pytest.skip("needs the program stilts")
    (tmp_path / kept.name).write_bytes(kept.content)
    command = [
        stilts,
        "tpipe",
        f"in={kept.name}",
        "ifmt=votable",
        "cmd=keepcols isolated",
        "ofmt=csv",
    ]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["isolated", "true", "false"]


def test_statistics_of_a_built_store_come_along(tiny_store):
    field = Field(tiny_store.store)
    ids = field.cube.objects[[3, 1]].tolist()
    state = ViewerState(field.choices(), selection=ids)
    want = field.table_of(state.statistic_type).iloc[[3, 1]]
    assert len(field.statistics) > 3
    for form in FORMATS:
        columns = read(selection_file(field, state, form))
        assert set(columns) == set(want.columns)
        for name in (*field.statistics, "ch1_mag"):
            np.testing.assert_array_equal(
                columns[name].astype(np.float32), want[name].to_numpy(np.float32)
            )
    kept = selection_file(field, state, "votable")
    units = {f.name: str(f.unit) for f in parse_single_table(io.BytesIO(kept.content)).fields}
    assert (units["ra"], units["ch1_mag"], units["median"]) == ("deg", "mag", "uJy")


@pytest.mark.parametrize("form", FORMATS)
def test_lightcurves_of_the_selection_are_whole(field, form):
    state = state_of(field, selection=[5, 11], types=TYPES[:2], start=53300.0)
    columns = read(selection_lightcurves(field, state, form))
    assert len(columns["flux"]) == 4 * N_AORS
    own = (columns["object"] == 11) & (np.array(text(columns["type"])) == TYPES[0])
    got = columns["flux"][own].astype(np.float32)
    assert got.tobytes() == field.cube.lightcurve(11, TYPES[0]).calibrated().flux.tobytes()


def test_names_of_files_are_safe():
    assert file_name("../../etc", "<script>", "a b", 12, suffix=".csv") == "etc_script_a_b_12.csv"
    assert len(file_name("x" * 900, "y" * 900, "z" * 900, suffix=".fits")) < 160
    assert file_name("...", "/", suffix=".csv") == ".csv"


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize("what", PICTURES)
def test_pictures_are_what_they_say(field, what):
    state = state_of(field, types=TYPES[:2], period=7.3, unit="mag", clip_on=True, bin_on=True)
    png = picture_file(field, state, what, "png")
    assert png.content.startswith(b"\x89PNG")
    assert png.name == f"b_field_x_11_{what}.png"
    svg = picture_file(field, state, what, "svg")
    root = ET.fromstring(svg.content)  # noqa: S314 - just made
    words = [node.text for node in root.iter(f"{SVG}text")]
    assert any("object 11" in (word or "") for word in words)
    assert any("<b>field$x$" in (word or "") for word in words)  # neither HTML nor mathematics
    labels = [word for word in words if word and word.endswith("]")]
    assert len(labels) == 2
    assert picture_file(field, state, what, "svg").content == svg.content


def test_panels_have_an_axis_each(field):
    state = state_of(field, types=TYPES, layout="panels", smooth_on=True, show_errors=False)
    words = _words(picture_file(field, state, "lightcurve", "svg"))
    assert sum(word.startswith("flux [") for word in words) == 3
    assert {"flux [µJy]", "flux [no unit]"} <= set(words)


def _words(kept):
    root = ET.fromstring(kept.content)  # noqa: S314 - just made
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def test_pictures_that_cannot_be_are_sentences(field):
    with pytest.raises(UsageError, match="no picture 'lightkurve'"):
        picture_file(field, state_of(field), "lightkurve", "png")
    with pytest.raises(UsageError, match="no picture 'gif'"):
        picture_file(field, state_of(field), "lightcurve", "gif")
    with pytest.raises(UsageError, match="no measurement is shown"):
        picture_file(field, state_of(field, object=8), "lightcurve", "png")
    with pytest.raises(UsageError, match="no period is chosen"):
        picture_file(field, state_of(field), "folded", "png")


# ------------------------------------------------------------------ SAMP


@pytest.fixture
def samp(tmp_path, monkeypatch):
    """Run astropy's hub on loopback; yields its module and the lock file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to leave astropy; as a peer it still serves
        module = pytest.importorskip("astropy.samp")
        lock = tmp_path / "samp"
        monkeypatch.setenv("SAMP_HUB", f"std-lockurl:file://{lock}")
        with module.conf.set_temp("use_internet", False):
            hub = module.SAMPHubServer(
                web_profile=False, lockfile=str(lock), addr="127.0.0.1", mode="multiple"
            )
            hub.start()
            try:
                yield module, lock, hub
            finally:
                hub.stop()


def receiver(module, hub, mtype, answer):
    """Connect a program that takes tables, reads them at once and answers."""
    client = module.SAMPIntegratedClient(
        name="<i>TOPCAT", addr="127.0.0.1", metadata={"samp.name": "<i>TOPCAT"}
    )
    client.connect(hub=hub)
    got = []

    def take(_private_key, _sender, message_id, _mtype, params, _extra):
        got.append((params, _file(params["url"]).read_bytes()))
        time.sleep(0.2)  # astropy's hub loses an answer that comes before it waits for one
        if answer == "ok":
            client.reply(message_id, {"samp.status": "samp.ok", "samp.result": {}})
        else:
            error = {"samp.errortxt": answer}
            client.reply(
                message_id,
                {"samp.status": "samp.error", "samp.result": {}, "samp.error": error},
            )

    client.bind_receive_call(mtype, take)
    return client, got


def test_a_receiver_has_the_table_that_was_sent(field, samp):
    module, _, hub = samp
    client, got = receiver(module, hub, "table.load.votable", "ok")
    try:
        kept = view_file(field, state_of(field), "votable")
        sent = send_file(kept, title="field: 90 measurements")
        send_file(kept, title="again")
    finally:
        client.disconnect()
    (params, content), (again, _) = got
    assert params["table-id"] != again["table-id"], "TOPCAT refuses an id that it has seen"
    assert content == kept.content
    assert params["name"] == "field: 90 measurements"
    assert sent.to_text() == "field: 90 measurements was sent to <i>TOPCAT"
    assert not _file(params["url"]).exists()


def test_a_receiver_that_refuses_is_told(field, samp):
    module, _, hub = samp
    client, got = receiver(module, hub, "table.load.fits", "I take no such thing")
    try:
        kept = view_file(field, state_of(field), "fits")
        with pytest.raises(UsageError, match=r"no program took .* \(I take no such thing\)"):
            send_file(kept, title="t")
        with pytest.raises(UsageError, match="no program that takes tables"):
            send_file(view_file(field, state_of(field), "votable"), title="t")
    finally:
        client.disconnect()
    assert len(got) == 1
    with pytest.raises(UsageError, match="neither a VOTable nor FITS"):
        send_file(KeptFile("a.csv", "text/csv", b"a\n1\n", ""), title="t")


def _file(url):
    return Path(url.removeprefix("file://"))


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (None, "no SAMP hub runs on this machine"),
        ("nonsense", "does not say where the SAMP hub is"),
        ("samp.secret=s\nsamp.hub.xmlrpc.url=http://127.0.0.1:9/", "no SAMP hub runs"),
        ("samp.secret=s\nsamp.hub.xmlrpc.url=http://192.0.2.1:80/", "is not on this machine"),
        ("samp.secret=s\nsamp.hub.xmlrpc.url=https://example.org/", "is not on this machine"),
        ("samp.secret=s\nsamp.hub.xmlrpc.url=file:///etc/passwd", "is not on this machine"),
        ("samp.secret=s\nsamp.hub.xmlrpc.url=http://127.0.0.1.example.org/", "not on this machine"),
    ],
)
def test_without_a_hub_here_there_is_one_sentence(field, tmp_path, monkeypatch, lock, said):
    monkeypatch.delenv("SAMP_HUB", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if lock is not None:
        (tmp_path / ".samp").write_text(lock)
    kept = view_file(field, state_of(field), "votable")
    with pytest.raises(UsageError, match=said) as refused:
        send_file(kept, title="t")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "named", ["std-lockurl:http://example.org/x", "web-profile:1", "std-lockurl:file://far/x"]
)
def test_a_lock_file_elsewhere_is_not_asked_for(monkeypatch, named):
    monkeypatch.setenv("SAMP_HUB", named)
    with pytest.raises(UsageError, match="no lock file on this machine"):
        find_hub()


def test_threads_may_keep_at_once(field):
    made, state = [], state_of(field, types=TYPES, unit="mag")

    def work():
        made.append(picture_file(field, state, "lightcurve", "svg").content)
        made.append(view_file(field, state, "votable").content)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 2


def test_the_field_is_what_the_tests_think(field):
    assert field.cube.objects.tolist() == OBJECTS
    np.testing.assert_array_equal(field.cube.coordinate("mjd")[:, 0], MJD)
    assert (field.cube.lightcurve(11, TYPES[0]).flag == flag_bit("saturated")).sum() == 6
