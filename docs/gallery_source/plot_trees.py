"""
Trees and forests
=================

Exact Shapley values along the trees, and the one-pass rule along the paths, side by side.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import backlight

data = load_breast_cancer(as_frame=True)
forest = RandomForestClassifier(50, random_state=0).fit(data.data, data.target)
exact = backlight.explain(forest, data.data[:100])
path = backlight.explain(forest, data.data[:100], rules="path")
exact.plot.bar()

# %%
figure, ax = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
ax.plot(exact.values.ravel(), path.values.ravel(), ".", markersize=2)
ax.set_xlabel("Shapley value")
ax.set_ylabel("one pass along the paths")

# %%
exact.plot.beeswarm()
plt.show()
