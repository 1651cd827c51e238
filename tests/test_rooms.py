"""Where code lives: every module keeps to its room, and every file to its size.

The rooms are those of the README's table of contents, in that order. A module imports only from
its own room and from rooms before it; imports inside functions, under ``TYPE_CHECKING`` and by
`importlib.import_module` count too.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import idfzarr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = Path(idfzarr.__file__).parent

WORDS = ("errors", "flags", "progress", "measurement", "lightcurve")
DOORS = (
    "cli_options",
    "cli_care",
    "cli_ps1",
    "cli_extract",
    "cli_stats",
    "cli_view",
    "cli",
    "__main__",
    "__init__",
)
ROOMS = (
    "words",
    "store",
    "imaging",
    "analysis",
    "ps1",
    "build",
    "care",
    "viewer",
    "testing",
    "doors",
)

# Module or room -> what it must not import, however the order of the rooms stands.
FENCES = {
    "imaging": ("zarr", "dask", "distributed", "idfzarr.store"),
    "imaging.simulate": (
        "idfzarr.imaging.photometry",
        "idfzarr.imaging.detection",
        "idfzarr.imaging.apertures",
    ),
    "care.inventory": ("idfzarr.build",),
}
# Packages that only one room may bring in.
HEAVY = {
    "panel": "viewer",
    "holoviews": "viewer",
    "hvplot": "viewer",
    "bokeh": "viewer",
    "hypothesis": "testing",
    "distributed": "build",
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "core", "base", "tools", "manager"}
VAGUE |= {"handler", "processor", "info", "data"}
BANNED_NAMES = VAGUE | sys.stdlib_module_names
MODULE_LINES = 600
FUNCTION_LINES = 80

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One parsed file of the package."""

    parts: tuple[str, ...]
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return ".".join(self.parts)

    @property
    def room(self) -> str | None:
        return room_of(self.parts)


@dataclass(frozen=True)
class Import:
    """One imported name, spelled out from the root."""

    target: str
    line: int
    relative: bool
    on_loading: bool


def room_of(parts: tuple[str, ...]) -> str | None:
    """Return the room of a module path such as ("store", "cube"); None where it has none."""
    if len(parts) == 1 and parts[0] in WORDS:
        return "words"
    if len(parts) == 1 and parts[0] in DOORS:
        return "doors"
    return parts[0] if parts and parts[0] in ROOMS[1:-1] else None


