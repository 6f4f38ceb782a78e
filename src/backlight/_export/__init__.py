"""Explanations where the rows are: the score and its contributions as a program of another system.

``export``       the verb, and the formats, by the ending of the file
``sql``          one SELECT of an explainer
``expressions``, ``program``   text of SQL, folded and in stages
``emitters``, ``rows``   who writes which layer in which language, and what is given and taken there
``elements``, ``layers``, ``pools``, ``trees``   the emitters
``graphs``       all other forms, from one graph
``verify``       the exported program beside the explainer, on rows, before anything is written

A new layer is written in SQL by one function under ``register``; a layer that has none is refused by name.
"""

from backlight._export.export import export

__all__ = ["export"]
