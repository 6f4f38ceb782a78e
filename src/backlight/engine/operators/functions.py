r"""Functions of several values without weights: norms, distances, spreads, products of many, log-sum-exp.

**Homogeneous functions.** :math:`f(t x) = t^d f(x)` gives :math:`\sum_i x_i \partial_i f = d f` (Euler): gradient ×
input, divided by the degree, hands on all relevance. A norm, a distance and a standard deviation have degree one, a
variance two, a product of k signals k, so that each takes the k-th part, as in a product of two. What a constant among
the arguments takes of it stands in the ledger.

**Weights that sum to one.** The gradient of a log-sum-exp is a softmax, whose weights share out relevance: the smooth
form of the winner who takes all. Source: Kauffmann et al., "From clustering to cluster explanations via neural
networks", IEEE TNNLS 2022. A log-softmax is the difference of a value and its log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from backlight.engine.graph import Node, Ref
from backlight.engine.operators.products import is_factor, one_product
from backlight.engine.operators.registry import Context, find, operator
from backlight.engine.steps import DEFAULTS, LedgerRecorder, Messages, Site, Step, Transposed, TransposedStep
from backlight.rules import Facts, Message, Rule, as_gradient, relevance

__all__ = ["homogeneous"]

_DEGREES = {
    "std": 1, "var": 2, "linalg_vector_norm": 1, "norm": 1, "linalg_matrix_norm": 1, "frobenius_norm": 1,
    "nuclear_norm": 1, "dist": 1, "pairwise_distance": 1, "cdist": 1, "_cdist_forward": 1, "_euclidean_dist": 1,
    "hypot": 1, "quantile": 1, "nanquantile": 1,
}  # fmt: skip

# products of two signals that are no sum over one axis alone
_BILINEAR = frozenset({"linalg_cross", "cross", "linalg_vecdot", "bilinear", "kron", "outer", "ger"})


@operator(*_DEGREES)
def homogeneous(node: Node, context: Context) -> Site | None:
    """A function whose degree is known by its name."""
    carriers = context.carriers(node)
    # a distance adds a small number to the difference
    apart = node.op == "pairwise_distance" or len(carriers) < len([a for a in node.args if isinstance(a, Ref)])
    return _Homogeneous(node, carriers, "norm", None, _DEGREES[node.op], apart) if carriers else None


@operator("_trilinear")
def trilinear(node: Node, context: Context) -> Site | None:
    """What `bilinear` is made of: a sum over products of three, one of which is its weights."""
    return product_of_all(node, node.args[:3], context)


@operator(*_BILINEAR)
def bilinear(node: Node, context: Context) -> Site | None:
    """A product of two values, of which a factor takes nothing; what is added stays in the ledger."""
    factors = [argument for argument in node.args[:2] if context.carries(argument)]
    return _many(node, factors, context, constants=node.op == "bilinear")


@operator("einsum of several")
def einsum_of_several(node: Node, context: Context) -> Site | None:
    """Three factors and more, which the file of products leaves to this one."""
    given = node.args[1] if isinstance(node.args[1], Sequence) else node.args[1:]
    return product_of_all(node, given, context)


def product_of_all(node: Node, operands: Sequence[Any], context: Context) -> Site | None:
    """Of several factors: of an einsum, or a chain of matrices."""
    return _many(node, [argument for argument in operands if context.carries(argument)], context)


def _many(node: Node, carrying: list[Any], context: Context, *, constants: bool = False) -> Site | None:
    signals = [argument for argument in carrying if not is_factor(argument, context)] or carrying
    if not signals:
        return None
    carriers = tuple(argument.index for argument in signals)
    return _Homogeneous(node, carriers, "product", None, len(carriers), constants)


@operator("prod", "cumprod")
def product_along(node: Node, context: Context) -> Site | None:
    """Of n factors each takes the n-th part; of a running product the k-th value has k of them."""
    source = context.node(node.args[0])
    axis = node.args[1] if len(node.args) > 1 and not isinstance(node.args[1], torch.dtype) else None
    if source.shape is None or context.carriers(node) != (source.index,) or axis is None:
        return None
    sizes = list(source.shape)
    sizes.insert(source.rows or 0, 0)
    length = sizes[axis]
    if not length:
        return None
    degree: float | Tensor = float(length)
    if node.op == "cumprod":
        behind = len(sizes) - 1 - axis % len(sizes)
        degree = torch.arange(1.0, length + 1, dtype=node.dtype, device=context.device).view(-1, *(1,) * behind)
    return _Homogeneous(node, (source.index,), "product", None, degree, False)


@dataclass(slots=True)
class _Homogeneous(Site):
    degree: float | Tensor
    constants: bool

    def fits(self, rule: Rule) -> bool:
        return False

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        said = "Uniform()" if self.role == "product" else "gradient × input"
        why = "" if self.role == "product" else f"homogeneous of degree {self.degree:g}"
        return _HomogeneousStep(
            self.node, self.carriers, self.node.index, said, why=why, moves=False, leaks=self.constants,
            degree=self.degree,
        )  # fmt: skip


@dataclass(slots=True)
class _HomogeneousStep(TransposedStep):
    degree: float | Tensor = field(kw_only=True)

    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        leaves, out = record
        value = out.detach()
        down = self._transpose([out], leaves, [as_gradient(value, message) / self.degree])
        if bool((value == 0).any()):
            # a spread of zero has no gradient, and no relevance
            down = [None if c is None else c.masked_fill(torch.isnan(c), 0.0) for c in down]
        sent = [None if c is None else Message(c) for c in down]
        if self.leaks:
            entering = book.total(value, message, self.rows)
            left = self.leaving(leaves, sent, book)
            book.enter(self, entering, left, entering - left, by_row=True)
        else:
            book.undefined(self, value, message)
        found = dict(zip(dict.fromkeys(self.carriers), sent, strict=True))
        return [found.pop(index, None) for index in self.carriers]


# -- cosines: a product of two values, their lengths held constant -----------------------------------------------------


@operator("cosine_similarity")
def cosine(node: Node, context: Context) -> Site | None:
    """The two directions are multiplied, and what makes them directions is a spread."""
    signals = tuple(argument.index for argument in node.args[:2] if context.carries(argument))
    return one_product(replace(node, target=_cosine), signals) if signals else None


def _cosine(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    lengths = [value.detach().norm(dim=dim, keepdim=True).clamp_min(eps) for value in (x, y)]
    product: Tensor = x / lengths[0] * (y / lengths[1])
    return product.sum(dim)


@operator("renorm")
def renorm(node: Node, context: Context) -> Site | None:
    """A value times a factor by which it is shortened."""
    return Transposed(replace(node, target=_shortened), context.carriers(node), "sum", None)


def _shortened(x: Tensor, *options: Any) -> Tensor:
    factor: Tensor = torch.renorm(x.detach(), *options) / x.detach()
    shortened: Tensor = x * factor.masked_fill(x == 0, 0.0)
    return shortened


# -- log-sum-exp -------------------------------------------------------------------------------------------------------


@operator("logsumexp", "logcumsumexp", "logaddexp", "logaddexp2")
def log_sum_exp(node: Node, context: Context) -> Site | None:
    """Each takes its weight in the softmax."""
    carriers = context.carriers(node)
    return _Weighted(node, carriers, "maximum", None) if carriers else None


@dataclass(slots=True)
class _Weighted(Site):
    def fits(self, rule: Rule) -> bool:
        return False

    def emits_direct(self, rule: Rule | None) -> bool:
        return True

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        alone = len(self.carriers) == len([a for a in self.node.args[:2] if isinstance(a, Ref)])
        return _WeightedStep(
            self.node,
            self.carriers,
            self.node.index,
            "softmax shares",
            moves=True,
            leaks=not alone,
            constants=not alone,
        )


@dataclass(slots=True)
class _WeightedStep(TransposedStep):
    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        _, out = record
        return super(_WeightedStep, self).pull(record, Message(direct=relevance(out.detach(), message)), book)


@operator("log_softmax", "_log_softmax")
def log_softmax(node: Node, context: Context) -> Site | None:
    """A value less its log-sum-exp."""
    carriers = context.carriers(node)
    return _LogSoftmax(node, carriers, "norm", None) if carriers else None


@dataclass(slots=True)
class _LogSoftmax(Site):
    def fits(self, rule: Rule) -> bool:
        return False

    def emits_direct(self, rule: Rule | None) -> bool:
        return True

    def bind(self, rule: Rule | None, facts: Facts) -> Step:
        return _LogSoftmaxStep(
            self.node, self.carriers, self.node.index, "softmax shares", moves=False, leaks=False,
            why="a value less its log-sum-exp",
        )  # fmt: skip


@dataclass(slots=True)
class _LogSoftmaxStep(TransposedStep):
    def pull(self, record: Any, message: Message, book: LedgerRecorder) -> Sequence[Messages | None]:
        (leaf,), out = record
        x, y = leaf.detach(), out.detach()
        book.undefined(self, y, message)
        c = as_gradient(y, message)
        axis = (self.node.args[1] if len(self.node.args) > 1 else self.node.kwargs["dim"]) % y.dim() + 1
        # x − y is the log-sum-exp at every place, and exp(y) the softmax
        taken = c.sum(axis, keepdim=True) * (x - y)
        return (Message(c, -taken * y.exp()),)


@operator("scatter_reduce", "index_reduce")
def scattered(node: Node, context: Context) -> Site | None:
    """What is gathered in a place is added up there, or the largest is picked."""
    reduce = node.args[4] if len(node.args) > 4 else node.kwargs.get("reduce")
    kind = {"sum": "index_add", "mean": "index_add", "amax": "maximum", "amin": "maximum"}.get(str(reduce))
    maker = None if kind is None else find(kind)
    return None if maker is None else maker(node, context)


# -- linear in what is left when constants and gates are held ----------------------------------------------------------


@operator("lerp")
def lerp(node: Node, context: Context) -> Site | None:
    """X + w (y − x): of a gate between two signals, which is held constant, and of constants."""
    signals = [argument for argument in node.args[:2] if context.carries(argument)]
    weight = node.args[2]
    if not signals or (context.carries(weight) and not is_factor(weight, context)):
        return None
    leaks = len(signals) < 2
    return Transposed(node, tuple(argument.index for argument in signals), "sum", DEFAULTS["sum"], leaks=leaks)


@operator(
    "linalg_solve",
    "_linalg_solve_ex",
    "linalg_solve_triangular",
    "_sparse_mm",
    "grid_sampler",
    "grid_sampler_2d",
    "grid_sampler_3d",
)
def held(node: Node, context: Context) -> Site | None:
    """Linear in one argument: the right side of equations, the picture that is sampled at places of a grid."""
    # the matrix stands first
    signal, other = node.args[:2] if node.op.startswith("grid") else (node.args[1], node.args[0])
    if not context.carries(signal) or (context.carries(other) and not node.op.startswith("grid")):
        return None
    # places steer where a picture is looked at; they hold no part of it
    return Transposed(node, (signal.index,), "sum", DEFAULTS["sum"])
