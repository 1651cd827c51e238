"""Who runs tasks, and the tasks.

The room is called like the function that the package is for, and Python makes a subpackage an
attribute of its parent once anything in it is imported. So the room itself can be called:
``idfzarr.build(images, store)`` is `idfzarr.build.pipeline.build`, whichever was imported first.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idfzarr.build.report import BuildReport

__all__: list[str] = []


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> BuildReport:
        """Build a cube; see `idfzarr.build.pipeline.build`."""
        from idfzarr.build.pipeline import build

        return build(*arguments, **options)


sys.modules[__name__].__class__ = _Room
