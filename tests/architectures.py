"""Small versions of published architectures, for the zoo: graphs, sequences, tables, pictures, detection, generation.

Each gives four outputs a row. Sizes are the smallest that keep what is particular to the architecture.
"""

import torch
from torch import nn
from torch.nn import functional as F

D = torch.float64


def block(a, b, k=3, act=nn.ReLU, **options):
    return nn.Sequential(nn.Conv2d(a, b, k, padding=k // 2, bias=False, **options), nn.BatchNorm2d(b), act())


class Part(nn.Module):
    """A module by a function of itself: ``Part(forward, a=nn.Linear(…))``."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(
                self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) and part.is_floating_point() else part
            )

    def forward(self, x):
        return self._forward(self, x)


# -- graphs: a row is a graph of five nodes ----------------------------------------------------------------------------

SOURCE, SINK = torch.tensor([0, 1, 1, 2, 3, 4, 0, 2]), torch.tensor([1, 0, 2, 1, 4, 3, 4, 3])


def dense_adjacency():
    a = torch.eye(5, dtype=D)
    a[SINK, SOURCE] = 1
    return a


def gcn():
    a = dense_adjacency()
    a = a / (a.sum(0).sqrt() * a.sum(1, keepdim=True).sqrt())
    return Part(
        lambda m, x: m.o((a @ m.b(F.relu(a @ m.a(x)))).mean(1)), a=nn.Linear(3, 6), b=nn.Linear(6, 6), o=nn.Linear(6, 4)
    )


def sage():
    """Means of neighbours by index_add."""
    count = torch.zeros(5, dtype=D).index_add(0, SINK, torch.ones(8, dtype=D)).clamp(min=1)

    def forward(m, x):
        for own, other in ((m.a, m.b), (m.c, m.d)):
            x = F.relu(own(x) + other(torch.zeros_like(x).index_add(1, SINK, x[:, SOURCE]) / count[:, None]))
        return m.o(x.sum(1))

    return Part(forward, a=nn.Linear(3, 6), b=nn.Linear(3, 6), c=nn.Linear(6, 6), d=nn.Linear(6, 6), o=nn.Linear(6, 4))


def gin():
    """Sums of neighbours by scatter_add, (1 + ε) of the node's own."""

    def forward(m, x):
        at = SINK[:, None].expand(len(x), 8, x.shape[-1])
        h = m.n((1 + m.e) * x + torch.zeros_like(x).scatter_add(1, at, x[:, SOURCE]))
        return m.o(h.amax(1))

    return Part(
        forward, n=nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6)), e=torch.tensor(0.2), o=nn.Linear(6, 4)
    )


def gat():
    """Attention over neighbours, scores by LeakyReLU, softmax behind a mask."""
    a = dense_adjacency()

    def forward(m, x):
        h = m.w(x)
        scores = F.leaky_relu(m.s(h) + m.t(h).mT, 0.2).masked_fill(a == 0, float("-inf"))
        return m.o(F.elu(scores.softmax(-1) @ h).mean(1))

    return Part(forward, w=nn.Linear(3, 6), s=nn.Linear(6, 1), t=nn.Linear(6, 1), o=nn.Linear(6, 4))


def edges():
    """Messages from pairs of nodes, the largest of each node, as of dynamic graph convolutions."""

    def forward(m, x):
        pair = m.e(torch.cat([x[:, SINK], x[:, SOURCE] - x[:, SINK]], 2))
        at = SINK[:, None].expand(len(x), 8, 6)
        h = torch.zeros(len(x), 5, 6, dtype=x.dtype).scatter_reduce(1, at, F.relu(pair), "amax")
        return m.o(h.mean(1))

    return Part(forward, e=nn.Linear(6, 6), o=nn.Linear(6, 4))


# -- sequences ---------------------------------------------------------------------------------------------------------


def seq2seq():
    """An encoder, and a decoder of three steps that attends to it."""

    def forward(m, x):
        states, h = m.e(x)
        h, out = h[0], []
        for _ in range(3):
            weights = (states @ h[:, :, None]).softmax(1)
            h = m.d((weights * states).sum(1), h)
            out.append(h)
        return m.o(torch.stack(out, 1).mean(1))

    return Part(forward, e=nn.GRU(4, 5, batch_first=True), d=nn.GRUCell(5, 5), o=nn.Linear(5, 4))


