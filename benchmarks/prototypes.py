"""Which prior gives prototypes that other models recognise? Digits, four target networks, three independent judges.

Protocol: 900 digits train the targets and fit the priors, 450 others the judges (another network, an RBF-SVM, a random
forest), the last 447 are for likelihoods and distances. `python benchmarks/prototypes.py [--quick] [--figures FOLDER]`
prints the tables of README.md: transfer by prior, restarts against certified optima, costs.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
import argparse
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC
from torch import nn

import backlight
from backlight import priors, spaces

torch.set_num_threads(1)
warnings.simplefilter("ignore")


def network(seed, wide=16):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, wide, 3, padding=1), nn.ReLU(), nn.Conv2d(wide, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def other(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(12, 24, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


def train(net, X, y, epochs=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3, weight_decay=1e-4)
    X, y = torch.as_tensor(X, dtype=torch.float32), torch.as_tensor(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(X), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


class Decoder(nn.Module):
    """A small variational autoencoder's decoder, trained here."""

    def __init__(self, k=8):
        super().__init__()
        self.decode = nn.Sequential(nn.Linear(k, 128), nn.ReLU(), nn.Linear(128, 64), nn.Sigmoid())

    def forward(self, z):
        return self.decode(z).view(-1, 1, 8, 8)


def autoencoder(X, k=8, epochs=250):
    torch.manual_seed(0)
    decoder = Decoder(k)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * k))
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], 2e-3)
    X = torch.as_tensor(X, dtype=torch.float32)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(64):
            optimizer.zero_grad()
            mean, log_var = encoder(X[rows]).chunk(2, 1)
            z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
            fit = 0.5 * ((decoder(z) - X[rows]) ** 2).sum() / 0.05
            loss = fit - 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum()
            loss.backward()
            optimizer.step()
    return decoder.eval(), lambda x: encoder(x).chunk(2, 1)[0]


def sets():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).reshape(-1, 1, 8, 8)
    order = np.random.default_rng(0).permutation(len(X))
    cuts = np.split(order, [900, 1350])
    return [(X[rows], y[rows]) for rows in cuts]


def transfer(quick):
    (X, y), (Xj, yj), (Xh, yh) = sets()
    flat = X.reshape(len(X), -1)
    judges = [
        train(other(7), Xj, yj), SVC(probability=True, random_state=0).fit(Xj.reshape(len(Xj), -1), yj),
        RandomForestClassifier(300, random_state=0).fit(Xj.reshape(len(Xj), -1), yj),
    ]  # fmt: skip
    decoder, encoder = autoencoder(X)
    setups = {
        "defaults: Gaussian": {"data": X},
        "mixture of 10": {"data": X, "prior": priors.Mixture.fit(X, 10)},
        "mixture of 10, strength 3": {"data": X, "prior": priors.Mixture.fit(X, 10), "strength": 3.0},
        "VAE code": {"data": X, "space": spaces.Generator(decoder, 8, encoder=encoder)},
        "PCA-20 code": {"data": X, "space": spaces.PCA.fit(X, 20)},
        "kernel density (cv)": {"data": X, "prior": priors.KernelDensity.fit(X, "cv")},
        "Gaussian, strength 3": {"data": X, "strength": 3.0},
        "L2(0.3) around the mean, box": {"data": X, "prior": priors.L2(0.3, center=flat.mean(0)), "bounds": (0, 1)},
        "L2(0.3)": {"data": X, "prior": priors.L2(0.3)},
        "mixture of 10, random starts": {"data": X, "prior": priors.Mixture.fit(X, 10), "init": "data"},
        "no prior, box": {"data": X, "prior": "none", "bounds": (0, 1)},
    }  # fmt: skip
    nets = [train(network(seed), X, y, seed=seed) for seed in ((0,) if quick else (0, 1, 2))]
    if not quick:
        nets.append(train(network(3, wide=32), X, y, seed=3))
    accuracy = [float((net(torch.as_tensor(Xh).float()).argmax(1).numpy() == yh).mean()) for net in nets]
    print(f"target networks: accuracy {min(accuracy):.3f} to {max(accuracy):.3f} on the rest\n")
    print("| prior | transfer | first choice | percentile | distance | worst own confidence | status | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    base = {"class mean": [], "top row": []}
    kept = {}
    for name, options in setups.items():
        rows, statuses, spent = [], [], 0.0
        for net in nets:
            start = time.process_time()
            p = backlight.prototype(net, **options)
            spent += time.process_time() - start
            judged = p.evaluate(Xh, yh, judges=judges)
            mine = np.array([s == "prototype" for s in judged.source])
            rows.append(
                [
                    judged.transfer[mine].mean(),
                    judged.agreed[mine].mean(),
                    judged.percentile[mine].mean(),
                    judged.distance[mine].mean(),
                    judged.confidence[mine].min(),
                ]
            )
            for other_ in base:
                there = np.array([s == other_ for s in judged.source])
                base[other_].append(
                    [
                        judged.transfer[there].mean(),
                        judged.agreed[there].mean(),
                        judged.percentile[there].mean(),
                        judged.distance[there].mean(),
                        judged.confidence[there].min(),
                    ]
                )
            statuses += p.status
            kept.setdefault(name, p)
        m, s = np.mean(rows, 0), np.std(rows, 0)
        told = ", ".join(f"{statuses.count(k)} {k}" for k in dict.fromkeys(statuses))
        print(
            f"| {name} | {m[0]:.3f} ± {s[0]:.3f} | {m[1]:.2f} | {m[2]:.2f} | {m[3]:.2f} | {m[4]:.2f} | {told} | {spent / len(nets):.1f} |",
            flush=True,
        )
    for name, rows in base.items():
        m = np.mean(rows, 0)
        print(f"| *data: {name}* | {m[0]:.3f} | {m[1]:.2f} | {m[2]:.2f} | {m[3]:.2f} | {m[4]:.2f} | | |")
    return kept


def certified(quick):
    """The best of the restarts against the optimum that a mixed-integer program proves."""
    (X, y), _, _ = sets()
    flat = X.reshape(len(X), -1)
    prior = priors.L1(1.0, center=flat.mean(0))
    print("\n| hidden units | certified gap | seconds | restarts: short by, mean (largest) | targets within 1e-3 |")
    print("|---|---|---|---|---|")
    for hidden in (8, 16) if quick else (8, 16, 32):
        torch.manual_seed(hidden)
        net = train(
            nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)), flat, y, epochs=120
        ).double()
        start = time.perf_counter()
        best = backlight.prototype(net, prior=prior, bounds=(0, 1), exact="require")
        spent = time.perf_counter() - start
        climbed = backlight.prototype(net, prior=prior, bounds=(0, 1), data=flat, exact="never", restarts=20)
        short = best.value - climbed.value
        gap = max(c.value for c in best.certificate)
        print(
            f"| {hidden} | {gap:.1e} | {spent / 10:.1f} a target | {short.mean():.4f} ({short.max():.4f}) | {(short < 1e-3).sum()} of 10 |",
            flush=True,
        )


