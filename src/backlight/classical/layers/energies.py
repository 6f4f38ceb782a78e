r"""Layers without distances: polynomial kernels and the free energy of a restricted Boltzmann machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from backlight.classical.layers.base import EncodedRows, ForwardPass, Layer, Query
from backlight.classical.layers.pullback import Pullback

__all__ = ["FreeEnergy", "Polynomial"]


class Polynomial(Layer):
    r"""y_u = Σ_j β_uj (γ z·u_j + c)^q + b_u.

    :math:`R_i = z_i\,\partial_i y / q = \sum_j \beta_j\gamma u_{ji} z_i (\gamma z\cdot u_j + c)^{q-1}`: Euler's
    identity in (z, √c), of which the part of c, :math:`c\sum_j\beta_j(\cdot)^{q-1}`, is base with b.
    """

    anchors: Tensor
    beta: Tensor
    bias: Tensor

    def __init__(
        self, anchors: Tensor, beta: Tensor, bias: Tensor, gamma: float, coef0: float, degree: int, pullback: Pullback
    ) -> None:
        super().__init__()
        self.gamma, self.coef0, self.degree, self.pullback, self.units = gamma, coef0, degree, pullback, len(beta)
        self.rules = {"euler": "euler"}
        self.register_buffer("anchors", anchors)
        self.register_buffer("beta", beta)
        self.register_buffer("bias", bias)

    @property
    def rows(self) -> int:
        """Rows at once."""
        return max(16, min(8192, (1 << 21) // len(self.anchors)))

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, U)."""
        return (self.gamma * (x.z @ self.anchors.T) + self.coef0).pow(self.degree) @ self.beta.T + self.bias

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        inner = self.gamma * (x.z @ self.anchors.T)
        lower = (inner + self.coef0).pow(self.degree - 1)
        output = (lower * (inner + self.coef0)) @ self.beta.T + self.bias
        # z = A(e − e₀) + s: what s contributes belongs to no column
        shift = self.pullback.shift if self.pullback.shift is not None else torch.zeros_like(x.z[0])
        carried = (lower * (inner - self.gamma * (self.anchors @ shift))) @ self.beta.T

        def back(c: Tensor) -> Tensor:
            gradient = self.gamma * ((lower * (c @ self.beta)) @ self.anchors)
            weight, _, start = self.pullback.linear(gradient, gradient.new_zeros(len(gradient)))
            return self.pullback.columns((x.e - start) * weight)

        return ForwardPass(output, carried, back, output, {"products": carried})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The product with each anchor."""
        return {"products": len(self.anchors)}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        inner = self.gamma * (x.z @ self.anchors.T)
        shift = self.pullback.shift if self.pullback.shift is not None else torch.zeros_like(x.z[0])
        own = (inner + self.coef0).pow(self.degree - 1) * (inner - self.gamma * (self.anchors @ shift))
        return lambda c: (c @ self.beta) * own


class FreeEnergy(Layer):
    r"""F(v) = −b·v − Σ_j softplus(W_j·v + c_j) of a restricted Boltzmann machine.

    Each softplus passes by its secant from v = 0, :math:`s_j = [\mathrm{sp}(W_jv+c_j)-\mathrm{sp}(c_j)]/(W_jv)`, so
    that :math:`R_i = -v_i b_i - \sum_j s_j W_{ji} v_i` and the base is F(0).
    """

    W: Tensor
    hidden: Tensor
    visible: Tensor

    def __init__(self, W: Tensor, hidden: Tensor, visible: Tensor, pullback: Pullback) -> None:
        super().__init__()
        self.pullback = pullback
        self.rules = {"secant": "secant"}
        self.register_buffer("W", W)
        self.register_buffer("hidden", hidden)
        self.register_buffer("visible", visible)

    def forward(self, x: EncodedRows) -> Tensor:
        """Shape (n, 1)."""
        pre = x.z @ self.W.T + self.hidden
        return -(x.z @ self.visible + torch.logaddexp(pre, torch.zeros_like(pre)).sum(1))[:, None]

    def run(self, x: EncodedRows, ask: Query) -> ForwardPass:
        """See `Layer.run`."""
        shift = self.pullback.shift if self.pullback.shift is not None else torch.zeros_like(x.z[0])
        start = self.hidden + self.W @ shift
        step = (x.z - shift) @ self.W.T
        small = step.abs() < 1e-9
        gap = torch.logaddexp(start + step, torch.zeros_like(step)) - torch.logaddexp(start, torch.zeros_like(start))
        slope = torch.where(small, torch.sigmoid(start + step / 2), gap / torch.where(small, 1.0, step))
        gradient = -(self.visible + slope @ self.W)
        carried = ((x.z - shift) * gradient).sum(1, keepdim=True)
        weight, _, zero = self.pullback.linear(gradient, gradient.new_zeros(len(gradient)))
        values = self.pullback.columns((x.e - zero) * weight)
        output = self.forward(x)
        return ForwardPass(output, carried, lambda c: c * values, output, {"hidden units": carried})

    @property
    def made_of(self) -> Mapping[str, int]:
        """The hidden units, and last the visible units' own term."""
        return {"hidden": len(self.W) + 1}

    def inside(self, name: str, x: EncodedRows, ask: Query) -> Callable[[Tensor], Tensor]:
        """See `Layer.inside`."""
        shift = self.pullback.shift if self.pullback.shift is not None else torch.zeros_like(x.z[0])
        start, step = self.hidden + self.W @ shift, (x.z - shift) @ self.W.T
        zero = torch.zeros_like(step)
        rise = torch.logaddexp(start + step, zero) - torch.logaddexp(start + zero, zero)
        parts = -torch.cat([rise, ((x.z - shift) @ self.visible)[:, None]], 1)
        return lambda c: c * parts
