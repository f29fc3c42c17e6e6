"""From token bytes to text that may be sent: whole characters only, and never a stop string or part of one."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Fed the bytes of one token after another; what could be the beginning of a stop string is held back."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Text that can go out now. After a stop string `stopped` is true, and nothing past it comes out."""
        text = self._held + self._decoder.decode(piece)
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held, self.stopped = "", True
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, once no token follows. Bytes of an unfinished character are dropped."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
