"""Formulas and proofs: against the published closed forms, against the engine, and against points."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import backlight
from backlight.errors import ArgumentError, BacklightWarning, UnsupportedModel, UnsupportedOperator
from backlight.rules import AlphaBeta, Box, Epsilon, Flat, Gamma, Zero, ZPlus
from backlight.symbolic import NotProved, always_different_from, pooling_limit
from backlight.symbolic.polyhedra import at, interior, nullspace
from tests.conftest import examples
from tests.test_canonical import dense

ONE, TWO = backlight.examples.min_networks()
RULES = [Zero(), Epsilon(0.1), Epsilon(0.1, absolute=True), Gamma(0.25), ZPlus(), AlphaBeta(2.0, 1.0)]


def region(derivation, condition):
    return next(r for r in derivation.regions if str(r.condition) == condition)


def same(expression, text, derivation):
    names = {s.name: s for s in (*derivation.symbols, *derivation.parameters)}
    return sympy.simplify(expression - sympy.sympify(text, locals=names)) == 0


# -- the structure example, as derived by hand -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "first", "second"),
    [
        ("zero", "0", "a2"),
        ("gamma", "gamma*(1+gamma)*a1**2*a2/((gamma*a1+a2)*((1+gamma)*a1-a2))",
         "a2**2*(a1-a2)/((gamma*a1+a2)*((1+gamma)*a1-a2))"),
        ("epsilon-absolute", "epsilon*a1*a2**2/((a1+epsilon)*(a2+epsilon)*(a1-a2+epsilon))",
         "a2**2*(a1-a2)/((a2+epsilon)*(a1-a2+epsilon))"),
        ("zplus", "a2", "0"),
        ("alphabeta", "alpha*(alpha-beta)*a2", "beta**2*a2"),
    ],
)  # fmt: skip
def test_net_one_above_the_diagonal(rule, first, second):
    found = backlight.derive(ONE, rule)
    above = region(found, "a1 > a2")

    assert same(above.output, "a2", found)
    assert same(above.relevance[0], first, found)
    assert same(above.relevance[1], second, found)


def test_net_one_below_the_diagonal_and_at_the_tie():
    found = backlight.derive(ONE, "gamma")
    for condition in ("a1 < a2", "Eq(a1, a2)"):
        assert found.regions
        below = region(found, condition)
        assert same(below.relevance[0], "a1", found)
        assert below.relevance[1] == 0
    assert len(found.regions) == 3


def test_net_two_is_net_one_with_the_inputs_exchanged():
    one, two = (backlight.derive(net, "gamma") for net in (ONE, TWO))
    a1, a2 = one.symbols
    exchange = {a1: a2, a2: a1}
    above, below = region(one, "a1 > a2"), region(two, "a1 < a2")

    for k in range(2):
        assert sympy.simplify(above.relevance[k].subs(exchange, simultaneous=True) - below.relevance[1 - k]) == 0


def test_gamma_of_net_three():
    net = nn.Sequential(dense([[1, 1], [1, -1], [-1, 1]]), nn.ReLU(), dense([[0.5, -0.5, -0.5]]))
    found = backlight.derive(net, "gamma")
    above = region(found, "a1 > a2")
    text = "gamma*(1+gamma)*a1**2*a2/(((1+gamma)*a1-a2)*(gamma*a1+(2+gamma)*a2))"
    assert same(above.relevance[0], text, found)
    assert same(above.total, "a2", found)
    tie = found.at(a1=3, a2=3, gamma="1/4").relevance
    assert list(tie.values()) == [sympy.Rational(3, 2)] * 2


def test_the_value_of_gamma_from_which_the_networks_name_different_inputs_everywhere():
    one, two = (backlight.derive(net, "gamma") for net in (ONE, TWO))
    found = always_different_from(one, two)

    assert sympy.simplify(found - (sympy.sqrt(2) - 1) / 2) == 0
    # seen from outside: the least share is 4γ(1 + γ)/(1 + 2γ)² at a₁ = 2 a₂
    t = np.linspace(1.0001, 50, 20001)
    points = np.stack([t, np.ones_like(t)], 1)
    for gamma, everywhere in ((0.2, False), (0.2072, True), (0.25, True), (1.0, True)):
        relevance = [d.evaluate(points, gamma=gamma)[1] for d in (one, two)]
        assert bool((relevance[0].argmax(1) != relevance[1].argmax(1)).all()) is everywhere


def test_a_threshold_needs_the_kind_of_network_it_is_for():
    one = backlight.derive(ONE, "gamma")
    with pytest.raises(ArgumentError, match="one open parameter"):
        always_different_from(one, backlight.derive(TWO, "zero"))
    with pytest.raises(ArgumentError, match="without biases"):
        biased = nn.Sequential(dense([[1, 0], [0, 1]], [1, 1]), nn.ReLU(), dense([[1, 1]]))
        always_different_from(one, backlight.derive(biased, "gamma"))


def test_points_are_exact_also_on_the_boundary():
    found = backlight.derive(ONE, "gamma")
    assert found.at(a1=2, a2=1, gamma="1/4").relevance == {"a1": sympy.Rational(5, 9), "a2": sympy.Rational(4, 9)}
    open_gamma = found.at(a1=2, a2=1).relevance["a1"]
    assert same(open_gamma, "4*gamma*(1+gamma)/(1+2*gamma)**2", found)
    assert found.at(a1=0, a2=1).output == 0
    assert list(found.at(a1=0, a2=0, gamma=0.25).relevance.values()) == [0, 0]
    with pytest.raises(ArgumentError, match="a3"):
        found.at(a1=1, a2=1, a3=1)
    with pytest.raises(ArgumentError, match="missing"):
        found.at(a1=1)


# -- against the engine ------------------------------------------------------------------------------------------------


def compare(net, rule, assume, low, seed=0, rows=10_000):
    found = backlight.derive(net, rule, assume=assume, kinks=False)
    X = np.random.default_rng(seed).uniform(low, 3, (rows, len(found.symbols)))
    output, relevance = found.evaluate(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BacklightWarning)
        ex = backlight.explain(net, X, target=0, rules=rule)
    scale = max(np.abs(ex.values).max(), np.abs(ex.output).max())
    assert np.abs(output - ex.output).max() <= 1e-12 * scale
    return np.abs(relevance - ex.values) / scale


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_formulas_are_the_engines_numbers_for_both_networks(rule):
    for net in (ONE, TWO):
        for assume, low in (("nonnegative", 0), ("all", -3)):
            assert compare(net, rule, assume, low).max() <= 1e-10


@pytest.mark.parametrize("seed", range(20))
def test_formulas_are_the_engines_numbers_for_random_networks(seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)]
    if seed % 2:
        layers = [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)]
    net = nn.Sequential(*layers).double()
    # αβ divides by sums that can be next to nothing: its rounding grows with the quotient
    errors = compare(net, RULES[seed % len(RULES)], "all", -3, seed)
    assert np.quantile(errors, 0.9999) <= 1e-10
    assert errors.max() <= 1e-8


class Gadgets(nn.Module):
    """Maximum, minimum, absolute value and a skip connection."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        h = torch.maximum(self.a(x), self.b(x)) - torch.minimum(x, self.a(x)).abs()
        return torch.relu(h + x)


