"""One session of the viewer: its choices, what it says when something fails, and its slow work."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
import panel_material_ui as pmui

from idfzarr.errors import CorruptError, IdfzarrError, StoreError, UsageError
from idfzarr.flags import flag_bit
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root
from idfzarr.viewer.curves import prepare
from idfzarr.viewer.state import ViewerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from types import TracebackType

    from numpy.typing import NDArray

    from idfzarr.viewer.curve_values import Prepared
    from idfzarr.viewer.field import Field

__all__ = ["CURVE_CHOICES", "Session", "set_current", "store_name"]

CURVE_CHOICES = (
    "object", "compared", "types", "unit", "system", "calibrated", "drop", "show_flagged",
    "show_truth", "time_axis", "start", "end", "clip_on", "clip_sigma", "clip_window", "smooth_on",
    "smooth_window", "smooth_sigma", "bin_on", "bin_width", "bin_method", "rate_on", "rate_low",
    "rate_high", "rate_symmetric", "rate_sigma",
)  # fmt: skip
"""Choices that change the curves."""

_NOT_BUILT = np.uint16(flag_bit("not_built"))
_LOGGER = logging.getLogger("idfzarr.viewer")
_WORKERS = 2  # the slow work of all sessions: as many threads as a small machine has processors
_PATIENCE_MS = 120  # whoever steps on within this time never starts the slow work


def store_name(field: Field) -> str:
    """Return what a store is called: the last part of its path."""
    return field.path.rstrip("/").rsplit("/", 1)[-1]


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WORKERS, thread_name_prefix="idfzarr-viewer")


class _Guard:
    """Turns what fails inside into one sentence on the page, and a traceback in the log.

    What changes inside goes to the browser in one message: each message costs a walk through all
    models of the page, and each is drawn for itself.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held = ExitStack()

    def __enter__(self) -> None:
        document = self._session.document
        if document is not None and pn.state.curdoc is document:
            self._held.enter_context(_sent_together(document))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        with self._held:
            if not isinstance(error, Exception):
                return False
            self._session.fail(error)
            return True


