"""Every notebook runs from top to bottom, and is kept without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import idfzarr

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def test_every_notebook_stands_in_the_list():
    shown = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert [name for name in NOTEBOOKS if f"[{name}]({name})" not in shown] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_no_outputs(name):
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name):
    source = Path(idfzarr.__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=240", "-q"]
    command += ["-o", "addopts=", "-p", "no:cacheprovider", str(FOLDER / name)]
    environment = os.environ | {"PYTHONPATH": str(source)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=FOLDER.parent
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