def read_modules(source: Path) -> list[Module]:
    modules = []
    for path in sorted(source.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(source).with_suffix("").parts
        modules.append(Module(parts, text, ast.parse(text, filename=str(path))))
    return modules


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def walk(node: ast.AST, *, on_loading: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node and whether it runs when the module is loaded."""
    yield node, on_loading
    inner = (
        on_loading and not isinstance(node, Function | ast.Lambda) and not is_type_checking(node)
    )
    for child in ast.iter_child_nodes(node):
        yield from walk(child, on_loading=inner)


def imports(module: Module) -> Iterator[Import]:
    for node, loading in walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, relative=False, on_loading=loading)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            for alias in node.names:
                target = f"{origin}.{alias.name}"
                yield Import(target, node.lineno, relative=node.level > 0, on_loading=loading)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for target in (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)):
                relative = target.startswith(".")
                yield Import(target, node.lineno, relative=relative, on_loading=loading)


def is_within(target: str, prefix: str) -> bool:
    return target == prefix or target.startswith(prefix + ".")


def check_room(module: Module) -> Iterator[str]:
    if module.room is None:
        yield f"{module.name}: stands in no room; the rooms are {', '.join(ROOMS)}"
    for part in module.parts:
        if part in BANNED_NAMES:
            yield f"{module.name}: {part!r} is a banned module name"


def check_order(module: Module) -> Iterator[str]:
    if module.room is None:
        return
    known = {*WORDS, *DOORS, *ROOMS[1:-1]}
    for found in imports(module):
        where = f"{module.name}:{found.line}"
        if found.relative:
            yield f"{where}: relative import of {found.target}"
            continue
        if not is_within(found.target, "idfzarr"):
            continue
        parts = tuple(found.target.split(".")[1:])
        if not parts or parts[0] not in known:
            yield f"{where}: imports the package root ({found.target})"
            continue
        theirs = room_of(parts[:1]) or "doors"
        if ROOMS.index(theirs) > ROOMS.index(module.room):
            yield f"{where}: {module.room} imports {found.target} of the later room {theirs}"
        if theirs == "testing" and module.room != "testing":
            yield f"{where}: {found.target}: only tests import testing"
        if theirs == module.room == "words" and WORDS.index(parts[0]) >= WORDS.index(
            module.parts[0]
        ):
            yield f"{where}: {parts[0]} comes after {module.parts[0]} in the order of the words"


def check_fences(module: Module) -> Iterator[str]:
    for found in imports(module):
        where = f"{module.name}:{found.line}"
        for inside, outside in FENCES.items():
            if is_within(module.name, inside) and any(is_within(found.target, o) for o in outside):
                yield f"{where}: {inside} must not import {found.target}"
        top = found.target.split(".")[0]
        if HEAVY.get(top, module.room) != module.room:
            yield f"{where}: only {HEAVY[top]} imports {top}"
        is_ours = top in sys.stdlib_module_names or top in {"idfzarr", "numpy"}
        if module.room == "words" and found.on_loading and not is_ours:
            yield f"{where}: words load numpy only, not {top}"


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function's docstring has: it may be as long as it must."""
    first = node.body[0]
    if ast.get_docstring(node) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


def check_size(module: Module) -> Iterator[str]:
    lines = len(module.text.splitlines())
    if lines > MODULE_LINES:
        yield f"{module.name}: {lines} lines, more than {MODULE_LINES}"
    for node, _ in walk(module.tree):
        if isinstance(node, Function) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1 - docstring_lines(node)
            if length > FUNCTION_LINES:
                yield f"{module.name}:{node.lineno}: {node.name} has {length} lines"


def assigned(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def check_all(module: Module) -> Iterator[str]:
    name = module.parts[-1]
    is_private = name.startswith("_") and name not in {"__init__", "__main__"}
    says_something = [
        node
        for node in module.tree.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    ]
    targets = [ast.unparse(target) for node in module.tree.body for target in assigned(node)]
    if says_something and not is_private and "__all__" not in targets:
        yield f"{module.name}: public, and has no __all__"


def cleans_up(node: ast.ExceptHandler) -> bool:
    """Whether a handler of BaseException ends by raising on: it takes its leavings along."""
    last = node.body[-1]
    on = isinstance(last, ast.Raise) and last.exc is None
    return on and node.type is not None and ast.unparse(node.type) == "BaseException"


def catches_all(node: ast.AST) -> bool:
    if isinstance(node, ast.ExceptHandler):
        if cleans_up(node):
            return False
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        kinds = list(node.args)
    else:
        return False
    return any(
        kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in kinds
    )


def check_excepts(module: Module) -> Iterator[str]:
    if module.room == "build" or module.name == "ps1.fetch":
        return
    for node, _ in walk(module.tree):
        if catches_all(node):
            line = getattr(node, "lineno", 0)
            yield f"{module.name}:{line}: catches everything; only build and ps1.fetch may"


CHECKS: tuple[Callable[[Module], Iterator[str]], ...] = (
    check_room,
    check_order,
    check_fences,
    check_size,
    check_all,
    check_excepts,
)


def violations(source: Path) -> list[str]:
    """Return one sentence for each rule that a module under `source` breaks."""
    return [said for module in read_modules(source) for check in CHECKS for said in check(module)]


def test_every_module_keeps_the_rules():
    found = violations(SOURCE)
    assert not found, "\n" + "\n".join(found)


def test_the_checker_reads_the_whole_package():
    names = {module.name for module in read_modules(SOURCE)}
    assert {*WORDS, *DOORS} <= names
    assert {"store.cube", "imaging.simulate", "imaging.photometry", "build.pipeline"} <= names


CATCH_ALL = "try:\n    x = 1\nexcept Exception:\n    pass\n"

CLEAN = {
    "errors.py": "__all__ = []\n",
    "flags.py": "import numpy as np\nfrom idfzarr.errors import X\n__all__ = []\n",
    "lightcurve.py": "__all__ = []\n\n\ndef f():\n    import xarray\n",
    "store/__init__.py": '"""A room."""\n',
    "store/cube.py": "import zarr\nfrom idfzarr.store import shard\n__all__ = []\n",
    "store/place.py": "__all__ = []\ntry:\n    x = 1\nexcept BaseException:\n    raise\n",
    "imaging/simulate.py": "from idfzarr.imaging.mosaic import X\n__all__ = []\n",
    "build/scheduler.py": "import distributed\n__all__ = []\n" + CATCH_ALL,
    "cli.py": "__all__ = []\n\n\ndef f():\n    from idfzarr.viewer.app import X\n",
}

PLANTED = {
    "later room": ("store/cube.py", "from idfzarr.imaging import mosaic", "the later room imaging"),
    "inside a function": (
        "store/cube.py",
        "def f():\n    from idfzarr.build.pipeline import build",
        "the later room build",
    ),
    "for types only": (
        "analysis/period.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import idfzarr.viewer.app",
        "the later room viewer",
    ),
    "by name": (
        "store/cube.py",
        "import importlib\nimportlib.import_module('idfzarr.care.repair')",
        "the later room care",
    ),
    "door": ("viewer/app.py", "from idfzarr.cli import app", "the later room doors"),
    "order of words": ("flags.py", "from idfzarr.lightcurve import X", "order of the words"),
    "heavy words": ("flags.py", "import xarray", "words load numpy only, not xarray"),
    "root": ("build/pipeline.py", "import idfzarr", "imports the package root"),
    "name from root": ("build/pipeline.py", "from idfzarr import Cube", "imports the package root"),
    "relative": ("store/cube.py", "from . import shard", "relative import"),
    "testing": ("cli.py", "from idfzarr.testing import X", "only tests import testing"),
    "zarr in imaging": ("imaging/mosaic.py", "import zarr.storage", "must not import zarr.storage"),
    "dask in imaging": ("imaging/mosaic.py", "import dask.array", "must not import dask.array"),
    "store in imaging": (
        "imaging/mosaic.py",
        "from idfzarr.store import cube",
        "imaging must not import idfzarr.store.cube",
    ),
    "truth from photometry": (
        "imaging/simulate.py",
        "from idfzarr.imaging import apertures",
        "must not import idfzarr.imaging.apertures",
    ),
    "inventory from build": (
        "care/inventory.py",
        "from idfzarr.build.pipeline import X",
        "care.inventory must not import",
    ),
    "panel elsewhere": ("analysis/period.py", "import panel as pn", "only viewer imports panel"),
    "long module": ("store/cube.py", "x = 1\n" * 601, "more than 600"),
    "long function": ("store/cube.py", "def f():\n" + "    x = 1\n" * 80, "f has 81 lines"),
    "no room": ("plots/bar.py", "x = 1", "stands in no room"),
    "banned name": ("store/utils.py", "x = 1", "'utils' is a banned module name"),
    "standard library": ("store/statistics.py", "x = 1", "'statistics' is a banned module name"),
    "except": ("viewer/app.py", CATCH_ALL, "catches everything"),
    "except among others": (
        "viewer/app.py",
        CATCH_ALL.replace("Exception", "(ValueError, Exception)"),
        "catches everything",
    ),
    "except and go on": (
        "viewer/app.py",
        CATCH_ALL.replace("Exception", "BaseException"),
        "catches everything",
    ),
    "bare except": ("ps1/tess.py", CATCH_ALL.replace(" Exception", ""), "catches everything"),
    "suppress": ("ps1/tess.py", "with suppress(Exception):\n    x = 1", "catches everything"),
}


def plant(source: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return source


def test_the_checker_accepts_what_the_rules_allow(tmp_path):
    assert violations(plant(tmp_path, CLEAN)) == []


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_finds_what_is_planted(tmp_path, name):
    file, text, said = PLANTED[name]
    found = violations(plant(tmp_path, CLEAN | {file: f"{text}\n__all__ = []\n"}))
    assert any(said in sentence for sentence in found), found
    here = file.removesuffix(".py").replace("/", ".")
    assert all(sentence.startswith(here) for sentence in found), found


def test_the_checker_finds_a_public_module_without_all(tmp_path):
    found = violations(plant(tmp_path, CLEAN | {"store/cube.py": "x = 1\n"}))
    assert found == ["store.cube: public, and has no __all__"]


HEAVY_ROOT = ("panel", "distributed", "photutils", "astropy.coordinates")
HEAVY_HELP = (*HEAVY_ROOT, "dask", "xarray", "zarr", "scipy", "matplotlib", "bokeh", "holoviews")


def loaded_among(modules: list[str], unwanted: tuple[str, ...]) -> list[str]:
    return [name for name in modules if any(is_within(name, prefix) for prefix in unwanted)]


def test_import_loads_nothing_heavy():
    code = "import json, sys, idfzarr; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout)
    assert "idfzarr" in modules
    assert loaded_among(modules, HEAVY_ROOT) == []


def test_help_answers_and_loads_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "idfzarr", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    assert "build" in done.stdout
    assert "demo" in done.stdout
    timed = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    modules = [line.rpartition("|")[2].strip() for line in timed]
    assert "idfzarr.cli" in modules
    assert loaded_among(modules, HEAVY_HELP) == []
