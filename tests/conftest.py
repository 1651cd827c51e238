"""What many tests share: the real data, a small store, and how hypothesis and matplotlib behave."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable

mpl.use("Agg")  # no test may want a screen

# A shell starts what it runs in the background deaf to Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The machine's other work, not the code, decides how long an example takes: no deadline.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# In CI the same examples every time: a failure there must be the change's, not the day's.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class SmallStore:
    """A field that was simulated and built, and where its parts lie."""

    images: Path
    store: Path
    aors: int
    objects: int


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder of real frames, or skip and say what was looked for."""
    named = os.environ.get("IDFZARR_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        source = "IDFZARR_DATA" if named else "beside the checkout; IDFZARR_DATA is not set"
        pytest.skip(f"real data absent: looked for the folder {folder} ({source})")
    return folder


@pytest.fixture(scope="session")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> SmallStore:
    """Simulate and build a tiny field once per session; tests read it and never write to it."""
    from idfzarr.build.pipeline import build
    from idfzarr.imaging.simulate import simulate

    folder = tmp_path_factory.mktemp("small_store")
    images, store = folder / "images", folder / "field.zarr"
    aors, objects = 6, 40
    simulate(images, aors=aors, objects=objects, size=128, seed=11)
    build(images, store)
    return SmallStore(images=images, store=store, aors=aors, objects=objects)


TINY = {"aors": 4, "objects": 12, "size": 64, "seed": 5}
TINY_TYPES = "ch1_aper2_*,ch2_aper2_original"


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulate the smallest field once per session; tests copy what they want to change."""
    from idfzarr.imaging.simulate import simulate

    folder = tmp_path_factory.mktemp("tiny") / "images"
    simulate(folder, **TINY)
    return folder


@pytest.fixture(scope="session")
def tiny_store(tiny_images: Path) -> SmallStore:
    """Build the smallest field once per session, three types in shards of four objects."""
    from idfzarr.build.pipeline import build

    store = tiny_images.parent / "field.zarr"
    report = build(tiny_images, store, types=TINY_TYPES, shard_objects=4, scheduler="synchronous")
    return SmallStore(images=tiny_images, store=store, aors=TINY["aors"], objects=report.n_objects)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., Ended]:
    """Return what runs the command line in this process; no command may show a traceback."""
    from idfzarr.cli import main

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        caplog.clear()
        try:
            main([str(argument) for argument in arguments])
            code: object = None
        except SystemExit as end:
            code = 0 if end.code is None else end.code
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert [r.getMessage() for r in caplog.records if r.exc_info] == []
        assert isinstance(code, int)
        return Ended(code, said.out, said.err)

    return run


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def tree() -> Callable[[Path], dict[str, bytes]]:
    """Return what reads every file below a folder."""
    return _tree


@pytest.fixture(scope="session")
def chunks() -> Callable[[Path], dict[str, bytes]]:
    """Return what reads a store without what differs from build to build: uuid, time, crc32c."""
    import json

    def read(store: Path) -> dict[str, bytes]:
        found = _tree(store)
        root = json.loads(found.pop("zarr.json"))
        for name in ("uuid", "created"):
            assert root["attributes"]["idfzarr"].pop(name)
        root["attributes"]["idfzarr"] = {
            k: v for k, v in root["attributes"]["idfzarr"].items() if "crc" not in k
        }
        assert sum(name.startswith("lightcurves/c/") for name in found) > 0
        return found | {"zarr.json": json.dumps(root, sort_keys=True).encode()}

    return read
