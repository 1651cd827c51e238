"""The README is the manual: what it shows must be so.

Its commands are parsed against the command line, its Python runs on a small store, its tables are
compared with the registries, and the two commands that CI runs are the two that it shows.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer.main
import xarray as xr

from idfzarr.analysis.accessor import IdfAccessor
from idfzarr.analysis.statistic_definitions import DEFINITIONS
from idfzarr.build.pipeline import build
from idfzarr.care.finding import KINDS, LEVELS
from idfzarr.care.lightcurve_export import FORMATS, format_of
from idfzarr.cli import app
from idfzarr.flags import FLAGS
from idfzarr.imaging.simulate import simulate
from idfzarr.measurement import APERTURE_RADII, default_measurements

REPOSITORY = Path(__file__).resolve().parents[1]
MANUALS = ("README.md", "benchmarks/README.md", "notebooks/README.md")
SOURCE = REPOSITORY / "src" / "idfzarr"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXTRAS = ("Install, and see it work", "extra")
MARKED = re.compile(r"^<!-- ([a-z-]+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INVOCATION = re.compile(r"\b(?:python3? -m idfzarr|(?<![\w./-])idfzarr)((?: +[^|`&;#\n]*)?)")


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return [body for tag, body in FENCE.findall(read(name)) if tag == language]


def command_lines() -> list[str]:
    """Return what follows `idfzarr` in every shell block and every command in backticks."""
    shown = "\n".join(blocks("README.md", "sh"))
    shown += "\n" + "\n".join(
        re.findall(r"`((?:python3? -m )?idfzarr(?: [^`]*)?)`", read("README.md"))
    )
    return [words.strip() for words in INVOCATION.findall(shown)]


def table(heading: str, column: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this title, under a heading."""
    section = read("README.md").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = section.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {column} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip("|"))
        rows.append([re.sub(r"\\([|*<])", r"\1", cell.strip()) for cell in cells])
    return rows


@pytest.fixture
def commands():
    group = typer.main.get_command(app)
    return dict(group.commands)


@pytest.fixture(scope="module")
def field_folder(tmp_path_factory):
    """Return a folder with field.zarr, as the examples have it: a period takes more than 8 AORs."""
    folder = tmp_path_factory.mktemp("readme")
    simulate(folder / "field", aors=12, objects=40, size=128, seed=11)
    types = "ch?_auto_original,ch?_aper[12]_*"
    assert build(folder / "field", folder / "field.zarr", types=types).ok
    return folder


def test_every_command_shown_exists(commands):
    shown = [shlex.split(line) for line in command_lines()]
    named = [words for words in shown if words and not words[0].startswith("-")]
    assert {words[0] for words in named} == set(commands)
    for words in named:
        known = {option for p in commands[words[0]].params for option in p.opts}
        asked = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert asked <= known | {"--help"}, words


def test_every_command_has_help_and_stands_in_the_table(commands):
    rows = table("The commands", "command")
    assert {re.match(r"`idfzarr (\w+)", row[0])[1] for row in rows} == set(commands)
    for name, command in commands.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"


def test_the_checker_of_commands_sees_options():
    assert any("--pattern" in line and "--kinds" in line for line in command_lines())


def test_ci_runs_the_two_commands_of_the_readme():
    marked = dict(MARKED.findall(read("README.md")))
    assert set(marked) == {"demo-command", "test-command"}
    for command in marked.values():
        assert len(command.splitlines()) == 1
        assert command.startswith("python3 -m pip install ")
    script = read(".ci/run")
    assert set(re.findall(r"readme_command ([a-z-]+)", script)) == set(marked)
    for command in marked.values():
        assert command.strip() not in script, "CI takes it from the README, it does not repeat it"


def test_ci_extracts_what_stands_in_the_readme(tmp_path):
    """The awk of .ci/run finds the same lines as the pattern here."""
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    function = re.search(
        r"^readme_command\(\) \{\n.*?^\}$", read(".ci/run"), re.MULTILINE | re.DOTALL
    )
    for name, command in MARKED.findall(read("README.md")):
        script = f"clone={shlex.quote(str(tmp_path))}\n{function[0]}\nreadme_command {name}\n"
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout == command


def test_ci_is_a_script_that_bash_understands():
    path = REPOSITORY / ".ci" / "run"
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("name", MANUALS)
def test_python_blocks_are_python(name):
    for block in blocks(name, "python"):
        ast.parse(block)


@pytest.mark.parametrize("name", MANUALS)
def test_links_lead_somewhere(name):
    here = (REPOSITORY / name).parent
    for target in re.findall(r"\]\(([^)#:]+)\)", read(name)):
        assert (here / target).exists(), target


def test_python_examples_run(field_folder, monkeypatch, capsys):
    """They run one after the other, as a reader would, and leave something."""
    monkeypatch.chdir(field_folder)
    examples = blocks("README.md", "python")
    assert len(examples) >= 2
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)  # noqa: S102 - our own manual
    assert isinstance(names["ds"], xr.Dataset)
    assert names["one_type"].dims == ("object", "aor")
    assert names["lc"].flux.size == names["ds"].sizes["aor"]
    assert 0 < names["clean"].flux.size <= names["lc"].flux.size
    assert names["found"].ok
    assert names["table"].sizes["finding"] == len(names["found"].findings)
    assert names["worst"] == []
    assert names["mended"].outcomes == ()
    assert names["flux"].shape == names["one_type"].shape
    assert names["score"].dims == ("object",)
    assert 1 <= names["near"].sizes["object"] < names["ds"].sizes["object"]
    assert names["means"].mag.notnull().any()
    assert names["first"].reduced_chi2.notnull().any()
    assert names["colours"].notnull().any()
    assert names["peaks"][0].power > 0
    assert names["phase"].notnull().any()
    assert names["written"].objects == names["near"].sizes["object"]
    assert len(names["series"]) == len(names["points"])
    assert "aor" in capsys.readouterr().out