def tcn():
    """Causal convolutions with growing dilation and residuals."""

    def forward(m, x):
        h = m.i(x.mT)
        for k, conv in enumerate(m.c):
            h = F.relu(h + conv(F.pad(h, (2**k, 0))))
        return m.o(h[:, :, -1])

    return Part(
        forward,
        i=nn.Conv1d(4, 6, 1),
        c=nn.ModuleList(nn.Conv1d(6, 6, 2, dilation=2**k) for k in range(3)),
        o=nn.Linear(6, 4),
    )


def wavenet():
    """Gated activations with skip connections."""

    def forward(m, x):
        h, skip = m.i(x.mT), 0
        for f, g, r, s in zip(m.f, m.g, m.r, m.s, strict=True):
            z = torch.tanh(f(F.pad(h, (1, 0)))) * torch.sigmoid(g(F.pad(h, (1, 0))))
            h, skip = h + r(z), skip + s(z)
        return m.o(F.relu(skip).mean(2))

    def convs(k):
        return nn.ModuleList(nn.Conv1d(6, 6, k) for _ in range(2))

    return Part(forward, i=nn.Conv1d(4, 6, 1), f=convs(2), g=convs(2), r=convs(1), s=convs(1), o=nn.Linear(6, 4))


def n_beats():
    """Blocks that explain the rest of what those before them explained."""

    def forward(m, x):
        rest, total = x.flatten(1), 0
        for b in m.b:
            back, ahead = b(rest).split([20, 4], 1)
            rest, total = rest - back, total + ahead
        return total

    blocks = nn.ModuleList(nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 24)) for _ in range(3))
    return Part(forward, b=blocks)


def attentive_pool():
    return Part(
        lambda m, x: m.o((m.s(torch.tanh(m.a(x))).softmax(1) * x).sum(1)),
        a=nn.Linear(4, 5),
        s=nn.Linear(5, 1),
        o=nn.Linear(4, 4),
    )


# -- tables ------------------------------------------------------------------------------------------------------------


def tabnet():
    """Steps that look at columns by a mask, here a softmax, and gated units."""

    def forward(m, x):
        prior, total, h = torch.ones_like(x), 0, m.f0(m.n(x))
        for a, f in zip(m.a, m.f, strict=True):
            mask = (a(h) * prior).softmax(1)
            prior = prior * (1.3 - mask)
            h = F.glu(f(mask * x))
            total = total + F.relu(h)
        return m.o(total)

    return Part(
        forward, n=nn.BatchNorm1d(6), f0=nn.Linear(6, 5), a=nn.ModuleList(nn.Linear(5, 6) for _ in range(2)),
        f=nn.ModuleList(nn.Linear(6, 10) for _ in range(2)), o=nn.Linear(5, 4),
    )  # fmt: skip


def ft_transformer():
    """A token a column, a class token, attention over them."""

    def forward(m, x):
        h = torch.cat([m.c.expand(len(x), 1, 8), x[:, :, None] * m.w + m.b], 1)
        return m.o(F.relu(m.n(m.t(h)[:, 0])))

    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
    return Part(
        forward,
        c=torch.randn(1, 1, 8),
        w=torch.randn(6, 8),
        b=torch.randn(6, 8),
        t=layer,
        n=nn.LayerNorm(8),
        o=nn.Linear(8, 4),
    )


def soft_trees():
    """Oblivious trees of depth two whose splits are sigmoids, as of NODE."""

    def forward(m, x):
        right = torch.sigmoid(m.s(x)).view(-1, 3, 2, 1)
        sides = torch.cat([1 - right, right], 3)
        leaves = torch.einsum("bti,btj->btij", sides[:, :, 0], sides[:, :, 1]).flatten(2)
        return torch.einsum("btl,tlo->bo", leaves, m.v)

    return Part(forward, s=nn.Linear(6, 6), v=torch.randn(3, 4, 4))


def deep_fm():
    """First order, products of pairs as half of (Σ)² − Σ(²), and a perceptron."""

    def forward(m, x):
        v = x[:, :, None] * m.v
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1))
        return m.w(x) + m.p(pairs) + m.d(v.flatten(1))

    return Part(
        forward, v=torch.randn(6, 3), w=nn.Linear(6, 4), p=nn.Linear(3, 4),
        d=nn.Sequential(nn.Linear(18, 8), nn.ReLU(), nn.Linear(8, 4)),
    )  # fmt: skip


def cross_network():
    """x₀ (xᵀw) + b + x, as of Deep & Cross."""

    def forward(m, x):
        h = x
        for c in m.c:
            h = x * c(h) + h
        return m.o(torch.cat([h, m.d(x)], 1))

    return Part(
        forward,
        c=nn.ModuleList(nn.Linear(6, 6) for _ in range(2)),
        d=nn.Sequential(nn.Linear(6, 5), nn.ReLU()),
        o=nn.Linear(11, 4),
    )


