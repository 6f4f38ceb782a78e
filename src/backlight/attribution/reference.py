"""The reference attributions, on the unchanged model: what relevance is compared with.

Gradient and gradient × input are two lines of autograd. Integrated gradients, SmoothGrad, occlusion and Shapley
sampling are Captum's, called on a function of the inputs to the explained score, with the user's random state put
aside.

Sources: Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017; Smilkov et al., "SmoothGrad",
2017; Zeiler, Fergus, "Visualizing and understanding convolutional networks", ECCV 2014; Castro, Gómez, Tejada,
"Polynomial calculation of the Shapley value based on sampling", Computers & OR 36, 2009.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from backlight.attribution.inputs import Batch
from backlight.attribution.lrp import Attributed, outputs_for, point_of, whole_of
from backlight.attribution.requested import Targets
from backlight.attribution.targets import Seeds, resolve
from backlight.attribution.tokens import last_tokens
from backlight.engine.capture import input_names, light_copy, own_inputs, undisturbed, with_outputs
from backlight.engine.checks import model_keeps_rows_apart
from backlight.engine.copies import Inputs, called, run_once
from backlight.engine.network import Network
from backlight.engine.outputs import choose
from backlight.errors import ArgumentError, UnsupportedModel, listed, require, warn
from backlight.explanation.faces import as_words
from backlight.references import Reference as Shared

__all__ = ["REFERENCES", "Method", "ReferenceMethod", "method", "named_method"]


@dataclass(frozen=True, slots=True)
class Question:
    """One target of one batch.

    Attributes
    ----------
    score : callable
        From the floating inputs to (n,).
    inputs : tuple of Tensor
        The floating inputs.
    points : tuple of Tensor
        The reference points, broadcast against them; zero where none is given.
    options : dict
    """

    score: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    points: tuple[Tensor, ...]
    options: dict[str, Any]


Function = Callable[[Question], tuple[Tensor, ...]]


class Method:
    """A reference method with options of its own: ``explain(…, method=Method("shapley", samples=100))``.

    ``integrated_gradients`` has steps (64); ``smoothgrad`` noise (0.1 of the range) and samples (32); ``occlusion``
    patch (side in pixels); ``shapley`` patch and samples (25 orders).

    Examples
    --------
    >>> Method("integrated_gradients", steps=200)
    Method('integrated_gradients', steps=200)
    """

    __slots__ = ("name", "options")

    def __init__(self, name: str, **options: float) -> None:
        self.name, self.options = name, options

    def _repr_html_(self) -> str:
        return as_words(repr(self))

    def __repr__(self) -> str:
        told = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"Method({self.name!r}{told})"


class Reference(NamedTuple):
    """A registered method: its function, whether it explains f(x) − f(reference), and the options it has."""

    function: Function
    differs: bool
    options: tuple[str, ...]


REFERENCES: dict[str, Reference] = {}


def method(name: str, *, differs: bool = False, options: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Register a reference method; ``differs``: its values add up to f(x) − f(reference)."""

    def register(function: Function) -> Function:
        REFERENCES[name] = Reference(function, differs, options)
        return function

    return register