def test_commands_that_ask_a_cube_run(field_folder, tmp_path, monkeypatch, run_cli):
    """Those of two sections, one after the other; each lists or writes something."""
    shutil.copytree(field_folder / "field.zarr", tmp_path / "field.zarr")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("object\n3\n5\n")
    text = read("README.md").split("\n## Ask the cube\n")[1].split("\n## The viewer\n")[0]
    shown = "\n".join(body for tag, body in FENCE.findall(text) if tag == "sh")
    lines = [shlex.split(line)[1:] for line in shown.splitlines() if line]
    assert {words[0] for words in lines} == {"stats", "extract"}
    for words in lines:
        done = run_cli(*words)
        assert done.code == 0, (words, done.err)
        assert done.out.strip(), words
    for name in ("variables.fits", "near.vot", "variables.csv"):
        assert (tmp_path / name).stat().st_size > 1000
    assert len(list((tmp_path / "curves").glob("*.fits"))) > 2
    assert list((tmp_path / "field.parquet" / "dataset").rglob("*.parquet"))


def test_extras_are_those_of_the_project():
    text = read("README.md").split("\n## Install")[1].split("\n## ")[0]
    project = tomllib.loads(read("pyproject.toml"))["project"]
    shown = [re.findall(r"`(\w+)`", row[0])[0] for row in table(*EXTRAS)]
    assert sorted(shown) == sorted(project["optional-dependencies"])
    source = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    assert set(re.findall(r"idfzarr\[(\w+)\]", source + text)) <= set(shown)


def test_statistics_are_those_of_the_registry():
    rows = table("Ask the cube", "statistic")
    assert rows == [[f"`{d.name}`", d.unit, d.definition] for d in DEFINITIONS.values()]


def test_the_accessor_does_what_is_shown_and_nothing_else():
    shown = re.findall(r"`(\w+)`", " ".join(row[0] for row in table("Ask the cube", "`ds.idf`")))
    public = [name for name in vars(IdfAccessor) if not name.startswith("_")]
    assert sorted(shown) == sorted(public)


def test_formats_are_those_of_the_registry():
    rows = table("Take lightcurves out", "format")
    assert [row[0] for row in rows] == [f"`{name}`" for name in FORMATS]
    for name, file, _ in rows[:-1]:
        assert format_of(None, f"x{file.strip('`')}") == name.strip("`")


def test_flags_are_those_of_the_registry():
    rows = table("Types and flags", "bit")
    registry = [[str(f.bit), f"`{f.name}`", "yes" if f.bad else "no", f.meaning] for f in FLAGS]
    assert rows == registry


def test_faults_are_those_of_the_registry():
    rows = table("Inventory and repair", "fault")
    registry = [
        [str(k.fault or "–"), f"`{k.name}`", k.severity, k.level, k.meaning, k.remedy]
        for k in KINDS.values()
    ]
    assert rows == registry
    assert {int(row[0]) for row in rows if row[0] != "–"} == set(range(1, 19))
    assert [row[0] for row in table("Inventory and repair", "level")] == [f"`{n}`" for n in LEVELS]


def test_types_are_those_of_the_registry():
    text = read("README.md")
    assert f"The {len(default_measurements())} of a build" in text
    radii = ", ".join(f"{radius:g}" for radius in APERTURE_RADII)
    assert f"circle of radius {radii} superstack pixels" in text


def test_the_table_on_disk_is_what_lies_on_disk(field_folder):
    """Every path of the table is in a store that was built, with these dimensions."""
    checked = 0
    for names, dimensions, _ in table("On disk", "path"):
        wanted = tuple(re.findall(r"\w+", dimensions))
        for name in re.findall(r"`([^`]+)`", names):
            group, _, array = name.rpartition("/")
            if "{channel}" in group:
                group = group.replace("{channel}", "ch1")
            ds = xr.open_zarr(field_folder / "field.zarr", group=group or None, consolidated=False)
            if array:
                assert ds[array].dims == wanted, name
            else:
                assert any(v.dims == wanted for v in ds.variables.values()), name
            checked += 1
    assert checked > 15


def test_the_rooms_are_the_rooms():
    """The table of contents names what there is, in the order of the rooms."""
    from test_rooms import DOORS, ROOMS, WORDS

    named = re.findall(r"`(\w+)/?`", " ".join(row[0] for row in table("The rooms", "room")))
    folders = [room for room in ROOMS if (SOURCE / room).is_dir()]
    assert named == [*WORDS, *folders, *DOORS]


def with_examples() -> list[str]:
    """Return the modules whose docstrings show examples that can be run."""
    return [
        ".".join(("idfzarr", *path.relative_to(SOURCE).with_suffix("").parts))
        for path in sorted(SOURCE.rglob("*.py"))
        if re.search(
            r"^ *>>> (?!.*doctest: \+SKIP)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    ]


@pytest.mark.parametrize("module", with_examples())
def test_examples_of_docstrings_run(module, request, tmp_path, monkeypatch):
    loaded = importlib.import_module(module)
    needs_store = "field.zarr" in inspect.getsource(loaded)
    monkeypatch.chdir(request.getfixturevalue("field_folder") if needs_store else tmp_path)
    result = doctest.testmod(loaded, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0