@pytest.mark.parametrize("rule", [Zero(), Gamma(0.25)], ids=repr)
def test_maxima_minima_and_absolute_values(rule):
    torch.manual_seed(1)
    assert compare(Gadgets().double(), rule, "all", -3).max() <= 1e-10


def test_a_convolution_on_a_small_picture():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1)).double()
    found = backlight.derive(net, Epsilon(0.1), assume="all", kinks=False, X=np.zeros((1, 1, 2, 3)))
    X = np.random.default_rng(0).normal(size=(500, 1, 2, 3))
    _, relevance = found.evaluate(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BacklightWarning)
        ex = backlight.explain(net, X, target=0, rules=Epsilon(0.1))
    assert relevance == pytest.approx(ex.values.reshape(500, -1), abs=1e-10 * np.abs(ex.values).max())


# -- what is asked, and how it is said ---------------------------------------------------------------------------------


def test_the_table_the_latex_and_the_frame():
    found = backlight.derive(ONE, "gamma", feature_names=["dose", "age"])
    text = repr(found)
    assert "dose > age" in text
    assert "γ" in text
    assert found.latex().count(r"\begin{cases}") == 3
    assert r"\gamma" in found.latex()
    assert list(found.to_frame("pandas").columns) == ["condition", "output", "R(dose)", "R(age)"]
    assert found._repr_latex_().startswith("$$f = ")