def costs(quick):
    """An iteration on images against one bare pass forward and back with frozen weights; a batch against single calls."""
    import torchvision

    print("\n| network, 128 px | bare pass | iteration, pixels | iteration, waves |")
    print("|---|---|---|---|")
    for name in ("resnet18",) if quick else ("resnet18", "vgg16"):
        torch.manual_seed(0)
        net = getattr(torchvision.models, name)().eval()
        frozen = getattr(torchvision.models, name)().eval().requires_grad_(False)
        shape = (3, 128, 128)
        x = torch.randn(1, *shape)

        def bare(x=x, frozen=frozen):
            v = x.clone().requires_grad_(True)
            (_g,) = torch.autograd.grad(frozen(v)[0, 3], v)

        def steps(n, space, prior, net=net):
            backlight.prototype(
                net, 3, prior=prior, space=space, restarts=1, init="random", optimizer="adam", steps=n, exact="never"
            )

        ways = {"pixels": (spaces.Input(shape), priors.L2(1e-3)), "waves": (spaces.Fourier(shape), priors.L2(1e-3))}
        one = []
        each = {k: [] for k in ways}
        bare()
        for _ in range(5):
            start = time.process_time()
            for _ in range(10):
                bare()
            one.append((time.process_time() - start) / 10)
            for k, (space, prior) in ways.items():
                spent = []
                for n in (2, 12):
                    start = time.process_time()
                    steps(n, space, prior)
                    spent.append(time.process_time() - start)
                each[k].append((spent[1] - spent[0]) / 10)
        base = np.median(one)
        print(
            f"| {name} | {1e3 * base:.0f} ms | {np.median(each['pixels']) / base:.2f} × | {np.median(each['waves']) / base:.2f} × |",
            flush=True,
        )
    (X, y), _, _ = sets()
    net = train(network(0), X, y, epochs=5)
    prior = priors.Gaussian.fit(X)
    options = {"prior": prior, "data": X[:100], "optimizer": "adam", "steps": 100}
    start = time.process_time()
    backlight.prototype(net, restarts=8, **options)
    together = time.process_time() - start
    start = time.process_time()
    for k in range(80 if not quick else 10):
        backlight.prototype(net, k % 10, restarts=1, seed=k, **options)
    alone = (time.process_time() - start) * (1 if not quick else 8)
    print(f"\n80 prototypes in one call: {together:.2f} s; in 80 calls: {alone:.2f} s, {alone / together:.1f} ×")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--only", choices=["transfer", "certified", "costs"])
    arguments = parser.parse_args()
    if arguments.only in (None, "certified"):
        certified(arguments.quick)
    if arguments.only in (None, "costs"):
        costs(arguments.quick)
    kept = transfer(arguments.quick) if arguments.only in (None, "transfer") else {}
    if arguments.figures and kept:
        import matplotlib as mpl
        import matplotlib.pyplot

        mpl.use("Agg")
        shown = ["no prior, box", "L2(0.3)", "defaults: Gaussian", "mixture of 10", "VAE code"]
        figure, axes = mpl.pyplot.subplots(len(shown), 10, figsize=(8.6, 4.5))
        for row, name in zip(axes, shown, strict=True):
            for ax, x in zip(row, kept[name].x, strict=True):
                ax.imshow(x[0], cmap="gray", interpolation="nearest")
                ax.set(xticks=[], yticks=[])
            row[0].set_ylabel(name.removeprefix("defaults: ").split(",")[0], rotation=0, ha="right", va="center")
        figure.subplots_adjust(0.13, 0.01, 0.99, 0.99, 0.06, 0.06)
        figure.savefig(arguments.figures / "prototypes.png", dpi=100)
    sys.exit(0)
