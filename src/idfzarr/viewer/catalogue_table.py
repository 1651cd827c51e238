"""The catalogue as a table: pages, sorting and filters are the server's work, a page at a time."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import param
from bokeh.models import CellEditor, StringFormatter, TableColumn
from panel.io.model import JSCode

from idfzarr.errors import UsageError
from idfzarr.viewer.plain_table import PlainTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from idfzarr.viewer.field import Field

__all__ = ["PAGE_ROWS", "CatalogueTable", "catalogue_table", "matches", "shown_number"]

PAGE_ROWS = 12
"""Rows of a page."""

_MARK = "shown"
_BLANK = "\u2007"  # Tabulator writes out "&nbsp;" for an empty text
_CONDITION = re.compile(r"^\s*(<=|>=|==|!=|<|>|=)\s*(\S.*?)\s*$")
_BETWEEN = re.compile(r"^\s*(-?[\d.eE+-]+)\s*\.\.\s*(-?[\d.eE+-]+)\s*$")
_COMPARE = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_DEGREES = {"ra", "dec"}


def shown_number(value: Any, *, name: str = "") -> str:
    """Return a cell of the table as text.

    Parameters
    ----------
    value
        A number, a truth value or a text.
    name
        Of its column; positions keep more digits.
    """
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            return "–"
        return f"{value:.6f}" if name in _DEGREES else f"{value:.5g}"
    return str(value)


def matches(values: NDArray[Any], text: str) -> NDArray[np.bool_]:
    """Return which values meet what stands in a column's filter.

    Parameters
    ----------
    values
        The column, (n,).
    text
        ``> 5``, ``<= 20``, ``3 .. 5``, ``!= 0``; a number alone is met by what reads the same, a
        text by every text that holds it, whatever the case.

    Returns
    -------
    ndarray of bool
        (n,).

    Raises
    ------
    UsageError
        The text is no such condition.
    """
    wanted = text.strip()
    if values.dtype.kind not in "iufb":
        words = np.char.lower(values.astype(str))
        found: NDArray[np.bool_] = np.char.find(words, wanted.lower()) >= 0
        return found
    numbers = values.astype(np.float64)
    between, condition = _BETWEEN.match(wanted), _CONDITION.match(wanted)
    try:
        if between:
            low, high = float(between[1]), float(between[2])
            return np.asarray((numbers >= low) & (numbers <= high))
        if condition:
            return np.asarray(_COMPARE[condition[1]](numbers, float(condition[2])))
        asked = {"yes": 1.0, "no": 0.0}.get(wanted.lower())
        return np.asarray(numbers == (float(wanted) if asked is None else asked))
    except ValueError as error:
        msg = f"the filter {wanted!r} is no condition; write > 5, <= 20, 3 .. 5 or a number"
        raise UsageError(msg) from error


class _RowNames:
    """Name of the row at each place, looked up when it is asked for: a click asks for one."""

    def __init__(self, index: pd.Index[Any]) -> None:
        self._index = index

    def get(self, place: int, otherwise: Any = None) -> Any:
        return self._index[place] if 0 <= place < len(self._index) else otherwise


class CatalogueTable(PlainTable):
    """A Tabulator that keeps the order of its rows, so that a page costs a page.

    Attributes
    ----------
    mask
        Rows of the frame that may be shown; None for all.
    refused
        Sentence about a filter that cannot be read; empty where all can.
    """

    mask = param.Array(default=None, allow_None=True)
    refused = param.String(default="")

    _rename = {"mask": None, "refused": None}  # noqa: RUF012 - Panel reads it from the class

    def __init__(self, value: pd.DataFrame, **options: Any) -> None:
        self._order: NDArray[np.intp] | None = None
        self._key: Any = None
        self._sorted: Any = None
        self._current: int | None = None
        super().__init__(value, **options)
        self.param.watch(lambda *_: self._update_cds(), "mask")  # type: ignore[no-untyped-call]

    # ---------------------------------------------------------------- rows in order

    @property
    def order(self) -> NDArray[np.intp]:
        """Positions in the frame of the rows shown, in the order shown."""
        key = (id(self.value), id(self.mask), repr(self.filters), repr(self.sorters))
        if self._order is None or key != self._key:
            self._key, self._sorted = key, None
            self._order = self._ordered()
        return self._order

    def _ordered(self) -> NDArray[np.intp]:
        frame = self.value
        kept = np.ones(len(frame), bool) if self.mask is None else self.mask.copy()
        said = ""
        for name, text in self.typed.items():
            if name not in frame.columns:
                continue
            try:
                kept &= matches(frame[name].to_numpy(), text)
            except UsageError as error:
                said = str(error)
        self.refused = said
        rows = np.flatnonzero(kept)
        for one in reversed(self.sorters):
            if one.get("field") in frame.columns:
                rows = _sorted_rows(frame[one["field"]].to_numpy(), rows, one["dir"] == "asc")
        return rows

    @property
    def sorted_by(self) -> list[str]:
        """Columns that order the rows, the first before the next; with a minus it falls."""
        return [("-" if one["dir"] == "desc" else "") + one["field"] for one in self.sorters]

    @property
    def typed(self) -> dict[str, str]:
        """What stands in the filters, by column."""
        return {
            one["field"]: one["value"]
            for one in self.filters
            if isinstance(one.get("value"), str) and one["value"]
        }

    def arrange(self, sorted_by: Sequence[str], typed: Mapping[str, str]) -> None:
        """Order and filter the rows, and write the filters into their boxes.

        Parameters
        ----------
        sorted_by
            As `sorted_by`.
        typed
            As `typed`.
        """
        self.param.update(page=1, **_arranged(sorted_by, typed))
        for model, _ in self._models.values():
            model.configuration = self._get_configuration(model.columns)

    def turn_to(self, row: int | None, place: int | None) -> None:
        """Mark a row of the frame and turn to its page.

        Parameters
        ----------
        row
            Position in the frame.
        place
            Its place in `order`; None where it is filtered away.
        """
        page = None if place is None else place // PAGE_ROWS + 1
        before, self._current = self._current, row
        if page is not None and page != self.page:
            self.param.update(page=page)
        elif row != before:
            self._update_cds()  # type: ignore[no-untyped-call]

    # ---------------------------------------------------------------- what Panel asks for

    def _filter_dataframe(self, df: Any, *_: Any, **__: Any) -> Any:
        return df  # see _sort_df

    def _sort_df(self, df: Any) -> Any:
        order = self.order
        if self._sorted is None:
            whole = len(order) == len(df) and not self.sorters
            self._sorted = df if whole else df.iloc[order]
        return self._sorted

    def _update_index_mapping(self) -> None:
        frame = self._processed
        names: Any = {} if frame is None else _RowNames(frame.index)
        self._index_mapping = names

    def _get_column_definitions(self, col_names: list[str], df: Any) -> list[TableColumn]:  # noqa: ARG002
        """Return the columns; cells are text already, so one formatter serves all of a side."""
        sides = {side: StringFormatter(text_align=side) for side in ("left", "right")}
        editor = CellEditor()
        return [
            TableColumn(
                field=name,
                title=self.titles.get(name, name),
                width=self.widths.get(name, 0),
                formatter=sides[self.text_align.get(name, "left")],
                editor=editor,
            )
            for name in col_names
        ]

    def _get_configuration(self, columns: list[TableColumn]) -> dict[str, Any]:
        """Return Tabulator's options; with other columns it is made anew, and keeps its filters."""
        options: dict[str, Any] = super()._get_configuration(columns)  # type: ignore[no-untyped-call, unused-ignore]
        known = {column.field for column in columns}
        typed = [
            {"field": name, "value": text} for name, text in self.typed.items() if name in known
        ]
        return options | {"initialHeaderFilter": typed}

    def _get_header_filters(self, _: Any) -> list[Any]:
        return []

    def _get_data(self) -> Any:
        """Return the rows, and one page of them as text: what is shown is never HTML."""
        if self.value is None:
            return super()._get_data()  # type: ignore[no-untyped-call]
        frame = self._sort_df(self.value)
        rows = self.page_size or self.initial_page_size
        start = (self.page - 1) * rows
        page = frame.iloc[start : start + rows]
        cells: dict[str, Any] = {"index": page.index.to_numpy()}
        for name in page.columns:
            texts = [shown_number(one, name=str(name)) for one in page[name].to_numpy()]
            cells[str(name)] = np.array(texts, dtype=object)
        here = page.index.to_numpy() == self._current
        cells[_MARK] = np.where(here, "▶", _BLANK).astype(object)
        return frame, cells


