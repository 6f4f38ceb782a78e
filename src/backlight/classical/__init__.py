"""Classical models as exact networks, one file per family.

``families``   the models: read the fitted estimator, name its scores
``layers``     the vocabulary: layers with a pass forward and a way back, from which all models are composed
``frontend``   from the columns of a table to a model's space: transformers, pipelines
``targets``    what a user can ask to have explained
``network``    `NeuralizedModel`, what `neuralize` returns
``neuralize``  `neuralize`, and how a third party adds a model
``registry``   functions by class
``files``      fitted models in files

Imports ``rules``, ``tables``, ``errors``.
"""

from typing import TYPE_CHECKING, Any

from backlight._rooms import open_room
from backlight.classical import families
from backlight.classical.families import (
    autoencoders,
    bayes,
    boltzmann,
    catboost,
    centers,
    cluster,
    density,
    densityclusters,
    ensembles,
    expansions,
    gaussians,
    isotonic,
    lightgbm,
    linear,
    neighbors,
    perceptrons,
    processes,
    pyod,
    pyod_distances,
    pyod_inside,
    pyod_terms,
    skorch,
    stacking,
    statsmodels,
    svm,
    trees,
    votes,
    xgboost,
)
from backlight.classical.families.autoencoders import Autoencoder
from backlight.classical.families.kernels import RadialKernel
from backlight.classical.frontend import column_maps, transformers
from backlight.classical.network import Inputs, ModelSpec, NeuralizedModel, Score
from backlight.classical.neuralize import neuralize

if TYPE_CHECKING:
    from backlight.classical.families.kernelclusters import KernelClusters

__all__ = [
    "Autoencoder",
    "Inputs",
    "KernelClusters",
    "ModelSpec",
    "NeuralizedModel",
    "RadialKernel",
    "Score",
    "autoencoders",
    "bayes",
    "boltzmann",
    "catboost",
    "centers",
    "cluster",
    "column_maps",
    "density",
    "densityclusters",
    "ensembles",
    "expansions",
    "gaussians",
    "isotonic",
    "lightgbm",
    "linear",
    "neighbors",
    "neuralize",
    "perceptrons",
    "processes",
    "pyod",
    "pyod_distances",
    "pyod_inside",
    "pyod_terms",
    "skorch",
    "stacking",
    "statsmodels",
    "svm",
    "transformers",
    "trees",
    "votes",
    "xgboost",
]

# an estimator of scikit-learn's kind is imported only when it is wanted
open_room(families.__name__, families.__path__, later=("kernelclusters",))


def __getattr__(name: str) -> Any:
    if name == "KernelClusters":  # an estimator of scikit-learn's kind: imported only when it is wanted
        from backlight.classical.families.kernelclusters import KernelClusters

        return KernelClusters
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
