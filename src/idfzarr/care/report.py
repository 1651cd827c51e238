"""An inventory for programs: plain values, JSON, CSV, an xarray Dataset.

What people read is made in `idfzarr.care.report_text` and `idfzarr.care.report_html`. Every
function here takes an inventory and changes nothing; a file is written all at once, and never
into the store that it is about.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import KINDS
from idfzarr.care.report_words import severity_counts, verdict
from idfzarr.errors import UsageError
from idfzarr.store.place import PARTIAL

if TYPE_CHECKING:
    import xarray as xr

    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Group, Inventory

__all__ = [
    "COLUMNS",
    "DOCUMENT_VERSION",
    "check_outside",
    "csv_text",
    "dataset",
    "document",
    "json_text",
    "write_whole",
]

DOCUMENT_VERSION = 1
"""Raised when a name in `document` changes its meaning or goes; new names may come without."""

COLUMNS = (
    "severity",
    "kind",
    "fault",
    "state",
    "sure",
    "beside",
    "key",
    "array",
    "object",
    "type",
    "first_byte",
    "n_bytes",
    "message",
    "remedy",
)
"""Columns of the CSV, in this order for good; new ones are added at the end."""

# A spreadsheet takes a cell that begins so for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
# `type` is a column along `finding`, so the dimension is called `measurement`.
_DIMS = {
    "shard": ("shard",),
    "shard_type": ("shard", "measurement"),
    "type": ("measurement",),
    "aor": ("aor", "channel"),
}
_NAMED = {"type_name": "measurement", "channel_name": "channel"}
_NUMBERS = ("fault", "object", "first_byte", "n_bytes")


def _flat(one: Finding) -> dict[str, Any]:
    return one.to_dict() | {"fault": KINDS[one.kind].fault}


def _plain(value: Any) -> Any:
    """Return a value in JSON's types: arrays as lists, NaN and infinities as None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "dims": group.dims_text,
        "n_arrays": group.n_arrays,
        "n_files": group.n_files,
        "n_bytes": group.n_bytes,
        "n_logical": group.n_logical,
        "n_expected_chunks": group.n_expected_chunks,
        "n_present_chunks": group.n_present_chunks,
        "states": dict(group.states),
    }


def document(inventory: Inventory) -> dict[str, Any]:
    """Return an inventory in JSON's types.

    Parameters
    ----------
    inventory
        Of a store.

    Returns
    -------
    dict
        ``inventory`` (the version of this document), the verdict, what was looked at and how,
        ``counts`` by severity and by kind, ``findings``, ``groups`` and ``completeness``.
    """
    kinds: dict[str, int] = {}
    for one in inventory.findings:
        kinds[one.kind] = kinds.get(one.kind, 0) + 1
    told = {
        "inventory": DOCUMENT_VERSION,
        "url": inventory.url,
        "verdict": verdict(inventory),
        "ok": inventory.ok,
        "exit_code": inventory.exit_code,
        "store_kind": inventory.store_kind,
        "level": inventory.level,
        "sampled": inventory.sampled,
        "live": inventory.live,
        "uuid": inventory.uuid,
        "generation": inventory.generation,
        "n_files": inventory.n_files,
        "n_bytes": inventory.n_bytes,
        "n_read": inventory.n_read,
        "seconds": inventory.seconds,
        "counts": {
            "severity": severity_counts(inventory.findings),
            "kind": dict(sorted(kinds.items())),
        },
        "findings": [_flat(one) for one in inventory.findings],
        "groups": [_group(group) for group in inventory.groups],
        "completeness": dict(inventory.completeness),
    }
    return {key: _plain(value) for key, value in told.items()}


def json_text(inventory: Inventory) -> str:
    """Return `document` as JSON in ASCII; bytes of names that are no text are escaped."""
    return json.dumps(document(inventory), indent=2, allow_nan=False)


