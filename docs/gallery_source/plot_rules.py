"""
What a rule does
================

The same perceptron on the same rows by five rules, and how the parameter of the γ-rule moves the answer.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import backlight
from backlight.rules import AlphaBeta, Epsilon, Gamma, Zero, ZPlus

torch.manual_seed(0)
net = (
    torch.nn.Sequential(torch.nn.Linear(5, 16, bias=False), torch.nn.ReLU(), torch.nn.Linear(16, 1, bias=False))
    .double()
    .eval()
)
x = torch.randn(1, 5, dtype=torch.float64)
rules = [Zero(), Epsilon(0.1), Gamma(0.25), ZPlus(), AlphaBeta(2, 1)]
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for k, rule in enumerate(rules):
    values = backlight.explain(net, x, 0, rules=rule).values[0]
    ax.bar(np.arange(5) + 0.16 * (k - 2), values, width=0.15, label=repr(rule))
ax.axhline(0, color="black", linewidth=0.8)
ax.set_xticks(range(5), [f"input {k}" for k in range(5)])
ax.legend(fontsize=8)

# %%
gammas = np.geomspace(0.01, 100, 40)
lines = np.array([backlight.explain(net, x, 0, rules=Gamma(float(g))).values[0] for g in gammas])
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
for j in range(5):
    ax.plot(gammas, lines[:, j], label=f"input {j}")
ax.set_xscale("log")
ax.set_xlabel("γ")
ax.set_ylabel("relevance")
ax.legend(fontsize=8)
plt.show()
