"""Small networks of every kind that people explain, in double precision: one line each, for laws that hold for all.

``ZOO`` maps a name to a function that makes the network and one that makes inputs of so many rows.
"""

import torch
from torch import nn
from torch.nn import functional as F

from tests.architectures import GRAPHS, IMAGES, SEQUENCES, TABLES
from tests.networks import MAKERS

D = torch.float64


class Blocks(nn.Module):
    """What a function of the hidden values does between two layers."""

    def __init__(self, middle, inputs=6, hidden=8, outputs=4, last=None):
        super().__init__()
        self.a, self.o = nn.Linear(inputs, hidden), nn.Linear(last or hidden, outputs)
        self.b = nn.Linear(hidden, hidden)
        self.middle = middle

    def forward(self, x):
        return self.o(self.middle(self, self.a(x)))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.r = kind(4, 5, batch_first=True, **options)
        self.o = nn.Linear(10 if options.get("bidirectional") else 5, 4)

    def forward(self, x):
        return self.o(self.r(x)[0][:, -1])


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.r, self.o = nn.LSTM(4, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.o(self.r(x.transpose(0, 1))[0].mean(0))


class Tokens(nn.Module):
    """Embeddings, learnt positions, a class token, causal attention."""

    def __init__(self):
        super().__init__()
        self.e, self.p, self.c = (
            nn.Embedding(11, 8),
            nn.Parameter(torch.randn(6, 8)),
            nn.Parameter(torch.randn(1, 1, 8)),
        )
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.o = nn.Linear(8, 4)

    def forward(self, ids):
        h = torch.cat([self.c.expand(len(ids), -1, -1), self.e(ids)], 1) + self.p
        mask = torch.triu(torch.full((6, 6), float("-inf"), dtype=h.dtype), 1)
        return self.o(self.layer(h, src_mask=mask)[:, -1])


class Windows(nn.Module):
    """Attention in windows that are merged with the rows, as in Swin."""

    def __init__(self):
        super().__init__()
        self.patch, self.qkv, self.out, self.norm = (
            nn.Conv2d(2, 8, 2, 2),
            nn.Linear(8, 24),
            nn.Linear(8, 8),
            nn.LayerNorm(8),
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        h = self.patch(x).permute(0, 2, 3, 1)
        b, height, width, d = h.shape
        h = torch.roll(h, (-1, -1), (1, 2)).view(b, height // 2, 2, width // 2, 2, d).permute(0, 1, 3, 2, 4, 5)
        h = h.reshape(-1, 4, d)
        q, k, v = self.qkv(self.norm(h)).view(-1, 4, 3, 2, d // 2).permute(2, 0, 3, 1, 4)
        h = h + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 4, d))
        return self.head(h.view(b, -1, d).mean(1))


class Frames(nn.Module):
    """A convolution of every frame, with the frames merged into the rows."""

    def __init__(self):
        super().__init__()
        self.c, self.n, self.o = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x):
        h = F.relu(self.n(self.c(x.flatten(0, 1)))).mean((2, 3))
        return self.o(h.view(len(x), -1, 4).amax(1))


class Squeeze(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.d, self.u, self.o = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Linear(4, 4)

    def forward(self, x):
        h = F.silu(self.c(x))
        return self.o((h * torch.sigmoid(self.u(F.relu(self.d(F.adaptive_avg_pool2d(h, 1)))))).mean((2, 3)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.up, self.c = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ConvTranspose2d(6, 4, 2, 2),
            nn.Conv2d(8, 4, 1),
        )

    def forward(self, x):
        first = F.relu(self.a(x))
        deep = F.relu(self.b(F.max_pool2d(first, 2)))
        return self.c(torch.cat([first, self.up(deep)], 1)).mean((2, 3))


def table(width=6):
    return lambda rows: torch.randn(rows, width, dtype=D)


def image(*shape):
    return lambda rows: torch.randn(rows, *shape, dtype=D)


def sequence(rows):
    return torch.randn(rows, 5, 4, dtype=D)


def tokens(rows):
    return torch.randint(0, 11, (rows, 5))


def between(middle, **options):
    return lambda: Blocks(middle, **options)


ZOO = {
    **{name: (make, image(*shape)) for name, (make, shape) in MAKERS.items()},
    "lstm": (lambda: Recurrent(nn.LSTM), sequence),
    "lstm, both ways, two layers": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), sequence),
    "gru": (lambda: Recurrent(nn.GRU), sequence),
    "rnn": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), sequence),
    "lstm, time first": (TimeFirst, sequence),
    "tokens": (Tokens, tokens),
    "windows": (Windows, image(2, 8, 8)),
    "frames": (Frames, image(3, 2, 6, 6)),
    "squeeze": (Squeeze, image(2, 6, 6)),
    "u-net": (UNet, image(2, 8, 8)),
    "residual of itself": (between(lambda m, h: h + F.gelu(m.b(h))), table()),
    "gates": (between(lambda m, h: torch.sigmoid(m.b(h)) * torch.tanh(h)), table()),
    "product of signals": (between(lambda m, h: m.b(h) * h), table()),
    "glu": (between(lambda m, h: F.glu(h), last=4), table()),
    "leaky, random": (between(lambda m, h: F.rrelu(h)), table()),
    "threshold": (between(lambda m, h: F.threshold(h, 0.1, 0.7)), table()),
    "softplus": (between(lambda m, h: F.softplus(m.b(F.elu(h)))), table()),
    "constant beside": (between(lambda m, h: torch.cat([h, torch.ones_like(h[:, :2])], 1), last=10), table()),
    "floor": (between(lambda m, h: torch.maximum(h, torch.tensor(0.2, dtype=h.dtype))), table()),
    "masked": (between(lambda m, h: torch.where(h > 0, m.b(h), 0.3)), table()),
    "largest two": (between(lambda m, h: h.topk(2).values, last=2), table()),
    "sorted": (between(lambda m, h: h.sort(1).values), table()),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)), table()),
    "rms norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.SiLU(), nn.Linear(8, 4)), table()),
    "group norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
        ),
        image(2, 6, 6),
    ),
    "one dimension": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(16, 4)
        ),
        image(2, 8),
    ),
    "three dimensions": (
        lambda: nn.Sequential(nn.Conv3d(1, 3, 2), nn.ELU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(3, 4)), image(1, 3, 3, 3)
    ),
    **{name: (make, image(5, 3)) for name, make in GRAPHS.items()},
    **{name: (make, sequence) for name, make in SEQUENCES.items()},
    **{name: (make, table()) for name, make in TABLES.items()},
    **{name: (make, image(2, 8, 8)) for name, make in IMAGES.items()},
    "ends in a softmax": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(1)), table()),
}  # fmt: skip


def animal(name, rows=4, seed=0):
    """A network of the zoo with statistics and biases that are not trivial, and its inputs."""
    torch.manual_seed(seed)
    make, inputs = ZOO[name]
    net = make().double().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for value in (module.running_mean, module.bias):
                nn.init.normal_(value, 0, 0.3)
            for value in (module.running_var, module.weight):
                nn.init.uniform_(value, 0.5, 1.5)
    return net, inputs(rows)
