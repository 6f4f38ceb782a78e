"""Propagation rules as the papers write them, one unit a row, on the explicit matrix of a layer.

Everything is float64 NumPy; ``W`` is (out, in), ``b`` (out,), ``a`` (in,), ``R`` (out,). 0/0 is 0 and sign(0) is +1.
"""

import numpy as np
import torch


def matrix(layer, shape):
    """W and b of any affine function of one row of this shape, by what it does to unit vectors."""
    size = int(np.prod(shape))
    with torch.no_grad():
        b = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten().numpy()
        columns = layer(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1).numpy() - b
    return columns.T.copy(), b


def share(numerators, bias, R, epsilon=0.0):
    """Each unit hands R in proportion to numerators, (out, in); the bias is one more of them."""
    z = numerators.sum(1) + bias
    z = z + epsilon * np.where(z >= 0, 1.0, -1.0)
    z, R = np.where(z != 0, z, 1.0), np.where(z != 0, R, 0.0)
    return (numerators / z[:, None] * R[:, None]).sum(0)


def zero(a, W, b, R):
    return share(W * a, b, R)


def epsilon_absolute(a, W, b, R, epsilon):
    return share(W * a, b, R, epsilon)


def kernel_norms(module, units):
    """The squared norm of all weights of each unit's channel, also of those that lie on the padding."""
    w = module.weight.detach().numpy()
    if not getattr(module, "transposed", False):
        norms = [(w[o] ** 2).sum() for o in range(len(w))]
    else:
        inputs, outputs = w.shape[0] // module.groups, w.shape[1]
        norms = [(w[g * inputs : (g + 1) * inputs, o] ** 2).sum() for g in range(module.groups) for o in range(outputs)]
    return np.repeat(norms, units // len(norms))


def epsilon_relative(a, W, b, R, epsilon, norms):
    # a unit's own inputs: those that a weight can reach
    return share(W * a, b, R, epsilon * np.sqrt(norms * (own_inputs(W) * a**2).sum(1) + b**2))


def own_inputs(W):
    return W != 0


def epsilon_distribute(a, W, b, R):
    own = own_inputs(W)
    return share(W * a + own * (b / own.sum(1))[:, None], np.zeros_like(b), R)


def epsilon_exclude(a, W, b, R):
    return share(W * a, np.zeros_like(b), R)


def gamma(a, W, b, R, gamma):
    parts = np.column_stack([W * a, b])
    favoured = np.where(parts.sum(1, keepdims=True) >= 0, parts > 0, parts < 0)
    parts = parts * np.where(favoured, 1 + gamma, 1.0)
    return share(parts[:, :-1], parts[:, -1], R)


def alphabeta(a, W, b, R, alpha, beta):
    parts = W * a
    return alpha * share(parts.clip(min=0), b.clip(min=0), R) - beta * share(parts.clip(max=0), b.clip(max=0), R)


def flat(a, W, b, R):
    own = own_inputs(W)
    return (own / own.sum(1, keepdims=True) * R[:, None]).sum(0)


def wsquare(a, W, b, R):
    return share(W**2, b**2, R)


def box(a, W, b, R, low, high):
    return share(W * a - W.clip(min=0) * low - W.clip(max=0) * high, np.zeros_like(b), R)
