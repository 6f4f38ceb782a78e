"""Photographs as a network wants them, and the box that its inputs lie in."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from backlight.errors import ArgumentError, listed, reading, require

__all__ = ["PREPROCESSINGS", "Preprocessing", "preprocessing"]


# What Pillow decodes itself; for PostScript it would start another program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Resize, crop, then (x/255 − mean)/std for each channel.

    Attributes
    ----------
    resize : int, optional
        The short side after resizing; ``None`` stretches to the crop.
    crop : int
        Side of the square that the network sees.
    mean, std : tuple of float
        One number a channel; one channel means a grey picture.
    """

    resize: int | None
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def low(self) -> np.ndarray:
        """The smallest input, one number a channel."""
        return np.asarray((0 - np.array(self.mean)) / np.array(self.std))

    @property
    def high(self) -> np.ndarray:
        """The largest input, one number a channel."""
        return np.asarray((1 - np.array(self.mean)) / np.array(self.std))

    def pixels(self, path: Path) -> np.ndarray:
        """A picture as the network sees it, before normalisation: (crop, crop, channels), bytes."""
        image = require("PIL.Image", "plot", "reading pictures")
        with reading(path, "a picture"), warnings.catch_warnings():
            # a picture of more pixels than any camera takes is one that would fill the memory
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with image.open(path, formats=_FORMATS) as opened:
                picture = opened.convert("L" if len(self.mean) == 1 else "RGB")
        width, height = picture.size
        if self.resize is None:
            picture = picture.resize((self.crop, self.crop), image.Resampling.BILINEAR)
        else:
            scale = self.resize / min(width, height)
            picture = picture.resize((round(width * scale), round(height * scale)), image.Resampling.BILINEAR)
        width, height = picture.size
        left, top = (width - self.crop) // 2, (height - self.crop) // 2
        array = np.asarray(picture.crop((left, top, left + self.crop, top + self.crop)))
        return array.reshape(self.crop, self.crop, -1)

    def inputs(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Pictures as inputs, (n, channels, crop, crop)."""
        scaled = (np.stack(pixels) / 255.0 - np.array(self.mean)) / np.array(self.std)
        return np.asarray(np.moveaxis(scaled, -1, 1), dtype=np.float32)


PREPROCESSINGS = {
    "imagenet": Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": Preprocessing(None, 224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "grey": Preprocessing(None, 28, (0.0,), (1.0,)),
}


def preprocessing(name: str, size: int | None = None) -> Preprocessing:
    """A preprocessing by name, for another size of pictures where one is given."""
    if name not in PREPROCESSINGS:
        raise ArgumentError(f"no preprocessing is named {name!r}: there are {listed(PREPROCESSINGS)}")
    found = PREPROCESSINGS[name]
    if size is None:
        return found
    return replace(found, crop=size, resize=None if found.resize is None else round(size * found.resize / found.crop))