def test_assumptions_as_inequalities():
    a1, a2 = sympy.symbols("a1 a2")
    found = backlight.derive(ONE, "zero", assume=[a1 > 2 * a2, a2 > 0])
    assert len(found.regions) == 1
    assert str(found.regions[0].output) == "a2"
    with pytest.raises(ArgumentError, match="not linear"):
        backlight.derive(ONE, "zero", assume=[a1 * a2 > 1])
    with pytest.raises(ArgumentError, match="b"):
        backlight.derive(ONE, "zero", assume=[sympy.Symbol("b") > 1])
    with pytest.raises(ArgumentError, match="no interior"):
        backlight.derive(ONE, "zero", assume=[a1 > a2, a2 > a1])
    assert (
        len(backlight.derive(ONE, "zero", assume=Box(torch.tensor([2.0, 0.5]), torch.tensor([3.0, 1.0]))).regions) == 1
    )


def test_what_has_no_formula_is_named():
    with pytest.raises(UnsupportedOperator, match="gelu"):
        backlight.derive(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 1)).double())
    with pytest.raises(ArgumentError, match="Flat"):
        backlight.derive(ONE, Flat())
    with pytest.raises(ArgumentError, match="the rules are"):
        backlight.derive(ONE, "deep-taylor")
    with pytest.raises(ArgumentError, match="bias='absorb'"):
        backlight.derive(ONE, Epsilon(bias="distribute"))
    with pytest.raises(ArgumentError, match="no output"):
        backlight.derive(ONE, target=1)
    with pytest.raises(UnsupportedModel, match="more than 3 linear regions"):
        torch.manual_seed(0)
        backlight.derive(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)), "zero", assume="all", limit=3)


def test_phases_are_drawn():
    import matplotlib

    matplotlib.use("Agg")
    found = backlight.derive(ONE, "gamma")
    axes = found.plot.phase(gamma=[0.05, 0.25], resolution=31)
    assert [ax.get_title() for ax in axes] == ["gamma = 0.05", "gamma = 0.25"]
    with pytest.raises(ArgumentError, match="two inputs"):
        net = nn.Sequential(dense([[1, 1, 1]]))
        backlight.derive(net, "zero").plot.phase()


# -- proofs ------------------------------------------------------------------------------------------------------------


def test_the_two_networks_are_one_function_everywhere():
    for domain in (None, "nonnegative", (-torch.ones(2), torch.ones(2))):
        found = backlight.equivalent(ONE, TWO, domain)
        assert found
        assert found.largest == 0


@pytest.mark.parametrize("place", [("hidden", 0, 0), ("hidden", 1, 1), ("output", 0, 1)])
@pytest.mark.parametrize("domain", [None, "nonnegative"])
def test_one_weight_changed_by_a_millionth_is_found(place, domain):
    other = backlight.examples.min_networks().ii
    layer, row, column = place
    with torch.no_grad():
        getattr(other, layer).weight[row, column] += 1e-6
    found = backlight.equivalent(ONE, other, domain)

    assert not found
    outputs = [net(torch.tensor(found.x)[None]).item() for net in (ONE, other)]
    assert abs(outputs[0] - outputs[1]) == pytest.approx(found.difference, rel=1e-6)
    assert found.difference > 0
    # with a tolerance for it they are the same
    assert backlight.equivalent(ONE, other, domain, tolerance=1e-5)


def test_networks_that_differ_only_outside_of_the_domain():
    both = nn.Sequential(dense([[1, 0], [0, 1]]), nn.ReLU(), dense([[1, 1]]))
    line = nn.Sequential(dense([[1, 1]]))
    assert backlight.equivalent(both, line, "nonnegative")
    found = backlight.equivalent(both, line)
    assert not found
    assert min(found.x) < 0


