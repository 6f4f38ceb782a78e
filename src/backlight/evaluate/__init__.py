"""What judges explanations; it may be handed any explanation, also a stranger's.

``conformal``  is this relevance unusual for a normal row?
``removal``    does the score fall when the named causes are removed, faster than by other rankings?

Imports only arrays: no engine, no model.
"""

from backlight.evaluate.conformal import conformal_p_values, conformal_threshold
from backlight.evaluate.removal import RemovalCheck, removal_check

__all__ = ["RemovalCheck", "conformal_p_values", "conformal_threshold", "removal_check"]