def entity_embeddings():
    """Two columns of categories among six numbers, wide and deep."""

    def forward(m, x):
        kinds = x[:, :2].abs().clamp(max=2.9).long()
        h = torch.cat([m.a(kinds[:, 0]), m.b(kinds[:, 1]), x[:, 2:]], 1)
        return m.d(h) + m.w(x)

    return Part(
        forward, a=nn.Embedding(3, 4), b=nn.Embedding(3, 2), w=nn.Linear(6, 4),
        d=nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4)),
    )  # fmt: skip


def mixture_of_experts():
    def forward(m, x):
        gate = m.g(x).softmax(1)
        return torch.einsum("be,beo->bo", gate, torch.stack([e(x) for e in m.e], 1))

    return Part(
        forward,
        g=nn.Linear(6, 3),
        e=nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)) for _ in range(3)),
    )


def self_normalising():
    return nn.Sequential(nn.Linear(6, 8), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(8, 8), nn.SELU(), nn.Linear(8, 4))


def radial_basis():
    return Part(lambda m, x: m.o(torch.exp(-0.1 * torch.cdist(x, m.c) ** 2)), c=torch.randn(5, 6), o=nn.Linear(5, 4))


# -- pictures ----------------------------------------------------------------------------------------------------------


def inverted_residual():
    """MobileNet: wide, by channel, narrow, with an SE gate and hard swish."""

    def forward(m, x):
        h = m.b(m.a(m.i(x)))
        h = h * F.hardsigmoid(m.u(F.relu(m.d(F.adaptive_avg_pool2d(h, 1)))))
        return m.o((m.i(x) + m.c(h)).mean((2, 3)))

    return Part(
        forward, i=block(2, 4), a=block(4, 8, 1, nn.Hardswish), b=block(8, 8, 3, nn.Hardswish, groups=8), d=nn.Conv2d(8, 2, 1),
        u=nn.Conv2d(2, 8, 1), c=block(8, 4, 1, nn.Identity), o=nn.Linear(4, 4),
    )  # fmt: skip


def efficient():
    def forward(m, x):
        h = m.b(m.a(x))
        return m.o((h * torch.sigmoid(m.u(F.silu(m.d(h.mean((2, 3), keepdim=True)))))).mean((2, 3)))

    return Part(
        forward,
        a=block(2, 4, 3, nn.SiLU, stride=2),
        b=block(4, 4, 5, nn.SiLU, groups=4),
        d=nn.Conv2d(4, 2, 1),
        u=nn.Conv2d(2, 4, 1),
        o=nn.Linear(4, 4),
    )


def convnext():
    """Convolution by channel, norm over channels, a layer scale, a residual."""

    def forward(m, x):
        h = m.s(x)
        y = m.n(m.d(h).permute(0, 2, 3, 1))
        h = h + (m.g * m.b(F.gelu(m.a(y)))).permute(0, 3, 1, 2)
        return m.o(h.mean((2, 3)))

    return Part(
        forward, s=nn.Conv2d(2, 4, 2, 2), d=nn.Conv2d(4, 4, 3, padding=1, groups=4), n=nn.LayerNorm(4), a=nn.Linear(4, 8), b=nn.Linear(8, 4),
        g=torch.rand(4), o=nn.Linear(4, 4),
    )  # fmt: skip


def densenet():
    """Norm before the convolution, everything so far beside it."""

    def forward(m, x):
        h = m.i(x)
        for n, c in zip(m.n, m.c, strict=True):
            h = torch.cat([h, c(F.relu(n(h)))], 1)
        return m.o(F.avg_pool2d(h, 4).flatten(1))

    return Part(
        forward, i=nn.Conv2d(2, 4, 3, padding=1), n=nn.ModuleList(nn.BatchNorm2d(4 + 2 * k) for k in range(2)),
        c=nn.ModuleList(nn.Conv2d(4 + 2 * k, 2, 3, padding=1) for k in range(2)), o=nn.Linear(32, 4),
    )  # fmt: skip


