"""Controls of the page: each is bound to one choice of the state and says what it does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import panel as pn
import panel_material_ui as pmui
import param

from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from idfzarr.viewer.session import Session

__all__ = [
    "apart",
    "button",
    "choice",
    "column",
    "heading",
    "icon_button",
    "many",
    "number",
    "number_text",
    "prompt",
    "radio",
    "read_number",
    "row",
    "slider",
    "spin",
    "spinner",
    "switch",
    "words",
]

_SMALL_CHIPS = {
    "& .MuiChip-root": {"height": 22, "fontSize": 11, "margin": "1px"},
    "& .MuiChip-label": {"padding": "0 6px"},
    "& .MuiChip-deleteIcon": {"fontSize": 15, "margin": "0 3px 0 -3px"},
    "& .MuiSelect-select": {"padding": "7px 8px"},
}
_COMPACT: dict[str, Any] = {"margin": (6, 6)}
_TOGETHER_MS = 8  # what a control sends in one go, as a slider its two values, comes within this


def prompt(control: Any) -> Any:
    """Return a control whose changes are acted on at once.

    Panel waits 50 ms for more of them (``Syncable._debounce`` in
    https://github.com/holoviz/panel/blob/main/panel/reactive.py). Ours tell a choice when it has
    been made, so that nothing more comes.
    """
    control._debounce = _TOGETHER_MS  # noqa: SLF001
    return control


def _bind(session: Session, name: str, control: Any) -> Any:
    """Keep a control and a choice alike; a value that is refused is said and taken back."""
    state = session.state

    def typed(event: Any) -> None:
        if event.new == getattr(state, name):
            return
        try:
            setattr(state, name, event.new)
        except ValueError as error:
            session.say(str(error).split("\n", maxsplit=1)[0])
            control.value = getattr(state, name)

    def chosen(*_: Any) -> None:
        control.value = getattr(state, name)

    prompt(control)
    watched = "value_throttled" if "value_throttled" in control.param else "value"
    control.param.watch(_guarded(session, typed), watched)
    state.param.watch(chosen, name)
    return control


def _guarded(session: Session, act: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(event: Any) -> None:
        with session.guard():
            act(event)

    return run


def _said(session: Session, name: str) -> str:
    return str(session.state.param[name].doc)


def switch(session: Session, name: str, label: str) -> Any:
    """Return a switch for a choice of yes and no."""
    made = pmui.Switch(
        label=label,
        value=getattr(session.state, name),
        description=_said(session, name),
        size="small",
        margin=(4, 10),
    )
    return _bind(session, name, made)


def choice(session: Session, name: str, label: str, *, width: int | None = None) -> Any:
    """Return a menu for one of several."""
    asked = session.state.param[name]
    made = pmui.Select(
        label=label,
        options=list(asked.objects),
        value=getattr(session.state, name),
        description=str(asked.doc),
        size="small",
        searchable=len(asked.objects) > 12,
        **_sized(width),
    )
    return _bind(session, name, made)


def radio(session: Session, name: str, label: str) -> Any:
    """Return buttons of which one is pressed."""
    asked = session.state.param[name]
    made = pmui.RadioButtonGroup(
        label=label,
        options=list(asked.objects),
        value=getattr(session.state, name),
        description=str(asked.doc),
        size="small",
        margin=(2, 6),
    )
    return _bind(session, name, made)


def many(session: Session, name: str, label: str, *, width: int | None = None) -> Any:
    """Return a menu for any number of several."""
    asked = session.state.param[name]
    made = pmui.MultiChoice(
        label=label,
        options=list(asked.objects),
        value=getattr(session.state, name),
        description=str(asked.doc),
        searchable=len(asked.objects) > 12,
        sx=_SMALL_CHIPS,
        **_sized(width),
    )
    return _bind(session, name, made)


def number(session: Session, name: str, label: str, *, width: int | None = None) -> Any:
    """Return a field for a number; empty where the choice may be none. Enter takes it over."""
    state = session.state
    asked = state.param[name]
    made = pmui.TextInput(
        label=label,
        value=number_text(getattr(state, name)),
        description=str(asked.doc),
        size="small",
        placeholder="none" if asked.allow_None else "",
        **_sized(width),
    )

    def typed(event: Any) -> None:
        try:
            setattr(state, name, read_number(event.new, asked))
            made.error_state = False
        except ValueError as error:
            made.error_state = True
            session.say(f"{label}: {str(error).splitlines()[0]}")

    def chosen(*_: Any) -> None:
        made.param.update(value=number_text(getattr(state, name)), error_state=False)

    prompt(made).param.watch(_guarded(session, typed), "value")
    state.param.watch(chosen, name)
    return made


def number_text(value: float | None) -> str:
    """Return a number as it stands in its field; nothing for none."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.10g}"


def read_number(text: str, asked: Any) -> float | None:
    """Return what was typed into a number's field.

    Parameters
    ----------
    text
        As typed.
    asked
        The parameter, which says whether there may be none and whether it is an integer.

    Raises
    ------
    ValueError
        It is no number.
    """
    if not text.strip():
        if asked.allow_None:
            return None
        msg = "a number must stand there"
        raise UsageError(msg)
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        msg = f"{text!r} is no number"
        raise UsageError(msg)
    return round(found) if isinstance(asked, param.Integer) else found


def slider(
    session: Session, name: str, label: str, *, step: float, width: int | None = None
) -> Any:
    """Return a slider between the bounds of a choice."""
    asked = session.state.param[name]
    low, high = asked.bounds
    made = pmui.FloatSlider(
        label=label,
        value=getattr(session.state, name),
        description=str(asked.doc),
        start=low,
        end=high,
        step=step,
        size="small",
        **_sized(width),
    )
    return _bind(session, name, made)


def button(
    session: Session, label: str, act: Callable[[], None], *, says: str, **options: Any
) -> Any:
    """Return a button with words.

    Parameters
    ----------
    session
        Whose failures are told.
    label
        Its words.
    act
        What it does.
    says
        The sentence of its tooltip.
    **options
        Of the button.
    """
    looks = {"size": "small", "variant": "outlined", "margin": (6, 6)} | options
    made = pmui.Button(label=label, description=says, **looks)
    made.on_click(_guarded(session, lambda _: act()))
    return made


def icon_button(
    session: Session, icon: str, act: Callable[[], None], *, says: str, **options: Any
) -> Any:
    """Return a button with a picture; `says` is its accessible name too."""
    looks = {"size": "small", "margin": (4, 2)} | options
    made = pmui.IconButton(icon=icon, label=says, description=says, **looks)
    made.on_click(_guarded(session, lambda _: act()))
    return made


def heading(text: str) -> Any:
    """Return the title of a group."""
    return pmui.Typography(text, variant="subtitle2", margin=(10, 6, 0, 6))


def words(text: str = "", **options: Any) -> Any:
    """Return a line of plain text whose `object` can change; it is not read as HTML."""
    looks: dict[str, Any] = {"margin": (4, 6), "sizing_mode": "stretch_width"} | options
    return pn.pane.HTML(text, sanitize_html=True, **looks)


_UNSEEN = {"visibility": "hidden"}


def spinner(says: str, **options: Any) -> Any:
    """Return a turning ring, unseen at first, that says what is coming."""
    looks: dict[str, Any] = {"size": 18, "description": says, "sx": _UNSEEN} | options
    return pmui.CircularProgress(value=True, **looks)


def spin(ring: Any, *, turning: bool) -> None:
    """Show or hide a spinner, which keeps its room: else its whole layout would be measured."""
    ring.sx = {} if turning else _UNSEEN


class _Wrapping(pn.Row):
    """Parts that go to a new line: the widest needs room, and not, as Panel has it, all of them."""

    _direction: ClassVar[Any] = None


def row(
    *parts: Any,
    flex_wrap: str = "wrap",
    align_items: str = "center",
    gap: str = "2px",
    **options: Any,
) -> Any:
    """Return parts side by side, which go to a new line where there is no room."""
    looks: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
    styles = {"flex-wrap": flex_wrap, "align-items": align_items, "gap": gap}
    made = pn.Row if flex_wrap == "nowrap" else _Wrapping
    return made(*parts, styles=styles, **(looks | options))


def column(*parts: Any, **options: Any) -> Any:
    """Return parts one below the other."""
    looks: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0} | options
    return pn.Column(*parts, **looks)


def apart(*parts: Any, side_by_side: bool = False, **options: Any) -> Any:
    """Return parts that are laid out each for itself.

    Where a control is drawn, everything in one layout with it is measured anew, figures too; so
    figures and controls must not share one.

    Parameters
    ----------
    *parts
        The parts.
    side_by_side
        Rather than one below the other.
    **options
        Of the container.
    """
    looks: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0} | options
    return pmui.Row(*parts, **looks) if side_by_side else pmui.Column(*parts, **looks)


def _sized(width: int | None) -> dict[str, Any]:
    if width is None:
        return _COMPACT | {"sizing_mode": "stretch_width"}
    return _COMPACT | {"width": width}
