"""Classical models as exact networks, one file per family.

``layers``            the vocabulary: layers with a pass forward and a way back, from which all models are composed
``svm``, ``density``, ``cluster``, ``gaussians``, ``bayes``, ``neighbors``, ``linear``, ``perceptrons``, ``expansions``,
``processes``, ``boltzmann``, ``ensembles``  the models: read the fitted estimator, name its scores; all private
                      attributes are read here
``kernels``           radial kernels as layers
``scores``, ``targets``  scores that families share; what a user can ask to have explained
``frontend``          from the columns of a table to a model's space
``preprocessing``, ``transformers``  scikit-learn transformers as layers
``pipeline``          pipelines and column transformers: layers put together, columns kept track of
``trees``             models that are no networks: explained by a tree explainer
``network``           `NeuralizedModel`, what `neuralize` returns
``neuralize``         `neuralize`, and how a third party adds a model
``registry``          functions by class

Imports ``rules``, ``tables``, ``errors``. A new model is one function ``(estimator) -> ModelSpec`` in a file beside
its siblings, registered with ``@neuralize.register("module.Class")``, and one test.
"""

from typing import TYPE_CHECKING, Any

from backlight.classical.families import (
    bayes,
    boltzmann,
    cluster,
    density,
    ensembles,
    expansions,
    gaussians,
    linear,
    neighbors,
    perceptrons,
    processes,
    svm,
    trees,
)
from backlight.classical.families.kernels import RadialKernel
from backlight.classical.frontend import transformers
from backlight.classical.network import Inputs, ModelSpec, NeuralizedModel, Relevance, Score
from backlight.classical.neuralize import neuralize

if TYPE_CHECKING:
    from backlight.classical.families.kernelclusters import KernelClusters

__all__ = [
    "Inputs",
    "KernelClusters",
    "ModelSpec",
    "NeuralizedModel",
    "RadialKernel",
    "Relevance",
    "Score",
    "bayes",
    "boltzmann",
    "cluster",
    "density",
    "ensembles",
    "expansions",
    "gaussians",
    "linear",
    "neighbors",
    "neuralize",
    "perceptrons",
    "processes",
    "svm",
    "transformers",
    "trees",
]


def __getattr__(name: str) -> Any:
    if name == "KernelClusters":  # an estimator of scikit-learn's kind: imported only when it is wanted
        from backlight.classical.families.kernelclusters import KernelClusters

        return KernelClusters
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
