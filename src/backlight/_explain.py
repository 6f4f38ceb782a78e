"""`explain`: one call for every model."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from backlight._version import __version__
from backlight.attribution import Method, explain_module
from backlight.classical import NeuralizedModel, Relevance, neuralize
from backlight.classical.layers.composition import Deep
from backlight.classical.targets import Outputs
from backlight.errors import ArgumentError, DataError
from backlight.explanation import Explanation, Ledger
from backlight.tables import Frame, as_frame

__all__ = ["explain", "versions"]

Progress = Callable[[int, int], None]


def explain(
    model: Any,
    X: Any,
    target: Any = None,
    *,
    method: str | Method = "lrp",
    rules: Any = "auto",
    score: str | None = None,
    reference: Any = None,
    layers: Any = None,
    canonical: bool = False,
    strict: bool = False,
    batch_size: int | str = "auto",
    device: Any = None,
    feature_names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool | Progress | None = None,
) -> Explanation:
    """Explain a model's score: how much each input contributed to it.

    Parameters
    ----------
    model : fitted scikit-learn estimator or Pipeline, torch.nn.Module, exported program, or what `neuralize` returned
        See `neuralize` for the scikit-learn models. A module is explained as it is, and left as it is; it must be in
        evaluation mode where that matters.
    X : table of shape (n, d), tensor of shape (n, *features), or an iterable of such batches
        NumPy, pandas, polars, pyarrow, scipy sparse, torch. For modules also a tuple of several inputs, a dict of
        inputs by name, or a ``DataLoader``, whose batches may be (inputs, labels). Numbers are cast to the module's
        dtype.
    target : int, array of int, callable, direction, list or "all", optional
        What a module's explanation is of. An output's index; one index a row; a function from the output to one number
        a row, such as ``lambda y: y[:, 3] - y[:, 5]``; a float direction over the outputs; a list of these or
        ``"all"``, for which ``values`` get a last axis. An index of outputs with positions, as of a segmentation,
        means the sum over them. By default the predicted class, or the only output. A softmax at the end is not part
        of it: the logit is explained. Of scikit-learn's classifiers and clusterings an index or a name, one index a
        row, a direction, a list or ``"all"``; models with one score have no target.
    method : str or Method, default "lrp"
        For modules also ``"gradient"``, ``"gradient_x_input"``, and with Captum ``"integrated_gradients"``,
        ``"smoothgrad"``, ``"occlusion"``, ``"shapley"``; ``Method("shapley", samples=100)`` gives options.
    rules : str, rule or Composite, default "auto"
        For modules a preset's name (see ``backlight.presets``), a `Composite`, or one rule for all layers; ``"auto"``
        looks at the network, and the plan says why. Models of scikit-learn have the rules of their layers, by name:
        see ``backlight.rules``; for one-class models and densities ``"auto"`` is ``Stable(tau=0.01)``.
    score : str, optional
        Which score of a scikit-learn model is explained; see `neuralize`.
    reference : table, array, dict or float, optional
        Detectors: rows that count as usual, for scores that say how normal a row is ("inlierness"). Linear models and
        trees: rows whose mean relevance is counted from. Kernel regressions: the value it is counted from. Modules: the
        point that counts as "nothing here", one row, by default zero; for several inputs a dict.
    layers : str or sequence of str, optional
        Names or patterns of places (see `plan`) at which relevance is wanted too, in ``ex.layers``.
    canonical : bool, default False
        Explain a module's canonical form (see `canonize`), which is the same for every way to write its function: rules
        are bound to its layers, and ``layers`` are named as they are there.
    strict : bool, default False
        Raise where relevance is lost or an operator has no rule, instead of a warning. For detectors: where more than
        1e-9 of a score and its parts is left unexplained.
    batch_size : int or "auto"
        Rows at once.
    device : optional
        Where a module's explanation is computed; by default where its parameters are.
    feature_names : sequence of str, optional
        For data that carry no names.
    seed : int
        For the methods that draw at random. The random state of torch and NumPy is left alone.
    progress : bool or callable, optional
        ``True`` writes the count of rows to the terminal; a callable gets (rows done, rows in all).

    Returns
    -------
    Explanation
        Tables in the original columns and units: one-hot blocks are summed, imputed cells marked. For modules
        ``values`` have the shape of the inputs; several inputs are one axis of features, one after the other.

    Raises
    ------
    UnsupportedModel, UnsupportedOperator, ConservationError, ColumnsError, DataError, ArgumentError

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.neighbors import KernelDensity
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import backlight
    >>> wine = load_wine()
    >>> model = make_pipeline(StandardScaler(), KernelDensity(bandwidth=0.8)).fit(wine.data)
    >>> ex = backlight.explain(model, wine.data[:2], feature_names=wine.feature_names)
    >>> ex[0].top(1)[0][0][0]
    'proline'
    >>> bool(abs(ex.residual).max() < 1e-9)
    True
    """
    module = _own_module(model)
    if module is not None:
        if score is not None:
            raise ArgumentError(f"score={score!r} does not apply to a torch module: leave it out, or give target=")
        return explain_module(
            module, X, target, method=method, rules=rules, reference=reference, layers=layers, canonical=canonical,
            strict=strict, batch_size=batch_size, device=device, feature_names=feature_names, seed=seed,
            report=_reporter(progress), versions=versions(),
        )  # fmt: skip
    if str(device) not in ("None", "cpu"):
        raise ArgumentError(f"device={device!r} does not apply to a neuralized model in this version: leave it out")
    names = list(feature_names) if feature_names is not None else None
    network = _network(model, score, X, names)
    if isinstance(network.layer, Deep):
        if layers is not None:
            raise ArgumentError(
                f"layers={layers!r} does not apply to a neuralized model: explain the module itself, "
                "neuralize(model).layer.module"
            )
        options = {"method": method, "rules": rules, "layers": None, "canonical": canonical, "seed": seed}
        return _explain_perceptron(
            network, network.layer, X, target, reference, names, strict, batch_size, options, progress
        )
    if method != "lrp":
        raise ArgumentError(f"method={method!r} is not available in this version: use method='lrp'")
    for name, value, default in (("layers", layers, None), ("canonical", canonical, False)):
        if value is not default:
            raise ArgumentError(f"{name}={value!r} does not apply to a neuralized model in this version: leave it out")
    rule = network.rule(rules)

    def piece(frame: Frame, wanted: Any) -> Relevance:
        return network.relevance(frame, rule, reference, target=wanted)

    found, frames = _all_batches(piece, network.front, X, target, names, batch_size, progress)
    flow = np.stack(list(found.entering.values()))
    ledger = Ledger(
        tuple(found.entering)[:-1],
        (network.score.name, repr(rule), *["shares"] * len(flow))[: len(flow) - 1],
        flow[:-1],
        flow[1:],
    )
    method = getattr(rule, "method", None) or f"lrp ({getattr(rule, 'name', rule)})"
    return _dressed(
        found, frames, network.feature_names, names, strict, score=network.score.name, method=method, ledger=ledger,
        provenance={
            "model": network.kind, "rule": repr(rule), "seed": seed, "versions": versions(),
            "outputs": list(network.score.outputs.names),
        },
    )  # fmt: skip


def _all_batches(
    piece: Callable[[Frame, Any], Relevance],
    front: Any,
    X: Any,
    target: Any,
    names: list[str] | None,
    batch_size: int | str,
    progress: bool | Progress | None,
) -> tuple[Relevance, list[Frame]]:
    """The relevance of all batches, and their tables in the model's order."""
    parts, frames, done = [], [], 0
    total = X.shape[0] if hasattr(X, "shape") else 0
    report = _reporter(progress)
    a_row = isinstance(target, np.ndarray | torch.Tensor) and target.ndim == 1 and not _is_direction(target)
    if a_row and total and len(target) != total:
        raise ArgumentError(f"target has {len(target)} indices for {total} rows: give one index a row")
    for frame in _batches(X, names, batch_size):
        parts.append(piece(frame, target[done : done + len(frame)] if a_row else target))
        frames.append(front.align(frame))
        done += len(frame)
        report(done, max(done, total))
    return Relevance.joined(parts), frames


