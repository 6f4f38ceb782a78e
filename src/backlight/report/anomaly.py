"""The anomaly report, which says why rows are unusual."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from backlight.anomaly.bands import score_text
from backlight.anomaly.study import Study
from backlight.anomaly.workflow import Findings, row_context
from backlight.findings.anomalies import (
    ARROWS,
    KnownFaults,
    changes_of,
    check_sentences,
    group_lines,
    judged_by_truth,
    reasons,
    removal_verdict,
    sentence,
    timeline,
)
from backlight.report import svg
from backlight.report.page import write_html

__all__ = ["write_anomaly_report"]

_MOST_ROWS = 30
_MOST_COLUMNS = 10
_MOST_KINDS = 10


def write_anomaly_report(
    findings: Findings,
    path: Path,
    *,
    title: str,
    source: str,
    provenance: Mapping[str, str],
    faults: KnownFaults | None = None,
    force: bool = False,
) -> None:
    """Write one self-contained HTML file; to a temporary name first."""
    html = render(findings, title=title, source=source, provenance=provenance, faults=faults)
    write_html(html, path, force=force)


def render(
    findings: Findings,
    *,
    title: str,
    source: str,
    provenance: Mapping[str, str],
    faults: KnownFaults | None = None,
) -> str:
    """The report as a string."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup, escape

    folder = files("backlight.report") / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["score"] = score_text
    environment.filters["breakable"] = lambda name: Markup("_<wbr>").join(escape(part) for part in name.split("_"))
    environment.filters["p"] = lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}"
    template = environment.from_string((folder / "anomaly.html.j2").read_text(encoding="utf-8"))
    study = findings.study
    shown = min(len(study.rows), _MOST_ROWS)
    picture, zero, stretched = svg.histogram(study.summary.values, _histogram_text(study), study.summary.counts)
    return template.render(
        title=title,
        source=source,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - the package's own file
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),  # noqa: S704 - the package's own file
        kind=findings.detector.kind,
        n=study.summary.rows,
        flagged=study.summary.above,
        threshold=study.threshold,
        conservation=float(np.abs(study.explanation.residual).max()),
        histogram=picture,
        zero=min(max(zero, 7.0), 88.0),
        stretched=stretched,
        highest=study.summary.most,
        shown=shown,
        explained=len(study.rows),
        rows=[_row(findings, i) for i in range(shown)],
        drivers=_drivers(study),
        groups=_groups(findings, study.drivers),
        timeline=_timeline(findings),
        kinds=_kind_lines(findings),
        smaller_kinds=max(0, len(study.kinds) - _MOST_KINDS),
        grouped=study.grouped,
        columns=findings.columns,
        transforms=findings.transforms,
        checks=_checks(study),
        removal=_removal(study),
        story="" if faults is None else faults.story,
        truth=None if faults is None else judged_by_truth(study, faults),
        has_p=study.p_values is not None,
        calibration_rows=study.calibration_rows,
        unit=study.unit,
        notes=findings.notes,
        provenance=provenance,
    )


def _histogram_text(study: Study) -> str:
    return (
        f"Scores of {study.summary.rows} rows from {study.summary.least:.2f} to {study.summary.most:.2f}; "
        f"{study.summary.above} lie above the threshold at zero"
    )


def _row(findings: Findings, i: int) -> dict[str, Any]:
    study = findings.study
    ex = study.explanation
    values, base, excess = ex.values[i], float(ex.base_values[i]), float(ex.output[i])
    order = np.argsort(-np.abs(values), kind="stable")
    main, rest = order[:_MOST_COLUMNS], order[_MOST_COLUMNS:]
    steps = [base, *(float(values[j]) for j in main)]
    if len(rest):
        steps.append(float(values[rest].sum()))
    path = np.concatenate([[0.0], np.cumsum(steps)])
    low, high = float(min(path.min(), excess)), float(max(path.max(), excess, 0.0))
    pad = 0.02 * (high - low or 1.0)
    low, high = low - pad, high + pad

    def step(k: int, css: str) -> Any:
        return svg.waterfall_bar(path[k], path[k + 1], low, high, css)

    lines = [_cell(study, i, int(j), step(k + 1, "pos" if values[j] >= 0 else "neg")) for k, j in enumerate(main)]
    other = None
    if len(rest):
        total = float(values[rest].sum())
        css = "pos" if total >= 0 else "neg"
        other = {"count": len(rest), "value": total, "bar": step(len(main) + 1, css)}
    position = int(study.rows[i])
    return {
        "rank": i + 1,
        "label": str(findings.labels[position]),
        "row": findings.number(position) + 1,
        "context": row_context(findings.columns, position),
        "excess": excess,
        "reasons": reasons(study, i),
        "lines": lines,
        "other": other,
        "base": base,
        "base_bar": step(0, "base"),
        "total_bar": svg.waterfall_bar(0, excess, low, high, "total"),
        "residual": float(ex.residual[i]),
        "nearest": [str(label) for label in study.nearest[i]],
        "changes": changes_of(study, i),
        "groups": _groups(findings, values),
        "sentence": sentence(findings, i),
        "members": len(study.members),
        "no_distance": bool(ex.annotations["no_distance"][i]) if "no_distance" in ex.annotations else False,
    }


