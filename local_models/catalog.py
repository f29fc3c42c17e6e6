"""The catalogue: which models there are, where they come from, and what to know about them.

`entry(name)` also takes a source written out (`hf:owner/repo/file.gguf`, `file:/models/x.gguf`), for models that no
catalogue lists.
"""

from __future__ import annotations

import difflib
import re
import threading
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import yaml

CATALOG = Path(__file__).with_name("catalog.yaml")
# Two threads that meet a type of msgspec's for the first time at once end the process: one sees it half made.
_READING = threading.Lock()

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[float, msgspec.Meta(gt=0)]
QuantType = Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z0-9_]*$")]

# Bits per weight, scales included; what is not listed is taken as float32, which errs on the safe side.
_BITS = {"Q4_0": 4.55, "Q4_1": 5.0, "Q4_K_M": 4.9, "Q5_K_M": 5.7, "Q6_K": 6.6, "Q8_0": 8.5, "F16": 16, "BF16": 16}
# A process without its model, and the KV cache of 8,192 tokens per billion parameters: 434 MB were measured for
# smollm2-135m-instruct, of which 90 are weights.
_PROCESS_BYTES, _KV_BYTES_PER_BILLION = 350e6, 120e6

_TYPE_IN_NAME = re.compile(r"[.-]((?:I?Q\d\w*|B?F16|F32))\.gguf$", re.IGNORECASE)


class UnknownModel(LookupError):
    """No model of this name is in the catalogue; the message suggests the nearest ones."""


class CatalogError(ValueError):
    """The catalogue, or a source in it, does not read as it should; the message says where."""


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameter counts in billions; `active` is what one token passes through (less than `total` for MoE)."""

    total: Positive
    active: Positive


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Sampling defaults the model's makers recommend; None leaves llama.cpp's neutral value."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0, le=2)] | None = None


class WheelSource(msgspec.Struct, frozen=True):
    """A file or folder (`member`) inside the wheel `project==version` on the package index."""

    project: str
    version: str
    member: str


class HubSource(msgspec.Struct, frozen=True):
    """One file of the Hugging Face repository `repo` (owner/name)."""

    repo: str
    file: str


class FileSource(msgspec.Struct, frozen=True):
    """A file or folder that is on this machine already."""

    path: Path


Source = WheelSource | HubSource | FileSource


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model. `parameters` and `context` are unknown (None, 0) only for a source that was written out.

    `draft` names a smaller model of the same vocabulary, used where it is on the machine.
    """

    name: Name
    kind: Literal["chat", "embed"]
    source: str
    family: str = ""
    source_type: QuantType | None = None
    type: QuantType | None = None
    parameters: Parameters | None = None
    context: Annotated[int, msgspec.Meta(ge=0)] = 0
    licence: str = ""
    draft: Name | None = None
    sampling: Sampling = Sampling()
    archive_sha256: Sha256 | None = None
    sha256: Sha256 | None = None
    files: dict[str, Sha256] = {}

    @property
    def filename(self) -> str:
        """Name in the models folder once ready: `<name>-<TYPE>.gguf`, for an embedder the folder `<name>`."""
        return f"{self.name}-{self.type}.gguf" if self.kind == "chat" else self.name

    @property
    def memory_bytes(self) -> int | None:
        """About what a process serving it needs; None where the parameters are unknown."""
        if self.parameters is None:
            return None
        weights = self.parameters.total * 1e9 * _BITS.get(self.type or "", 32) / 8
        return int(weights + self.parameters.total * _KV_BYTES_PER_BILLION + _PROCESS_BYTES)

    @property
    def source_filename(self) -> str:
        """Name in the models folder as pulled, before it is requantised."""
        return f"{self.name}-{self.source_type}.gguf" if self.kind == "chat" else self.name


@cache
def load(path: Path = CATALOG) -> dict[str, Entry]:
    """Entries by name, in the order of the file. CatalogError names file and field."""
    try:
        with _READING:
            entries = msgspec.convert(yaml.safe_load(path.read_text(encoding="utf-8")), list[Entry])
        names = {item.name for item in entries if item.kind == "chat"}
        for item in entries:
            _check(item, names)
    except (msgspec.ValidationError, yaml.YAMLError, CatalogError) as error:
        raise CatalogError(f"{path}: {error}") from error
    return {item.name: item for item in entries}


def entry(name: str, path: Path = CATALOG) -> Entry:
    """The model of this name (case does not matter) or source. UnknownModel says 'did you mean'."""
    if re.match(r"^(wheel|hf|file):", name):
        return _written_out(name)
    entries = load(path)
    by_lower = {known.lower(): known for known in entries}
    if found := by_lower.get(name.lower()):
        return entries[found]
    near = [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(entries)}"
    raise UnknownModel(f"no model {name!r} in the catalogue; {hint}")


def parse_source(text: str) -> Source:
    """Read `wheel:project==version/member`, `hf:owner/repo/file` or `file:/path`. CatalogError if it is none."""
    scheme, _, rest = text.partition(":")
    if scheme == "file" and rest:
        return FileSource(Path(rest).expanduser())
    if scheme == "wheel" and (found := re.fullmatch(r"([\w.-]+)==([\w.!+]+)/(.+)", rest)):
        return WheelSource(*found.groups())
    if scheme == "hf" and (found := re.fullmatch(r"([\w.-]+/[\w.-]+)/(.+)", rest)):
        return HubSource(*found.groups())
    raise CatalogError(f"source {text!r}: expected wheel:PROJECT==VERSION/MEMBER, hf:OWNER/REPO/FILE or file:/PATH")


def _check(item: Entry, names: set[str]) -> None:
    source = parse_source(item.source)
    if item.kind == "chat" and not (item.type and item.source_type):
        raise CatalogError(f"{item.name}: a chat model needs type and source_type")
    if item.draft and item.draft not in names - {item.name}:
        raise CatalogError(f"{item.name}: its draft {item.draft!r} is no other chat model of the catalogue")
    if isinstance(source, WheelSource) and not (item.archive_sha256 and (item.sha256 or item.files)):
        raise CatalogError(f"{item.name}: a wheel source needs archive_sha256, and sha256 or files")


def _written_out(text: str) -> Entry:
    source = parse_source(text)
    if isinstance(source, WheelSource):
        raise CatalogError(f"source {text!r}: a wheel needs a catalogue entry, with digests")
    file = Path(source.file if isinstance(source, HubSource) else source.path)
    if file.suffix != ".gguf":
        raise CatalogError(f"source {text!r}: not a .gguf file")
    found = _TYPE_IN_NAME.search(file.name)
    kind = found[1].upper() if found else "GGUF"
    stem = file.name[: found.start()] if found else file.stem
    fields = {"name": stem, "kind": "chat", "source": text, "source_type": kind, "type": kind}
    try:
        with _READING:
            return msgspec.convert(fields, Entry)
    except msgspec.ValidationError as error:
        raise CatalogError(f"source {text!r}: {error}") from error