def _sorted_rows(values: NDArray[Any], rows: NDArray[np.intp], rising: bool) -> NDArray[np.intp]:  # noqa: FBT001
    """Sort rows by a column; equal ones keep their order, and what is not a number comes last."""
    chosen = values[rows]
    if chosen.dtype.kind not in "iufb":
        keys = np.char.lower(chosen.astype(str))
        found = rows[np.argsort(keys, kind="stable")]
        return found if rising else found[::-1]
    numbers = chosen.astype(np.float64)
    keys = numbers if rising else -numbers
    return rows[np.argsort(keys, kind="stable")]  # NaN sorts last either way


def _arranged(sorted_by: Sequence[str], typed: Mapping[str, str]) -> dict[str, Any]:
    """Return sorters and filters as Tabulator has them."""
    return {
        "sorters": [
            {"field": one.removeprefix("-"), "dir": "desc" if one.startswith("-") else "asc"}
            for one in sorted_by
        ],
        "filters": [{"field": name, "type": "like", "value": text} for name, text in typed.items()],
    }


def catalogue_table(
    field: Field,
    frame: pd.DataFrame,
    *,
    type_: str,
    names: Sequence[str],
    sorted_by: Sequence[str],
    typed: Mapping[str, str],
) -> CatalogueTable:
    """Return the table of a field's objects.

    Parameters
    ----------
    field
        The field, which says what the columns are.
    frame
        Its objects with the statistics of a type, rows numbered from 0.
    type_
        That type.
    names
        Columns that this frame has, or one that follows it.
    sorted_by, typed
        As of `CatalogueTable`.
    """
    texts = {name: field.described(name, type_) for name in names}
    tips = {name: escape(texts[name].axis) for name in names}
    filters = {
        name: {
            "type": "input",
            "func": "like",
            "placeholder": "filter",
            "elementAttributes": {"aria-label": f"filter of {name}", "title": _FILTER_TIP},
        }
        for name in names
    }
    return CatalogueTable(
        marked(frame),
        pagination="remote",
        page_size=PAGE_ROWS,
        show_index=False,
        **_arranged(sorted_by, typed),
        disabled=True,
        selectable="checkbox",
        header_filters=filters,
        header_tooltips=tips | {_MARK: "the object that is looked at"},
        titles={name: escape(name) for name in names} | {_MARK: ""},
        formatters={name: {"type": "plaintext"} for name in [*names, _MARK]},
        text_align=dict.fromkeys(field.numeric_columns + field.statistics, "right"),
        widths={_MARK: 34} | dict.fromkeys(names, 100),
        frozen_columns=[_MARK, "object"],
        configuration={
            "filterMode": "remote",
            "ajaxParams": JSCode(_TELL_FILTERS),
            "columnDefaults": {"headerSortTristate": True, "headerFilterLiveFilter": False},
        },
        stylesheets=[_SMALL],
        layout="fit_columns",
        sizing_mode="stretch_width",
        height=PAGE_ROWS * 25 + 112,
        margin=(0, 6),
    )


_SMALL = """
:host .tabulator { font-size: 12px; }
:host .tabulator .tabulator-row { min-height: 24px; }
:host .tabulator .tabulator-cell { padding: 3px 6px; height: 24px !important; }
:host .tabulator .tabulator-header .tabulator-col .tabulator-col-content { padding: 3px 6px; }
:host .tabulator input[type="checkbox"] { margin: 0; width: 14px; height: 14px; }
:host .tabulator .tabulator-header-filter input { font-size: 11px; padding: 1px 4px !important; }
"""
# Tabulator says which filters there are only where it filters rows itself; Panel listens to that.
# Where the server filters, Tabulator asks for a page instead, and for its parameters before.
_TELL_FILTERS = """function () {
  if (this.initialized) {
    this.externalEvents.dispatch("dataFiltering", this.modules.filter.getFilters(true, true))
  }
  return {}
}"""
_FILTER_TIP = "> 5, <= 20, 3 .. 5, != 0, or part of a text; Enter to filter"


def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with a column in front for the mark of the object looked at."""
    with_mark = frame.reset_index(drop=True)
    with_mark.insert(0, _MARK, _BLANK)
    return with_mark