def _cell(study: Study, i: int, j: int, picture: Any) -> dict[str, Any]:
    band, code = study.bands[j], float(study.coded[i, j])
    side = band.side(code)
    text = study.cell(i, j)
    if band.is_category:
        known = 0 <= code < len(band.shares) if not np.isnan(code) else False
        share = band.missing if np.isnan(code) else float(band.shares[int(code)]) if known else 0.0
        plot = svg.share_plot(share)
    else:
        plot = svg.range_plot(code, band.low, band.high, band.median, band.least, band.most)
    return {
        "name": study.names[j],
        "value": float(study.explanation.values[i, j]),
        "bar": picture,
        "text": text,
        "side": side,
        "arrow": ARROWS[side],
        "normal": band.normal,
        "plot": plot,
        "nearest": band.text(float(study.nearest_coded[i, j])),
        "named": 0 if study.named is None else int(study.named[i, j]),
        "p": None if study.p_values is None else float(study.p_values[i, j]),
    }


def _drivers(study: Study) -> list[dict[str, Any]]:
    order = np.argsort(-np.abs(study.drivers), kind="stable")
    main, rest = order[:_MOST_COLUMNS], order[_MOST_COLUMNS:]
    most = float(np.abs(study.drivers[order[0]]))
    lines = [(study.names[j], float(study.drivers[j])) for j in main]
    if len(rest):
        lines.append((f"{len(rest)} other columns", float(study.drivers[rest].sum())))
        most = max(most, abs(lines[-1][1]))
    return [{"name": name, "value": value, "bar": svg.bar(value, most)} for name, value in lines]


def _groups(findings: Findings, values: np.ndarray) -> list[dict[str, Any]]:
    found = []
    for name, lines in group_lines(findings, values):
        most = max(abs(line.value) for line in lines)
        shown = [
            {"name": line.name, "columns": line.columns, "value": line.value, "bar": svg.bar(line.value, most)}
            for line in lines[:_MOST_COLUMNS]
        ]
        found.append({"name": name, "lines": shown, "rest": sum(line.value for line in lines[_MOST_COLUMNS:])})
    return found


def _timeline(findings: Findings) -> dict[str, Any] | None:
    line = timeline(findings)
    if line is None:
        return None
    there = line.highest[np.isfinite(line.highest)]
    unit = float(np.quantile(np.abs(there), 0.75)) or 1.0
    curve = np.arcsinh(line.highest / unit)
    low, high = min(float(np.nanmin(curve)), 0.0), max(float(np.nanmax(curve)), 0.0)
    span = (high - low) or 1.0
    said = f"The highest score of each stretch of {line.name}, from {line.first} to {line.last}"
    return {
        "name": line.name,
        "first": line.first,
        "last": line.last,
        "picture": svg.skyline(list((curve - low) / span), -low / span, said),
        "lanes": [
            {"name": name, "count": count, "picture": svg.lane(list(places))}
            for name, count, places in line.lanes[:_MOST_KINDS]
        ],
    }


def _kind_lines(findings: Findings) -> list[dict[str, Any]]:
    kinds = findings.study.kinds
    most = max((len(kind.members) for kind in kinds), default=1)
    return [
        {
            "name": kind.name,
            "count": len(kind.members),
            "bar": svg.bar(len(kind.members), most),
            "rows": [str(findings.labels[m]) for m in kind.members[:6]],
            "more": max(0, len(kind.members) - 6),
        }
        for kind in kinds[:_MOST_KINDS]
    ]


def _checks(study: Study) -> dict[str, Any] | None:
    if not study.checks:
        return None
    lines = [
        {
            "name": check.fault.story,
            "rows": check.rows,
            "ours": check.reasons,
            "z": check.z_score,
            "chance": check.chance,
            "bar": svg.compared_bars(check.reasons.mean, check.z_score.mean, check.chance),
        }
        for check in study.checks
    ]
    return {
        "sentences": check_sentences(study.checks),
        "lines": lines,
        "mean": float(np.mean([check.reasons.mean for check in study.checks])),
        "mean_z": float(np.mean([check.z_score.mean for check in study.checks])),
    }


def _removal(study: Study) -> dict[str, Any] | None:
    check, verdict = study.removal, removal_verdict(study)
    if check is None or verdict is None:
        return None
    names = {"relevance": "these reasons", "z-score": "plain z-score", "random": "random order"}
    return {
        "verdict": verdict.sentences,
        "good": verdict.good,
        "rows": check.rows,
        "versus": [
            {"name": names[other], "mean": mean, "low": low, "high": high}
            for other, (mean, low, high) in check.differences.items()
        ],
        "areas": [(names[name], float(area.mean())) for name, area in check.areas.items()],
        "picture": svg.curves(
            {name: list(curve) for name, curve in check.curves.items()},
            "Share of the score that is left after replacing the 1, 2, … first columns: "
            + "; ".join(f"{names[k]} has area {a.mean():.2f}" for k, a in check.areas.items()),
        ),
    }
