"""What the inside of a network holds: relevance through channels, heads and directions, and what drives them.

``conditional``  relevance that passes through chosen parts of places: concept relevance propagation
``ranking``      channels, neurons and heads ordered over a data set, with the examples that drive them
``patching``     which places carry the difference between two inputs: relevance patching

For texts and pictures alike. Imports ``_explain`` and everything below.
"""

from backlight.attribution.conditional import Directions
from backlight.concepts.conditional import conditional, each_channel
from backlight.concepts.patching import Patching, patching
from backlight.concepts.ranking import Ranking, ranking

__all__ = ["Directions", "Patching", "Ranking", "conditional", "each_channel", "patching", "ranking"]
