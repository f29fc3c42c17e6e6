"""BERT as an ONNX graph, written straight from its weights in onnxruntime's fused operations.

Devlin et al. 2019, https://arxiv.org/abs/1810.04805; the operations:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from local_models.embed.folder import BertConfig
from local_models.embed.onnx_wire import Graph, Tensor, Values
from local_models.embed.safetensors import Weights

Float = NDArray[np.float32]
Kind = Literal["qkv", "out", "up", "down"]
KINDS: tuple[Kind, ...] = ("qkv", "out", "up", "down")
"""A layer's matrix products: the three projections at once, what attention gives, and the network's two."""


_PARTS: Mapping[Kind, tuple[str, ...]] = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
}


class Linear8(msgspec.Struct, frozen=True):
    """A matrix product in int8: `weights` int8 (in, out), `scales` and `bias` float32 (out).

    Its input is multiplied by `smooth` float32 (in), then made uint8 by `scale` float32 () around `zero` uint8 ().
    """

    weights: NDArray[np.int8]
    scales: NDArray[np.float32]
    smooth: NDArray[np.float32]
    scale: NDArray[np.float32]
    zero: NDArray[np.uint8]
    bias: NDArray[np.float32]


Quantised = Mapping[tuple[int, Kind], Linear8]


def bert(
    config: BertConfig, weights: Weights, prefix: str, quantised: Quantised | None = None, inner: bool = False
) -> tuple[bytes, dict[str, Values]]:
    """The model without its look-up of words, and its tensors by name. Raises NotSafetensors where one is missing.

    Inputs: `embedded` float32 (batch, length, hidden size), the sum of BERT's three embeddings, and `lengths` int32
    (batch) without the padding; output `hidden`, of the shape of `embedded`, meaningless where padded. `quantised`:
    products to compute in int8. `inner`: what goes into each product is an output too, named as `enters` says.
    """
    build = _Builder(config, weights, prefix, quantised or {})
    hidden = build.first()
    for layer in range(config.num_hidden_layers):
        hidden = build.layer(hidden, layer)
    shape = ("batch", "length", config.hidden_size)
    inputs: dict[str, Tensor] = {"embedded": ("float32", shape), "lengths": ("int32", ("batch",))}
    outputs: dict[str, Tensor] = {hidden: ("float32", shape)}
    if inner:
        for layer, kind in product(range(config.num_hidden_layers), KINDS):
            outputs[enters(layer, kind)] = ("float32", ("batch", "length", f"width of {kind}"))
    return build.graph.model(inputs, outputs), build.graph.weights


def enters(layer: int, kind: Kind) -> str:
    """The name of what this product is computed of."""
    before = "first" if layer == 0 else f"{layer - 1}.output"
    return {"qkv": before, "out": f"{layer}.attention", "up": f"{layer}.attended", "down": f"{layer}.gelu"}[kind]


def linear(weights: Weights, prefix: str, layer: int, kind: Kind) -> tuple[Float, Float]:
    """Weight (in, out) and bias (out) of one product. Raises NotSafetensors."""
    place = f"{prefix}encoder.layer.{layer}."
    rows = [weights[f"{place}{part}.weight"] for part in _PARTS[kind]]
    biases = [weights[f"{place}{part}.bias"] for part in _PARTS[kind]]
    # One alone stays the view of the mapped file that it is.
    return (rows[0] if len(rows) == 1 else np.concatenate(rows)).T, np.concatenate(biases)


class _Builder:
    def __init__(self, config: BertConfig, weights: Weights, prefix: str, quantised: Quantised) -> None:
        self.graph = Graph()
        self._config, self._weights, self._prefix, self._quantised = config, weights, prefix, quantised

    def first(self) -> str:
        inputs = ["embedded", *self._norm("embeddings.LayerNorm")]
        return self.graph.node("LayerNormalization", inputs, "first", epsilon=self._config.layer_norm_eps, axis=-1)

    def layer(self, hidden: str, number: int) -> str:
        place = f"encoder.layer.{number}."
        attended = self._attention(hidden, number)
        hidden = self._residual(attended, hidden, f"{place}attention.output", (number, "out"), f"{number}.attended")
        inner, bias = self._times(hidden, (number, "up"))
        inner = self.graph.node("BiasGelu", [inner, bias], f"{number}.gelu", contrib=True)
        last = number == self._config.num_hidden_layers - 1
        return self._residual(
            inner, hidden, f"{place}output", (number, "down"), "hidden" if last else f"{number}.output"
        )

    def _attention(self, hidden: str, number: int) -> str:
        graph, name, heads = self.graph, f"{number}.qkv", self._config.num_attention_heads
        known = self._quantised.get((number, "qkv"))
        if known is None:
            weight, bias = linear(self._weights, self._prefix, number, "qkv")
            held = [graph.weight(name, np.ascontiguousarray(weight)), graph.weight(name + ".bias", bias)]
            inputs, kind = [hidden, *held, "lengths"], "Attention"
        else:
            quantised, scale, zero = self._to_int8(hidden, known, name)
            weight8 = [graph.weight(name, known.weights), graph.weight(name + ".bias", known.bias)]
            scales = [scale, graph.weight(name + ".scales", known.scales)]
            middle = graph.weight(name + ".middle", np.zeros((), np.int8))
            inputs, kind = [quantised, *weight8, *scales, "lengths", zero, middle], "QAttention"
        return graph.node(kind, inputs, f"{number}.attention", contrib=True, num_heads=heads)

    def _residual(self, inner: str, hidden: str, place: str, which: tuple[int, Kind], name: str) -> str:
        projected, bias = self._times(inner, which)
        inputs = [projected, hidden, *self._norm(place + ".LayerNorm"), bias]
        epsilon = self._config.layer_norm_eps
        return self.graph.node("SkipLayerNormalization", inputs, name, contrib=True, epsilon=epsilon)

    def _times(self, inner: str, which: tuple[int, Kind]) -> tuple[str, str]:
        """The product without its bias, and the bias."""
        graph, name = self.graph, f"{which[0]}.{which[1]}"
        known = self._quantised.get(which)
        if known is None:
            weight, bias = linear(self._weights, self._prefix, *which)
            # As the file has it, (out, in): a mapped view instead of a transposed copy.
            held = graph.weight(name + ".weight", weight.T)
            return graph.node("FusedMatMul", [inner, held], name, contrib=True, transB=1), graph.weight(
                name + ".bias", bias
            )
        quantised, scale, zero = self._to_int8(inner, known, name)
        held = graph.weight(name + ".weight", known.weights)
        inputs = [quantised, held, scale, graph.weight(name + ".scales", known.scales), zero]
        return graph.node("MatMulIntegerToFloat", inputs, name, contrib=True), graph.weight(name + ".bias", known.bias)

    def _to_int8(self, inner: str, known: Linear8, name: str) -> tuple[str, str, str]:
        graph = self.graph
        smooth = graph.node("Mul", [inner, graph.weight(name + ".smooth", known.smooth)], name + ".smoothed")
        scale, zero = graph.weight(name + ".scale", known.scale), graph.weight(name + ".zero", known.zero)
        return graph.node("QuantizeLinear", [smooth, scale, zero], name + ".int8"), scale, zero

    def _norm(self, place: str) -> list[str]:
        return [self.graph.weight(f"{place}.{part}", self._get(f"{place}.{part}")) for part in ("weight", "bias")]

    def _get(self, name: str) -> Float:
        return self._weights[self._prefix + name]
