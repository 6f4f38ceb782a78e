"""What was found, in words and numbers that a page and a terminal both show; neither of them computes.

``anomalies``  reasons, sentences, checks and kinds of unusual rows

Imports ``anomaly`` and everything below.
"""

from backlight.findings.anomalies import KnownFaults

__all__ = ["KnownFaults"]
