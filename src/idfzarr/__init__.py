"""Lightcurves of every source of a fixed field, in one Zarr cube.

::

    import idfzarr

    idfzarr.build("images", "field.zarr")            # mosaics to lightcurves
    ds = idfzarr.open("field.zarr")                  # an xarray Dataset, lazy
    cube = idfzarr.Cube("field.zarr")                # the fast path
    lc = cube.lightcurve(12345, "ch1_auto_original")
    idfzarr.rank_store("field.zarr", top=10)         # the most variable objects
    found = idfzarr.inventory("field.zarr")          # what is wrong with it, and where
    idfzarr.plan_repair(found).apply()               # mended

A name is imported when it is first used, so that ``import idfzarr`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idfzarr.analysis.backend import open_store as open  # noqa: A004
    from idfzarr.analysis.ranking import Ranking, rank_store
    from idfzarr.build.importer import import_tables
    from idfzarr.build.pipeline import build
    from idfzarr.build.report import BuildReport
    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Inventory, inventory
    from idfzarr.care.repair import plan_repair
    from idfzarr.care.repair_plan import RepairPlan
    from idfzarr.errors import IdfzarrError
    from idfzarr.flags import FLAGS, flag_names
    from idfzarr.imaging.photometry import forced_photometry
    from idfzarr.imaging.simulate import simulate
    from idfzarr.lightcurve import Lightcurve
    from idfzarr.measurement import Measurement
    from idfzarr.ps1.datatree import open_datatree
    from idfzarr.ps1.fetch import download_and_store_ps1_data, fetch_skycells
    from idfzarr.ps1.fetch_report import FetchReport
    from idfzarr.ps1.skydataset import open_skycell
    from idfzarr.store.cube import Cube, create
    from idfzarr.store.summary import Summary, summarise

__all__ = [
    "FLAGS",
    "BuildReport",
    "Cube",
    "FetchReport",
    "Finding",
    "IdfzarrError",
    "Inventory",
    "Lightcurve",
    "Measurement",
    "Ranking",
    "RepairPlan",
    "Summary",
    "build",
    "create",
    "download_and_store_ps1_data",
    "fetch_skycells",
    "flag_names",
    "forced_photometry",
    "import_tables",
    "inventory",
    "open",
    "open_datatree",
    "open_skycell",
    "plan_repair",
    "rank_store",
    "simulate",
    "summarise",
]

_HOMES = {
    "FLAGS": "idfzarr.flags",
    "BuildReport": "idfzarr.build.report",
    "Cube": "idfzarr.store.cube",
    "FetchReport": "idfzarr.ps1.fetch_report",
    "Finding": "idfzarr.care.finding",
    "IdfzarrError": "idfzarr.errors",
    "Inventory": "idfzarr.care.inventory",
    "Lightcurve": "idfzarr.lightcurve",
    "Measurement": "idfzarr.measurement",
    "Ranking": "idfzarr.analysis.ranking",
    "RepairPlan": "idfzarr.care.repair_plan",
    "Summary": "idfzarr.store.summary",
    "build": "idfzarr.build:",  # the room itself, which can be called
    "create": "idfzarr.store.cube",
    "download_and_store_ps1_data": "idfzarr.ps1.fetch",
    "fetch_skycells": "idfzarr.ps1.fetch",
    "flag_names": "idfzarr.flags",
    "forced_photometry": "idfzarr.imaging.photometry",
    "import_tables": "idfzarr.build.importer",
    "inventory": "idfzarr.care.inventory",
    "open": "idfzarr.analysis.backend:open_store",
    "open_datatree": "idfzarr.ps1.datatree",
    "open_skycell": "idfzarr.ps1.skydataset",
    "plan_repair": "idfzarr.care.repair",
    "rank_store": "idfzarr.analysis.ranking",
    "simulate": "idfzarr.imaging.simulate",
    "summarise": "idfzarr.store.summary",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name == "__version__":
        from importlib.metadata import version

        return version("idfzarr")
    home = _HOMES.get(name)
    if home is None:
        msg = f"module 'idfzarr' has no attribute {name!r}"
        raise AttributeError(msg)
    module, colon, other = home.partition(":")
    value = import_module(module)
    if other or not colon:
        value = getattr(value, other or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
