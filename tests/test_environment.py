"""One list of packages: environment.yml and the imports agree with pyproject.toml."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What is imported -> what is installed, where the names differ.
DISTRIBUTIONS = {
    "astropy_healpix": "astropy-healpix",
    "google_crc32c": "google-crc32c",
    "cf_xarray": "cf-xarray",
    "light_curve": "light-curve",
    "lance": "pylance",
    "panel_material_ui": "panel-material-ui",
    "yaml": "pyyaml",
}
# Folder -> the extras whose packages its modules may import.
EXTRAS_OF = {
    "src": ("viewer", "tess", "s3", "lightkurve", "periods", "test"),
    "tests": ("test", "viewer", "lightkurve", "periods", "s3"),
    "benchmarks": ("test", "viewer"),
}

# Only compared with, each where it is installed: benchmarks/README.md names them.
RIVALS = {"src": set(), "tests": set(), "benchmarks": {"duckdb", "h5py", "pylance"}}


@pytest.fixture(scope="module")
def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def environment(repository):
    return yaml.safe_load((repository / "environment.yml").read_text(encoding="utf-8"))


def package(requirement: str) -> str:
    """Return the normalised name at the head of a requirement."""
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


def packages(requirements: list[str]) -> set[str]:
    return {package(requirement) for requirement in requirements} - {"idfzarr"}


def of_this_project(repository: Path) -> set[str]:
    """Return the names by which its own modules are imported, in tests and benchmarks too."""
    paths = [p for name in ("tests", "benchmarks") for p in (repository / name).rglob("*.py")]
    return {"idfzarr"} | {path.stem for path in paths} | {path.parent.name for path in paths}


def third_party(repository: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yield every package that a folder's modules import, and where."""
    ours = of_this_project(repository)
    folder = repository / name
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            for top in {name.partition(".")[0] for name in names}:
                if top not in sys.stdlib_module_names and top not in ours:
                    yield top, f"{path.relative_to(folder)}:{node.lineno}"


def test_environment_installs_this_project_with_extras_that_exist(project, environment):
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    (requirement,) = pip
    match = re.fullmatch(r"-e \.\[([a-z0-9,]+)\]", requirement)
    assert match, requirement
    extras = match[1].split(",")
    assert "viewer" in extras
    assert set(extras) <= set(project["optional-dependencies"])


def test_environment_asks_for_the_same_python(project, environment):
    (python,) = (
        entry
        for entry in environment["dependencies"]
        if isinstance(entry, str) and entry.startswith("python")
    )
    assert python == f"python{project['requires-python']}"


def test_environment_adds_no_package_of_its_own(environment):
    names = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert {package(name) for name in names} == {"python", "pip"}


def test_every_extra_names_packages(project):
    extras = project["optional-dependencies"]
    assert set(extras) == {"viewer", "tess", "s3", "lightkurve", "periods", "test", "dev"}
    for name, requirements in extras.items():
        assert packages(requirements), f"the extra {name} is empty"


def test_every_package_has_a_lower_bound(project):
    everything = list(project["dependencies"])
    for requirements in project["optional-dependencies"].values():
        everything += requirements
    unbound = [r for r in everything if ">=" not in r and package(r) != "idfzarr"]
    assert unbound == []


def test_python_bound_is_the_oldest_classifier(project):
    versions = [
        tuple(map(int, line.rpartition(" ")[2].split(".")))
        for line in project["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
    ]
    oldest = min(versions)
    assert project["requires-python"] == f">={oldest[0]}.{oldest[1]}"


@pytest.mark.parametrize("folder", EXTRAS_OF)
def test_every_import_is_declared(project, repository, folder):
    declared = packages(project["dependencies"]) | RIVALS[folder]
    for extra in EXTRAS_OF[folder]:
        declared |= packages(project["optional-dependencies"][extra])
    undeclared = {
        f"{top} ({where})"
        for top, where in third_party(repository, folder)
        if DISTRIBUTIONS.get(top, top) not in declared
    }
    assert undeclared == set()


def test_imports_are_found_at_all(repository):
    assert {"numpy", "typer"} <= {top for top, _ in third_party(repository, "src")}


def test_rivals_are_named_where_benchmarks_are_described(repository):
    text = (repository / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert {name for name in RIVALS["benchmarks"] if f"`{name}`" not in text} == set()
