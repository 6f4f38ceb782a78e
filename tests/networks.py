"""Small networks of every kind that is rewritten, and the trained ones beside the project."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import shared


def mlp(sizes=(20, 24, 16, 3)):
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(12, 10), nn.Linear(10, 10), nn.Linear(10, 10), nn.Linear(10, 3)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.d(torch.relu(h + self.c(torch.relu(self.b(h)))))


def convolutional():
    """Convolutions, batch normalisation with statistics far from trivial, max pooling."""
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8),
        nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32, 5),
    )  # fmt: skip
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.running_mean, layer.bias):
                nn.init.normal_(value)
            for value in (layer.running_var, layer.weight):
                nn.init.uniform_(value, 0.5, 2.0)
    return net


def plain():
    """Convolutions that read each other directly, with dilation, stride and no padding."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2), nn.ReLU(),
        nn.Conv2d(6, 4, 2, dilation=2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(9, 7), nn.Linear(9, 7), nn.Linear(9, 7), nn.Linear(7, 3)

    def forward(self, x):
        h = torch.relu(torch.maximum(self.a(x), torch.minimum(self.b(x), self.c(x))))
        return self.out(h)


class Attention(nn.Module):
    """A pre-norm transformer block whose attention is written out."""

    def __init__(self, d=12, heads=3):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down, self.head = nn.Linear(d, 24), nn.Linear(24, d), nn.Linear(d, 4)
        for layer in (self.first, self.second):
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.first(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
        x = x + self.out(a.transpose(1, 2).reshape(b, t, d))
        return self.head((x + self.down(torch.relu(self.up(self.second(x))))).mean(1))


def encoder():
    return nn.Sequential(
        nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, dropout=0.0), nn.Flatten(), nn.Linear(60, 3)
    )


class Decoder(nn.Module):
    """Transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.first, self.up = nn.Linear(6, 8 * 9), nn.ConvTranspose2d(8, 5, 3, 2)
        self.conv, self.out = nn.Conv2d(5, 5, 3), nn.ConvTranspose2d(5, 2, 2)

    def forward(self, z):
        h = torch.relu(self.first(z)).view(-1, 8, 3, 3)
        return self.out(torch.relu(self.conv(torch.relu(self.up(h))))).flatten(1)


MAKERS = {
    "mlp": (mlp, (20,)), "residual": (Residual, (12,)), "convolutional": (convolutional, (2, 12, 12)),
    "maxout": (Maxout, (9,)), "plain": (plain, (2, 7, 7)), "attention": (Attention, (5, 12)), "encoder": (encoder, (5, 12)),
    "decoder": (Decoder, (6,)),
}  # fmt: skip


def made(name, rows=5, seed=0):
    """A network in double precision with random weights, and inputs."""
    torch.manual_seed(seed)
    make, shape = MAKERS[name]
    return make().double().eval(), torch.randn(rows, *shape, dtype=torch.float64)


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        names = ("c1", "relu1", "s2", "c3", "relu3", "s4", "c5", "relu5")
        layers = (nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
                  nn.Conv2d(16, 120, 5), nn.ReLU())  # fmt: skip
        self.convnet = nn.Sequential()
        for name, layer in zip(names, layers, strict=True):
            self.convnet.add_module(name, layer)
        self.fc = nn.Sequential()
        for name, layer in (("f6", nn.Linear(120, 84)), ("relu6", nn.ReLU()), ("f7", nn.Linear(84, 10))):
            self.fc.add_module(name, layer)

    def forward(self, x):
        return self.fc(self.convnet(x).flatten(1))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.stride, self.pad = stride, (outputs - inputs) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        skip = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.stride == 2 else x
        return F.relu(y + skip)


class ResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for k in (1, 2, 3):
            blocks = [
                Block(widths[k - 1] if j == 0 else widths[k], widths[k], 2 if k > 1 and j == 0 else 1) for j in range(3)
            ]
            setattr(self, f"layer{k}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def lenet():
    from safetensors.torch import load_file

    net = LeNet()
    net.load_state_dict(load_file(shared("mnist_lenet_relu") / "lenet5_relu.safetensors"))
    return net.eval()


def resnet20():
    from safetensors.torch import load_file

    net = ResNet20()
    net.load_state_dict(load_file(shared("cifar10_resnet20") / "resnet20.safetensors"), strict=False)
    return net.eval()