@dataclass(slots=True)
class ReferenceMethod:
    """Explains batches of one model by one of the reference methods."""

    model: nn.Module
    name: str
    reference: Any
    seed: int
    options: dict[str, Any]
    output: Any = None
    strict: bool = False

    def _require_separate_rows(self, inputs: Inputs) -> None:
        shapes = [(tuple(leaf.shape), leaf.dtype) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        key = ("rows apart", repr(shapes))
        if Network.of(self.model).derived(key, lambda: model_keeps_rows_apart(self.model, inputs)):
            return
        said = (
            "the rows of a batch see each other: values of a row are what it does for the scores of all rows together; "
            "batch_size=1 explains each row alone"
        )
        if self.strict:
            raise UnsupportedModel(said)
        warn(said)

    def __call__(self, batch: Batch, targets: Targets) -> Attributed:
        words = embedded(self.model, batch, self.reference)
        if words is None:
            return self._explained(batch, targets, {})
        name, ids, replaced, point = words
        inner = replace(self, reference={"inputs_embeds": point})
        found = inner._explained(replaced, targets, {name: ids})
        # a token has what its vector has
        return Attributed({name: ids}, {name: found.values["inputs_embeds"].sum(-1)}, found.seeds, found.base)

    def _refuse_unknown(self, known: Any) -> None:
        for option in self.options:
            if option not in known:
                has = f"it has {listed(known)}" if known else "it has no options"
                raise ArgumentError(f"{option!r} is no option of {self.name!r}: {has}")

    def _explained(self, batch: Batch, targets: Targets, beside: dict[str, Tensor]) -> Attributed:
        """``beside``: inputs that say where texts end, and that the model is not given."""
        outputs = outputs_for(self.output, targets)
        model, _ = with_outputs(light_copy(self.model, buffers="apart"), outputs)
        leaves, spec = pytree.tree_flatten((batch.args, batch.kwargs))
        floating = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not floating:
            raise ArgumentError(
                f"method={self.name!r} needs an input of floating-point numbers, or token numbers of a model that "
                "takes inputs_embeds"
            )
        names = input_names(model, batch.args, batch.kwargs)

        def output(*inputs: Tensor) -> Tensor:
            # captum repeats rows; inputs that are not explained are repeated with them
            factor = len(inputs[0]) // batch.rows
            given = [
                leaf.repeat(factor, *(1,) * (leaf.dim() - 1))
                if factor > 1 and isinstance(leaf, Tensor) and leaf.dim()
                else leaf
                for leaf in leaves
            ]
            for k, value in zip(floating, inputs, strict=True):
                given[k] = value
            args, kwargs = own_inputs(pytree.tree_unflatten(given, spec))
            return only_output(called(model, args, kwargs))

        inputs = tuple(leaves[k] for k in floating)
        with torch.inference_mode(False):
            taken, layout = outputs.take(run_once(self.model, (batch.args, batch.kwargs)))
            plain = only_output(taken)
            self._require_separate_rows((batch.args, batch.kwargs))
            answer = whole_of(layout, targets, lambda out: out)
            given = dict(zip(names, leaves, strict=True)) | beside
            seeds = resolve(targets, plain, answer, last=last_tokens(given, plain))
            points = tuple(
                torch.zeros_like(x[:1])
                if (point := point_of(self.reference, names[k], x, len(floating))) is None
                else point
                for k, x in zip(floating, inputs, strict=True)
            )
            function, differs, known = REFERENCES[self.name]
            self._refuse_unknown(known)
            found: list[tuple[Tensor, ...]] = []
            base = torch.zeros_like(seeds.scores)
            with undisturbed(), _own_randomness(self.seed), warnings.catch_warnings():
                # captum warns of what it does to its own copies of the inputs
                warnings.filterwarnings("ignore", module="captum")
                for k in range(len(seeds.gradient)):
                    wanted = None if not targets.items else targets.items[k].function
                    score = _score(wanted, seeds, k, output, answer, batch.rows)
                    question = Question(score, inputs, points, self.options)
                    found.append(function(question))
                    if differs:
                        with torch.no_grad():
                            away = tuple(p.expand_as(x) for p, x in zip(points, inputs, strict=True))
                            base[k] = question.score(*away)
        values = {
            names[k]: torch.stack([parts[j].detach() for parts in found]).to(inputs[j]) for j, k in enumerate(floating)
        }
        return Attributed({names[k]: leaves[k] for k in floating}, values, seeds, base)


def embedded(model: nn.Module, batch: Batch, reference: Any) -> tuple[str, Tensor, Batch, Tensor] | None:
    """Token numbers as the vectors that a model would look up, where it takes these too, and those of the reference.

    Returns
    -------
    (name, ids, batch, point) or None
        The reference is zero vectors, the vectors of token numbers, or vectors.
    """
    tensors = [leaf for leaf in pytree.tree_leaves((batch.args, batch.kwargs)) if isinstance(leaf, Tensor)]
    table = getattr(model, "get_input_embeddings", None)
    known = inspect.signature(model.forward).parameters
    ids = batch.kwargs.get("input_ids", batch.args[0] if len(batch.args) == 1 else None)
    takes = "inputs_embeds" in known and next(iter(known)) == "input_ids"
    whole = not any(t.is_floating_point() for t in tensors)
    if table is None or not takes or not whole or not isinstance(ids, Tensor):
        return None
    look_up = light_copy(table(), buffers="apart")
    with torch.inference_mode(False), torch.no_grad():
        vectors = look_up(ids)
        given = reference.get("input_ids") if isinstance(reference, dict) else reference
        given = given.origin() if isinstance(given, Shared) else given
        point = torch.zeros_like(vectors[:1])
        if given is not None:
            point = torch.as_tensor(given, device=ids.device)
            point = look_up(point) if not point.is_floating_point() else point.to(vectors)
    others = {name: value for name, value in batch.kwargs.items() if name != "input_ids"}
    return "input_ids", ids, replace(batch, args=(), kwargs={**others, "inputs_embeds": vectors}), point


def _score(
    wanted: Callable[[Any], Any] | None,
    seeds: Seeds,
    k: int,
    output: Callable[..., Tensor],
    answer: Callable[[Tensor], Any],
    rows: int,
) -> Callable[..., Tensor]:
    """The k-th target as a function of the inputs, for the rows and for repetitions of them."""

    def score(*inputs: Tensor) -> Tensor:
        out = output(*inputs)
        if wanted is not None:
            return wanted(answer(out))  # type: ignore[no-any-return]
        # which output is explained was decided on the rows as they are
        seed = seeds.gradient[k]
        seed = seed.repeat(len(out) // rows, *(1,) * (seed.dim() - 1))
        return (out * seed).flatten(1).sum(1) if out.dim() > 1 else out * seed

    return score


@method("gradient")
def gradient(question: Question) -> tuple[Tensor, ...]:
    """∂f/∂x: what a small change does. It is no share of the score."""
    with torch.enable_grad():
        leaves = tuple(x.detach().clone().requires_grad_() for x in question.inputs)
        return torch.autograd.grad(question.score(*leaves).sum(), leaves)


@method("gradient_x_input")
def gradient_x_input(question: Question) -> tuple[Tensor, ...]:
    """(x − reference) ∂f/∂x."""
    slopes = gradient(question)
    return tuple((x - p) * g for x, p, g in zip(question.inputs, question.points, slopes, strict=True))


@method("integrated_gradients", differs=True, options=("steps",))
def integrated_gradients(question: Question) -> tuple[Tensor, ...]:
    """The gradient averaged on the way from the reference, times the way; it adds up to f(x) − f(reference)."""
    steps = int(question.options.get("steps", 64))
    explainer = _captum("integrated_gradients").IntegratedGradients(question.score)
    return tuple(
        explainer.attribute(
            question.inputs,
            baselines=question.points,
            n_steps=steps,
            internal_batch_size=max(len(question.inputs[0]), 32),
        )
    )


@method("smoothgrad", options=("noise", "samples"))
def smoothgrad(question: Question) -> tuple[Tensor, ...]:
    """The gradient averaged over noisy copies of the input; noise of 10 % of each input's range."""
    captum = _captum("smoothgrad")
    spread = tuple(
        float(question.options.get("noise", 0.1)) * float((x.max() - x.min()).clamp_min(1e-12)) for x in question.inputs
    )
    tunnel = captum.NoiseTunnel(captum.Saliency(question.score))
    samples = int(question.options.get("samples", 32))
    return tuple(
        tunnel.attribute(
            question.inputs, nt_type="smoothgrad", nt_samples=samples, nt_samples_batch_size=1, stdevs=spread, abs=False
        )
    )


@method("occlusion", options=("patch",))
def occlusion(question: Question) -> tuple[Tensor, ...]:
    """How much the score falls when a patch (images) or one feature (tables) is put to the reference.

    Patches overlap by half, and a pixel has the mean over the patches that cover it. Captum adds up in single
    precision.
    """
    windows = tuple(_window(x, question.options.get("patch")) for x in question.inputs)
    strides = tuple(tuple(max(1, (w + 1) // 2) if k else w for k, w in enumerate(window)) for window in windows)
    return tuple(
        _captum("occlusion").Occlusion(question.score).attribute(
            question.inputs, sliding_window_shapes=windows, strides=strides,
            baselines=tuple(p.expand_as(x) for p, x in zip(question.points, question.inputs, strict=True)),
            perturbations_per_eval=1,
        )
    )  # fmt: skip


@method("shapley", differs=True, options=("patch", "samples"))
def shapley(question: Question) -> tuple[Tensor, ...]:
    """Shapley values by sampling orders in which features, or patches of an image, join; sums to f(x) − f(reference).

    Captum adds up in single precision.
    """
    masks, offset = [], 0
    for x in question.inputs:
        mask = _groups(x, question.options.get("patch")) + offset
        offset = int(mask.max()) + 1
        masks.append(mask)
    explainer = _captum("shapley").ShapleyValueSampling(question.score)
    return tuple(
        explainer.attribute(
            question.inputs,
            baselines=tuple(p.expand_as(x) for p, x in zip(question.points, question.inputs, strict=True)),
            feature_mask=tuple(masks), n_samples=int(question.options.get("samples", 25)),
            perturbations_per_eval=1,
        )
    )  # fmt: skip


def named_method(method: str | Method) -> tuple[str, dict[str, Any]]:
    """A method's name, checked, and its options."""
    name, options = (method.name, method.options) if isinstance(method, Method) else (method, {})
    if name != "lrp" and name not in REFERENCES:
        raise ArgumentError(f"method={name!r} is not known: the methods are {listed(('lrp', *REFERENCES), 12)}")
    if name == "lrp" and options:
        raise ArgumentError("relevance propagation has no options: its rules say everything")
    return name, options


def _window(x: Tensor, patch: Any) -> tuple[int, ...]:
    """The part of one row that is taken away together: one feature of a table, a patch of an image."""
    if x.dim() == 4:
        side = int(patch) if patch is not None else max(1, min(x.shape[2:]) // 14)
        return (x.shape[1], min(side, x.shape[2]), min(side, x.shape[3]))
    return (*x.shape[1:-1], 1) if x.dim() > 2 else (1,)


def _groups(x: Tensor, patch: Any) -> Tensor:
    """Which features join together: each for itself, or patches of all channels; they spread evenly over a patch."""
    if x.dim() == 4:
        _, side, other = _window(x, patch)
        rows = torch.arange(x.shape[2], device=x.device) // side
        columns = torch.arange(x.shape[3], device=x.device) // other
        return (rows[:, None] * (int(columns.max()) + 1) + columns)[None, None].expand(1, x.shape[1], -1, -1)
    return torch.arange(x[0].numel(), device=x.device).view(1, *x.shape[1:])


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """A seed for what draws inside; the user's random state is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _captum(name: str) -> Any:
    return require("captum.attr", "captum", f"method={name!r}")


def only_output(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if not output:
        raise UnsupportedModel("the model returns no tensor of numbers with a fraction")
    found: Tensor = output[choose({name: tuple(value.shape[1:]) for name, value in output.items()})[0]]
    return found
