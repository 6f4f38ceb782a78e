"""What judges explanations; it may be handed any explanation, also a stranger's.

``judging``     the verb: `backlight.evaluate` · ``evaluation`` what it gives · ``plots`` its pictures
``metrics``     one metric a file
``game``        the score of rows without some of their units · ``scored`` any model as a score · ``units``
``candidates``  explanations of any origin · ``bootstrap`` intervals
``conformal``   is this relevance unusual for a normal row?
``planted``     faults whose cause is known, in the user's own rows
``removal``     does the score fall when the named causes are removed, faster than by other rankings?
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from backlight._evaluate.conformal import conformal_p_values
from backlight._evaluate.removal import RemovalCheck, removal_check

if TYPE_CHECKING:
    from backlight._evaluate.evaluation import Evaluation
    from backlight._evaluate.judging import evaluate

__all__ = ["Evaluation", "RemovalCheck", "conformal_p_values", "evaluate", "removal_check"]

# these import torch, and who looks for anomalies in a table has no need of it
_LATER = {"Evaluation": "evaluation", "evaluate": "judging", "metrics": "metrics"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_LATER[name]}")
    globals()[name] = found = module if name == "metrics" else getattr(module, name)
    return found
