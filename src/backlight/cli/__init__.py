"""The command line: ``backlight anomalies``, ``explain``, ``audit``, ``derive``, ``demo``. A thin skin.

``app`` the commands for tables and pictures, and what all commands share · ``networks`` those that look at a network.
"""

# ruff: noqa: I001 - the first says it where the extra is missing
from backlight.cli.app import app, main
from backlight.cli import networks

__all__ = ["app", "main", "networks"]