@pytest.mark.parametrize("seed", range(4))
def test_a_network_and_its_canonical_form_are_proved_the_same(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    found = backlight.equivalent(net, backlight.canonize(net).module, tolerance=1e-12)
    assert found
    assert found.largest < 1e-14


def test_too_many_regions_are_no_proof_and_say_so():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1)).double()
    found = backlight.equivalent(net, net, limit=5)
    assert isinstance(found, NotProved)
    assert not found
    assert found.largest == 0
    assert "more than 5" in repr(found)
    with pytest.raises(ArgumentError, match="2 and 6 inputs"):
        backlight.equivalent(ONE, net)
    with pytest.raises(ArgumentError, match="tolerance"):
        backlight.equivalent(ONE, TWO, tolerance=-1)


@settings(max_examples=examples(80))
@given(
    st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=7),
    st.lists(st.tuples(*[st.integers(-2, 2)] * 3), max_size=1),
)
def test_an_interior_point_is_one_and_none_means_none(strict, equal):
    rows = [tuple(map(Fraction, row)) for row in strict]
    zero = [tuple(map(Fraction, row)) for row in equal]
    point = interior(rows, zero, 2)
    if point is not None:
        assert all(at(row, point) > 0 for row in rows)
        assert all(at(row, point) == 0 for row in zero)
        return
    # the slow way: an open set of the plane has a point near one of the vertices, or far out
    if zero:
        solved = nullspace(zero, 2)
        if solved is None:
            return
        origin, basis = solved
        candidates = [origin] if not basis else [
            tuple(o + Fraction(k, 60) * v for o, v in zip(origin, basis[0], strict=True)) for k in range(-2400, 2401, 7)
        ]  # fmt: skip
        if len(basis) == 2:
            return
    else:
        generator = np.random.default_rng(0)
        spread = np.concatenate([generator.uniform(-s, s, (1500, 2)) for s in (0.5, 3, 40)])
        values = spread @ np.array(strict)[:, :2].T + np.array(strict)[:, 2]
        assert not (values > 1e-9).all(1).any()
        return
    assert not any(all(at(row, c) > 0 for row in rows) for c in candidates)


@settings(max_examples=examples(50))
@given(st.integers(1, 40), st.floats(0.01, 100), st.integers(0, 1000))
def test_soft_minima_are_within_log_m_over_gamma(count, gamma, seed):
    d = np.random.default_rng(seed).exponential(size=(20, count))
    assert pooling_limit(d, gamma)
    equal = pooling_limit(np.ones((1, count)), gamma)
    assert equal.gap == pytest.approx(equal.bound, abs=1e-9)


# -- networks as people write them -------------------------------------------------------------------------------------


class _Written(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, a):
        return self.f(a)


MINIMA = {
    "slices": lambda a: torch.relu(torch.relu(a[:, 0:1]) - torch.relu(a[:, 0:1] - a[:, 1:2])),
    "selects": lambda a: torch.relu(a[:, 0] - torch.relu(a[:, 0] - a[:, 1]))[:, None],
    "split and cat": lambda a: torch.cat(a.split(1, 1)[::-1], 1).amin(1, keepdim=True),
    "stack and min": lambda a: torch.stack([a[:, 1], a[:, 0]], 1).min(1, keepdim=True).values,
    "chunk": lambda a: torch.minimum(*a.chunk(2, 1)),
    "where": lambda a: a[:, :1] - (lambda d: torch.where(d > 0, d, 0.0))(a[:, :1] - a[:, 1:2]),
    "clamp": lambda a: a[:, :1] - (a[:, :1] - a[:, 1:2]).clamp(min=0),
    "sum and abs": lambda a: (a.sum(1, keepdim=True) - (a[:, :1] - a[:, 1:2]).abs()) / 2,
    "mean": lambda a: a.mean(1, keepdim=True) - (a[:, :1] - a[:, 1:2]).abs() / 2,
}  # fmt: skip


