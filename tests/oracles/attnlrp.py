"""A small decoder with everything that a Llama has, and relevance through it written without gradients.

Every formula is on relevance itself, with its division by the output, as the papers state it: Achtibat et al., ICML 2024
(propositions 3.1 to 3.4), Ali et al., ICML 2022.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """One block: RMSNorm, rotary attention with shared keys and values, a gated MLP, a head without bias."""

    def __init__(self, width: int = 8, heads: int = 4, shared: int = 2, words: int = 11, fused: bool = False) -> None:
        super().__init__()
        self.heads, self.shared, self.size, self.fused = heads, shared, width // heads, fused
        self.embed = nn.Embedding(words, width)
        self.n1, self.n2, self.n3 = (nn.Parameter(torch.rand(width) + 0.5) for _ in range(3))
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, shared * self.size, bias=False) for _ in range(2))
        self.o = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, 12, bias=False) for _ in range(2))
        self.down, self.head = nn.Linear(12, width, bias=False), nn.Linear(width, words, bias=False)

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    def turn(self, x: Tensor) -> Tensor:
        half = self.size // 2
        angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] / 10.0 ** torch.arange(half, dtype=x.dtype)
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.size).transpose(1, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        n = self.norm(x, self.n1)
        q, k, v = self.turn(self.split(self.q(n))), self.turn(self.split(self.k(n))), self.split(self.v(n))
        k, v = (t.repeat_interleave(self.heads // self.shared, 1) for t in (k, v))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            length = ids.shape[1]
            bar = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)
            mixed = (q @ k.transpose(-2, -1) * self.size**-0.5 + bar).softmax(-1) @ v
        x = x + self.o(mixed.transpose(1, 2).reshape(x.shape))
        n = self.norm(x, self.n2)
        x = x + self.down(F.silu(self.gate(n)) * self.up(n))
        return self.head(self.norm(x, self.n3)[:, -1])


def linear(x: Tensor, weight: Tensor, R: Tensor) -> Tensor:
    """R_i = Σ_j x_i w_ji R_j / z_j."""
    z = x @ weight.T
    return torch.einsum("...i,ji,...j->...i", x, weight, R / z)


def matrix_product(x: Tensor, y: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """Each factor's share of O_jp = Σ_i x_ji y_ip: R_ji = Σ_p x_ji y_ip R_jp / (2 O_jp)."""
    s = R / (2 * (x @ y))
    return torch.einsum("...ji,...ip,...jp->...ji", x, y, s), torch.einsum("...ji,...ip,...jp->...ip", x, y, s)


def relevance(net: Decoder, ids: Tensor, target: int, rule: str) -> tuple[Tensor, Tensor]:
    """Relevance of each token of one text, and what softmax keeps, for ``attnlrp`` and ``cplrp``."""
    x0 = net.embed(ids)
    n1 = net.norm(x0, net.n1)
    q0, k0, v0 = net.split(net.q(n1)), net.split(net.k(n1)), net.split(net.v(n1))
    q, groups = net.turn(q0), net.heads // net.shared
    k, v = net.turn(k0).repeat_interleave(groups, 1), v0.repeat_interleave(groups, 1)
    length = ids.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    scores = q @ k.transpose(-2, -1) * net.size**-0.5
    A = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    mixed = A @ v
    attended = mixed.transpose(1, 2).reshape(x0.shape)
    x1 = x0 + net.o(attended)
    n2 = net.norm(x1, net.n2)
    g, u = F.silu(net.gate(n2)), net.up(n2)
    x2 = x1 + net.down(g * u)
    n3 = net.norm(x2, net.n3)
    seed = torch.zeros(1, net.head.out_features, dtype=x0.dtype)
    seed[0, target] = net.head(n3[:, -1])[0, target]
    R = torch.zeros_like(x2)
    R[:, -1] = linear(n3[:, -1], net.head.weight, seed)
    # norms hand relevance on, unit by unit; a sum shares by its terms
    inner = R * net.down(g * u) / x2
    R = R * x1 / x2
    R_gated = linear(g * u, net.down.weight, inner)
    R = R + linear(n2, net.gate.weight, R_gated / 2) + linear(n2, net.up.weight, R_gated / 2)
    inner = R * net.o(attended) / x1
    R = R * x0 / x1
    R_mixed = net.split(linear(attended, net.o.weight, inner))
    R_A, R_V = matrix_product(A, v, R_mixed)
    kept = torch.zeros(())
    if rule == "cplrp":
        R_V = 2 * R_V
    else:
        S = scores.masked_fill(~allowed, 0.0)
        R_S = S * (R_A - A * R_A.sum(-1, keepdim=True))
        kept = R_A.sum() - R_S.sum()
        R_q, R_k = matrix_product(q, k.transpose(-2, -1), R_S)
        R = R + _projected(net, n1, q0, _turned_back(net, q0, R_q), net.q.weight)
        R_k = R_k.transpose(-2, -1).unflatten(1, (net.shared, groups)).sum(2)
        R = R + _projected(net, n1, k0, _turned_back(net, k0, R_k), net.k.weight)
    R_v = R_V.unflatten(1, (net.shared, groups)).sum(2)
    R = R + _projected(net, n1, v0, R_v, net.v.weight)
    return R.sum(-1)[0], kept


def _projected(net: Decoder, n1: Tensor, z: Tensor, R: Tensor, weight: Tensor) -> Tensor:
    return linear(n1, weight, R.transpose(1, 2).reshape(*n1.shape[:2], -1))


def _turned_back(net: Decoder, x: Tensor, R: Tensor) -> Tensor:
    """Through y = M x, M the matrix of the rotation of each position: R_i = Σ_j x_i M_ji R_j / y_j."""
    basis = torch.eye(net.size, dtype=x.dtype)
    M = net.turn(basis[:, None, None, :].expand(-1, 1, x.shape[2], -1))[:, 0].permute(1, 2, 0)
    y = net.turn(x)
    return torch.einsum("bhti,tji,bhtj->bhti", x, M, R / y)
