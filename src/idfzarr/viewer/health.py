"""How a store is: the inventory's picture, and where the store came from, as HTML.

Everything that comes from the store is spelled out and escaped, once: by the report of
`idfzarr.care.report_html`, and here in `_words`.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from idfzarr.care.inventory import inventory
from idfzarr.care.report_html import fragment
from idfzarr.care.report_pictures import aor_picture, picture_names, shard_picture, size_picture
from idfzarr.care.report_words import visible
from idfzarr.store.ledger import read_ledger
from idfzarr.viewer.pictures import DRAWING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from idfzarr.care.inventory import Inventory
    from idfzarr.viewer.field import Field

__all__ = ["Health", "health_html", "health_of"]

_SHOWN = 100  # findings of a kind
_MOST_EVENTS = 30
_LONGEST = 300
_EVENTS = {
    "begin": "a build began",
    "published": "the store was published",
    "append": "AORs were to be added",
    "replace": "AORs were to be replaced",
    "relayout": "the layout was to be changed",
    "abandoned": "a change was given up",
    "note": "a note",
}


@dataclass(frozen=True, eq=False)
class Health:
    """What a look at a store found.

    Attributes
    ----------
    inventory
        What is there, and what is the matter with it.
    pictures
        SVG elements by name, which take on the colours of the page.
    provenance
        Name and value of what the store says about its making.
    events
        Time (UTC), what happened, and what is told of it; the last first.
    seen
        When it was looked at, UTC.
    """

    inventory: Inventory
    pictures: Mapping[str, str]
    provenance: tuple[tuple[str, str], ...]
    events: tuple[tuple[str, str, str], ...]
    seen: str


@cache
def _lock_of(path: str) -> threading.Lock:  # noqa: ARG001 - one for each
    return threading.Lock()


_LAST: dict[str, Health] = {}


def health_of(field: Field, *, anew: bool = False) -> Health:
    """Look at a store; nothing is changed.

    Parameters
    ----------
    field
        The store.
    anew
        Look again; else what was seen last in this process is good enough.

    Returns
    -------
    Health
        At the inventory's level ``structure``: metadata, coordinates and the index of every shard
        are read, no lightcurve is.

    Raises
    ------
    StoreMissing, ForeignStore, UnfinishedStore
        There is no such store any more.
    """
    path = field.path
    with _lock_of(path):
        if anew or path not in _LAST:
            found = inventory(path, level="structure", workers=1)
            _LAST[path] = Health(
                found,
                _pictures(found),
                tuple(_provenance(field)),
                _events(field),
                datetime.now(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00"),
            )
        return _LAST[path]


def _pictures(found: Inventory) -> dict[str, str]:
    with DRAWING:
        return {
            "aors": aor_picture(found),
            "shards": shard_picture(found),
            "sizes": size_picture(found),
        }


def _provenance(field: Field) -> Iterator[tuple[str, str]]:
    cube = field.cube
    ours: dict[str, Any] = dict(cube.attributes.get("idfzarr", {}))
    n_objects, n_types, _, n_aors = cube.shape
    yield "objects, types, AORs", f"{n_objects:,} x {n_types:,} x {n_aors:,}"
    yield "channels", ", ".join(cube.channels)
    yield "uuid", cube.uuid
    for name in ("created", "format_version", "generation", "settings_digest"):
        if ours.get(name) not in (None, ""):
            yield name.replace("_", " "), str(ours[name])
    software = ours.get("software")
    if isinstance(software, dict):
        told = [f"{name} {version}" for name, version in sorted(software.items())]
        yield "software", ", ".join(told)
    known = {"metadata_crc32c", "uuid", "created", "generation", "settings_digest", "software"}
    for name, value in sorted(ours.items()):
        if name not in known | {"format_version"} and isinstance(value, (str, int, float, bool)):
            yield name.replace("_", " "), str(value)
    if field.skycells is not None:
        yield "PS1 skycells", field.skycells
    for name, value in sorted(cube.attributes.items()):
        if isinstance(value, (str, int, float, bool)):
            yield name, str(value)


def _events(field: Field) -> tuple[tuple[str, str, str], ...]:
    state = read_ledger(field.path).for_store(field.cube.uuid)
    told = []
    for record in state.of(*_EVENTS):
        plain = {k: str(v) for k, v in record.fields.items() if isinstance(v, (str, int, float))}
        words = ", ".join(f"{name} {value}" for name, value in sorted(plain.items()))
        told.append((_when(record.time_ns), _EVENTS[record.kind], words))
    return tuple(reversed(told[-_MOST_EVENTS:]))


def _when(time_ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(time_ns / 1e9, tz=UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):  # no time that a calendar knows
        return str(time_ns)


# ------------------------------------------------------------------ HTML


def health_html(health: Health, *, dark: bool) -> str:
    """Return what a look at a store found, as HTML without scripts.

    Parameters
    ----------
    health
        What was found.
    dark
        Whether the page around it is dark.
    """
    figures = "".join(
        f"<figure><figcaption>{escape(_TITLES[name])} {_KEYS[name]}</figcaption>{svg}</figure>"
        for name, svg in health.pictures.items()
        if svg
    )
    pictures = f"<section><h2>What is there</h2>{figures}</section>" if figures else ""
    facts = _table(("what", "value"), health.provenance)
    events = _table(("time, UTC", "what happened", "told"), health.events)
    return (
        f'<div class="idfzarr-health"><style>{_style(dark=dark)}</style>'
        f"{fragment(health.inventory, shown=_SHOWN)}"
        f'<div class="idfzarr-inventory">{pictures}'
        f"<section><h2>Provenance</h2>{facts}</section>"
        f"<section><h2>From the ledger</h2>{events}</section>"
        f'<p class="facts">looked at {escape(health.seen)} UTC</p></div></div>'
    )


_TITLES = picture_names() | {
    "aors": "AORs by channel, in the order of the cube",
    "shards": "Lightcurves by type and shard of objects",
    "sizes": "Sizes of the groups",
}
_KEYS = {
    "aors": '<small><i class="good"></i> observed <i class="pale"></i> not observed</small>',
    "shards": '<small><i class="good"></i> there <i class="bad"></i> not there '
    '<i class="pale"></i> not known</small>',
    "sizes": '<small><i class="good"></i> on disk <i class="pale"></i> unpacked</small>',
}
_LIGHT = {
    "paper": "transparent", "ink": "#1d2226", "soft": "#5d676f", "line": "#d9dcd8",
    "raised": "#ffffff", "good": "#2f7d6b", "bad": "#b3402f", "warn": "#9a6a00",
    "note": "#2f6690", "pale": "#cfd6d6",
}  # fmt: skip
_DARK = {
    "paper": "transparent", "ink": "#e4e7e6", "soft": "#98a3a8", "line": "#2e363b",
    "raised": "#1c2226", "good": "#4fb09b", "bad": "#e2705c", "warn": "#d9a441",
    "note": "#6fa8d6", "pale": "#3b464c",
}  # fmt: skip


def _style(*, dark: bool) -> str:
    """Return the colours of the page's own choice, which may be another than the browser's."""
    colours = "".join(f"--{name}:{value};" for name, value in (_DARK if dark else _LIGHT).items())
    return (
        f".idfzarr-health .idfzarr-inventory{{{colours}max-width:none;margin:0;"
        "padding:.4rem .8rem .8rem;font-size:13px}"
        ".idfzarr-health{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:8px}"
        ".idfzarr-health h1{font-size:1.3rem!important}"
        ".idfzarr-health td:first-child{white-space:nowrap}"
        "@media(max-width:900px){.idfzarr-health{grid-template-columns:minmax(0,1fr)}}"
    )


def _table(heads: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> str:
    if not rows:
        return "<p>Nothing is told.</p>"
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_words(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _words(text: str) -> str:
    return escape(visible(text, at_most=_LONGEST), quote=True)