@pytest.mark.parametrize("name", MINIMA)
def test_networks_as_they_are_written_are_the_minimum(name):
    assert backlight.equivalent(_Written(MINIMA[name]), ONE, domain="nonnegative")


def test_a_function_by_name_and_a_function_of_rows():
    assert backlight.equivalent(ONE, "min", domain="nonnegative")
    assert not backlight.equivalent(ONE, "max", domain="nonnegative")
    assert not backlight.equivalent(ONE, "min")
    assert backlight.equivalent(
        lambda a: a.clamp(-1, 2), lambda a: torch.relu(a + 1) - torch.relu(a - 2) - 1, X=[[0.0]]
    )
    with pytest.raises(ArgumentError, match="the names are"):
        backlight.equivalent(ONE, "median")


@pytest.mark.parametrize("reduce", [lambda a: a.amax(1, keepdim=True), lambda a: a.max(1, keepdim=True).values])
def test_ties_of_three_are_shared_as_the_engine_shares_them(reduce):
    x = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 1.0], [1.0, 2.0, 2.0], [3.0, 1.0, 2.0]])
    net = _Written(reduce)
    found = backlight.derive(net, "zero", X=x[:1], kinks=True)
    expected = backlight.explain(net.double(), torch.as_tensor(x)).values
    got = [list(found.at(a1=a, a2=b, a3=c).relevance.values()) for a, b, c in x.astype(int)]

    assert np.abs(np.array(got, dtype=float) - expected).max() < 1e-12


def test_pooling_and_means_have_the_engines_numbers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(1, 2, 2), nn.MaxPool1d(2, 1), nn.Flatten(), nn.Linear(4, 1)).double()
    x = torch.rand(6, 1, 4, dtype=torch.float64)
    found = backlight.derive(net, Gamma(0.25), X=x[:1], assume="nonnegative")
    output, relevance = found.evaluate(x.flatten(1).numpy())

    assert np.abs(output - net(x)[:, 0].detach().numpy()).max() < 1e-12
    assert np.abs(relevance - backlight.explain(net, x, 0, rules=Gamma(0.25)).values.reshape(6, -1)).max() < 1e-10


def test_the_number_of_inputs_is_told_or_asked_for():
    assert len(backlight.derive(_Written(MINIMA["slices"]), "gamma").symbols) == 2
    with pytest.raises(ArgumentError, match="give a few rows"):
        backlight.derive(_Written(lambda a: a.amin(1, keepdim=True)), "gamma")


# -- formulas that print on a page -------------------------------------------------------------------------------------


def put_back(made):
    """The formulas with what their names stand for, last name first."""
    found = list(made.formulas)
    for name, expression in reversed(list(made.definitions.items())):
        found = [formula.xreplace({name: expression}) for formula in found]
    return found


@pytest.mark.parametrize("rule", ["gamma", "epsilon-absolute", "zplus", "alphabeta", "zero"])
def test_named_formulas_are_the_formulas(rule):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    found = backlight.derive(net, rule)
    plain = [cell.subs(r.substitution) for r in found.regions for cell in (r.raw_output, *r.raw)]
    point = dict(
        zip((*found.symbols, *found.parameters), map(sympy.Rational, ("2/7", "3/5", "4/3", "1/3")), strict=False)
    )

    for mine, theirs in zip(put_back(found.named), plain, strict=True):
        assert mine.subs(point) == theirs.subs(point)


def test_twelve_units_print_on_a_page():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 1)).double()
    found = backlight.derive(net, "gamma")
    text = repr(found)

    # some 120 lines; written out they were more than a million characters
    assert len(text) < 16_000
    assert text.count("\nwhere ") == len(found.regions)
    assert "exact in .regions and .named" in text.splitlines()[0]
    assert len(found.latex()) < 32_000
    # every name is said before it is used
    known = {*found.symbols, *found.parameters}
    for name, expression in found.named.definitions.items():
        assert expression.free_symbols <= known
        known.add(name)


def test_names_do_not_collide_with_the_inputs():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    found = backlight.derive(net, "gamma", feature_names=["s1", "ss2"])

    assert not {s.name for s in found.named.definitions} & {"s1", "ss2"}
