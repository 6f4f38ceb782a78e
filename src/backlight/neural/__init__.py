"""Classical models as exact networks, one file per family.

``softmin_distance``  the layer pair "distance, then soft-min pool"
``pullback``          how relevance goes from the pool's space to the columns of the table
``svm``, ``density``  the models: read the fitted estimator, name its scores
``preprocessing``     scikit-learn transformers as layers
``pipeline``          pipelines and column transformers: layers put together, columns kept track of
``network``           `NeuralizedModel`, what `neuralize` returns
``neuralize``         `neuralize`, and how a third party adds a model
``registry``          functions by class

Imports ``rules``, ``tables``, ``errors``. A new model is one function ``(estimator) -> Head`` in a file beside
its siblings, registered with ``@neuralize.register("module.Class")``, and one test.
"""

from backlight.neural import density, svm
from backlight.neural.network import Head, NeuralizedModel, Relevance, Score
from backlight.neural.neuralize import neuralize

__all__ = ["Head", "NeuralizedModel", "Relevance", "Score", "density", "neuralize", "svm"]
