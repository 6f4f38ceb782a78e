"""What was found, in words and numbers that a page and a terminal both show; neither of them computes.

``anomalies``  reasons, sentences, checks and kinds of unusual rows
``texts``      texts and their words

Imports ``anomaly`` and everything below.
"""

from backlight.findings.anomalies import KnownFaults
from backlight.findings.texts import Texts, texts_of

__all__ = ["KnownFaults", "Texts", "texts_of"]
