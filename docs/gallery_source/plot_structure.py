"""
One function, two networks
==========================

The minimum of two numbers written as a network in two ways, and what relevance says of each.
"""

import matplotlib.pyplot as plt
import torch

import backlight

nets = backlight.examples.min_networks()
backlight.derive(nets.i, "gamma").plot.phase(gamma=[0.25])

# %%
backlight.derive(nets.ii, "gamma").plot.phase(gamma=[0.25])

# %%
# How far explanations of a network move when its function is written differently.

torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
)
found = backlight.audit(net.eval(), torch.randn(20, 6), rewrites="all")
found.plot.heatmap()
plt.show()