def inception():
    def forward(m, x):
        h = torch.cat([m.a(x), m.b(x), m.c(x), m.d(F.max_pool2d(x, 3, 1, 1))], 1)
        return m.o(h.mean((2, 3)))

    return Part(
        forward, a=block(2, 2, 1), b=nn.Sequential(block(2, 2, 1), block(2, 2)), d=block(2, 2, 1), o=nn.Linear(8, 4),
        c=nn.Sequential(nn.Conv2d(2, 2, (1, 3), padding=(0, 1)), nn.Conv2d(2, 2, (3, 1), padding=(1, 0)), nn.ReLU()),
    )  # fmt: skip


def shufflenet():
    def forward(m, x):
        a, b = m.i(x).chunk(2, 1)
        h = torch.cat([a, m.b(b)], 1)
        n, c, height, width = h.shape
        h = h.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)
        return m.o(h.mean((2, 3)))

    return Part(
        forward,
        i=block(2, 8),
        b=nn.Sequential(block(4, 4, 1), block(4, 4, 3, nn.Identity, groups=4)),
        o=nn.Linear(8, 4),
    )


def ghostnet():
    def forward(m, x):
        h = m.a(x)
        return m.o(torch.cat([h, m.b(h)], 1).mean((2, 3)))

    return Part(forward, a=block(2, 4), b=block(4, 4, groups=4), o=nn.Linear(8, 4))


def resnext():
    """Groups of channels, a short cut by a convolution of its own."""

    def forward(m, x):
        return m.o(F.relu(m.c(m.b(m.a(x))) + m.s(x)).mean((2, 3)))

    return Part(
        forward,
        a=block(2, 6, 1),
        b=block(6, 6, groups=3, stride=2),
        c=block(6, 8, 1, nn.Identity),
        s=block(2, 8, 1, nn.Identity, stride=2),
        o=nn.Linear(8, 4),
    )


def mixer():
    def forward(m, x):
        h = m.p(x).flatten(2).mT
        h = h + m.t(m.n(h).mT).mT
        return m.o((h + m.c(m.k(h))).mean(1))

    def mlp(d):
        return nn.Sequential(nn.Linear(d, 6), nn.GELU(), nn.Linear(6, d))

    return Part(
        forward, p=nn.Conv2d(2, 4, 4, 4), n=nn.LayerNorm(4), k=nn.LayerNorm(4), t=mlp(4), c=mlp(4), o=nn.Linear(4, 4)
    )


def vision_transformer():
    def forward(m, x):
        h = m.p(x).flatten(2).mT
        h = torch.cat([m.c.expand(len(h), 1, 8), h], 1) + m.e
        return m.o(m.n(m.t(h))[:, 0])

    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
    return Part(
        forward,
        p=nn.Conv2d(2, 8, 4, 4),
        c=torch.randn(1, 1, 8),
        e=torch.randn(5, 8),
        t=layer,
        n=nn.LayerNorm(8),
        o=nn.Linear(8, 4),
    )


def class_attention():
    """A class token that alone asks, behind layers with a scale, as of CaiT."""

    def forward(m, x):
        h = m.p(x).flatten(2).mT
        c = m.c.expand(len(h), 1, 8)
        all_ = m.n(torch.cat([c, h], 1))
        c = c + m.g * m.a(all_[:, :1], all_, all_, need_weights=False)[0]
        return m.o((c + m.g * m.f(c))[:, 0])

    return Part(
        forward, p=nn.Conv2d(2, 8, 4, 4), c=torch.randn(1, 1, 8), n=nn.LayerNorm(8), a=nn.MultiheadAttention(8, 2, batch_first=True),
        f=nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)), g=torch.rand(8), o=nn.Linear(8, 4),
    )  # fmt: skip


def levit():
    """Attention with a bias by distance, batch normalisation over tokens, hard swish."""

    def forward(m, x):
        h = m.s(x).flatten(2).mT
        q, k, v = m.n(m.q(h).flatten(0, 1)).view(len(h), -1, 24).split([8, 8, 8], 2)
        a = (q @ k.mT * 8**-0.5 + m.b).softmax(-1)
        return m.o((h + m.l(F.hardswish(a @ v))).mean(1))

    return Part(
        forward,
        s=block(2, 8, 3, nn.Hardswish, stride=4),
        q=nn.Linear(8, 24),
        n=nn.BatchNorm1d(24),
        b=torch.randn(4, 4),
        l=nn.Linear(8, 8),
        o=nn.Linear(8, 4),
    )


def capsule_like():
    """Vectors whose lengths are the scores, squashed."""

    def forward(m, x):
        u = m.c(x).flatten(2).mT.reshape(len(x), -1, 4)
        u = u * (u.square().sum(2, keepdim=True) / (1 + u.square().sum(2, keepdim=True)))
        return torch.einsum("bui,uoij->boj", u, m.w).norm(dim=2)

    return Part(forward, c=nn.Conv2d(2, 4, 4, 4), w=torch.randn(4, 4, 4, 3))


