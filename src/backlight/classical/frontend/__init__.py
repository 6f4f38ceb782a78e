"""From the columns of a table to the space in which a model measures.

``columns`` features and elements · ``preprocessing``, ``transformers`` scikit-learn's transformers as layers ·
``pipeline`` pipelines and column transformers: layers put together, every column kept track of ·
``column_maps``, ``level_tables`` transformers of other libraries, column by column ·
``texts`` columns of text, which vectorizers turn into tokens · ``text_tables`` the tables of these.
"""
