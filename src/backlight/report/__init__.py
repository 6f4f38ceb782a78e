"""Reports that a person reads: one self-contained HTML file, no network, no script library.

``svg``      marks as inline SVG, each with its text
``anomaly``  the anomaly report: findings → template → file
``templates`` the page, its style and its script

All text goes through the template's escaping or through `svg`'s. Imports ``anomaly`` and everything below.
"""

from backlight.report.anomaly import KnownFaults, write_anomaly_report

__all__ = ["KnownFaults", "write_anomaly_report"]
