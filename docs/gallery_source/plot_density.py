"""
A density as a network
======================

A kernel density is a layer of squared distances and a soft-min pool. Its relevance across the plane.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import KernelDensity

import backlight

rng = np.random.default_rng(0)
X = np.concatenate([rng.normal(size=(60, 2)) * 0.5 + c for c in ([-1.5, 0], [1.5, 0.8])])
model = KernelDensity(bandwidth=0.5).fit(X)
grid = np.stack(np.meshgrid(np.linspace(-4, 4, 60), np.linspace(-3, 3, 45)), -1).reshape(-1, 2)
ex = backlight.explain(model, grid, feature_names=["across", "up"])
figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
for ax, values, name in zip(
    axes, (np.asarray(ex.output), ex.values[:, 0], ex.values[:, 1]), ("−log p(x)", "contribution of across", "contribution of up"),
    strict=True,
):  # fmt: skip
    image = ax.pcolormesh(
        grid[:60, 0], grid[::60, 1], values.reshape(45, 60), cmap="viridis" if "log" in name else "Reds"
    )
    ax.plot(*X.T, ".", color="white", markersize=3)
    ax.set_title(name, fontsize=10)
    figure.colorbar(image, ax=ax)

# %%
# The two contributions of points on a circle around the data, and what belongs to neither.

angle = np.linspace(0, 2 * np.pi, 200)
circle = backlight.explain(model, 3 * np.c_[np.cos(angle), np.sin(angle)])
figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
ax.plot(angle, circle.values[:, 0], label="across")
ax.plot(angle, circle.values[:, 1], label="up")
ax.plot(angle, circle.base_values, "--", color="gray", label="base value")
ax.plot(angle, np.asarray(circle.output), color="black", label="score")
ax.set_xlabel("angle")
ax.legend(fontsize=8)
plt.show()
