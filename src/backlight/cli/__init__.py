"""The command line, a thin skin: one file a command, and ``common`` for what they share.

``anomalies`` · ``explain`` (``predictions`` prints tables of classifiers and regressions, ``pictures`` heat maps) ·
``prototype`` · ``audit`` · ``evaluate`` · ``derive`` · ``demo``. Every command prints a readable result, shows progress
on a terminal, writes what ``--out`` and ``--report`` name, and ends with exit code 2 and one clear line on bad input.
"""

# ruff: noqa: I001 - the order is that of the help page; the first says it where the extra is missing
from backlight.cli.common import app, main
from backlight.cli import anomalies, explain, demo, audit, evaluate, derive, prototype

__all__ = ["anomalies", "app", "audit", "demo", "derive", "evaluate", "explain", "main", "prototype"]
