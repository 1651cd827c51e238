"""An inventory as one HTML file that asks for nothing outside itself.

No script, no font, no picture from elsewhere; a Content-Security-Policy in the page says so to the
browser too. Every word that comes from the store is shown with its control characters spelled
out and escaped, once, in `_words`.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from idfzarr.care.report_pictures import (
    aor_picture,
    picture_names,
    shard_picture,
    size_picture,
)
from idfzarr.care.report_text import complete_text, facts, states_text
from idfzarr.care.report_words import (
    alike,
    counted,
    kind_words,
    severity_counts,
    size_text,
    verdict,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Group, Inventory
    from idfzarr.care.report_words import Alike

__all__ = ["fragment", "page"]

_SHOWN = 200
_CLASS = "idfzarr-inventory"
_PAGE_STYLE = """:root { color-scheme: light dark; }
body { background: #fbfbf9; margin: 0; }
@media (prefers-color-scheme: dark) { body { background: #15191c; } }
"""
_KEYS = {
    name: "<small>"
    + " ".join(f'<i class="{tone}"></i> {said}' for tone, said in parts)
    + "</small>"
    for name, parts in {
        "shards": (("good", "there"), ("bad", "not there"), ("pale", "not known")),
        "aors": (("good", "observed"), ("pale", "not observed")),
        "sizes": (("good", "on disk"), ("pale", "unpacked")),
    }.items()
}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(inventory: Inventory, *, shown: int = _SHOWN) -> str:
    """Return an inventory as a complete page.

    Parameters
    ----------
    inventory
        Of a store.
    shown
        Findings of one kind that are told before the rest are only counted.

    Returns
    -------
    str
        HTML 5, UTF-8.
    """
    title = f"Inventory of {_words(inventory.url)}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{_PAGE_STYLE}{_style()}</style>\n</head>\n<body>\n"
        f'<main class="{_CLASS}">\n{_body(inventory, shown)}</main>\n</body>\n</html>\n'
    )


def fragment(inventory: Inventory, *, shown: int = 20) -> str:
    """Return an inventory for a notebook: the same without pictures, with its style inside.

    Parameters
    ----------
    inventory
        Of a store.
    shown
        Findings of one kind that are told before the rest are only counted.

    Returns
    -------
    str
        An HTML element.
    """
    inner = _head(inventory) + _findings(inventory, shown) + _groups(inventory.groups)
    return f'<div class="{_CLASS}"><style>{_style()}</style>{inner}</div>'


def _words(text: object, *, at_most: int = 400) -> str:
    return escape(visible(str(text), at_most=at_most), quote=True)


def _style() -> str:
    """Return the rules for what is inside a report and for nothing around it (CSS nesting)."""
    rules = files("idfzarr.care").joinpath("report.css").read_text(encoding="utf-8")
    return f".{_CLASS} {{\n{rules}}}\n"


def _body(inventory: Inventory, shown: int) -> str:
    drawn = {
        "shards": shard_picture(inventory),
        "aors": aor_picture(inventory),
        "sizes": size_picture(inventory),
    }
    pictures = "".join(
        f"<figure><figcaption>{picture_names()[name]} {_KEYS[name]}</figcaption>{svg}</figure>\n"
        for name, svg in drawn.items()
        if svg
    )
    return (
        _head(inventory)
        + _findings(inventory, shown)
        + _groups(inventory.groups)
        + (f"<section><h2>What is there</h2>{pictures}</section>" if pictures else "")
    )


def _head(inventory: Inventory) -> str:
    number = severity_counts(inventory.findings)
    worst = "error" if number["error"] else "warning" if number["warning"] else "healthy"
    name = inventory.url.rstrip("/").rpartition("/")[2] or inventory.url
    told = "<br>".join(_words(line) for line in facts(inventory))
    expected = sum(g.n_expected_chunks for g in inventory.groups)
    present = sum(g.n_present_chunks for g in inventory.groups)
    tiles = [
        (f"{number['error']:,}", "errors" if number["error"] != 1 else "error"),
        (f"{number['warning']:,}", "warnings" if number["warning"] != 1 else "warning"),
        (f"{number['note']:,}", "notes" if number["note"] != 1 else "note"),
        (size_text(inventory.n_bytes), f"in {counted(inventory.n_files, 'file')}"),
    ]
    if expected:
        tiles.append((f"{present:,}", f"of {expected:,} chunks there"))
    boxes = "".join(f"<li><b>{_words(big)}</b> {_words(small)}</li>" for big, small in tiles)
    return (
        f'<header class="{worst}"><p class="store">{_words(inventory.url)}</p>'
        f'<h1>{_words(name)}</h1><p class="verdict">{_words(verdict(inventory))}</p>'
        f'<p class="facts">{told}</p></header>\n<ul class="tiles">{boxes}</ul>\n'
    )


def _findings(inventory: Inventory, shown: int) -> str:
    groups = alike(inventory.findings)
    if not groups:
        return "<section><h2>Findings</h2><p>None.</p></section>\n"
    inner = "".join(_alike(group, shown) for group in groups)
    return f"<section><h2>Findings</h2>\n{inner}</section>\n"


def _alike(group: Alike, shown: int) -> str:
    count = len(group.findings)
    rows = "".join(_row(one) for one in group.findings[:shown])
    more = (
        f'<p class="more">… and {count - shown:,} more; --json and --csv have all</p>'
        if count > shown
        else ""
    )
    is_open = " open" if count <= 20 else ""
    return (
        f'<details class="{group.severity}"{is_open}><summary><span class="severity">'
        f"{group.severity}</span> <b>{_words(kind_words(group.kind))}</b> ({count:,}): "
        f'{_words(group.meaning)}</summary>\n<p class="remedy">Remedy: '
        f"{_words(group.remedy)}</p>\n<table><thead><tr><th>where</th><th>bytes</th>"
        f"<th>what was found</th></tr></thead><tbody>{rows}</tbody></table>"
        f"{more}</details>\n"
    )


def _row(one: Finding) -> str:
    size = "" if one.where.n_bytes is None else size_text(one.where.n_bytes)
    sure = "" if one.sure == "certain" else f' <span class="sure">({one.sure})</span>'
    return (
        f'<tr><td class="where">{_words(one.where)}</td><td class="number">{size}</td>'
        f"<td>{_words(one.message)}{sure}</td></tr>\n"
    )


def _groups(groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    rows = "".join(
        f'<tr><td class="where">{_words(g.name)}</td><td>{_words(g.dims_text)}</td>'
        f'<td class="number">{g.n_arrays:,}</td><td class="number">{g.n_files:,}</td>'
        f'<td class="number">{size_text(g.n_bytes)}</td>'
        f'<td class="number">{size_text(g.n_logical)}</td>'
        f'<td class="number">{complete_text(g)}</td><td>{_words(states_text(g))}</td></tr>\n'
        for g in groups
    )
    return (
        '<section><h2>Groups</h2><div class="wide"><table><thead><tr><th>group</th>'
        "<th>dims</th><th>arrays</th><th>files</th><th>on disk</th><th>unpacked</th>"
        "<th>complete</th><th>state</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div></section>\n"
    )
