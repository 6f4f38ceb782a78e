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

All text goes through the template's escaping or through `svg`'s. Imports
``findings``, ``anomaly``, ``vision`` and everything below.
"""

from backlight.report.anomaly import write_anomaly_report
from backlight.report.audit import write_audit_numbers, write_audit_picture, write_audit_report, write_phases
from backlight.report.evaluation import write_evaluation_report
from backlight.report.pictures import write_picture_report, write_pictures
from backlight.report.predictions import doubtful, in_words, predictions, reasons_of, write_prediction_report
from backlight.report.prototypes import write_prototype_numbers, write_prototype_picture, write_prototype_report
from backlight.report.texts import write_text_report

__all__ = [
    "doubtful",
    "in_words",
    "predictions",
    "reasons_of",
    "write_anomaly_report",
    "write_audit_numbers",
    "write_audit_picture",
    "write_audit_report",
    "write_evaluation_report",
    "write_phases",
    "write_picture_report",
    "write_pictures",
    "write_prediction_report",
    "write_prototype_numbers",
    "write_prototype_picture",
    "write_prototype_report",
    "write_text_report",
]  # fmt: skip
