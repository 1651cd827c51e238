"""A small simulated field for the viewer in a browser: its truth is known and PS1 sees it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from old_skycells import make_store

import idfzarr
from idfzarr.imaging.simulate import simulate
from idfzarr.ps1 import skycell
from idfzarr.ps1.linking import link_skycells
from idfzarr.testing.ps1_files import PS1Sky

if TYPE_CHECKING:
    from pathlib import Path

TYPES = "ch1_aper2_*,ch2_aper2_clean"


@cache
def simulated_field(base: Path) -> Path:
    """Build the field, once for all files of tests; its lightcurves are long enough for periods."""
    folder = base / "viewer"
    folder.mkdir()
    store = folder / "field.zarr"
    simulate(folder / "images", aors=16, objects=24, size=96, seed=4)
    idfzarr.build(folder / "images", store, types=TYPES, scheduler="synchronous", shard_objects=4)
    cube = idfzarr.Cube(store)
    ra, dec = (float(cube.coordinate(name).mean()) for name in ("ra", "dec"))
    sky = PS1Sky(seed=1, size=(300, 300), around=(ra, dec))
    make_store(folder / "ps1.zarr", sky, [skycell.best(ra, dec)], bands="gri", kinds=("image",))
    link_skycells(store, folder / "ps1.zarr")
    return store
