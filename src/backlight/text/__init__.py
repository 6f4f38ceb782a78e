"""Texts: any model that reads tokens, from strings to words.

``encode``    strings by any tokenizer, padded, with the tokens' own names
``similarity``  which words make two texts alike
``targets``   what a language model says: a token, a contrast, a position, a span
``folder``    a model and its tokenizer from a folder, without running code of it
``workflow``  `explain` for texts, and `explain_continuation` for each token that a model adds

Tokenizers and models are known by what they offer: nothing of ``transformers`` is imported. Imports ``_explain`` and
everything below.
"""

from backlight.attribution.said import Said, contrast, said
from backlight.explanation.tokens import Span, spans
from backlight.text.encode import Encoder
from backlight.text.folder import Folder, load_folder
from backlight.text.similarity import Similarity, similarity
from backlight.text.workflow import explain, explain_continuation

__all__ = [
    "Encoder", "Folder", "Said", "Similarity", "Span", "contrast", "explain", "explain_continuation", "load_folder",
    "said", "similarity", "spans",
]  # fmt: skip
