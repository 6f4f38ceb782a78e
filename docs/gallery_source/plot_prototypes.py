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
most = abs(account.values).max()
figure, ax = plt.subplots(figsize=(3, 3))
ax.imshow(account.values[0].reshape(8, 8), cmap="RdBu_r", vmin=-most, vmax=most)
ax.axis("off")
plt.show()
