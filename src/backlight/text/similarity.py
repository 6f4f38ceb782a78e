r"""Which words make two texts alike: relevance of pairs of tokens for a similarity of embeddings.

A similarity y = ⟨φ(x), φ(x')⟩ is of second order, so that its relevance is one of pairs. With R_i(u) the relevance of
token i for the embedding along u, which is linear in u,

.. math:: R_{ij} = \sum_m R_i(u_m) R_j(u_m)

over any orthonormal basis u: one outer product a direction, each of two ways back. Of D directions a part is enough:
those of the two embeddings are taken, so that the sum over pairs is exact, and of the rest a random part, scaled up;
how far products differ from each other says how large the error is.

Source: Eberle et al., "Building and interpreting deep similarity models", TPAMI 44, 2022 (BiLRP).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight._explain import Explainer
from backlight.attribution.requested import Linear
from backlight.errors import ArgumentError
from backlight.explanation import Explanation
from backlight.explanation.text import MatrixView
from backlight.explanation.tokens import spans
from backlight.text.encode import Encoder
from backlight.text.given import taken

__all__ = ["Similarity", "similarity"]


@dataclass(slots=True, eq=False)
class Pooled(Linear):
    """The embedding of a text along a direction: the mean over its tokens, or the model's own vector.

    Attributes
    ----------
    direction : Tensor of shape (width,)
    mask : Tensor of shape (n, tokens)
    """

    direction: Tensor
    mask: Tensor
    name: str = "embedding"
    at_last: bool = False

    def take(self, start: int, n: int) -> Pooled:
        """See `Linear.take`."""
        return Pooled(self.direction, self.mask[start : start + n], self.name)

    def seed(self, output: Tensor, last: Tensor | None) -> Tensor:  # noqa: ARG002
        """See `Linear.seed`."""
        direction = self.direction.to(output)
        if output.shape[-1] != len(direction) or output.dim() not in (2, 3):
            raise ArgumentError(f"outputs of shape {tuple(output.shape[1:])} are no embeddings of texts or tokens")
        if output.dim() == 2:
            return direction.expand_as(output).clone()
        return weights(self.mask, output)[:, :, None] * direction


def weights(mask: Tensor, output: Tensor) -> Tensor:
    """What each token counts in the mean over a text, (n, tokens)."""
    counted = mask.to(output)
    return counted / counted.sum(1, keepdim=True)


@dataclass(frozen=True, slots=True, eq=False)
class Similarity:
    """Relevance of pairs of tokens for the similarity of two texts.

    Attributes
    ----------
    values : array of shape (tokens, tokens of the other)
    output : float
        The similarity.
    error : array like ``values``
        Standard error, where only a part of the directions was taken; zero where all were.
    products : int
        How many directions, and so outer products.
    first, second : tuple of str
        The tokens.
    words : (groups, groups)
        For each text the (text, start, stop) of its words among the tokens.
    """

    values: np.ndarray
    output: float
    error: np.ndarray
    products: int
    first: tuple[str, ...]
    second: tuple[str, ...]
    words: tuple[tuple[tuple[str, int, int], ...], tuple[tuple[str, int, int], ...]]

    @property
    def residual(self) -> float:
        """``output − values.sum()``: what the biases of the two ways back keep."""
        return self.output - float(self.values.sum())

    def by_word(self) -> np.ndarray:
        """Relevance of pairs of words."""
        down, right = self.words
        return np.array([[self.values[a:b, c:d].sum() for _, c, d in right] for _, a, b in down])

    def pairs(self, k: int = 10) -> list[tuple[str, str, float]]:
        """The pairs of words of largest relevance."""
        values = self.by_word()
        order = np.argsort(-np.abs(values), axis=None, kind="stable")[:k]
        at = zip(*np.unravel_index(order, values.shape), strict=True)
        first, second = ([word.strip() or "·" for word, _, _ in side] for side in self.words)
        return [(first[i], second[j], float(values[i, j])) for i, j in at]

    def view(self, limit: float | None = None) -> MatrixView:
        """A matrix: words of the one text by words of the other."""
        values = self.by_word()
        names = tuple(tuple(word.strip() or "·" for word, _, _ in side) for side in self.words)
        title = f"similarity {self.output:.3f}"
        return MatrixView(title, names[0], names[1], values, limit or float(np.abs(values).max()) or 1.0)

    def _repr_html_(self) -> str:
        return self.view().html()

    def __repr__(self) -> str:
        lines = [f"similarity {self.output:.4f}, of {self.products} directions, residual {self.residual:.2g}"]
        if self.error.any():
            lines[0] += f", standard error of a pair at most {self.error.max():.1g}"
        lines += [f"  {a} – {b} {value:+.4g}" for a, b, value in self.pairs()]
        return "\n".join(lines)


def similarity(
    model: nn.Module,
    tokenizer: Any,
    first: str,
    second: str,
    *,
    cosine: bool = True,
    products: int | None = 64,
    seed: int = 0,
    **options: Any,
) -> Similarity:
    """Which words make two texts alike, for a model that embeds texts.

    Parameters
    ----------
    model : torch.nn.Module
        Its output is one vector a token, of which the mean is the text's embedding, or one vector a text.
    tokenizer : callable, or object with ``encode``
    first, second : str
    cosine : bool
        Divide by the lengths of the embeddings, which count as constants.
    products : int, optional
        How many directions at most; ``None`` takes all of them, and has no error.
    seed : int
        Of the directions that are drawn.
    **options
        As of `backlight.Explainer`: rules, output, strict …

    Raises
    ------
    ArgumentError, DataError
    """
    model = taken(model, tokenizer)
    encoded = Encoder(tokenizer)([first, second])
    mask = encoded.inputs["attention_mask"]
    given = encoded.for_model(model)
    both = _embeddings(model, given, mask, options)
    width = both.shape[1]
    if products is not None and products < 3:
        raise ArgumentError(f"products={products}: the two embeddings take two directions, and one more is drawn")
    sure, drawn = _directions(both, width if products is None else min(products, width), seed)
    targets: list[Any] = [Pooled(u, mask) for u in (*sure, *drawn)]
    ex = Explainer(model, targets, **options)(given)
    flow = torch.as_tensor(np.array(ex.values))
    scale = 1 / float(both[0].norm() * both[1].norm()) if cosine else 1.0
    outer = torch.einsum("ik,jk->kij", flow[0], flow[1]) * scale
    whole, error = _summed(outer, len(sure), width)
    sizes = mask.sum(1).tolist()
    keep = (slice(0, sizes[0]), slice(0, sizes[1]))
    tokens = [tuple(str(t) for t in encoded.annotations["token"][k, : sizes[k]]) for k in range(2)]
    shown = Explanation(np.ones(mask.shape), np.zeros(2), np.zeros(2), annotations=encoded.annotations)
    words = tuple(
        tuple((span.text, span.start, span.stop) for span in spans(shown, k) if span.stop <= sizes[k]) for k in range(2)
    )
    return Similarity(
        whole[keep].numpy(), float(both[0] @ both[1]) * scale, error[keep].numpy(), len(targets), tokens[0], tokens[1],
        (words[0], words[1]),
    )  # fmt: skip


def _embeddings(model: nn.Module, given: dict[str, Tensor], mask: Tensor, options: dict[str, Any]) -> Tensor:
    """Both texts' embeddings, (2, width), in double precision."""
    kept = _Width(mask)
    Explainer(model, kept, **options)(given)
    return kept.seen[-1].double()


