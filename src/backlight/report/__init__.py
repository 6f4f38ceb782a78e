"""Reports that a person reads: one self-contained HTML file, no network, no script library.

``svg``      marks as inline SVG, each with its text
``anomaly``  the anomaly report: findings → template → file
``predictions`` classes, clusters and predictions of a table
``pictures`` heat maps of photographs
``audit``    the structure audit
``evaluation`` which explanation is faithful
``prototypes`` what a model looks for
``page``     a template, filled and written
``templates`` the pages, its style and its script

Each is imported where it is wanted, so that a report on a table does not wait for torch. All text goes through the
template's escaping or through `svg`'s. Imports ``findings``, ``anomaly``, ``vision`` and everything below.
"""
