"""
What makes a cluster
====================

k-means as a network: how much nearer a row is to its own centre than to the next one, column by column.
"""

import matplotlib.pyplot as plt
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import backlight

iris = load_iris(as_frame=True)
model = make_pipeline(StandardScaler(), KMeans(3, n_init=5, random_state=0)).fit(iris.data)
ex = backlight.explain(model, iris.data)
ex.plot.bar()

# %%
# A row that nearly fell into another cluster.

ex.plot.waterfall(int(abs(ex.output).argmin()))
plt.show()
