"""Propagation rules as the papers write them: one loop over units, on the explicit matrix of a layer.

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
    given = np.zeros(numerators.shape[1])
    for k in range(len(R)):
        z = numerators[k].sum() + bias[k]
        z = z + epsilon * (1.0 if z >= 0 else -1.0)
        if z != 0:
            given += numerators[k] / z * R[k]
    return given


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
    given = np.zeros(len(a))
    for k in range(len(R)):
        # a unit's own inputs: those that a weight can reach
        size = np.sqrt(norms[k] * (a[own_inputs(W, k)] ** 2).sum() + b[k] ** 2)
        given += share(W[k : k + 1] * a, b[k : k + 1], R[k : k + 1], epsilon * size)
    return given


def own_inputs(W, k):
    return W[k] != 0


def epsilon_distribute(a, W, b, R):
    given = np.zeros(len(a))
    for k in range(len(R)):
        z = (W[k] * a).sum() + b[k]
        own = own_inputs(W, k)
        if z != 0:
            given += (W[k] * a + np.where(own, b[k] / own.sum(), 0.0)) / z * R[k]
    return given


def epsilon_exclude(a, W, b, R):
    return share(W * a, np.zeros_like(b), R)


def gamma(a, W, b, R, gamma):
    given = np.zeros(len(a))
    for k in range(len(R)):
        parts = np.append(W[k] * a, b[k])
        favoured = parts > 0 if parts.sum() >= 0 else parts < 0
        parts = parts * np.where(favoured, 1 + gamma, 1.0)
        if parts.sum() != 0:
            given += parts[:-1] / parts.sum() * R[k]
    return given


def alphabeta(a, W, b, R, alpha, beta):
    parts = W * a
    return alpha * share(parts.clip(min=0), b.clip(min=0), R) - beta * share(parts.clip(max=0), b.clip(max=0), R)


def flat(a, W, b, R):
    given = np.zeros(len(a))
    for k in range(len(R)):
        own = own_inputs(W, k)
        given += own / own.sum() * R[k]
    return given


def wsquare(a, W, b, R):
    return share(W**2, b**2, R)


def box(a, W, b, R, low, high):
    return share(W * a - W.clip(min=0) * low - W.clip(max=0) * high, np.zeros_like(b), R)
