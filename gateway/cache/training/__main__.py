"""Train the verifier:
``python -m gateway.cache.training --embedder FOLDER [--questions FILE]… [--pairs FILE[=WEIGHT]]… [--diagram SVG]``.

``--questions`` (rows with ``prompt``) and ``--pairs`` (rows with ``a``, ``b``, ``label``) are JSON Lines, also gzipped.
Writes ``verifier.json`` and prints what it measured. Needs scikit-learn, which sentence-transformers brings.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.cache.training import diagram
from gateway.cache.training.pairs import Pair, generate
from gateway.cache.verifier import MEASURES, Model, Tree, measure
from gateway.cache.words import read

Floats = NDArray[np.float64]

FOLDS = 5
GENERATED = 24_000
SEED = 7
SURE = 0.99


def main() -> None:
    arguments = _arguments()
    real = sorted({question for file in arguments.questions for question in _questions(file)})
    sets = [(generate(arguments.generate, SEED, real), 1.0)]
    sets += [
        (_pairs(file), float(weight or 1)) for file, _, weight in (name.partition("=") for name in arguments.pairs)
    ]
    pairs = [pair for found, _ in sets for pair in found]
    weights = np.concatenate([np.full(len(found), weight) for found, weight in sets])
    matrix = _matrix(pairs, arguments.embedder)
    labels = np.array([pair.label for pair in pairs])
    data = _hashes([*arguments.questions, *arguments.pairs])
    arguments.out.write_bytes(msgspec.json.encode(fit(matrix, labels, weights, pairs, data, arguments.diagram)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.cache.training", description=__doc__)
    parser.add_argument("--embedder", required=True, help="folder of the sentence-transformers model")
    parser.add_argument("--questions", action="append", default=[])
    parser.add_argument("--pairs", action="append", default=[])
    parser.add_argument("--generate", type=int, default=GENERATED)
    parser.add_argument("--diagram", type=Path, help="where the reliability diagram goes, as SVG")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "verifier.json")
    return parser.parse_args()


def _rows(file: str) -> Iterable[dict[str, Any]]:
    opener = gzip.open if file.endswith(".gz") else open
    with opener(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _questions(file: str) -> Iterable[str]:
    """The first sentence of each prompt, where it is a question of ordinary length."""
    for row in _rows(file):
        first = re.split(r"\n|(?<=[?])\s", row["prompt"].strip())[0]
        if 20 < len(first) < 160 and first.endswith("?") and "\\" not in first:
            yield first


def _pairs(file: str) -> list[Pair]:
    return [Pair(row["a"], row["b"], int(row["label"]), row.get("kind", "given")) for row in _rows(file)]


def _hashes(names: Sequence[str]) -> dict[str, str]:
    files = [Path(name.partition("=")[0]) for name in names]
    phrases = Path(__file__).with_name("phrases.yaml")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (*files, phrases)}


def _matrix(pairs: Sequence[Pair], folder: str) -> Floats:
    """Measures of each pair, shape (pairs, len(MEASURES))."""
    from sentence_transformers import SentenceTransformer

    texts = sorted({text for pair in pairs for text in (pair.a, pair.b)})
    model = SentenceTransformer(folder, device="cpu")
    vectors = model.encode(texts, normalize_embeddings=True, batch_size=64, show_progress_bar=True)
    place = {text: number for number, text in enumerate(texts)}
    return np.array([measure(read(p.a), read(p.b), float(vectors[place[p.a]] @ vectors[place[p.b]])) for p in pairs])


def _groups(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Folds are of kinds and what they are about, so that calibration is measured on questions not seen."""
    return np.array([int(hashlib.sha256(min(p.a, p.b)[-12:].lower().encode()).hexdigest()[:8], 16) for p in pairs])


def fit(
    matrix: Floats, labels: Any, weights: Any, pairs: Sequence[Pair], data: dict[str, str], drawn: Path | None
) -> Model:
    """Boosted trees, calibrated on folds that their trees had not seen. ``drawn``: where the diagram goes."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
    from sklearn.model_selection import GroupKFold  # type: ignore[import-untyped]

    def booster() -> Any:
        return HistGradientBoostingClassifier(
            max_iter=150,
            max_leaf_nodes=12,
            learning_rate=0.08,
            l2_regularization=5.0,
            min_samples_leaf=40,
            random_state=1,
        )

    held = np.zeros(len(labels))
    for seen, test in GroupKFold(FOLDS).split(matrix, labels, _groups(pairs)):
        trained = booster().fit(matrix[seen], labels[seen], sample_weight=weights[seen])
        held[test] = trained.decision_function(matrix[test])
    platt = LogisticRegression(C=1e6).fit(held[:, None], labels, sample_weight=weights)
    slope, offset = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    auc = float(roc_auc_score(labels, held, sample_weight=weights))
    p = np.asarray(platt.predict_proba(held[:, None])[:, 1])
    _report(p, labels, weights, [pair.kind for pair in pairs], auc, drawn)
    fitted = booster().fit(matrix, labels, sample_weight=weights)
    trees = [_tree(stage[0].nodes) for stage in fitted._predictors]
    return Model(list(MEASURES), float(fitted._baseline_prediction[0, 0]), slope, offset, trees, data)


def _tree(nodes: Any) -> Tree:
    """A fitted tree as plain numbers (four digits are more than its data hold)."""
    return Tree(
        [-1 if node["is_leaf"] else int(node["feature_idx"]) for node in nodes],
        [0.0 if node["is_leaf"] else round(float(node["num_threshold"]), 6) for node in nodes],
        [int(node["left"]) for node in nodes],
        [int(node["right"]) for node in nodes],
        [round(float(node["value"]), 5) if node["is_leaf"] else 0.0 for node in nodes],
    )


def _report(p: Floats, labels: Any, weights: Any, kinds: Sequence[str], auc: float, out: Path | None) -> None:
    """AUC, the reliability diagram and what was wrongly taken to be the same, of questions that were held out."""
    print(f"{len(labels)} pairs, AUC held out {auc:.4f}")
    found = list(diagram.bins(p, labels, weights))
    for each in found:
        span = f"p {each.low:.3f}-{each.high:.3f}"
        print(f"{span}: {each.pairs:6d} pairs, said {each.said:.4f}, was {each.was:.4f}")
    wrong = Counter(kind for kind, said, label in zip(kinds, p, labels, strict=True) if said > SURE and not label)
    print(f"said more than {SURE}, and was not:", dict(wrong.most_common(8)))
    if out is not None:
        out.write_text(diagram.svg(found, f"Reliability, {len(labels):,} held-out pairs"), encoding="utf-8")


if __name__ == "__main__":
    main()
