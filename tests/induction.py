"""A two-layer transformer that learns to repeat: after a b … a it says b, by heads that look one token back.

Olsson et al., "In-context learning and induction heads", 2022.
"""

import torch
from torch import nn
from torch.nn import functional as F

WORDS, HALF = 16, 10


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.n1, self.n2 = heads, nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.o = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        n, t, d = x.shape
        q, k, v = self.qkv(self.n1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, d))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Induction(nn.Module):
    def __init__(self, width: int = 32, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(WORDS, width), nn.Parameter(0.1 * torch.randn(2 * HALF, width))
        self.blocks = nn.ModuleList([Block(width, heads), Block(width, heads)])
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, WORDS, bias=False)

    def forward(self, ids):
        x = self.embed(ids) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def texts(n: int) -> torch.Tensor:
    """Ten different tokens, and the same ten again."""
    once = torch.stack([torch.randperm(WORDS)[:HALF] for _ in range(n)])
    return torch.cat([once, once], 1)


def trained(steps: int = 300) -> Induction:
    """Trained in some seconds, in double precision afterwards."""
    torch.manual_seed(0)
    net = Induction()
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.01)
    for _ in range(steps):
        ids = texts(64)
        out = net(ids[:, :-1])
        loss = F.cross_entropy(out[:, HALF:].flatten(0, 1), ids[:, HALF + 1 :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.double().eval()


def pairs(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Texts that end in the fifth token again, the same with another sixth one, and both sixth tokens."""
    clean = texts(n)[:, :15]
    other = torch.tensor([next(w for w in range(WORDS) if w not in row.tolist()) for row in clean])
    corrupted = clean.clone()
    corrupted[:, 5] = other
    return clean, corrupted, clean[:, 5], other
