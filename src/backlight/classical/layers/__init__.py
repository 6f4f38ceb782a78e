"""The vocabulary: layers with a pass forward and a way back, from which every model is composed.

``base``               `Layer`, `ForwardPass`: what a layer is
``pullback``           the affine end of a front end, and the way back to columns
``units``              layers on the data: affine, quadratic, one-feature terms
``radial``             functions of the distance to each of many anchors
``selves``             which anchor a row itself is
``softmin_distance``   Gaussian distances and their soft-min pool in one, fast
``pools``              soft-min pools, log-odds, links to scores
``contrasts``          nearest centres and their rivals
``expansion``          signed kernel expansions: the log-ratio of two pools
``order``              order statistics of distances: neighbours, outlier factors, votes
``surprise``           a Gaussian pool with conditional surprise
``energies``           polynomial kernels, free energies
``combine``            layers side by side, means, variance; members with a front end of their own
"""

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pullback import Pullback
from backlight.classical.layers.softmin_distance import SoftMinDistance

__all__ = ["EncodedRows", "ForwardPass", "Layer", "Pullback", "Query", "SoftMinDistance"]
