"""Keys of the page, and what the browser alone can do: put text on the clipboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import param
from panel.custom import JSComponent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["KEYS", "Keys"]

KEYS = {
    "j": "next object of the selection, or of the table",
    "k": "object before",
    "f": "fold with the strongest period, or no longer",
    "?": "say the keys",
}
"""What each key does."""


class Keys(JSComponent):
    """Listens to keys wherever nobody types, and copies text.

    Keys typed into a field, and those with Ctrl, Alt or the command key, are left alone.
    """

    copied = param.String(doc="Text for the clipboard.")

    _esm = """
    export function render({model, el}) {
      el.style.display = "none"
      const wanted = new Set(["j", "k", "f", "?"])
      const typing = (e) => {
        const at = e.composedPath()[0]
        if (!(at instanceof Element)) return false
        const kind = (at.getAttribute("type") || "").toLowerCase()
        const free = ["checkbox", "radio", "range", "button"].includes(kind)
        if (at.tagName === "INPUT") return !free
        return ["TEXTAREA", "SELECT"].includes(at.tagName) || at.isContentEditable
      }
      const pressed = (e) => {
        if (e.ctrlKey || e.altKey || e.metaKey || typing(e) || !wanted.has(e.key)) return
        e.preventDefault()
        model.send_msg({key: e.key})
      }
      document.addEventListener("keydown", pressed)
      const copy = async () => {
        const text = model.copied
        if (!text) return
        try {
          await navigator.clipboard.writeText(text)
        } catch {
          const area = document.createElement("textarea")
          area.value = text
          document.body.append(area)
          area.select()
          document.execCommand("copy")
          area.remove()
        }
      }
      model.on("copied", copy)
      model.on("remove", () => document.removeEventListener("keydown", pressed))
    }
    """

    def __init__(self, actions: Mapping[str, Callable[[], None]], **options: Any) -> None:
        super().__init__(width=0, height=0, margin=0, **options)  # type: ignore[no-untyped-call]
        self._actions = dict(actions)

    def copy(self, text: str) -> None:
        """Put text on the browser's clipboard."""
        self.copied = ""
        self.copied = text

    def _handle_msg(self, message: Any) -> None:
        act = self._actions.get(message.get("key", "")) if isinstance(message, dict) else None
        if act is not None:
            act()
