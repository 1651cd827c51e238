"""Conditions on objects, as ``ch1_mag < 20 and score > 5``, parsed and never executed as code.

============================ ======================================================
what may stand in a line     for example
============================ ======================================================
columns                      ``ch1_mag``, ``score``; ``ch2_aper2_clean.score`` of a
                             type; any other name in backticks
comparisons, also in chains  ``18 < ch1_mag <= 20``, ``==``, ``!=``
and, or, not; also &, |, ~   ``not isolated or npix > 20``
arithmetic                   ``ch1_mag - ch2_mag > 0.5``; + - * / ** %
lists                        ``object in [1, 2, 3]``, ``not in``
functions                    abs, sqrt, log10, log, exp, isnan, isfinite, and
                             ``contains(name, "text")``
============================ ======================================================
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from idfzarr.errors import UsageError, closest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = ["FUNCTIONS", "LONGEST_QUERY", "QueryError", "select"]

LONGEST_QUERY = 2000
"""Characters of a condition, at most."""

_DEEPEST = 60  # of parts within parts: far more than anybody writes, far less than Python's stack
_BACKTICK = re.compile(r"`([^`]*)`")
_QUOTED = "_column_in_backticks_"

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.Pow: np.power,
    ast.Mod: np.mod,
}
_LOGICAL: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.And: np.logical_and,
    ast.Or: np.logical_or,
    ast.BitAnd: np.logical_and,
    ast.BitOr: np.logical_or,
}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_EQUAL: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log10": np.log10,
    "log": np.log,
    "exp": np.exp,
    "isnan": np.isnan,
    "isfinite": np.isfinite,
}
"""Functions of a number; ``contains`` is one of texts."""


class QueryError(UsageError):
    """A condition cannot be understood.

    Attributes
    ----------
    position
        Where in the line, counted from 0; None where that cannot be said.
    """

    def __init__(self, message: str, position: int | None = None) -> None:
        where = "" if position is None else f" (at character {position + 1})"
        super().__init__(message + where)
        self.position = position


class _Table(Protocol):
    """Columns by name, as those of a DataFrame."""

    def __getitem__(self, name: Any, /) -> Any: ...

    def __contains__(self, name: Any, /) -> bool: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


def select(columns: _Table, text: str) -> NDArray[np.bool_]:
    """Return which objects meet a condition.

    Parameters
    ----------
    columns
        Columns by name, all of one length: a DataFrame, or what `Field.columns` returns.
    text
        The condition, see the table at the head of this module; an empty one is met by all.

    Returns
    -------
    ndarray of bool
        (object,); a comparison with NaN is not met, but ``!=`` is.

    Raises
    ------
    QueryError
        It cannot be understood: where, and what comes nearest.

    Examples
    --------
    >>> import pandas as pd
    >>> select(pd.DataFrame({"mag": [18.0, 21.0]}), "mag < 20").tolist()
    [True, False]
    """
    if not text.strip():
        return np.ones(len(columns), dtype=bool)
    reading = _Reading(columns, text)
    with np.errstate(all="ignore"):  # log10 of a negative flux is NaN, and meets nothing
        found = reading.value(reading.tree, 0)
    found = np.asarray(found)
    if found.dtype.kind != "b":
        what = "a text" if found.dtype.kind == "U" else "a number"
        msg = f"{_short(text)} is {what} and no condition: compare it with something, as > 5"
        raise QueryError(msg)
    return np.array(np.broadcast_to(found, (len(columns),)))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:59] + "…")


class _Reading:
    """One condition, taken apart; each part is looked up in a list of what is allowed."""

    def __init__(self, columns: _Table, text: str) -> None:
        if len(text) > LONGEST_QUERY:
            msg = f"a condition has at most {LONGEST_QUERY} characters, this one {len(text)}"
            raise QueryError(msg)
        self._columns = columns
        self._text = " ".join(text.splitlines())
        self._quoted: list[str] = []
        source = _BACKTICK.sub(self._named, self._text)
        # Names in backticks change where later parts stand; then no position is better than a lie.
        self._positions = not self._quoted
        self._source = source.lstrip()
        self._shift = len(source) - len(self._source)
        self.tree = self._parsed()

    def _named(self, found: re.Match[str]) -> str:
        self._quoted.append(found[1])
        return f"{_QUOTED}{len(self._quoted) - 1}"

    def _parsed(self) -> ast.expr:
        try:
            if not _is_deep(self._source):
                return ast.parse(self._source, mode="eval").body
        except SyntaxError as error:
            at = None if error.offset is None else max(0, error.offset - 1) + self._shift
            hint = ""
            if re.search(r"(?<![=!<>])=(?!=)", self._source):
                hint = "; to compare write =="
            msg = f"{_short(self._text)} cannot be read as a condition{hint}"
            raise QueryError(msg, at if self._positions else None) from None
        except (ValueError, RecursionError, MemoryError, tokenize.TokenError):
            msg = f"{_short(self._text)} cannot be read as a condition"
            raise QueryError(msg) from None
        msg = f"{_short(self._text)} has too many brackets within brackets"
        raise QueryError(msg)

    def _fail(self, node: ast.AST, message: str) -> QueryError:
        offset = getattr(node, "col_offset", None)
        known = self._positions and offset is not None
        # col_offset counts bytes of UTF-8
        at = len(self._source.encode()[: offset or 0].decode(errors="ignore")) + self._shift
        return QueryError(message, at if known else None)

    def value(self, node: ast.expr, depth: int) -> Any:
        """Return what a part of the condition is for every object."""
        if depth > _DEEPEST:
            raise self._fail(node, "the condition has too many parts within parts")
        reader = _READERS.get(type(node))
        if reader is None:
            what = type(node).__name__
            msg = f"{_short(ast.unparse(node))} may not stand in a condition ({what})"
            raise self._fail(node, msg)
        return reader(self, node, depth + 1)

    def number(self, node: ast.expr, depth: int) -> Any:
        """Return a part that must be numbers."""
        found = self.value(node, depth)
        if np.asarray(found).dtype.kind not in "iufb":
            raise self._fail(node, f"{_short(ast.unparse(node))} is a text, not a number")
        return found

    def column(self, node: ast.expr, name: str) -> Any:
        if name not in self._columns:
            near = closest(name, self._columns) or "; see the list of columns"
            raise self._fail(node, f"the objects have no column {_short(name)}{near}")
        values = np.asarray(self._columns[name])
        if values.dtype.kind in "iub" and values.dtype != bool:
            return values.astype(np.float64) if values.dtype.itemsize < 8 else values
        return values.astype(str) if values.dtype.kind in "OUT" else values

    # ------------------------------------------------------------ what may stand there

    def read_name(self, node: ast.Name, _: int) -> Any:
        name = node.id
        if name.startswith(_QUOTED):
            name = self._quoted[int(name.removeprefix(_QUOTED))]
        return self.column(node, name)

    def read_attribute(self, node: ast.Attribute, _: int) -> Any:
        if not isinstance(node.value, ast.Name):
            msg = f"{_short(ast.unparse(node))} is no column; write TYPE.statistic"
            raise self._fail(node, msg)
        return self.column(node, f"{node.value.id}.{node.attr}")

    def read_constant(self, node: ast.Constant, _: int) -> Any:
        if isinstance(node.value, bool | str):
            return np.asarray(node.value)
        if isinstance(node.value, int | float):
            try:
                # float64 at once: an integer to the power of one would take for ever
                return np.float64(node.value)
            except OverflowError:
                raise self._fail(node, "that number is too large") from None
        raise self._fail(node, f"{_short(ast.unparse(node))} is neither a number nor a text")

    def read_arithmetic(self, node: ast.BinOp, depth: int) -> Any:
        logical = _LOGICAL.get(type(node.op))
        if logical is not None:
            return logical(self.condition(node.left, depth), self.condition(node.right, depth))
        operator = _ARITHMETIC.get(type(node.op))
        if operator is None:
            what = type(node.op).__name__
            raise self._fail(node, f"{_short(ast.unparse(node))} may not be computed ({what})")
        left, right = self.number(node.left, depth), self.number(node.right, depth)
        return operator(np.asarray(left, np.float64), np.asarray(right, np.float64))

    def condition(self, node: ast.expr, depth: int) -> Any:
        """Return a part that must be true or false."""
        found = np.asarray(self.value(node, depth))
        if found.dtype.kind != "b":
            part = _short(ast.unparse(node))
            msg = f"{part} is no condition: compare it; & and | bind tighter than <: use brackets"
            raise self._fail(node, msg)
        return found

    def read_logical(self, node: ast.BoolOp, depth: int) -> Any:
        parts = [self.condition(part, depth) for part in node.values]
        join = _LOGICAL[type(node.op)]
        found = parts[0]
        for part in parts[1:]:
            found = join(found, part)
        return found

    def read_unary(self, node: ast.UnaryOp, depth: int) -> Any:
        if isinstance(node.op, ast.Not | ast.Invert):
            return np.logical_not(self.condition(node.operand, depth))
        found = np.asarray(self.number(node.operand, depth), np.float64)
        return -found if isinstance(node.op, ast.USub) else found

    def read_comparison(self, node: ast.Compare, depth: int) -> Any:
        found: Any = np.True_
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            found = np.logical_and(found, self._compare(left, operator, right, depth))
            left = right
        return found

    def _compare(self, left: ast.expr, operator: ast.cmpop, right: ast.expr, depth: int) -> Any:
        if isinstance(operator, ast.In | ast.NotIn):
            inside = self._is_in(left, right, depth)
            return inside if isinstance(operator, ast.In) else np.logical_not(inside)
        if type(operator) in _ORDER:
            return _ORDER[type(operator)](self.number(left, depth), self.number(right, depth))
        if type(operator) not in _EQUAL:
            raise self._fail(left, "things are compared by < <= > >= == != and in")
        one, other = (np.asarray(self.value(side, depth)) for side in (left, right))
        self._refuse_unlike(left, one, other)
        return _EQUAL[type(operator)](one, other)

    def _is_in(self, left: ast.expr, right: ast.expr, depth: int) -> Any:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._fail(right, "after 'in' stands a list, as in [1, 2, 3]")
        one = np.asarray(self.value(left, depth))
        found = np.zeros(one.shape, dtype=bool)
        for part in right.elts:
            other = np.asarray(self.value(part, depth))
            if other.ndim:
                raise self._fail(part, "a list holds numbers or texts")
            self._refuse_unlike(part, one, other)
            found |= one == other
        return found

    def _refuse_unlike(self, node: ast.expr, one: NDArray[Any], other: NDArray[Any]) -> None:
        if (one.dtype.kind == "U") != (other.dtype.kind == "U"):
            raise self._fail(node, "a text cannot be compared with a number")

    def read_call(self, node: ast.Call, depth: int) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "contains" and len(node.args) == 2 and not node.keywords:
            text, part = (np.asarray(self.value(one, depth)) for one in node.args)
            if text.dtype.kind != "U" or part.dtype.kind != "U" or part.ndim:
                raise self._fail(node, 'contains() looks for a text, as contains(name, "star")')
            return np.strings.find(text, part) >= 0
        if name not in FUNCTIONS:
            near = closest(name, [*FUNCTIONS, "contains"])
            msg = f"there is no function {_short(ast.unparse(node.func))}{near}"
            raise self._fail(node, msg)
        if len(node.args) != 1 or node.keywords:
            raise self._fail(node, f"{name}() takes one number")
        return FUNCTIONS[name](np.asarray(self.number(node.args[0], depth), np.float64))


def _is_deep(source: str) -> bool:
    """Say whether there are too many brackets within brackets for the parser's own stack."""
    depth = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        depth += (token.string in {"(", "[", "{"}) - (token.string in {")", "]", "}"})
        if depth > _DEEPEST:
            return True
    return False


_READERS: dict[type[ast.expr], Callable[[_Reading, Any, int], Any]] = {
    ast.Name: _Reading.read_name,
    ast.Attribute: _Reading.read_attribute,
    ast.Constant: _Reading.read_constant,
    ast.BinOp: _Reading.read_arithmetic,
    ast.BoolOp: _Reading.read_logical,
    ast.UnaryOp: _Reading.read_unary,
    ast.Compare: _Reading.read_comparison,
    ast.Call: _Reading.read_call,
}
