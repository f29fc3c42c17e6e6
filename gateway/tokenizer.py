"""A tokenizer in a process of its own: ``python -m gateway.tokenizer``.

Reading o200k_base takes a second of Python and 80 MB: in a worker every request under way would wait for it. So the
first count starts this process, at a lower priority, and talks to it through its standard input and output: it ends
with whoever started it, and by itself when nothing was to be counted for a while.

Each question is a list of texts (UTF-8) as MessagePack behind its length (four bytes, big-endian); so is each answer, a
list of counts, or null where the encoding is not there.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

PATIENCE_S = 30.0
_IDLE_S = 60.0
_NICE = 5
_HEAD = struct.Struct(">I")
# tiktoken names the file of an encoding by the SHA-1 of the URL it would fetch it from.
_O200K_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"


class Tokenizer:
    """The process as its only user sees it. Blocks: to be called from a thread, one at a time."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "gateway.tokenizer")) -> None:
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def count(self, texts: Sequence[str]) -> list[int] | None:
        """The tokens of each text; None where they cannot be counted."""
        frame = msgspec.msgpack.encode([text.encode("utf-8", "surrogatepass") for text in texts])
        for _ in range(2):
            try:
                return self._exchange(frame)
            except (
                OSError,
                EOFError,
                msgspec.DecodeError,
            ):  # it had ended: nobody asked for a while, or somebody killed it
                self.close()
        return None

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _exchange(self, frame: bytes) -> list[int] | None:
        if self._process is None:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            threading.Thread(target=self._process.wait, name="tokenizer-end", daemon=True).start()  # or it is a zombie
        process = self._process
        impatient = threading.Timer(PATIENCE_S, process.kill)
        impatient.daemon = True
        impatient.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            _write(process.stdin, frame)
            answer = _read(process.stdout)
        finally:
            impatient.cancel()
        if answer is None:
            raise EOFError
        return msgspec.msgpack.decode(answer, type=list[int] | None)


def counted(texts: Sequence[bytes]) -> list[int] | None:
    """The tokens of each text by o200k_base, None without its file."""
    encoding = o200k()
    if encoding is None:
        return None
    return [len(encoding.encode_ordinary(text.decode("utf-8", "surrogatepass"))) for text in texts]


@functools.cache
def o200k() -> Any:
    """The encoding, from the file in the litellm wheel (which is not imported): nothing is fetched. None without it."""
    spec = importlib.util.find_spec("litellm")
    folders = [
        Path(folder) / "litellm_core_utils/tokenizers" for folder in (spec and spec.submodule_search_locations) or ()
    ]
    folder = next((folder for folder in folders if (folder / _O200K_FILE).is_file()), None)
    if folder is None:
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    import tiktoken

    return tiktoken.get_encoding("o200k_base")


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the worker's to answer
    os.nice(_NICE)  # live traffic comes first
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # whatever prints must not end up between two answers
    while select.select([sys.stdin.buffer], [], [], _IDLE_S)[0] and (frame := _read(sys.stdin.buffer)) is not None:
        _write(answers, msgspec.msgpack.encode(counted(msgspec.msgpack.decode(frame, type=list[bytes]))))
    return 0


def _read(pipe: IO[bytes]) -> bytes | None:
    """What comes next; None at the end."""
    head = pipe.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (length,) = _HEAD.unpack(head)
    frame = pipe.read(length)
    return frame if len(frame) == length else None


def _write(pipe: IO[bytes], frame: bytes) -> None:
    pipe.write(_HEAD.pack(len(frame)) + frame)
    pipe.flush()


if __name__ == "__main__":
    sys.exit(main())