# -- maps and boxes ----------------------------------------------------------------------------------------------------


def fcn():
    return Part(
        lambda m, x: F.interpolate(m.h(m.b(x)), size=8, mode="bilinear", align_corners=False).mean((2, 3)),
        b=nn.Sequential(block(2, 4, stride=2), block(4, 6, stride=2)),
        h=nn.Conv2d(6, 4, 1),
    )


def aspp():
    """Dilated branches beside a pooled one, as of DeepLab."""

    def forward(m, x):
        h = m.i(x)
        pooled = F.interpolate(F.relu(m.g(F.adaptive_avg_pool2d(h, 1))), size=h.shape[-2:], mode="bilinear")
        h = torch.cat([F.relu(c(h)) for c in m.c] + [pooled], 1)
        return F.interpolate(m.o(h), scale_factor=2, mode="bilinear").amax((2, 3))

    return Part(
        forward, i=block(2, 4, stride=2), c=nn.ModuleList(nn.Conv2d(4, 2, 3, padding=d, dilation=d) for d in (1, 2)),
        g=nn.Conv2d(4, 2, 1), o=nn.Conv2d(6, 4, 1),
    )  # fmt: skip


def segnet():
    def forward(m, x):
        h, at = F.max_pool2d(m.a(x), 2, return_indices=True)
        return m.o(F.max_unpool2d(m.b(h), at, 2)).mean((2, 3))

    return Part(forward, a=block(2, 4), b=block(4, 4), o=nn.Conv2d(4, 4, 3, padding=1))


def pyramid():
    """Features of two sizes, the coarse one added to the fine one, a head on both."""

    def forward(m, x):
        fine = m.a(x)
        coarse = m.b(fine)
        top = m.m(coarse)
        low = m.l(fine) + F.interpolate(top, scale_factor=2)
        return torch.cat([m.h(level).flatten(2) for level in (low, top)], 2).amax(2)

    return Part(
        forward,
        a=block(2, 4, stride=2),
        b=block(4, 6, stride=2),
        l=nn.Conv2d(4, 4, 1),
        m=nn.Conv2d(6, 4, 1),
        h=nn.Conv2d(4, 4, 3, padding=1),
    )


def yolo():
    """Cells with offsets, sizes by exponentials, and an objectness that scales classes."""

    def forward(m, x):
        h = m.h(m.a(x))
        box = torch.cat([torch.sigmoid(h[:, :1]) + m.g, torch.exp(h[:, 1:2] * 0.1) * 2.0], 1)
        return torch.cat([box, torch.sigmoid(h[:, 2:3]) * h[:, 3:5]], 1).mean((2, 3))

    return Part(
        forward, a=block(2, 6, 3, lambda: nn.LeakyReLU(0.1), stride=2), h=nn.Conv2d(6, 5, 1), g=torch.rand(1, 1, 4, 4)
    )


def anchor_free():
    """Distances to four sides with a scale a level, weighed by centredness."""

    def forward(m, x):
        h = m.n(m.a(x))
        return (F.relu(m.s * m.r(h)) * torch.sigmoid(m.c(h))).mean((2, 3))

    return Part(
        forward,
        a=nn.Conv2d(2, 4, 3, stride=2, padding=1),
        n=nn.GroupNorm(2, 4),
        r=nn.Conv2d(4, 4, 3, padding=1),
        c=nn.Conv2d(4, 1, 1),
        s=torch.tensor(1.3),
    )


def detr():
    """Learnt questions that attend to a picture."""

    def forward(m, x):
        h = m.p(x).flatten(2).mT + m.e
        return m.o(m.d(m.q.expand(len(h), 3, 8), h)).amax(1)

    layer = nn.TransformerDecoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    return Part(
        forward, p=nn.Conv2d(2, 8, 4, 4), e=torch.randn(4, 8), q=torch.randn(1, 3, 8), d=layer, o=nn.Linear(8, 4)
    )


def spatial_transformer():
    """A picture that is sampled by a grid of its own, which steers and holds nothing."""

    def forward(m, x):
        theta = m.l(x.flatten(1)).tanh().view(-1, 2, 3)
        return m.o(
            F.relu(m.c(F.grid_sample(x, F.affine_grid(theta, x.shape, False), align_corners=False))).mean((2, 3))
        )

    return Part(forward, l=nn.Linear(128, 6), c=nn.Conv2d(2, 4, 3), o=nn.Linear(4, 4))


