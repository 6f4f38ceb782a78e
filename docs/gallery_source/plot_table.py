"""
A detector on a table
=====================

Which columns make a wine unusual to a one-class support vector machine, drawn in four ways.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import backlight

wine = load_wine(as_frame=True)
model = make_pipeline(StandardScaler(), OneClassSVM(nu=0.1)).fit(wine.data)
ex = backlight.explain(model, wine.data)

# %%
# One row: from the base value to the score.

ex.plot.waterfall(59)

# %%
# All rows: how much each column contributes on average.

ex.plot.bar()

# %%
# Every row is a point; the colour is the column's own value.

ex.plot.beeswarm()

# %%
# Rows across, columns down.

ex.plot.heatmap()
plt.show()
