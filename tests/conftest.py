"""What many tests share: the real data, a small store, and how hypothesis and matplotlib behave."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pytest
from hypothesis import HealthCheck, settings

mpl.use("Agg")  # no test may want a screen

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
