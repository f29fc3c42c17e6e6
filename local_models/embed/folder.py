"""What a sentence-transformers folder says of its model, read without sentence-transformers.

Only what the quick route computes exactly is taken: BERT with absolute positions and GELU, WordPiece, mean, cls or max
pooling. Everything else is UnknownModel, and sentence-transformers itself serves it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

Pooling = Literal["mean", "cls", "max"]
T = TypeVar("T")

_MODULES = (("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize"))
_LEGACY_POOLING: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}


class UnknownModel(Exception):
    """The quick route does not compute this model; the message says what it stumbles over."""


class BertConfig(msgspec.Struct, frozen=True):
    """The part of transformers' config.json that decides what is computed."""

    model_type: Literal["bert"]
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False


class BertFolder(msgspec.Struct, frozen=True):
    """A model the quick route computes. `max_tokens`: longer texts are cut off there, special tokens included."""

    path: Path
    config: BertConfig
    pooling: Pooling
    max_tokens: int


class _Module(msgspec.Struct, frozen=True):
    path: str
    type: str


class _Transformer(msgspec.Struct, frozen=True):
    max_seq_length: int | None = None
    do_lower_case: bool = False
    query_length: int | None = None
    document_length: int | None = None


class _Sentence(msgspec.Struct, frozen=True):
    default_prompt_name: str | None = None


class _TokenizerConfig(msgspec.Struct, frozen=True):
    model_max_length: float = float("inf")
    do_lower_case: bool | None = None
    truncation_side: Literal["right"] = "right"


class _Normalizer(msgspec.Struct, frozen=True):
    type: Literal["BertNormalizer"]
    lowercase: bool


class _Model(msgspec.Struct, frozen=True):
    type: Literal["WordPiece"]


class _Tokenizer(msgspec.Struct, frozen=True):
    normalizer: _Normalizer
    model: _Model


def read(path: Path) -> BertFolder:
    """Read a model folder. Raises UnknownModel."""
    modules = _json(path / "modules.json", list[_Module])
    if tuple(module.type.rsplit(".", 1)[-1] for module in modules) not in _MODULES or modules[0].path:
        raise UnknownModel(f"its modules are {', '.join(module.type for module in modules)}")
    config = _json(path / "config.json", BertConfig)
    if not (path / "model.safetensors").is_file():
        raise UnknownModel("it has no model.safetensors")
    pooling = _pooling(_json(path / modules[1].path / "config.json", dict[str, Any]))
    return BertFolder(path, config, pooling, _max_tokens(path, config))


def _max_tokens(path: Path, config: BertConfig) -> int:
    transformer = _json(path / "sentence_bert_config.json", _Transformer)
    tokenizer = _json(path / "tokenizer_config.json", _TokenizerConfig)
    lowercase = _json(path / "tokenizer.json", _Tokenizer).normalizer.lowercase
    if tokenizer.do_lower_case not in (None, lowercase) or (transformer.do_lower_case and not lowercase):
        raise UnknownModel("its files disagree on lower case")
    if transformer.query_length or transformer.document_length:
        raise UnknownModel("it cuts queries and documents off at different lengths")
    if _json(path / "config_sentence_transformers.json", _Sentence).default_prompt_name:
        raise UnknownModel("it has a default prompt")
    most = config.max_position_embeddings
    wanted = transformer.max_seq_length or int(min(tokenizer.model_max_length, most))
    if not 2 < wanted <= most:
        raise UnknownModel(f"its longest text is {wanted} tokens, and it has {most} positions")
    return wanted


def _pooling(config: dict[str, Any]) -> Pooling:
    modes = config.get("pooling_mode") or [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = [modes] if isinstance(modes, str) else list(modes)
    named = [_LEGACY_POOLING.get(mode, mode) for mode in modes]
    if len(named) != 1 or named[0] not in _LEGACY_POOLING.values():
        raise UnknownModel(f"its pooling is {'+'.join(map(str, named)) or 'not given'}")
    pooling: Pooling = named[0]
    return pooling


def _json(path: Path, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=shape)
    except FileNotFoundError:
        raise UnknownModel(f"it has no {path.name}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnknownModel(f"{path.name}: {error}") from error
