"""A state as the query of a URL, and back: a URL is the record of what was looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import param

from idfzarr.errors import UsageError, closest
from idfzarr.viewer.state import MOST_SELECTED_IN_URL, ViewerState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from idfzarr.viewer.state import Choices

__all__ = ["Restored", "from_url", "to_url"]

_LONGEST = 10_000  # characters of one value: a query line or a list of ids is shorter
_SHOWN = 40
_TRUE = {"1": True, "true": True, "0": False, "false": False}
_NOTHING = "none"


@dataclass(frozen=True)
class Restored:
    """What a URL says.

    Attributes
    ----------
    changes
        Values by parameter, all of them allowed: ``state.param.update(**changes)``.
    refused
        A sentence for each that is not taken over. They repeat what stood in the URL: escape them.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def to_url(state: ViewerState) -> dict[str, str]:
    """Return the choices that differ from those a session begins with.

    Parameters
    ----------
    state
        The state.

    Returns
    -------
    dict of str to str
        Parameters of a URL, not yet quoted. A selection of more than `MOST_SELECTED_IN_URL`
        objects is left out.
    """
    told = {}
    for name, default in ViewerState.defaults(state.choices).items():
        value = getattr(state, name)
        if value == default or (name == "selection" and len(value) > MOST_SELECTED_IN_URL):
            continue
        told[name] = _text(value)
    if state.object is not None:
        told["object"] = str(state.object)  # the default may be another one tomorrow
    return told


def _text(value: Any) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return urlencode(value)
    return repr(value) if isinstance(value, float) else str(value)


def from_url(arguments: Mapping[str, str], choices: Choices) -> Restored:
    """Read choices from the parameters of a URL.

    Parameters
    ----------
    arguments
        Name and value, as text.
    choices
        What there is to choose from.

    Returns
    -------
    Restored
        What can be taken over, and why the rest cannot.
    """
    trial = ViewerState(choices)
    known = ViewerState.defaults(choices)
    changes: dict[str, Any] = {}
    refused = []
    for name, text in arguments.items():
        try:
            if name not in known:
                msg = f"the address says {_short(name)}, which nothing here is called"
                raise UsageError(msg + closest(name[:_SHOWN], known))
            value = _value(trial.param[name], name, text, choices)
            trial.param.update(**{name: value})
            changes[name] = value
        except ValueError as error:
            refused.append(
                _sentence(error, name, text, trial.param[name] if name in known else None)
            )
    return Restored(changes, tuple(refused))


def _sentence(error: ValueError, name: str, text: str, asked: Any) -> str:
    if isinstance(error, UsageError):
        return str(error)
    choice = getattr(asked, "objects", None)
    bounds = getattr(asked, "bounds", None)
    if choice is not None:
        near = closest(text[:_SHOWN], choice)
        return f"the address asks for {name} = {_short(text)}, which is no choice here{near}"
    if bounds is not None:
        low, high = ("any" if b is None else f"{b:g}" for b in bounds)
        return f"the address asks for {name} = {_short(text)}, out of its bounds {low} to {high}"
    return f"the address asks for {name} = {_short(text)}, which cannot be read"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _value(asked: Any, name: str, text: str, choices: Choices) -> Any:
    """Return the value that a text means; raises ValueError where it means none."""
    if len(text) > _LONGEST:
        msg = f"the address gives {len(text)} characters for {name}, more than {_LONGEST}"
        raise UsageError(msg)
    if text == _NOTHING and asked.allow_None:
        return None
    if isinstance(asked, param.Boolean):
        if text.lower() not in _TRUE:
            msg = f"the address asks for {name} = {_short(text)}, which is neither 0 nor 1"
            raise UsageError(msg)
        return _TRUE[text.lower()]
    if isinstance(asked, (param.ListSelector, param.List, param.Dict)):
        return _several(asked, name, text, choices)
    if name == "object":
        return _ids(name, [text], choices)[0]
    return _number(text) if isinstance(asked, param.Number) else text


def _several(asked: Any, name: str, text: str, choices: Choices) -> Any:
    """Return values of a list, or by name of a column."""
    if isinstance(asked, param.Dict):
        by_column = dict(parse_qsl(text, strict_parsing=bool(text)))
        _check_columns(name, by_column, choices)
        return by_column
    words = [word for word in text.split(",") if word]
    if name == "sorted_by":
        _check_columns(name, [word.removeprefix("-") for word in words], choices)
    ids = isinstance(asked, param.List) and asked.item_type is int
    return _ids(name, words, choices) if ids else words


def _number(text: str) -> float | int:
    if text.isascii() and text.removeprefix("-").isdigit():
        return int(text)
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _check_columns(name: str, columns: Iterable[str], choices: Choices) -> None:
    known = ("object", *choices.table_columns)
    for column in columns:
        if column not in known:
            msg = (
                f"the address names the column {_short(column)} for {name}, which the table has not"
            )
            raise UsageError(msg + closest(column[:_SHOWN], known))


def _ids(name: str, words: list[str], choices: Choices) -> list[int]:
    ids = []
    for word in (one.strip() for one in words):
        if not word:
            continue
        if not (word.isascii() and word.removeprefix("-").isdigit() and choices.knows(int(word))):
            msg = f"the address names the object {_short(word)} for {name}, which is not there"
            raise UsageError(msg)
        ids.append(int(word))
    if not ids and name == "object":
        msg = "the address names no object"
        raise UsageError(msg)
    return list(dict.fromkeys(ids))
