"""BERT as an ONNX graph, written straight from its weights in onnxruntime's fused operations.

Devlin et al. 2019, https://arxiv.org/abs/1810.04805; the operations:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from local_models.embed.folder import BertConfig
from local_models.embed.onnx_wire import Graph, Tensor
from local_models.embed.safetensors import Weights

Values = NDArray[np.float32]


def bert(config: BertConfig, weights: Weights, prefix: str) -> tuple[bytes, dict[str, Values]]:
    """The model without its look-up of words, and its tensors by name. Raises NotSafetensors where one is missing.

    Inputs: `embedded` float32 (batch, length, hidden size), the sum of BERT's three embeddings, and `lengths` int32
    (batch) without the padding; output `hidden`, of the shape of `embedded`, meaningless where padded.
    """
    build = _Builder(config, weights, prefix)
    hidden = build.first()
    for layer in range(config.num_hidden_layers):
        hidden = build.layer(hidden, layer)
    shape = ("batch", "length", config.hidden_size)
    inputs: dict[str, Tensor] = {"embedded": ("float32", shape), "lengths": ("int32", ("batch",))}
    return build.graph.model(inputs, {hidden: ("float32", shape)}), build.graph.weights


class _Builder:
    def __init__(self, config: BertConfig, weights: Weights, prefix: str) -> None:
        self.graph = Graph()
        self._config, self._weights, self._prefix = config, weights, prefix

    def first(self) -> str:
        inputs = ["embedded", *self._norm("embeddings.LayerNorm")]
        return self.graph.node("LayerNormalization", inputs, "first", epsilon=self._config.layer_norm_eps, axis=-1)

    def layer(self, hidden: str, number: int) -> str:
        graph, name, place = self.graph, f"{number}.", f"encoder.layer.{number}."
        parts = [f"{place}attention.self.{part}" for part in ("query", "key", "value")]
        rows = np.concatenate([self._get(part + ".weight") for part in parts])
        projection = graph.weight(name + "qkv", np.ascontiguousarray(rows.T))
        bias = graph.weight(name + "qkv.bias", np.concatenate([self._get(part + ".bias") for part in parts]))
        heads = self._config.num_attention_heads
        inputs = [hidden, projection, bias, "lengths"]
        attended = graph.node("Attention", inputs, name + "attention", contrib=True, num_heads=heads)
        hidden = self._residual(attended, hidden, f"{place}attention.output", name + "attended")
        inner = self._times(hidden, f"{place}intermediate.dense", name + "up")
        bias = graph.weight(name + "up.bias", self._get(f"{place}intermediate.dense.bias"))
        inner = graph.node("BiasGelu", [inner, bias], name + "gelu", contrib=True)
        last = number == self._config.num_hidden_layers - 1
        return self._residual(inner, hidden, f"{place}output", "hidden" if last else name + "output")

    def _residual(self, inner: str, hidden: str, place: str, name: str) -> str:
        projected = self._times(inner, place + ".dense", name + ".dense")
        bias = self.graph.weight(name + ".bias", self._get(place + ".dense.bias"))
        inputs = [projected, hidden, *self._norm(place + ".LayerNorm"), bias]
        epsilon = self._config.layer_norm_eps
        return self.graph.node("SkipLayerNormalization", inputs, name, contrib=True, epsilon=epsilon)

    def _times(self, inner: str, place: str, name: str) -> str:
        # As the file has it, (out, in): a mapped view instead of a transposed copy.
        weight = self.graph.weight(name + ".weight", self._get(place + ".weight"))
        return self.graph.node("FusedMatMul", [inner, weight], name, contrib=True, transB=1)

    def _norm(self, place: str) -> list[str]:
        return [self.graph.weight(f"{place}.{part}", self._get(f"{place}.{part}")) for part in ("weight", "bias")]

    def _get(self, name: str) -> Values:
        return self._weights[self._prefix + name]
