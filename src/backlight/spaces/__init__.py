"""How a prototype is written: as itself, as an affine or learnt code, as waves.

To add a space, write a class with `Space.decode` in a file of its own.
"""

from backlight.spaces.base import Input, Space
from backlight.spaces.codes import PCA, Affine, Generator
from backlight.spaces.fourier import Fourier

__all__ = ["PCA", "Affine", "Fourier", "Generator", "Input", "Space"]