@dataclass(slots=True, eq=False)
class _Width(Linear):
    """Keeps the embeddings that it is shown."""

    mask: Tensor
    name: str = "embedding"
    at_last: bool = False
    seen: list[Tensor] = field(default_factory=list)

    def seed(self, output: Tensor, last: Tensor | None) -> Tensor:  # noqa: ARG002
        """See `Linear.seed`."""
        if output.dim() not in (2, 3):
            raise ArgumentError(f"outputs of shape {tuple(output.shape[1:])} are no embeddings of texts or tokens")
        pooled = output if output.dim() == 2 else (weights(self.mask, output)[:, :, None] * output).sum(1)
        self.seen.append(pooled.detach().cpu())
        return torch.zeros_like(output)


def _directions(both: Tensor, count: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Orthonormal directions: those that both embeddings lie in, and others drawn at random."""
    width = both.shape[1]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(width, max(count - 2, 0), generator=generator, dtype=torch.float64)
    spread = torch.linalg.svdvals(both)
    rank = int((spread > 1e-9 * spread.max()).sum())
    basis = torch.linalg.svd(both.t(), full_matrices=False).U[:, :rank]
    drawn = drawn if rank == 2 or count < width else torch.randn(width, count - rank, generator=generator).double()
    rest = torch.linalg.qr(drawn - basis @ (basis.t() @ drawn)).Q if drawn.numel() else drawn
    return list(basis.t()), list(rest.t())


def _summed(outer: Tensor, sure: int, width: int) -> tuple[Tensor, Tensor]:
    """The sum over all directions from a part of them, and its standard error."""
    known, drawn = outer[:sure].sum(0), outer[sure:]
    count, rest = len(drawn), width - sure
    if not count or not rest:
        return known, torch.zeros_like(known)
    whole = known + drawn.mean(0) * rest
    if count == rest:
        return whole, torch.zeros_like(known)
    spread = drawn.var(0) if count > 1 else drawn.square().mean(0)
    return whole, rest * (spread / count * (1 - count / rest)).sqrt()
