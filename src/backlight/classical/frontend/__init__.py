"""From the columns of a table to the space in which a model measures.

``columns`` features and elements · ``preprocessing``, ``transformers`` scikit-learn's transformers as layers ·
``pipeline`` pipelines and column transformers: layers put together, every column kept track of.
"""
