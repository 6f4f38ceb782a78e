"""`NeuralizedModel`: a classical model, rewritten as a network with the same score (one class)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backlight.attribution.reference import Method
from backlight.attribution.requested import Targets, read_targets
from backlight.classical import trust
from backlight.classical.frontend.columns import FrontEnd
from backlight.classical.frontend.features import Features
from backlight.classical.layers import EncodedRows, ForwardPass, Layer, Pullback, Query
from backlight.classical.layers.base import Account, Line
from backlight.classical.layers.inside import ended_at, places
from backlight.classical.targets import Outputs
from backlight.errors import ArgumentError, DataError, UnsupportedModel, UnsupportedOption, listed
from backlight.explanation import Attribution, Ledger
from backlight.explanation.display import number
from backlight.explanation.faces import as_table
from backlight.explanation.score_units import PLAIN, ScoreUnit
from backlight.hints import RowsLike
from backlight.references import Reference
from backlight.rules.expansion import Midpoint, SignedPools
from backlight.rules.softmin import SoftMinRule
from backlight.rules.trees import TreePath
from backlight.tables import Frame

__all__ = ["Inputs", "ModelSpec", "NeuralizedModel", "Score", "no_original"]

# Rows, and numbers, that go through at once; layers cut them further for the cache.
_BATCH, _NUMBERS = 8192, 1 << 24
# rows that a network is compared with its model on before it is believed
_COMPARED = 64
# what a model says of rows: its last step, and the whole where it has a method of the score's name
_Known = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What the layers of a model stand on: the front end before them.

    Attributes
    ----------
    features : Features
    n_columns : int
    pullback : Pullback
        The way back from the model's space to the columns.
    dtype : torch.dtype
    """

    features: Features
    n_columns: int
    pullback: Pullback
    dtype: torch.dtype

    def behind(self, features: Features) -> tuple[nn.Module, Inputs]:
        """The layers to other features of the same table, and what stands on them."""
        pullback = features.pullback(self.n_columns, self.dtype)
        return nn.Sequential(*features.layers), Inputs(features, self.n_columns, pullback, self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """One score of a model.

    Attributes
    ----------
    name : str
    layer : function of `Inputs` to the network
    reference : function of the original library's arguments
        The same score from the estimator itself: ``reference(estimator, z)`` of transformed rows z.
    outputs : Outputs
        Names of the targets where there are several; by default there is one output.
    unit : ScoreUnit
        What it is counted in.
    digits : bool
        False where the library's method of that name loses digits that ``reference`` keeps: it is not compared with.
    """

    name: str
    layer: Callable[[Inputs], Layer]
    reference: Callable[[Any, Any], np.ndarray]
    outputs: Outputs = field(default_factory=Outputs)
    unit: ScoreUnit = PLAIN
    digits: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class ModelSpec:
    """What a registered function tells `neuralize` about a fitted model.

    Attributes
    ----------
    kind : str
        What the model is, for people: "one-class SVM (RBF), 78 support vectors".
    scores : mapping of str to Score
        The first one is the default.
    threshold : float, optional
        The model's own alarm line, in the units of the score "outlierness".
    n_columns : int, optional
        How many columns the model takes, where the estimator does not say so itself.
    takes_missing : bool
        Whether cells may hold no value.
    columns : tuple of str, optional
        Their names, where the estimator knows them and not as ``feature_names_in_``.
    without : mapping of str to str
        Why the model has no network for a score that its users would ask for, and what to do.
    """

    kind: str
    scores: Mapping[str, Score]
    threshold: float | None = None
    n_columns: int | None = None
    takes_missing: bool = False
    columns: tuple[str, ...] | None = None
    without: Mapping[str, str] = field(default_factory=dict)


class NeuralizedModel(nn.Module):
    """A classical model as a network: front end, layers, score.

    Calling it gives the same score as the original library, to rounding. It takes a table of any kind, or a
    tensor of shape (n, columns) as `encode` makes it (for numeric tables: the numbers themselves).

    Attributes
    ----------
    front : FrontEnd
        From columns to the space of the model.
    layer : Layer
        From there to the score.
    score : Score
    feature_names : tuple of str
    threshold : float or None
        The model's own alarm line, in the units of the score "outlierness".
    takes_missing : bool
        Whether cells may hold no value.
    """

    def __init__(
        self,
        estimator: Any,
        transform: Callable[[Any], Any],
        front: FrontEnd,
        features: Features,
        head: ModelSpec,
        score: str | None,
        dtype: torch.dtype,
        whole: Any = None,
        inherited: bool = False,
    ) -> None:
        super().__init__()
        name = next(iter(head.scores)) if score is None else score
        if name in head.without:
            raise UnsupportedOption(f"score={name!r} of this {head.kind} {head.without[name]}")
        if name not in head.scores:
            known = ", ".join(repr(known) for known in head.scores)
            raise ArgumentError(f"score={score!r} is not a score of this {head.kind}: choose from {known}")
        self.front = front
        self.score = head.scores[name]
        self.layer = self.score.layer(Inputs(features, len(front.names), front.pullback, dtype))
        self.threshold = head.threshold
        self.kind = head.kind
        self.takes_missing = head.takes_missing
        self.dtype = dtype
        self._estimator = estimator
        self._transform = transform
        self._whole = estimator if whole is None else whole
        self.columns: tuple[str, ...] | None = None
        # Scores that a class inherits are all compared before any is trusted.
        inputs = Inputs(features, len(front.names), front.pullback, dtype)
        others = [other for other in head.scores.values() if inherited and other.name != name]
        self._doubted = [(self.score, self.layer), *((other, other.layer(inputs).to(dtype)) for other in others)]
        self._left, self._inherited = _COMPARED, inherited
        self._first: tuple[Frame, list[_Known]] | None = None
        self.to(dtype)
        self._written = self._writes()

    @classmethod
    def assembled(
        cls,
        front: FrontEnd,
        layer: Layer,
        score: Score,
        *,
        kind: str,
        threshold: float | None,
        takes_missing: bool,
        dtype: torch.dtype,
    ) -> NeuralizedModel:
        """A network from its parts, without the model that it was made of."""
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network.front, network.layer, network.score = front, layer, score
        network.kind, network.threshold, network.dtype = kind, threshold, dtype
        network.takes_missing = takes_missing
        network._estimator = network._whole = network.columns = None
        network._transform = no_original
        network._doubted, network._written = [], 0
        network._left, network._inherited, network._first = 0, False, None
        return network

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The table's columns."""
        return self.front.names

    @property
    def _step(self) -> int:
        """Rows at once: fewer where they are wide, as tokens of texts are."""
        width = max(1, len(self.front.names))
        return self.layer.rows if width * _BATCH <= _NUMBERS else max(1, min(self.layer.rows, _NUMBERS // width))

    def extra_repr(self) -> str:
        """What the module says of itself when printed."""
        return f"{self.kind}, score={self.score.name!r}, columns={len(self.feature_names)}"

    def _repr_html_(self) -> str:
        steps = [type(step).__name__ for step in self.front.elements]
        named = [(name, type(layer).__name__) for name, layer in self.layer.named_modules() if isinstance(layer, Layer)]
        rows = [
            [
                "score",
                " ".join(
                    part for part in (self.score.name, self.score.unit.name and f"({self.score.unit.name})") if part
                ),
            ],
            ["columns", listed(self.feature_names)],
            *([["from columns", " → ".join(steps)]] if steps else []),
            *([f"layer {name or 'score'}", kind] for name, kind in named),
            *([["threshold", number(self.threshold)]] if self.threshold is not None else []),
        ]
        return as_table(f"{self.kind}, as a network", ["", ""], rows)

    def fingerprint(self) -> str:
        """SHA-256 over everything that was learnt, for provenance."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        for module in self.modules():
            digest.update(module.learnt if isinstance(module, Layer) else b"")
        return digest.hexdigest()

    def rule(self, rules: Any = "auto", method: str | Method = "lrp", **options: Any) -> Any:
        """Read the ``rules`` argument of `backlight.explain`: a name, a rule, or "auto" for the layer's default.

        ``method`` and the options beside it are for layers that the relevance engine explains; see `Layer.rule`.
        """
        rule = self.layer.rule(rules, method, options)
        if rule is not None:
            return rule
        if method != "lrp":
            raise ArgumentError(f"method={method!r} needs hidden units: this {self.kind} is explained by 'lrp' alone")
        names = ", ".join(repr(name) for name in self.layer.rules)
        raise ArgumentError(
            f"rules={rules!r} does not fit this {self.kind}: give 'auto', one of {names}, or such a rule of "
            "backlight.rules"
        )

    def forward(self, x: Any) -> Tensor:
        """The score of each row, shape (n,); (n, targets) where the original method gives several."""
        coded = self.encode(x)
        step = self._step
        # The whole first: what the tensor's shape must be is said of all rows.
        parts = [self.layer(point) for point in self._points(coded, step)]
        return self.score.outputs.native(torch.cat(parts))

    def encode(self, X: RowsLike) -> Tensor:
        """A table as the numbers that the network takes, shape (n, columns).

        Numbers stay as they are, missing cells become NaN, categories become codes. A tensor is taken as encoded.
        """
        return (X if isinstance(X, Tensor) else self.front.encode(self.front.frame(X))).to(
            self.front.device_of(self.dtype)
        )

    def _points(self, coded: Tensor, step: int) -> list[EncodedRows]:
        whole = self.point(coded)
        if len(coded) <= step:
            return [whole]
        return [whole.take(slice(start, start + step)) for start in range(0, len(coded), step)]

    def point(self, coded: Tensor) -> EncodedRows:
        """Rows at every place of the front end."""
        if coded.ndim != 2 or coded.shape[1] != len(self.feature_names):
            raise DataError(
                f"the network takes a tensor of shape (rows, {len(self.feature_names)}), not {tuple(coded.shape)}"
            )
        e = self.front.elements(coded)
        z = self.front.pullback.embed(e)
        flat = z.detach().reshape(-1)
        if math.isfinite(float(flat.dot(flat))):
            return EncodedRows(coded, e, z)
        nothing = torch.isnan(z.detach())
        far = ~torch.isfinite(torch.where(nothing & self.takes_missing, 0.0, z.detach()).square().sum(1))
        if bool(far.any()):
            row = int(torch.nonzero(far)[0])
            self.front.check_finite(coded[row], row)
            if bool(nothing[row].any()):
                raise DataError(
                    f"row {row} has no number in the model's space: a category that it has not seen, or a value that a "
                    "step before it is not defined for"
                )
            raise DataError(
                f"row {row} is so far from the data that its squared distance overflows {self.dtype}: "
                "check its values, or scale the columns first"
            )
        return EncodedRows(coded, e, z)

    def activations(self, X: RowsLike) -> dict[str, np.ndarray]:
        r"""What the hidden layer of a soft-min model says of rows: one-class SVMs, kernel densities, mixtures.

        Returns
        -------
        dict
            ``"distance"``: D_j of each anchor, (n, anchors); :math:`\gamma \lVert x - u_j \rVert^2` of Gaussian
            kernels. ``"weight"``: the pool's :math:`p_j \propto \alpha_j e^{-D_j}`; each row adds up to one.

        Raises
        ------
        ArgumentError
            The model has no such layer.
        """
        with torch.no_grad():
            found = self.layer.activations(self.point(self.encode(X)))
        if not found:
            raise ArgumentError(f"a {self.kind} has no soft-min pool: call net(X) for its score")
        return {name: value.numpy() for name, value in found.items()}

    @property
    def estimator(self) -> Any:
        """The model that the network was made of; None where it was read from a file."""
        return self._estimator

    def original(self, method: str, X: RowsLike) -> np.ndarray | None:
        """What a method of the original model says of the rows of a table; None where it has no such method."""
        asked = getattr(self._estimator, method, None)
        return None if asked is None else np.asarray(asked(self._transform(self.front.native(self.front.frame(X)))))

    def reference_score(self, X: RowsLike) -> np.ndarray:
        """The same score, computed by the original library: what calling the network must equal.

        Scikit-learn is given float64, whatever the precision of X. A one-class SVM's score far from the data has no
        digits left (it is a sum minus the offset plus the offset); there the logarithm is taken of the same sum in
        extended range, by SciPy's distances and log-sum-exp.
        """
        return self.score.reference(self._estimator, self._transform(self.front.native(self.front.frame(X))))

    def reference_of(self, reference: Any, rule: Any) -> EncodedRows | float | None:
        """Read the ``reference`` argument of `backlight.explain`: rows at every place of the front end, or a level."""
        if reference is None or isinstance(reference, EncodedRows):
            return reference
        reference = reference.population() if isinstance(reference, Reference) else reference
        level = isinstance(reference, int | float | np.number)
        self._check_reference(level, rule)
        return float(reference) if level else self.point(self.encode(reference))

    def relevance(
        self,
        X: Any,
        rule: Any,
        reference: Any = None,
        own: np.ndarray | None = None,
        target: Any = None,
        layers: Sequence[str] = (),
    ) -> Attribution:
        """Relevance of every column for every row.

        Parameters
        ----------
        X : table of shape (n, d)
        rule : one of the layer's, see `rule`
        reference : table or float, optional
            Rows that count as usual, for scores that say how normal a row is, by default the model's own anchors, and
            for linear layers; a number for regressions: the level that relevance is counted from.
        own : array of int of shape (n,), optional
            Which anchor each row is, −1 for none, where the caller knows; otherwise equal rows are taken as the same.
        target : see `backlight.explain`
        layers : sequence of str
            Inner layers of `backlight.classical.layers.inside.places`, whose relevance is wanted too.
        """
        asked = self.score.outputs.asked(read_targets(target))
        wanted = self.score.outputs.targets(asked)
        with torch.no_grad():
            coded = self.encode(X)
            self.compare(X)
            asked.check_rows(len(coded))
            usual = self.reference_of(reference, rule)
            usual, level = (None, usual) if isinstance(usual, float) else (usual, None)
            known = None if own is None else torch.as_tensor(own, device=coded.device)
            whole, step = self.point(coded), min(self._step, _BATCH)
            inside = {name: places(self.layer)[name] for name in layers}
            inner = {name: ended_at(self.layer, place) for name, place in inside.items()}
            step = min([step, *(max(1, _NUMBERS // 4 // max(1, place.units)) for place in inside.values())])
            parts = []
            for start in range(0, len(coded), step):
                some = whole if step >= len(coded) else whole.take(slice(start, start + step))
                own_anchor = known[start : start + step] if known is not None else self._own_anchor(some, rule)
                ask = Query(rule, own_anchor, usual, level)
                part = Targets(wanted, asked.several).take(start, len(some))
                parts.append(self._relevance(some, ask, part, start, inner))
        return Attribution.joined(parts)

    def _own_anchor(self, x: EncodedRows, rule: Any) -> Tensor | None:
        """Which anchor each row itself is, for rules that leave it out."""
        return self.layer.self_index(x) if isinstance(rule, SoftMinRule) and rule.leave_self_out else None

    def _writes(self) -> int:
        """How often anything learnt was written to: a network that its user trains is compared no more."""
        return sum(tensor._version for tensor in [*self.parameters(), *self.buffers()])

    def compare(self, X: RowsLike) -> None:
        """Compare the network with the model's own methods, on the first rows that it sees and on some of all.

        Every table is looked at until `_COMPARED` rows have been compared; of a long one the first and the last and
        rows between them at equal steps, so that what begins further down is seen.

        Raises
        ------
        UnsupportedModel
            When the network is not the model's.
        """
        if not self._doubted:
            return
        frame = self.front.frame(X)
        if self._writes() != self._written:
            self._doubted = []
        if not self._doubted or not len(frame):
            return
        if frame.kind == "torch" and self.front.vocabulary.codes:  # encoded already: the library cannot read it
            return
        doubted, left = self._doubted, self._left
        if len(frame) > left:
            rows = np.unique(np.linspace(0, len(frame) - 1, left).round().astype(int))
        else:
            rows = np.arange(len(frame))
        frame = frame.take(rows)  # a copy
        try:
            with trust.quiet(), torch.no_grad():
                point = self.point(self.encode(frame))
                found = [_array(score.outputs.native(layer(point))).astype(float) for score, layer in doubted]
            known = self._known(frame, doubted)
            for (score, _), ours, theirs in zip(doubted, found, known, strict=True):
                pairs = [(ours, wanted) for wanted in theirs]
                trust.compared(type(self._whole).__name__, score.name, pairs, self.dtype == torch.float64)
        except (DataError, UnsupportedModel):
            if not self._fitted_anew(doubted):
                raise
            self._doubted = []  # the network is of the model as it was read
            return
        self._first = (frame, known) if self._first is None else self._first
        self._left = left - len(rows)
        if not self._left:
            self._doubted = []

    def _known(self, frame: Frame, doubted: Sequence[tuple[Score, Layer]]) -> list[_Known]:
        """What the model's own methods say of rows: each score of its last step, and of the whole where it has it."""
        native = self.front.native(frame)
        said = []
        with trust.quiet():
            for score, _ in doubted:
                try:
                    known = np.asarray(score.reference(self._estimator, self._transform(native)), dtype=float)
                except Exception as error:
                    told = " ".join(str(error).split())[:120]
                    raise DataError(f"{type(self._whole).__name__} itself refuses these rows: {told}") from error
                asked = score.digits or self._inherited
                said.append((known, trust.own_method(self._whole, score.name, native) if asked else None))
        return said

    def _fitted_anew(self, doubted: Sequence[tuple[Score, Layer]]) -> bool:
        """Whether the model says something else of the rows that it was compared on first."""
        if self._first is None:
            return False
        frame, before = self._first
        try:
            now = self._known(frame, doubted)
        except DataError:
            return True
        return not all(
            np.array_equal(one, other, equal_nan=True) if one is not None and other is not None else one is other
            for old, new in zip(before, now, strict=True)
            for one, other in zip(old, new, strict=True)
        )

    def _check_reference(self, is_level: bool, rule: Any) -> None:
        reads = self.layer.references
        if "rows" in reads and isinstance(rule, SignedPools | Midpoint | TreePath):
            reads = reads - {"rows"}  # these rules have their own references
        if ("level" if is_level else "rows") in reads:
            return
        kinds = {"rows": "a table of rows", "level": "a number"}
        takes = " or ".join(kinds[kind] for kind in sorted(reads)) or "none"
        raise ArgumentError(
            f"reference= does not apply: score {self.score.name!r} of this {self.kind} by rule {rule!r} takes {takes}"
        )

    def _relevance(
        self, x: EncodedRows, ask: Query, targets: Targets, start: int, inner: Mapping[str, Layer]
    ) -> Attribution:
        got = self.layer.run_alone(x, ask)
        finite = math.isfinite(float(got.output.sum()))
        if not finite and bool((bad := ~torch.isfinite(got.output).all(1)).any()):
            row = start + int(torch.nonzero(bad)[0])
            raise DataError(
                f"row {row} lies outside the support of this {self.kind}: its score is infinite, and infinity cannot "
                "be shared; leave the row out, or explain score='support_distance' where the model has it"
            )
        outputs = self.score.outputs
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        ledgers: list[list[Line]] = []
        indices = [outputs.index(one, got.output) for one in targets.items]
        for one, index in zip(targets.items, indices, strict=True):
            c = outputs.coefficients(one, got.output, index)
            score = c.sum(got.output)
            account = Account.of(got, c) if got.account is None else got.account(c)
            lines = account.lines
            if lines is None:
                lines = self._lines(ask.rule, score, account)
            ledgers.append(lines)
            found.append((account.relevance, score, score - account.carried))
            others = score if got.others is got.output else c.sum(got.others)
        annotations = self._annotations(x, got, None if targets.several else others, indices[0])
        values, output, base = (
            _array(torch.stack(part, -1) if targets.several else part[0]) for part in zip(*found, strict=True)
        )
        return Attribution(
            values,
            output,
            base,
            names=tuple(outputs.name(one) for one in targets.items),
            ledger=_ledger(ledgers, targets.several),
            annotations={key: _array(value) for key, value in annotations.items()},
            layers={name: self._units(layer, x, ask, targets) for name, layer in inner.items()},
            facts=got.facts,
        )

    def _units(self, layer: Layer, x: EncodedRows, ask: Query, targets: Targets) -> np.ndarray:
        """Relevance of an inner layer, (n, units), of several targets (n, units, targets)."""
        got, outputs = layer.run_alone(x, ask), self.score.outputs
        found = []
        for one in targets.items:
            c = outputs.coefficients(one, got.output, outputs.index(one, got.output))
            found.append((Account.of(got, c) if got.account is None else got.account(c)).relevance)
        return _array(torch.stack(found, -1) if targets.several else found[0])

    def _lines(self, rule: Any, score: Tensor, account: Account) -> list[Line]:
        """What each layer hands on, as lines of a ledger."""
        names = (f"score: {self.score.name}", *account.flow)
        rules = (self.score.name, repr(rule), *["shares"] * len(names))
        flow = [score, *account.flow.values(), account.relevance.sum(1)]
        return [(name, rules[k], flow[k], flow[k + 1], None) for k, name in enumerate(names)]

    def _annotations(
        self, x: EncodedRows, got: ForwardPass, others: Tensor | None, index: Tensor | None
    ) -> dict[str, Tensor]:
        """``others`` and ``index`` are of the only target; of several there are none."""
        outputs = self.score.outputs
        annotations = {"imputed": self.front.missing(x.coded)}
        if not outputs.names:
            never = torch.zeros(len(x), dtype=torch.bool, device=x.z.device)
            annotations |= {"self_anchor": never, "no_distance": never}
        annotations |= got.notes
        if others is not None:
            annotations["score_without_self"] = others
            if index is not None:
                annotations["target"] = index
        discarded = self.front.discarded(x.e)
        if discarded is not None:
            annotations["discarded"] = discarded
        return annotations

    @torch.no_grad()
    def score_without_self(self, X: Any, own: np.ndarray) -> np.ndarray:
        """The score of rows, each with one anchor left out: ``own`` from `self_index`, −1 for none."""
        coded = self.encode(X)
        left_out = torch.as_tensor(own, device=coded.device)
        step = self.layer.rows
        parts = [
            self.layer.without(point, left_out[start : start + step])
            for start, point in zip(range(0, len(coded), step), self._points(coded, step), strict=True)
        ]
        return _array(torch.cat(parts).squeeze(1)) if parts else np.zeros(0)

    @torch.no_grad()
    def self_index(self, X: Any) -> np.ndarray:
        """Which anchor each row itself is, or −1."""
        parts = [self.layer.self_index(point) for point in self._points(self.encode(X), self.layer.rows)]
        return _array(torch.cat(parts))

    @torch.no_grad()
    def embed(self, X: Any) -> np.ndarray:
        """Rows in the space of the model, (n, K)."""
        return _array(self.point(self.encode(X)).z)

    @torch.no_grad()
    def scores_of_training_rows(self) -> np.ndarray | None:
        """Scores of the anchors that are rows of the training set, each scored without itself; None if none are."""
        rows = self.layer.training_rows()
        if rows is None:
            return None
        step = self.layer.rows
        parts = [
            self.layer.without(
                EncodedRows.at(rows[start : start + step]), torch.arange(start, min(start + step, len(rows)))
            )
            for start in range(0, len(rows), step)
        ]
        return _array(torch.cat(parts).squeeze(1))


def no_original(*_: Any) -> Any:
    """Stands where a network that was read from a file has nothing of the model that it was made of."""
    raise UnsupportedModel("this network was read from a file, which does not hold the model that it was made of")


def _ledger(lines: list[list[Line]], several: bool) -> Ledger | None:
    """The ledgers of the targets as one: (layers, n), for several targets (layers, n, targets)."""
    if not lines[0]:
        return None  # a method without one

    def column(k: int) -> np.ndarray:
        found = [torch.stack([line[k] for line in one]) for one in lines]  # type: ignore[misc]
        return _array(torch.stack(found, -1) if several else found[0])

    first = lines[0]
    bias = None if first[0][4] is None else column(4)
    return Ledger(tuple(line[0] for line in first), tuple(line[1] for line in first), column(2), column(3), bias)


def _array(tensor: Any) -> np.ndarray:
    found: np.ndarray = tensor.numpy(force=True)
    return found
