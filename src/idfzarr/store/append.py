"""Add AORs to a published cube, or measure some of its AORs again.

Shards are rewritten whole, each with its new columns; columns that are there already keep their
values bit for bit. Until the root ``zarr.json`` is renamed, readers see the old lengths and so the
old cube, whichever shards are new. A change that was stopped anywhere is gone on with by the next
`begin_append` or `begin_replace` of the same AORs, and gives the same files.

While AORs are measured again (`begin_replace`) lengths do not change, so a reader sees each
lightcurve either with the old or with the new values of these AORs, old ones in one object and new
ones in another until all shards are rewritten; zero points and statistics follow with the commit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import ChunkMissing, UsageError
from idfzarr.store.arrays import (
    ArraySpec,
    array_json,
    encode_array,
    json_bytes,
    parse_array,
    read_array,
)
from idfzarr.store.layout import capacity_for
from idfzarr.store.ledger import LEDGER_SUFFIX
from idfzarr.store.place import locked, place_of
from idfzarr.store.precision import kept_bits_of_shards, precision_attributes
from idfzarr.store.published import PublishedCube, open_published, read_shard
from idfzarr.store.root import ROOT_KEY, read_root, root_bytes, settings_digest
from idfzarr.store.schema import CATALOGUE, COORDINATES, LIGHTCURVES, ROOT_ATTRIBUTE
from idfzarr.store.tables import aor_table
from idfzarr.store.update import (
    OverlayPlace,
    Update,
    claim_update,
    next_place,
    roll_forward,
)
from idfzarr.store.writer import CubeWriter