def _is_direction(target: Any) -> bool:
    return bool(np.issubdtype(np.asarray(target).dtype, np.floating))


def _dressed(
    found: Relevance,
    frames: list[Frame],
    feature_names: Sequence[str],
    names: list[str] | None,
    strict: bool,
    *,
    score: str,
    method: str,
    ledger: Ledger | None,
    provenance: dict[str, Any],
) -> Explanation:
    several = found.output.ndim == 2
    one = found.names[0] if found.names else ""
    target = score if several or not one else f"{score} of {'the predicted output' if one == 'predicted' else one}"
    ex = Explanation(
        values=found.values,
        output=found.output,
        base_values=found.base_values,
        data=np.concatenate([frame.matrix() for frame in frames]),
        feature_names=tuple(frames[0].names) if frames[0].named or names else tuple(feature_names),
        output_names=found.names if several else (one if one not in ("", "predicted") else score,),
        target=target,
        method=method,
        dims=("row", "feature", "output") if several else ("row", "feature"),
        provenance=provenance,
        ledger=ledger,
        annotations=found.annotations,
        labels=None if frames[0].labels is None else np.concatenate([f.labels for f in frames if f.labels is not None]),
        kind=frames[0].kind,
    )
    if strict:
        _require_conservation(ex)
    return ex