def _cell(column: str, value: Any) -> Any:
    if value is None:
        return ""
    if column in _NUMBERS:
        return int(value)
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_text(inventory: Inventory) -> str:
    """Return the findings as CSV, a row each (RFC 4180: CRLF, quotes doubled, a header).

    A cell of text that a spreadsheet would take for a formula (it begins with ``=``, ``+``, ``-``,
    ``@``, a tab or a line end) is preceded by an apostrophe, since names in a store may come from
    anyone (OWASP, "CSV Injection"). Numbers are left alone; what does not apply is empty. JSON has
    names as they are.

    Parameters
    ----------
    inventory
        Of a store.

    Returns
    -------
    str
        `COLUMNS`, then a row for each finding.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in inventory.findings:
        flat = _flat(one)
        writer.writerow([_cell(column, flat[column]) for column in COLUMNS])
    return out.getvalue()


def dataset(inventory: Inventory) -> xr.Dataset:
    """Return the findings, the groups and the completeness as an xarray Dataset.

    Parameters
    ----------
    inventory
        Of a store.

    Returns
    -------
    xarray.Dataset
        `COLUMNS` along ``finding``; ``object``, ``first_byte`` and ``n_bytes`` are -1 where they
        do not apply. Along ``group``: ``group_files``, ``group_bytes``, ``group_logical_bytes``,
        ``group_expected_chunks``, ``group_present_chunks``. What the inventory knows about
        completeness stands in ``completeness_*``, along ``shard``, ``measurement`` (the types),
        ``aor`` and ``channel``.
    """
    import xarray as xr

    rows = [_flat(one) for one in inventory.findings]
    variables: dict[str, Any] = {}
    for column in COLUMNS:
        if column in _NUMBERS:
            numbers = [-1 if row[column] is None else int(row[column]) for row in rows]
            held = {"missing_value": -1} if column != "fault" else {}
            variables[column] = ("finding", np.array(numbers, dtype=np.int64), held)
        else:
            variables[column] = ("finding", np.array([row[column] for row in rows], dtype=str))
    groups = inventory.groups
    for name, values in (
        ("files", [g.n_files for g in groups]),
        ("bytes", [g.n_bytes for g in groups]),
        ("logical_bytes", [g.n_logical for g in groups]),
        ("expected_chunks", [g.n_expected_chunks for g in groups]),
        ("present_chunks", [g.n_present_chunks for g in groups]),
    ):
        variables[f"group_{name}"] = ("group", np.array(values, dtype=np.int64))
    coordinates = {"group": np.array([g.name for g in groups], dtype=str)}
    for name, array in inventory.completeness.items():
        if name in _NAMED:
            coordinates[_NAMED[name]] = np.array([str(one) for one in array], dtype=str)
        else:
            dims = _DIMS.get(name) or tuple(f"{name}_{axis}" for axis in range(array.ndim))
            variables[f"completeness_{name}"] = (dims, array)
    attributes = {
        key: value
        for key, value in document(inventory).items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    return xr.Dataset(variables, coords=coordinates, attrs=attributes)


def check_outside(path: str | os.PathLike[str], url: str) -> Path:
    """Refuse a report inside the store that it is about, or beside it in ledger or quarantine.

    Parameters
    ----------
    path
        Where a report is to go.
    url
        The store.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    UsageError
        It lies in the store, its ledger or its quarantine, or is a folder.
    """
    target = Path(path)
    if target.is_dir():
        msg = f"the report cannot be written to {target}: it is a folder; name a file in it"
        raise UsageError(msg)
    if not target.parent.is_dir():
        msg = (
            f"the report cannot be written to {target}: there is no folder {target.parent}; make it"
        )
        raise UsageError(msg)
    resolved = target.resolve()
    for suffix in ("", ".ledger", ".quarantine"):
        folder = Path(f"{url.removeprefix('file://').rstrip('/')}{suffix}").resolve()
        if resolved.is_relative_to(folder):
            msg = (
                f"the report {target} would lie inside {folder}, which an inventory only reads: "
                "name a place outside"
            )
            raise UsageError(msg)
    return target


def write_whole(path: Path, text: str) -> None:
    """Write a file all at once, so that nobody reads half a report.

    Parameters
    ----------
    path
        The file; replaced where there is one.
    text
        Its content; bytes of names that are no text are escaped.
    """
    data = text.encode("utf-8", errors="backslashreplace")
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
