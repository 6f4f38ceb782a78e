r"""Images as waves, with colours that do not go together.

:math:`x = C\,\mathcal F^{-1}(s\odot z)`: a real inverse Fourier transform of coefficients scaled by the spectrum
:math:`s`, then the channels mixed by C. With :math:`s\propto 1/\lvert\nu\rvert` all scales move equally fast (Olah,
Mordvintsev, Schubert, "Feature visualization", 2017). Nothing here belongs to one data set: C and s are measured on
yours by `Fourier.fit`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backlight.arguments import checked, numbers_in, shown
from backlight.errors import ArgumentError
from backlight.priors.base import array
from backlight.spaces.base import Space, as_shape

__all__ = ["Fourier"]

# Codes are drawn small: an image near the middle of its range.
_START = 0.3


@checked
class Fourier(Space):
    """Images of shape (channels, height, width) by their Fourier coefficients.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width).
    decay : float, default 1
        The spectrum falls as 1 / frequency^decay.
    range : (low, high), optional
        Squeezes pixels into it by a logistic function.
    colors : array of shape (channels, channels), optional
        C with CCᵀ = the covariance of channels; by default none.
    mean : array of shape (channels,) or scalar, optional
        Where z = 0 is, before the logistic function.
    spectrum : array of shape (height, width // 2 + 1), optional
        Instead of ``decay``.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        decay: float = 1.0,
        range: tuple[float, float] | None = None,  # noqa: A002 - the word of the field
        colors: Any = None,
        mean: Any = 0.0,
        spectrum: Any = None,
    ) -> None:
        sizes = as_shape(shape)
        if len(sizes) != 3 or min(sizes) < 1:
            raise ArgumentError(f"Fourier takes a shape (channels, height, width), not {shape!r}")
        channels, height, width = sizes
        self.shape = self._size = (channels, height, width)
        half = width // 2 + 1
        self.code_dim = channels * height * half * 2
        self.range = None
        if range is not None:
            ends = numbers_in(range, "range").astype(float)
            if ends.shape != (2,) or not ends[0] < ends[1]:
                raise ArgumentError(f"range={shown(range)} must be (low, high) with low < high")
            self.range = (float(ends[0]), float(ends[1]))
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
        scale = 1 / np.maximum(frequency, 1 / max(height, width)) ** decay
        if spectrum is not None:
            scale = array(spectrum, "spectrum", 2).numpy()
            if scale.shape != (height, half):
                raise ArgumentError(f"spectrum has the shape {scale.shape}, not {(height, half)}")
        else:
            # pixels of unit variance for a standard normal code
            power = (scale**2 * _pairs(width) ** 2).sum() / (height * width)
            scale = scale / math.sqrt(power)
        self.spectrum = torch.as_tensor(scale)
        self.colors = None if colors is None else array(colors, "colors", 2)
        if self.colors is not None and self.colors.shape != (channels, channels):
            raise ArgumentError(f"colors must have the shape ({channels}, {channels})")
        self.mean = array(mean, "mean")
        self.name = f"Fourier({channels}×{height}×{width})"

    @classmethod
    def fit(cls, X: Any, *, range: tuple[float, float] | None = None) -> Fourier:  # noqa: A002
        """Spectrum, colours and mean of images (n, channels, height, width)."""
        images = array(X, "X", 4)
        mean = images.mean((0, 2, 3))
        centred = images - mean[:, None, None]
        flat = centred.transpose(0, 1).flatten(1)
        values, vectors = torch.linalg.eigh(flat @ flat.T / flat.shape[1])
        colors = vectors * values.clamp(min=0).sqrt()
        white = torch.einsum("dc,ndhw->nchw", vectors / values.clamp(min=1e-12 * float(values[-1])).sqrt(), centred)
        power = torch.fft.rfft2(white, norm="ortho").abs().square().mean((0, 1))
        if range is not None:
            # the logistic function has slope (high − low)/4 in the middle
            low, high = range
            middle = ((mean - low) / (high - low)).clamp(0.02, 0.98)
            colors, mean = colors * (4 / (high - low)), torch.log(middle / (1 - middle))
        shape = (images.shape[1], images.shape[2], images.shape[3])
        spectrum = (power / torch.as_tensor(_pairs(shape[2]))).sqrt()
        return cls(shape, range=range, colors=colors, mean=mean, spectrum=spectrum)

    def decode(self, z: Tensor) -> Tensor:
        """Codes (n, code_dim) to images (n, channels, height, width)."""
        channels, height, width = self._size
        parts = z.reshape(len(z), channels, height, width // 2 + 1, 2)
        waves = torch.view_as_complex(parts.contiguous()) * self.spectrum.to(z)
        x: Tensor = torch.fft.irfft2(waves, s=(height, width), norm="ortho")
        if self.colors is not None:
            x = torch.einsum("dc,nchw->ndhw", self.colors.to(z), x)
        mean = self.mean.to(z)
        x = x + (mean[:, None, None] if mean.ndim else mean)
        if self.range is None:
            return x
        low, high = self.range
        return low + (high - low) * torch.sigmoid(x)

    def encode(self, x: Tensor) -> Tensor:
        """Codes of images."""
        x = x.reshape(len(x), *self._size).double()
        if self.range is not None:
            low, high = self.range
            share = ((x - low) / (high - low)).clamp(0.005, 0.995)
            x = torch.log(share / (1 - share))
        x = x - (self.mean[:, None, None] if self.mean.ndim else self.mean)
        if self.colors is not None:
            x = torch.einsum("cd,ndhw->nchw", torch.linalg.pinv(self.colors), x)
        waves = torch.fft.rfft2(x, norm="ortho")
        scale = torch.where(self.spectrum > 0, self.spectrum, 1.0)
        found: Tensor = torch.view_as_real(waves / scale).flatten(1)
        return found

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Faint noise."""
        return _START * super().draw(n, generator)


def _pairs(width: int) -> np.ndarray:
    """How many frequencies each column of a real transform stands for: the first is its own mirror, the last may be."""
    half = width // 2 + 1
    alone = (np.arange(half) == 0) | ((width % 2 == 0) & (np.arange(half) == half - 1))
    return np.where(alone, 1.0, 2.0)
