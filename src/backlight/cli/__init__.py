"""The command line: ``backlight anomalies``, ``explain``, ``audit``, ``derive``, ``demo``. A thin skin.

``app`` the commands for tables and pictures, and what all commands share · ``networks`` those that look at a network.
"""

from backlight.cli import networks
from backlight.cli.app import app, main

__all__ = ["app", "main", "networks"]
