"""The rivals of the cube: each keeps the same lightcurves in its own way and reads them back."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rivals.protocol import Rival


@dataclass(frozen=True)
class Module:
    """A module of rivals: the packages it needs, and whether reading starts threads of their own.

    Those with threads are read in another process, where they cannot disturb the quiet ones.
    """

    name: str
    needs: tuple[str, ...] = ()
    threaded: bool = False

    @property
    def rivals(self) -> list[Rival]:
        """The rivals in it; imports it."""
        found: list[Rival] = importlib.import_module(f"rivals.{self.name}").RIVALS
        return found


MODULES = (
    Module("cube"),
    Module("sqlite"),
    Module("npy"),
    Module("hdf5", ("h5py",)),
    Module("zarr_python", threaded=True),
    Module("xarray_zarr", threaded=True),
    Module("tensorstore_zarr", ("tensorstore",), threaded=True),
    Module("duck", ("duckdb", "pyarrow"), threaded=True),
    Module("parquet", ("pyarrow",), threaded=True),
    Module("lance_file", ("lance", "pyarrow"), threaded=True),
)
"""In the order of the table."""


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def missing(module: Module, is_installed: Callable[[str], bool] = _is_installed) -> list[str]:
    """Return the packages that a module needs and that are not installed."""
    return [package for package in module.needs if not is_installed(package)]


def modules() -> list[Module]:
    """Return the modules that can run here."""
    return [module for module in MODULES if not missing(module)]


def left_out(is_installed: Callable[[str], bool] = _is_installed) -> list[str]:
    """Return a sentence for every module that cannot run here."""
    gone = [(module.name, missing(module, is_installed)) for module in MODULES]
    return [
        f"Left out: {name}, since {' and '.join(packages)} cannot be imported."
        for name, packages in gone
        if packages
    ]


def rivals_in(names: Iterable[str]) -> list[Rival]:
    """Return the rivals of the modules named that can run here, in the order of the table."""
    wanted = set(names)
    return [rival for module in modules() if module.name in wanted for rival in module.rivals]


def everyone() -> list[Rival]:
    """Return every rival that can run here."""
    return rivals_in(module.name for module in MODULES)
