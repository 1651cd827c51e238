"""Panel's table without what keeps a page busy: linked stylesheets, and styles of single cells."""

from __future__ import annotations

from functools import cache
from typing import Any

from bokeh.models import ImportedStyleSheet, InlineStyleSheet
from panel.io.resources import BUNDLE_DIR
from panel.widgets import Tabulator

from idfzarr.viewer.controls import prompt

__all__ = ["PlainTable"]


class PlainTable(Tabulator):
    """A Tabulator whose cells look alike.

    Notes
    -----
    Panel's table waits for the last of its linked stylesheets before it is drawn for good, asks
    thousands of times a second whether it is there, and misses that one was loaded when it has been
    replaced meanwhile: then the page is busy for ever (``_flush_resize_when_root_ready`` in
    https://github.com/holoviz/panel/blob/main/panel/models/tabulator.ts). So they are written into
    the table instead of being named.
    """

    def __init__(self, value: Any, **options: Any) -> None:
        super().__init__(value, **options)  # type: ignore[no-untyped-call]
        prompt(self)

    def _process_param_change(self, params: dict[str, Any]) -> dict[str, Any]:
        return _without_links(super()._process_param_change(params))  # type: ignore[no-untyped-call]

    def _get_properties(self, doc: Any = None) -> dict[str, Any]:
        return _without_links(super()._get_properties(doc))

    def _update_style(self, recompute: bool = True) -> None:  # noqa: FBT001, FBT002 - Panel's
        """Leave the cells as they are: none has a style of its own, and Panel would send that."""


def _without_links(properties: dict[str, Any]) -> dict[str, Any]:
    if "stylesheets" in properties:
        written = (_written_out(one) for one in properties["stylesheets"])
        properties["stylesheets"] = [one for one in written if one]
    return properties


def _written_out(sheet: Any) -> Any:
    url = sheet.url if isinstance(sheet, ImportedStyleSheet) else ""
    _, bundled, path = url.partition("/panel/bundled/")
    if path.startswith("font-awesome/"):  # icons of buttons, of which the table has none
        return ""
    text = _text_of(path.partition("?")[0]) if bundled else ""
    # A model, since the browser sends the whole list back whenever it adds to it: of a model its
    # name alone.
    return InlineStyleSheet(css=text) if text else sheet


@cache
def _text_of(path: str) -> str:
    """Return a file that Panel brings along; empty where it has no such file."""
    file = BUNDLE_DIR / path
    return file.read_text(encoding="utf-8") if file.is_file() else ""