def _explain_perceptron(
    network: NeuralizedModel,
    layer: Deep,
    X: Any,
    target: Any,
    reference: Any,
    names: list[str] | None,
    strict: bool,
    batch_size: int | str,
    options: dict[str, Any],
    progress: bool | Progress | None,
) -> Explanation:
    """A perceptron's elements through the relevance engine, their relevance summed into the table's columns."""
    outputs = network.score.outputs
    start = None
    if reference is not None:
        start = network.point(network.encode(reference)).e.mean(0, keepdim=True)
    several = Outputs.several(target)
    found: list[Explanation] = []

    def piece(frame: Frame, wanted: Any) -> Relevance:
        coded = network.encode(frame)
        point = network.point(coded)
        network.compare(frame)
        values, output, base = [], [], []
        chosen = outputs.targets(wanted, len(coded))
        units = layer(point)
        for one in chosen:
            c = outputs.coefficients(one, units.detach())
            ex = explain_module(
                layer.module, point.e, lambda y, c=c: (y.reshape(len(y), -1) * c.to(y)[: len(y)]).sum(1),
                method=options["method"], rules=options["rules"], reference=start, layers=options["layers"],
                canonical=options["canonical"], strict=strict, batch_size=len(coded), device=None, feature_names=None,
                seed=options["seed"], report=lambda done, total: None, versions=versions(),
            )  # fmt: skip
            found.append(ex)
            values.append(network.front.pullback.columns(torch.as_tensor(ex.values.copy())).numpy())
            output.append(np.asarray(ex.output))
            base.append(np.asarray(ex.base_values))
        imputed = {"imputed": np.asarray(network.front.missing(coded))}
        if outputs.names and not several and chosen[0].direction is None:
            imputed["target"] = outputs.index(chosen[0], units.detach()).numpy()
        flow = {"logit": sum(output), "columns": sum(value.sum(1) for value in values)}
        if several:
            stacked = np.stack(values, 2), np.stack(output, 1), np.stack(base, 1)
        else:
            stacked = values[0], output[0], base[0]
        return Relevance(*stacked, imputed, flow, tuple(one.name for one in chosen))

    result, frames = _all_batches(piece, network.front, X, target, names, batch_size, progress)
    return _dressed(
        result, frames, network.feature_names, names, False,
        score=network.score.name, method=found[0].method, ledger=found[0].ledger if len(found) == 1 else None,
        provenance={**found[0].provenance, "model": network.kind, "outputs": list(network.score.outputs.names)},
    )  # fmt: skip


def _own_module(model: Any) -> torch.nn.Module | None:
    """The model as a module, where it is a network of the user's own."""
    if isinstance(model, torch.export.ExportedProgram):
        return model.module()
    return model if isinstance(model, torch.nn.Module) and not isinstance(model, NeuralizedModel) else None


def _network(model: Any, score: str | None, X: Any = None, names: list[str] | None = None) -> NeuralizedModel:
    if isinstance(model, NeuralizedModel):
        if score is not None and score != model.score.name:
            raise ArgumentError(
                f"the network computes {model.score.name!r}, not {score!r}: neuralize(model, score={score!r}) first"
            )
        return model
    columns = as_frame(X, names).take(slice(0, 1)).names if hasattr(X, "shape") else names
    return neuralize(model, score=score, columns=columns)


def _batches(X: Any, names: list[str] | None, batch_size: int | str) -> Any:
    if batch_size != "auto" and not (isinstance(batch_size, int) and batch_size > 0):
        raise ArgumentError(f"batch_size must be 'auto' or a positive number of rows, not {batch_size!r}")
    if (hasattr(X, "__iter__") and not hasattr(X, "__len__") and not hasattr(X, "shape")) or type(
        X
    ).__name__ == "DataLoader":
        for batch in X:
            yield as_frame(batch[0] if isinstance(batch, tuple | list) else batch, names)
        return
    frame: Frame = as_frame(X, names)
    step = 8192 if batch_size == "auto" else int(batch_size)
    for start in range(0, len(frame), step):
        yield frame.take(slice(start, start + step))


def _reporter(progress: bool | Progress | None) -> Progress:
    if callable(progress):
        return progress
    if progress:
        return _to_terminal
    return lambda done, total: None


def _to_terminal(done: int, total: int) -> None:
    sys.stderr.write(f"\r{done} of {total} rows" + ("\n" if done >= total else ""))
    sys.stderr.flush()


def _require_conservation(ex: Explanation) -> None:
    # A score near zero is the difference of its parts, whose rounding it inherits.
    parts = np.abs(np.asarray(ex.output)) + np.abs(ex.base_values) + np.abs(ex.values).sum(1)
    off = np.abs(ex.residual) - 1e-9 * parts
    worst = int(np.argmax(off))
    if off[worst] > 0:
        raise DataError(
            f"row {worst}: {ex.residual[worst]:.3g} of the score {ex.output[worst]:.6g} is left unexplained "
            "(more than 1e-9 of its parts): leave strict out to see it in ex.residual"
        )


def versions() -> dict[str, str]:
    """Versions of everything that the numbers depend on."""
    import sklearn

    return {
        "backlight": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }
