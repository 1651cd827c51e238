"""Give the browser a file, or a text for its clipboard."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from panel.custom import JSComponent

if TYPE_CHECKING:
    from idfzarr.viewer.keep import KeptFile

__all__ = ["MOST_BYTES", "Saver"]

MOST_BYTES = 100_000_000
"""Of a file that goes through the page."""


class Saver(JSComponent):  # type: ignore[misc, unused-ignore]
    """Invisible; what it is given the browser saves as a download or puts on the clipboard."""

    _esm = """
    export function render({model, el}) {
      el.style.display = "none"
      const save = ({name, mime, content}) => {
        const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0))
        const link = document.createElement("a")
        link.href = URL.createObjectURL(new Blob([bytes], {type: mime}))
        link.download = name
        document.body.append(link)
        link.click()
        link.remove()
        setTimeout(() => URL.revokeObjectURL(link.href), 60000)
      }
      const copy = async (text) => {
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
      model.on("msg:custom", (event) => {
        const told = event.data ?? event
        if (told.text !== undefined) copy(told.text)
        else save(told)
      })
    }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(width=0, height=0, margin=0, **options)  # type: ignore[no-untyped-call, unused-ignore]

    def give(self, kept: KeptFile) -> None:
        """Let the browser save a file."""
        content = base64.b64encode(kept.content).decode("ascii")
        self._send_msg({"name": kept.name, "mime": kept.mime, "content": content})

    def copy(self, text: str) -> None:
        """Put a text on the browser's clipboard."""
        self._send_msg({"text": text})