class Session:
    """What the parts of one page share.

    Parameters
    ----------
    field
        The opened store.
    state
        What is chosen; the defaults unless given.

    Attributes
    ----------
    notice
        Where sentences for the user appear.
    document
        Bokeh's, of the page; None where nothing is served.
    """

    def __init__(self, field: Field, state: ViewerState | None = None) -> None:
        self.field = field
        self.state = state or ViewerState(field.choices())
        self.notice = pmui.Alert(
            "", visible=False, closeable=True, severity="warning", sizing_mode="stretch_width",
            margin=(4, 8),
        )  # fmt: skip
        self.document = pn.state.curdoc
        self._turns: dict[str, int] = {}
        self._under_way: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()
        self._place_key: Any = None
        self._places: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        self.order: NDArray[np.intp] = np.arange(len(field.objects))
        """Rows of the objects that "next" goes through where nothing is selected: the table's."""
        self._prepared: Prepared | None = None
        self.on(list(CURVE_CHOICES), self._forget)

    @property
    def name(self) -> str:
        """What the store is called."""
        return store_name(self.field)

    # ---------------------------------------------------------------- what is said

    def say(self, sentence: str, *, severity: str = "warning") -> None:
        """Show a sentence; what it quotes is escaped here.

        Parameters
        ----------
        sentence
            Plain text; an empty one takes the notice away.
        severity
            error, warning, info or success.
        """
        self.notice.param.update(object=escape(sentence), severity=severity, visible=bool(sentence))

    def fail(self, error: BaseException) -> None:
        """Say what failed, and log where; what was asked for wrongly is said alone.

        Parameters
        ----------
        error
            What was raised.
        """
        if not isinstance(error, UsageError):
            _LOGGER.error("a session failed", exc_info=error)
        self.say(_sentence(error), severity="error")

    def guard(self) -> _Guard:
        """Return a context inside which a failure becomes a sentence."""
        return _Guard(self)

    # ---------------------------------------------------------------- what follows a choice

    def on(self, names: list[str], act: Callable[[], None], *, now: bool = False) -> None:
        """Act whenever one of these choices changes.

        Parameters
        ----------
        names
            Parameters of the state.
        act
            Called once for each change of any of them.
        now
            Act at once, too.
        """

        def changed(*_: Any) -> None:
            with self.guard():
                act()

        self.state.param.watch(changed, names)
        if now:
            changed()

    def on_page(self, pages: Iterable[str], names: list[str], act: Callable[[], None]) -> None:
        """Act when one of these choices changes, at the latest when a page is shown that needs it.

        Parameters
        ----------
        pages
            Those that show what `act` changes.
        names
            Parameters of the state.
        act
            Called at once where such a page is shown, else when the next one is.
        """
        shown = frozenset(pages)
        late = True

        def changed() -> None:
            nonlocal late
            late = self.state.page not in shown
            if not late:
                act()

        def turned() -> None:
            if late and self.state.page in shown:
                changed()

        self.on(names, changed)
        self.on(["page"], turned, now=True)

    @property
    def prepared(self) -> Prepared:
        """The curves of the present view, made once for all that draw them."""
        if self._prepared is None:
            made = prepare(self.field, self.state)
            if any((curve.flag & _NOT_BUILT).any() for curve in made.curves):
                # A shard that is not there reads as not built yet; so does a store that is gone.
                read_root(place_of(self.field.path))
            self._prepared = made
        return self._prepared

    def _forget(self) -> None:
        self._prepared = None

    def step(self, count: int) -> None:
        """Go to a later or earlier object of the selection, or of the table where none is."""
        selected, at = self.state.selection, self.row
        if len(selected) > 1:
            self.state.step(count, selected)
        elif at is not None and self.order.size:
            place = self.place_of(at)
            place = 0 if place is None else place + count
            row = self.order[min(max(place, 0), self.order.size - 1)]
            self.state.object = int(self.field.cube.objects[row])

    @property
    def row(self) -> int | None:
        """Position in the table of the object looked at."""
        return None if self.state.object is None else int(self.field.rows([self.state.object])[0])

    def place_of(self, row: int) -> int | None:
        """Return the place of a row in `order`; None where it is not in it."""
        if self._place_key is not self.order:
            self._places = np.full(len(self.field.objects), -1)
            self._places[self.order] = np.arange(self.order.size)
            self._place_key = self.order
        place = int(self._places[row])
        return place if place >= 0 else None

    # ---------------------------------------------------------------- slow work

    def later(
        self,
        name: str,
        work: Callable[[], Any],
        show: Callable[[Any], None],
        *,
        coming: Callable[[bool], None],
    ) -> None:
        """Do slow work in a thread and show its result, unless something newer was asked since.

        Parameters
        ----------
        name
            What it is for: newer work of the same name cancels this one.
        work
            Called in a thread; must not touch the page.
        show
            Called with its result, back in the session.
        coming
            Told True at once, and False when the result is there or failed.
        """
        with self._lock:
            turn = self._turns[name] = self._turns.get(name, 0) + 1
            older = self._under_way.pop(name, None)
        if older is not None:
            older.cancel()
        coming(True)
        document = self.document
        if document is None:  # no server: in a test of a part
            with self.guard():
                show(work())
            coming(False)
            return

        def begin() -> None:
            if self._turns[name] != turn:
                return
            future = _workers().submit(work)
            self._under_way[name] = future
            future.add_done_callback(
                lambda done: document.add_next_tick_callback(partial(finish, done))
            )

        def finish(done: Future[Any]) -> None:
            if self._turns[name] != turn or done.cancelled():
                return
            self._under_way.pop(name, None)
            with set_current(document), self.guard():
                coming(False)
                show(done.result())

        document.add_timeout_callback(begin, _PATIENCE_MS)

    def idle(self) -> bool:
        """Say whether no slow work is under way."""
        return not self._under_way


@contextmanager
def set_current(document: Any) -> Iterator[None]:
    """Act for a document outside of Panel's own callbacks."""
    from panel.io.state import set_curdoc

    with set_curdoc(document), _sent_together(document):
        yield


@contextmanager
def _sent_together(document: Any) -> Iterator[None]:
    """Send what changes in one message; while the browser still draws the page, keep it until then.

    Panel takes a page that has not said that it is drawn for one that has not been fetched, whose
    changes need not be sent.
    """
    from panel.io.document import hold

    session = getattr(document.session_context, "session", None)
    if session is None or not session.connection_count or pn.state.loaded:
        with hold(document):
            yield
        return
    if not document.callbacks.hold_value:
        document.hold("combine")
        pn.state.onload(partial(_let_go, document))
    yield


def _let_go(document: Any) -> None:
    """Send what was kept, in a turn of its own: only there does Bokeh write raw changes."""
    callbacks = document.callbacks
    policy, callbacks._hold = callbacks._hold, None  # noqa: SLF001 - else the turn is kept too
    document.add_next_tick_callback(document.unhold)
    callbacks._hold = policy  # noqa: SLF001


def _sentence(error: BaseException) -> str:
    """Return what a person is told of a failure."""
    if isinstance(error, (StoreError, CorruptError)):
        return f"The store cannot be read as it was: {error}"
    if isinstance(error, IdfzarrError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"A file of the store is not there any more: {error.filename or error}"
    if isinstance(error, OSError):
        return f"The store cannot be read: {error.strerror or error}"
    return f"This did not work ({type(error).__name__}: {error}); the server's log says where."