# -- generation and comparison -----------------------------------------------------------------------------------------


def variational():
    """The encoder's mean and deviation, and a decoder on the mean."""

    def forward(m, x):
        mean, log = m.e(x).chunk(2, 1)
        return m.d(mean) + 0.1 * torch.exp(0.5 * log)[:, :4]

    return Part(
        forward,
        e=nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)),
        d=nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)),
    )


def autoencoder():
    """The error of the reconstruction by groups of columns."""

    def forward(m, x):
        return m.o((x - m.d(F.relu(m.e(x)))).square())

    return Part(forward, e=nn.Linear(6, 3), d=nn.Linear(3, 6), o=nn.Linear(6, 4))


def flow():
    """Affine couplings; what they give, and their log-density."""

    def forward(m, x):
        log = 0
        for c in m.c:
            a, b = x.chunk(2, 1)
            s, t = c(a).chunk(2, 1)
            s = torch.tanh(s)
            x, log = torch.cat([b * torch.exp(s) + t, a], 1), log + s.sum(1)
        return torch.cat([(log - 0.5 * x.square().sum(1))[:, None], x[:, :3]], 1)

    return Part(forward, c=nn.ModuleList(nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(2)))


def siamese():
    """Two halves of a row by one encoder, compared."""

    def forward(m, x):
        a, b = m.e(x[:, :3]), m.e(x[:, 3:])
        return torch.stack(
            [F.cosine_similarity(a, b), F.pairwise_distance(a, b), (a * b).sum(1), (a - b).abs().sum(1)], 1
        )

    return Part(forward, e=nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4)))


def contrastive():
    """Cosines with learnt classes, at a temperature."""
    return Part(
        lambda m, x: F.linear(F.normalize(m.e(x)), F.normalize(m.p)) * m.t.exp(),
        e=nn.Linear(6, 5),
        p=torch.randn(4, 5),
        t=torch.tensor(1.0),
    )


def prototypical():
    """Distances to learnt points, as log-likelihoods."""
    return Part(
        lambda m, x: -torch.cdist(m.e(x), m.p).square(),
        e=nn.Sequential(nn.Linear(6, 5), nn.ReLU()),
        p=torch.randn(4, 5),
    )


def bilinear_pooling():
    return Part(
        lambda m, x: m.o(F.bilinear(m.a(x), m.b(x), m.w)),
        a=nn.Linear(6, 4),
        b=nn.Linear(6, 3),
        w=torch.randn(5, 4, 3),
        o=nn.Linear(5, 4),
    )


def deep_sets():
    return Part(
        lambda m, x: m.o(torch.cat([F.relu(m.a(x)).sum(1), m.a(x).logsumexp(1)], 1)),
        a=nn.Linear(4, 5),
        o=nn.Linear(10, 4),
    )


GRAPHS = {
    "graph, convolution": gcn,
    "graph, sage": sage,
    "graph, isomorphism": gin,
    "graph, attention": gat,
    "graph, edges": edges,
}
SEQUENCES = {
    "encoder and decoder": seq2seq, "temporal convolutions": tcn, "wavenet": wavenet, "n-beats": n_beats,
    "attentive pooling": attentive_pool, "deep sets": deep_sets,
}  # fmt: skip
TABLES = {
    "tabnet": tabnet, "ft-transformer": ft_transformer, "soft trees": soft_trees, "deep fm": deep_fm, "deep & cross": cross_network,
    "entity embeddings": entity_embeddings, "experts": mixture_of_experts, "self-normalising": self_normalising,
    "radial basis": radial_basis, "variational": variational, "autoencoder": autoencoder, "flow": flow, "siamese": siamese,
    "contrastive": contrastive, "prototypical": prototypical, "bilinear": bilinear_pooling,
}  # fmt: skip
IMAGES = {
    "mobilenet": inverted_residual, "efficientnet": efficient, "convnext": convnext, "densenet": densenet, "inception": inception,
    "shufflenet": shufflenet, "ghostnet": ghostnet, "resnext": resnext, "mixer": mixer, "vision transformer": vision_transformer,
    "class attention": class_attention, "levit": levit, "capsules": capsule_like, "fcn": fcn, "aspp": aspp, "segnet": segnet,
    "pyramid": pyramid, "yolo": yolo, "anchor-free": anchor_free, "detr": detr, "spatial transformer": spatial_transformer,
}  # fmt: skip
