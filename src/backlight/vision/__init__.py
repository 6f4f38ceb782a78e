"""Explaining image classifiers from files: networks, pictures, heat maps.

``architectures`` networks by name · ``files`` trained networks from files, nothing that could run code ·
``pictures`` photographs as a network wants them · ``workflow`` from files to explanations · ``prototypes`` what a
network looks for.
"""

from backlight.vision.files import load_network
from backlight.vision.pictures import PREPROCESSINGS, Preprocessing
from backlight.vision.prototypes import prototypes_of_pictures
from backlight.vision.workflow import Seen, explain_pictures

__all__ = ["PREPROCESSINGS", "Preprocessing", "Seen", "explain_pictures", "load_network", "prototypes_of_pictures"]
