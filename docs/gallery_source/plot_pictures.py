"""
Heat maps of a network
======================

A small network learns scikit-learn's digits in seconds; three ways to say what it looks at.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import backlight

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32)
y = torch.tensor(digits.target)
net = torch.nn.Sequential(
    torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(512, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(net.parameters(), 2e-3)
for _ in range(12):
    for rows in torch.randperm(1500).split(64):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
net.eval()
shown = x[1500:1504]
ex = backlight.explain(net, shown)
ex.plot.image()

# %%
# The same pictures by the gradient times the input.

backlight.explain(net, shown, method="gradient_x_input").plot.image()

# %%
# Relevance at an inner layer, summed over its channels.

inner = backlight.explain(net, shown, layers=["3"]).layers["3"].sum(1)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.4))
for ax, one in zip(axes, inner, strict=True):
    most = abs(one).max()
    ax.imshow(one, cmap="RdBu_r", vmin=-most, vmax=most)
    ax.axis("off")

# %%
# Which explanation is faithful? Patches are taken away, the most relevant ones first.

found = backlight.evaluate(
    net, x[1500:1560], ["lrp", "lrp:epsilon", "gradient_x_input", "random"],
    reference=backlight.Reference.marginal(x[:500]), metrics=["srg"],
)  # fmt: skip
found.plot.curves()

# %%
# And how surely.

found.plot.intervals("srg")
plt.show()
