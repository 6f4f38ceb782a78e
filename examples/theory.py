"""The theory on one page, every step computed and checked: python examples/theory.py [FOLDER].

Linear prototypes under three penalties · two networks of one function, whose explanations are opposite · a one-class
SVM as a network of two layers, and its limit · relevance of a picture by the recipe taught on VGG-16 ·
a structure audit.
Writes theory.html, a page that opens offline, in about a minute.
"""

import base64
import io
import sys
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import sympy
import torch
from markupsafe import Markup
from scipy.optimize import minimize
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import nn

import backlight
from backlight.symbolic import always_different_from, pooling_limit

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light"><link rel="icon" href="data:,">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>The theory of backlight on one page</title>
<style>
body { font: 16px/1.55 system-ui, sans-serif; margin: 0; background: #fbfaf6; color: #1c2430; }
main { max-width: 860px; margin: 0 auto; padding: 24px 20px 80px; }
h1 { line-height: 1.2; } h2 { margin-top: 2.2em; }
img { max-width: 100%; height: auto; display: block; margin: 14px 0; background: #fff; border: 1px solid #ddd; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: middle; }
.check { color: #1b6e3c; font-size: 14px; margin: 4px 0; } .check b { margin-right: .4em; }
math { font-size: 1.08em; }
pre { overflow-x: auto; background: #fff; border: 1px solid #ddd; padding: 10px; font-size: 13px; }
</style></head><body><main>
<h1>The theory of backlight on one page</h1>
<p>Every number on this page was computed when the page was made, and every claim with a ✓ was checked.</p>
{% for kind, item in parts %}
{% if kind == "h2" %}<h2>{{ item }}</h2>
{% elif kind == "p" %}<p>{{ item }}</p>
{% elif kind == "check" %}<p class="check"><b>✓</b>{{ item }}</p>
{% elif kind == "math" %}<div class="wide"><p>{{ item }}</p></div>
{% elif kind == "pre" %}<pre>{{ item }}</pre>
{% elif kind == "img" %}<img src="{{ item[0] }}" alt="{{ item[1] }}">
{% elif kind == "table" %}<div class="wide"><table>
<thead><tr>{% for c in item[0] %}<th scope="col">{{ c }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in item[1] %}<tr>{% for c in row %}<td>{{ c }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endif %}{% endfor %}
</main></body></html>"""


class Page:
    """Parts of the page, in order."""

    def __init__(self):
        self.parts = []

    def say(self, text):
        """A paragraph."""
        self.parts.append(("p", text))

    def head(self, text):
        """A heading."""
        self.parts.append(("h2", text))
        print(text)

    def check(self, what, error, limit):
        """A claim: an error that must not be above a limit."""
        if not error <= limit:
            raise SystemExit(f"{what}: {error:.3g} is more than {limit:g}")
        self.parts.append(("check", f"{what} (error {error:.1e}, allowed {limit:g})"))

    def holds(self, what, truth):
        """A claim that is true or not."""
        if not truth:
            raise SystemExit(f"{what}: does not hold")
        self.parts.append(("check", what))

    def formula(self, left, expression):
        """An equation."""
        self.parts.append(("math", mathml(sympy.Eq(sympy.Symbol(left), expression, evaluate=False))))

    def table(self, head, rows):
        """A table; SymPy expressions are set as formulas."""
        cells = [[mathml(c) if isinstance(c, sympy.Basic) else c for c in row] for row in rows]
        self.parts.append(("table", (head, cells)))

    def show(self, figure, alt):
        """A figure."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
        self.parts.append(("img", ("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(), alt)))

    def write(self, path):
        """The page, to a temporary name first."""
        html = jinja2.Environment(autoescape=True).from_string(TEMPLATE).render(parts=self.parts)
        temporary = path.with_suffix(".part")
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(path)


def mathml(expression):
    """MathML that browsers show without a script."""
    inner = sympy.printing.mathml(expression, printer="presentation")
    return Markup(f'<math xmlns="http://www.w3.org/1998/Math/MathML">{inner}</math>')  # noqa: S704 - made of symbols


def prototypes(page):
    """Argmax of w·x + b − Ω(x), three times."""
    page.head("1 What does a linear function look for?")
    page.say(
        "A prototype is the input that a score f likes best among plausible ones: argmax f(x) − Ω(x). For f(x) = w·x "
        "+ b it has a closed form under each of three penalties. Here w is drawn at random, in four dimensions."
    )
    rng = np.random.default_rng(0)
    w, lam = rng.normal(size=4), 0.7
    a = rng.normal(size=(4, 4))
    cov, mean = a @ a.T / 4 + 0.1 * np.eye(4), rng.normal(size=4)
    A, c = rng.normal(size=(4, 2)), rng.normal(size=4)

    def best(objective, size):
        found = minimize(lambda z: -objective(z), np.zeros(size), method="BFGS", options={"gtol": 1e-10})
        return found.x

    cases = (
        ("Ω = λ‖x‖²", "w/(2λ)", w / (2 * lam), best(lambda x: w @ x - lam * x @ x, 4)),
        ("Ω = −log N(x; μ, Σ)", "μ + Σw", mean + cov @ w,
         best(lambda x: w @ x - 0.5 * (x - mean) @ np.linalg.solve(cov, x - mean), 4)),
        ("x = Az + c, Ω = λ‖z‖²", "AAᵀw/(2λ) + c", A @ A.T @ w / (2 * lam) + c,
         A @ best(lambda z: w @ (A @ z + c) - lam * z @ z, 2) + c),
    )  # fmt: skip
    page.table(["penalty", "closed form", "prototype"], [(p, f, np.round(x, 3)) for p, f, x, _ in cases])
    for penalty, _, exact, found in cases:
        page.check(f"{penalty}: an optimiser finds the same point", np.abs(exact - found).max(), 1e-5)
    page.say("The penalty decides: the same function, three different answers, each a weighted view of w.")


def structure(page):
    """One function, two networks."""
    page.head("2 One function, two networks, opposite explanations")
    page.say(
        "y = min(a₁, a₂) for non-negative inputs, written with ReLUs in two ways: (i) relu(relu(a₁) − relu(a₁ − a₂)) "
        "and (ii) relu(relu(a₂) − relu(a₂ − a₁))."
    )
    nets = backlight.examples.min_networks()
    proof = backlight.equivalent(nets.i, nets.ii)
    page.holds(repr(proof), proof)
    for title, net in zip(("network (i)", "network (ii)"), nets, strict=True):
        found = backlight.derive(net, "gamma")
        page.say(f"{title}, relevance by LRP-γ:")
        rows = [(r.condition, r.output, *r.relevance) for r in found.regions]
        page.table(["where", "y", "R of a₁", "R of a₂"], rows)
        a = np.random.default_rng(0).uniform(0.01, 3, (10_000, 2))
        _, formulas = found.evaluate(a, gamma=0.25)
        engine = backlight.explain(net, a, rules=backlight.rules.Gamma(0.25)).values
        page.check("the formulas are the engine's numbers on 10 000 inputs", np.abs(formulas - engine).max(), 1e-10)
    tie = [backlight.explain(net, torch.ones(1, 2), rules=backlight.rules.Gamma(0.25)).values[0] for net in nets]
    page.table(["at a₁ = a₂ = 1", "R of a₁", "R of a₂"], [("(i)", *tie[0]), ("(ii)", *tie[1])])
    page.holds(
        "at the tie one names a₁ alone, the other a₂ alone", tie[0].tolist() == [1, 0] and tie[1].tolist() == [0, 1]
    )
    one, two = (backlight.derive(net, "gamma") for net in nets)
    threshold = always_different_from(one, two)
    page.say("From this γ on they name different most relevant inputs everywhere; the usual γ = ¼ lies above it:")
    page.formula("gamma_*", sympy.simplify(threshold))
    page.check("γ* = (√2 − 1)/2", abs(float(threshold) - (2**0.5 - 1) / 2), 1e-15)
    axes = one.plot.phase(gamma=[0.05, float(threshold), 0.25, 1.0])
    page.show(axes[0].figure, "Share of the first input over the plane, for four values of gamma")
    simple = [backlight.canonize(net, domain="nonnegative").module for net in nets]
    a = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    values = [backlight.explain(net, a, rules=backlight.rules.Gamma(0.25)).values for net in simple]
    page.say("Their canonical form is one node, the minimum, and so is the explanation: half each at the tie.")
    page.table(
        ["a", "canonical (i)", "canonical (ii)"], [(row.tolist(), x, y) for row, x, y in zip(a, *values, strict=True)]
    )
    page.check("both canonical forms give the same relevance", np.abs(values[0] - values[1]).max(), 1e-12)


def machine(page):
    """A one-class SVM as a network."""
    page.head("3 A one-class SVM is a network of two layers")
    page.say(
        "With a Gaussian kernel, o(x) = −log Σ αᵢ exp(−γ‖x − uᵢ‖²) is a layer of squared distances to the support "
        "vectors, and a soft minimum over them; α are the model's coefficients, made to sum to one. It is exactly the "
        "model's score s(x), on a scale that explains: o = −log(s/Σa)."
    )
    X = StandardScaler().fit_transform(load_wine().data)
    model = OneClassSVM(kernel="rbf", gamma=0.05, nu=0.2).fit(X)
    net = backlight.neuralize(model)
    score = net(torch.as_tensor(X)).detach().numpy()
    own = -np.log(model.score_samples(X) / model.dual_coef_.sum())
    page.check("the network's score is −log of scikit-learn's, but for the sum", np.abs(score - own).max(), 1e-10)
    ex = backlight.explain(model, X[:5])
    page.check("relevance adds up to the score", np.abs(ex.residual).max(), 1e-10)
    page.say("For large γ the soft minimum is the distance to the nearest support vector; the gap is at most log(M)/γ:")
    u = model.support_vectors_
    distances = ((X[:, None] - u[None]) ** 2).sum(2)
    found = [pooling_limit(distances, gamma) for gamma in (0.05, 0.5, 5.0, 50.0)]
    page.table(["γ", "largest gap", "log(M)/γ"], [(f.gamma, f"{f.gap:.4f}", f"{f.bound:.4f}") for f in found])
    page.holds(f"the bound holds for all {len(X)} rows and {len(u)} support vectors", all(found))


def trained_network():
    """A small network in the manner of VGG, which learnt scikit-learn's digits."""
    torch.manual_seed(0)
    data = load_digits()
    x, y = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(12):
        for rows in torch.randperm(1500).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval(), x[1500:], y[1500:]


def picture(page, net, x, y):
    """The recipe taught on VGG-16: γ falls from layer to layer."""
    page.head("4 A picture, by the recipe taught on VGG-16")
    right = float((net(x).argmax(1) == y).float().mean())
    page.say(
        f"A small network of the same kind, {100 * right:.1f} % right on digits it did not see. γ falls from layer to "
        "layer, and the first layer knows that pixels lie between 0 and 1. This is the plan, and it is what runs:"
    )
    rules = backlight.presets["gamma-decreasing"]()
    page.parts.append(("pre", repr(backlight.plan(net, x[:2], rules))))
    rows = [int(np.flatnonzero(y.numpy() == k)[0]) for k in (0, 3, 6, 8)]
    ex = backlight.explain(net, x[rows], rules=rules)
    kept = np.abs(ex.residual - ex.ledger.absorbed.sum(0)).max()
    page.check("what does not reach the pixels stands in the ledger", kept, 1e-4)
    other = backlight.explain(net, x[rows], method="gradient_x_input")
    axes = ex.plot.image(range(4), compare={"gradient × input": other})
    page.show(np.atleast_1d(axes).flat[0].figure, "Four digits, their relevance, and gradient times input")


def wiring(page, net, x):
    """Would it survive another wiring."""
    page.head("5 Would the explanation survive another wiring?")
    found = backlight.audit(net, x[:24], rewrites=["all", "attack"])
    page.say("The same network, rewritten in many ways that leave its function as it is:")
    page.show(found.plot.heatmap().figure, "How far each method's explanations move under each rewrite")
    for sentence in found.advice():
        page.say(sentence)
    page.check("every rewrite leaves the function as it is", found.function_change.max(), 1e-9)
    page.check("on canonical forms nothing moves", float(np.nanmax(found.canonical)), 1e-9)
    page.holds("nothing is planted in this network", not found.planted)


def main(folder=Path("backlight-theory")):
    """Compute and write the page."""
    folder.mkdir(exist_ok=True)
    page = Page()
    prototypes(page)
    structure(page)
    machine(page)
    net, x, y = trained_network()
    picture(page, net, x, y)
    wiring(page, net, x)
    page.write(folder / "theory.html")
    print(f"written: {folder / 'theory.html'}, {sum(kind == 'check' for kind, _ in page.parts)} claims checked")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
