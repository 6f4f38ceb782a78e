"""
What a model looks for
======================

Prototypes of a classifier of digits: without a prior, near the data, and as the prior counts more and more.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import backlight
from backlight import priors

digits = load_digits()
X, y = digits.data / 16, digits.target
model = LogisticRegression(max_iter=2000).fit(X, y)
figure, axes = plt.subplots(3, 10, figsize=(11, 3.6))
rows = {
    "squared norm": priors.L2(1.0),
    "Gaussian": priors.Gaussian.fit(X),
    "mixture": priors.Mixture.fit(X, 10),
}
for line, (name, prior) in zip(axes, rows.items(), strict=True):
    p = backlight.prototype(model, data=X, prior=prior)
    for ax, image in zip(line, p.x, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r")
        ax.set_xticks([])
        ax.set_yticks([])
    line[0].set_ylabel(name, fontsize=9)

# %%
# What each pixel pays and costs for the first digit.

account = backlight.prototype(model, 0, data=X).explain()
parts = account.values[0].reshape(64, -1).T
figure, axes = plt.subplots(1, len(parts), figsize=(3 * len(parts), 3), squeeze=False)
for ax, part, name in zip(axes[0], parts, account.output_names, strict=True):
    most = abs(part).max() or 1
    ax.imshow(part.reshape(8, 8), cmap="RdBu_r", vmin=-most, vmax=most)
    ax.set_title(name, fontsize=9)
    ax.axis("off")
plt.show()
