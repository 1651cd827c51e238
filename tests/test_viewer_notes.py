"""Notes and lists beside a store: nothing is lost, nothing damaged is believed."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from viewer_field import OBJECTS, make_field

from idfzarr.errors import UnknownName, UsageError
from idfzarr.store.lines import checked_line, sealed_line
from idfzarr.viewer.field import Field
from idfzarr.viewer.list_card import ListCard
from idfzarr.viewer.lists import LONGEST_NAME, ObjectLists
from idfzarr.viewer.note_card import NoteCard
from idfzarr.viewer.notes import LONGEST_NOTE, LONGEST_TAG, MOST_TAGS, Notes, notes_csv
from idfzarr.viewer.saving import Saver
from idfzarr.viewer.session import Session

UUID = "0f0e0d0c-1111-2222-3333-444455556666"
HOSTILE = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "..",
    "'; DROP TABLE x; --",
    "$$x$$",
    "名前",
    "nul.txt",
]


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "field.zarr"
    path.mkdir()
    return path


@pytest.fixture
def notes(store):
    return Notes(str(store), UUID)


def line_of(**fields):
    told = {"object": 1, "tags": [], "note": "", "uuid": UUID, "time": "t", "author": ""}
    return sealed_line(told | fields)


# ------------------------------------------------------------------ what is written


def test_nothing_is_made_before_something_is_written(notes, store):
    assert notes.all() == ()
    assert notes.of(7).is_empty
    assert list(store.parent.iterdir()) == [store]


def test_a_note_is_beside_the_store_and_another_process_reads_it(notes, store):
    written = notes.write(7, add=["variable", "check again"], text="line 1\nµ <b>", author="ann")
    assert written.tags == ("variable", "check again")
    assert list(store.iterdir()) == []
    lines = (store.parent / "field.zarr.notes" / "notes.jsonl").read_bytes().splitlines()
    told = json.loads(lines[0])
    assert (told["object"], told["note"], told["author"]) == (7, "line 1\nµ <b>", "ann")
    assert told["uuid"] == UUID
    assert checked_line(lines[0])[1] == ""
    other = Notes(f"{store}/", UUID).of(7)
    assert (other.tags, other.text, other.author) == (written.tags, "line 1\nµ <b>", "ann")


def test_the_last_line_of_an_object_holds_and_the_earlier_ones_stay(notes, store):
    notes.write(7, text="first")
    notes.write(8, add=["variable"])
    notes.write(7, text="second")
    assert notes.of(7).text == "second"
    assert [note.object_id for note in notes.all()] == [7, 8]
    notes.write(7, text="")
    assert [note.object_id for note in notes.all()] == [8]
    assert len((store.parent / "field.zarr.notes" / "notes.jsonl").read_bytes().splitlines()) == 4


def test_what_changes_nothing_writes_nothing(notes):
    notes.write(7, add=["a"], text="x")
    size = Path(notes.path).stat().st_size
    notes.write(7, add=["a"], remove=["b"], text="x")
    assert Path(notes.path).stat().st_size == size


def test_tags_of_two_sessions_are_joined(store):
    one, other = Notes(str(store), UUID), Notes(str(store), UUID)
    one.write(7, add=["from one"])
    other.write(7, add=["from the other"])
    assert one.of(7).tags == ("from one", "from the other")
    one.write(7, remove=["from the other"])
    assert other.of(7).tags == ("from one",)
    assert set(other.tags()) > {"from one", "variable"}


def test_a_note_that_somebody_else_changed_is_not_overwritten(store):
    one, other = Notes(str(store), UUID), Notes(str(store), UUID)
    seen = one.of(7).text
    other.write(7, text="theirs")
    with pytest.raises(UsageError, match="changed by somebody else meanwhile: it is 'theirs'"):
        one.write(7, text="mine", seen=seen)
    assert one.of(7).text == "theirs"
    one.write(7, text="mine", seen="theirs")
    assert other.of(7).text == "mine"


def test_threads_and_processes_lose_nothing(store):
    code = (
        "import sys; from idfzarr.viewer.notes import Notes\n"
        "notes = Notes(sys.argv[1], sys.argv[2])\n"
        "for k in range(25):\n"
        "    notes.write(k % 5, add=[f'{sys.argv[3]}{k}'])\n"
    )
    begun = [
        subprocess.Popen([sys.executable, "-c", code, str(store), UUID, name]) for name in "pq"
    ]
    shared = Notes(str(store), UUID)

    def write(name):
        for k in range(25):
            shared.write(k % 5, add=[f"{name}{k}"])

    threads = [threading.Thread(target=write, args=(name,)) for name in "tu"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in begun] == [0, 0]
    found = {tag for note in shared.all() for tag in note.tags}
    assert found == {f"{name}{k}" for name in "pqtu" for k in range(25)}
    assert shared.damage == ()


# ------------------------------------------------------------------ what is not believed


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"object": 7}\n', "no crc32c at its end"),
        (line_of(object=7).replace(b'"object":7', b'"object":8'), "does not match its crc32c"),
        (line_of(object="7"), "tells nothing that is known here"),
        (line_of(object=True), "tells nothing that is known here"),
        (line_of(object=2**70), "tells nothing that is known here"),
        (line_of(tags="abc"), "tells nothing that is known here"),
        (line_of(tags=["x" * (LONGEST_TAG + 1)]), "tells nothing that is known here"),
        (line_of(note="x" * (LONGEST_NOTE + 1)), "tells nothing that is known here"),
        (b"\xff\x00 no text at all\n", "no crc32c at its end"),
    ],
)
def test_a_damaged_line_is_told_and_the_others_are_believed(notes, line, said):
    notes.write(1, text="before")
    with Path(notes.path).open("ab") as file:
        file.write(line)
    notes.write(2, text="after")
    fresh = Notes(notes.path.removesuffix(".notes/notes.jsonl"), UUID)
    for one in (notes, fresh):
        assert {note.object_id: note.text for note in one.all()} == {1: "before", 2: "after"}
        assert len(one.damage) == 1
        assert said in str(one.damage[0])
        assert ":2" in str(one.damage[0]) or "line 2" in str(one.damage[0])


def test_a_torn_line_takes_nothing_with_it(notes):
    notes.write(1, text="before")
    with Path(notes.path).open("ab") as file:
        file.write(line_of(object=5, note="lost")[:40])
    assert notes.damage == ()  # its writer may be at work still
    notes.write(2, text="after")
    assert {note.object_id for note in notes.all()} == {1, 2}
    assert len(notes.damage) == 1


def test_lines_of_another_store_are_left_alone(notes, store):
    Notes(str(store), "another").write(3, text="theirs")
    notes.write(1, text="ours")
    assert [note.object_id for note in notes.all()] == [1]
    assert notes.others == 1
    assert Notes(str(store), "another").of(3).text == "theirs"


def test_a_file_that_was_exchanged_is_read_anew(notes):
    notes.write(1, text="old")
    fresh = Path(notes.path + ".new")
    fresh.write_bytes(line_of(object=2, note="new"))
    fresh.replace(notes.path)
    assert [note.object_id for note in notes.all()] == [2]
    Path(notes.path).unlink()
    assert notes.all() == ()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda p: p.symlink_to("/etc/passwd")])
def test_what_is_no_file_of_notes_is_refused(notes, make):
    Path(notes.path).parent.mkdir()
    make(Path(notes.path))
    with pytest.raises(UsageError, match=r"notes\.jsonl"):
        notes.write(1, text="x")
    with pytest.raises(UsageError, match=r"notes\.jsonl"):
        notes.all()


# ------------------------------------------------------------------ what cannot be written


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where nobody writes")
def test_a_place_that_cannot_be_written_is_a_sentence():
    notes = Notes("/proc/field.zarr", UUID)
    assert notes.all() == ()
    with pytest.raises(UsageError, match=r"nothing can be written to /proc/field\.zarr\.notes"):
        notes.write(1, text="x")


def test_a_remote_store_has_no_notes():
    notes = Notes("https://example.org/field.zarr", UUID)
    assert notes.all() == ()
    with pytest.raises(UsageError, match="notes lie beside the store, and beside https"):
        notes.write(1, text="x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": "x" * (LONGEST_NOTE + 1)}, "a note has at most 10,000 characters"),
        ({"text": "bell\a"}, r"U\+0007"),
        ({"text": "lone \ud800"}, r"U\+D800"),
        ({"text": "turned \u202e"}, r"U\+202E"),
        ({"add": ["x" * (LONGEST_TAG + 1)]}, "a tag has at most 40 characters"),
        ({"add": ["a,b"]}, "without a comma"),
        ({"add": ["  "]}, "a tag is a word"),
        ({"add": ["two\nlines"]}, r"U\+000A"),
        ({"add": [f"t{k}" for k in range(MOST_TAGS + 1)]}, f"at most {MOST_TAGS} tags"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(notes, change, said):
    notes.write(1, text="before")
    with pytest.raises(UsageError, match=said):
        notes.write(1, **change)
    assert (notes.of(1).text, notes.of(1).tags) == ("before", ())


def test_csv_reads_back_and_is_no_formula(notes):
    notes.write(1, add=["a", "b"], text='with "quotes", and\nlines')
    notes.write(2, text="=HYPERLINK(1)", author="bob")
    rows = list(csv.DictReader(io.StringIO(notes_csv(notes.all()).decode())))
    assert [row["object"] for row in rows] == ["2", "1"]
    assert rows[0]["note"] == "'=HYPERLINK(1)"
    assert rows[0]["author"] == "bob"
    assert (rows[1]["tags"], rows[1]["note"]) == ("a,b", 'with "quotes", and\nlines')


# ------------------------------------------------------------------ lists


def test_lists_are_saved_loaded_replaced_and_deleted(store):
    lists = ObjectLists(str(store), UUID)
    lists.save(" candidates ", [5, 3, 5, 9])
    assert lists.load("candidates").objects == (5, 3, 9)
    with pytest.raises(UsageError, match="there is a list 'candidates' of 3 objects"):
        lists.save("candidates", [1])
    lists.save("candidates", [1], replace=True)
    other = ObjectLists(str(store), UUID)
    assert [(one.name, one.objects) for one in other.all()] == [("candidates", (1,))]
    other.delete("candidates")
    assert lists.all() == ()
    with pytest.raises(UnknownName, match="there is no list 'candidates'"):
        lists.load("candidates")
    with pytest.raises(UnknownName, match="there is no list"):
        lists.delete("candidates")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_a_name(store, name):
    lists = ObjectLists(str(store), UUID)
    lists.save(name, [1, 2])
    assert lists.load(name).objects == (1, 2)
    found = [p.relative_to(store.parent).as_posix() for p in store.parent.rglob("*")]
    assert sorted(found) == ["field.zarr", "field.zarr.notes", "field.zarr.notes/lists.jsonl"]


@pytest.mark.parametrize(
    ("name", "ids", "said"),
    [
        ("", [1], "give the list a name"),
        ("x" * (LONGEST_NAME + 1), [1], "at most 80 characters"),
        ("a\nb", [1], r"U\+000A"),
        ("fine", [], "no object is selected"),
        ("fine", range(300_001), "more than the 300,000"),
    ],
)
def test_a_list_that_cannot_be_kept_is_refused(store, name, ids, said):
    lists = ObjectLists(str(store), UUID)
    with pytest.raises(UsageError, match=said):
        lists.save(name, ids)
    assert lists.all() == ()


# ------------------------------------------------------------------ on the pages of others


# Panel's Tabulator resets an index in place, which pandas is to take away.
of_panel = pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame.reset_index")


class Page:
    """The cards of one session that shows the page of notes."""

    def __init__(self, field, *, page="judge"):
        self.session = Session(field)
        self.session.state.param.update(page=page, object=OBJECTS[0])
        self.notes = NoteCard(self.session, Saver())
        self.lists = ListCard(self.session)

    @property
    def rows(self):
        return [tuple(row) for row in self.notes._table.value[["object", "note"]].to_numpy()]

    @property
    def offered(self):
        return list(self.lists._chosen.options)


@pytest.fixture
def field(tmp_path):
    make_field(tmp_path / "made.zarr")
    return Field(tmp_path / "made.zarr")


@of_panel
def test_what_one_session_writes_is_on_the_page_of_another(field):
    ann, bob = Page(field), Page(field)
    ann.notes._text.value = "first"
    ann.notes._new_tag.value = "odd"
    assert bob.rows == [(str(OBJECTS[0]), "first")]
    assert (bob.notes._text.value, bob.notes._tags.value) == ("first", ["odd"])
    ann.session.state.selection = OBJECTS[:2]
    ann.lists._name.value = "good ones"
    ann.lists._save(replace=False)
    assert bob.offered == ["good ones (2)"]
    bob.notes._text.value = "second"
    assert ann.rows == [(str(OBJECTS[0]), "second")]
    assert not ann.session.notice.visible or "somebody" not in ann.session.notice.object


@of_panel
def test_a_note_that_is_being_typed_stays_and_its_writer_is_told(field):
    ann, bob = Page(field), Page(field)
    bob.notes._text.value_input = "half a sen"
    ann.notes._text.value = "mine"
    assert bob.notes._text.value_input == "half a sen"
    assert bob.rows == [(str(OBJECTS[0]), "mine")]
    assert "changed by somebody else while you type" in bob.session.notice.object
    bob.notes._text.value = "half a sentence"
    assert "yours was not written" in bob.session.notice.object
    assert Notes(field.path, field.cube.uuid).of(OBJECTS[0]).text == "mine"


@of_panel
def test_another_program_is_heard_of_when_the_page_is_turned_to(field, monkeypatch):
    page = Page(field)
    page.session.state.page = "look"
    Notes(field.path, field.cube.uuid).write(OBJECTS[1], text="from afar")
    ObjectLists(field.path, field.cube.uuid).save("far", OBJECTS)
    assert (page.rows, page.offered) == ([], ["no list yet"])
    page.session.state.page = "judge"
    assert page.rows == [(str(OBJECTS[1]), "from afar")]
    assert page.offered == ["far (3)"]
    monkeypatch.setattr(Notes, "all", lambda _: pytest.fail("read though nothing was written"))
    page.session.state.page = "find"
    page.session.state.page = "judge"


@of_panel
def test_pages_that_are_not_shown_or_gone_cost_nothing(field, monkeypatch):
    shown, elsewhere = Page(field), Page(field)
    elsewhere.session.state.page = "see"
    monkeypatch.setattr(elsewhere.notes, "_list", lambda: pytest.fail("drawn though not shown"))
    shown.notes._text.value = "x"
    journal = shown.notes._notes
    del shown, elsewhere
    monkeypatch.undo()
    gc.collect()
    journal.write(OBJECTS[0], text="y")
    assert journal._listeners == []
