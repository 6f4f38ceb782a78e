"""The command line, a thin skin: ``anomalies``, ``explain``, ``prototype``, ``audit``, ``derive``, ``demo``.

``app`` the commands for tables and pictures, and what all commands share · ``decisions`` what they print of
classifiers · ``prototypes`` what a model looks for · ``networks`` those that look at a network.
"""

# ruff: noqa: I001 - the first says it where the extra is missing
from backlight.cli.app import app, main
from backlight.cli import networks, prototypes

__all__ = ["app", "main", "networks", "prototypes"]
