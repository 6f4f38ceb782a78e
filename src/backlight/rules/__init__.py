"""Propagation rules: one small frozen class each, with its formula and its source.

``softmin``  how a soft-min pool over distances hands its score to the anchors and so to the features

Imports nothing but torch. A new rule is a subclass beside its siblings and an entry of `SOFTMIN_RULES`.
"""

from backlight.rules.softmin import SOFTMIN_RULES, Free, OneClassDTD, Pool, SoftMinRule, Stable, softmin_rule

__all__ = ["SOFTMIN_RULES", "Free", "OneClassDTD", "Pool", "SoftMinRule", "Stable", "softmin_rule"]
