"""The anomaly report, which says why rows are unusual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from backlight.anomaly.bands import score_text
from backlight.anomaly.study import Study
from backlight.anomaly.workflow import Findings, row_context
from backlight.report import svg
from backlight.tables.files import atomic

__all__ = ["KnownFaults", "reasons", "sentence", "write_anomaly_report"]

_MOST_ROWS = 30
_MOST_COLUMNS = 10
_MOST_GROUPS = 8
_ARROWS = {"above": "↑", "below": "↓", "inside": "·", "rare": "rare", "usual": "·", "missing": "missing"}


@dataclass(frozen=True, slots=True, eq=False)
class KnownFaults:
    """Where the truth is known: which columns of which rows are faulty.

    Attributes
    ----------
    columns : mapping of row position to set of column names
    story : str
        What was done to the data, in a sentence.
    z_rank : array of shape (n,)
        The plain baseline for rows: the largest |z| of each.
    """

    columns: Mapping[int, set[str]]
    story: str
    z_rank: np.ndarray


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
    with atomic(path, force=force) as temporary:
        temporary.write_text(html, encoding="utf-8")


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
    picture, zero, stretched = svg.histogram(study.excess, _histogram_text(study))
    return template.render(
        title=title,
        source=source,
        style=Markup((folder / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - the package's own file
        script=Markup((folder / "report.js").read_text(encoding="utf-8")),  # noqa: S704 - the package's own file
        kind=findings.network.kind,
        n=len(study.excess),
        flagged=int(study.flagged.sum()),
        threshold_note=study.threshold_note,
        conservation=float(np.abs(study.explanation.residual).max()),
        histogram=picture,
        zero=min(max(zero, 7.0), 88.0),
        stretched=stretched,
        highest=float(study.excess.max()),
        shown=shown,
        explained=len(study.rows),
        rows=[_row(findings, i) for i in range(shown)],
        drivers=_drivers(study),
        groups=_group_lines(findings),
        smaller_groups=max(0, len(study.groups) - _MOST_GROUPS),
        columns=findings.columns,
        trust=_trust(study),
        faults=None if faults is None else _faults(findings, faults),
        has_p=study.p_values is not None,
        calibration_rows=study.calibration_rows,
        unit=study.unit,
        notes=findings.notes,
        provenance=provenance,
    )


def reasons(study: Study, i: int, k: int = 3) -> list[tuple[str, str, float]]:
    """The k strongest causes of an explained row: name, direction, share of all positive relevance."""
    values = study.explanation.values[i]
    positive = np.clip(values, 0, None)
    total = positive.sum() or 1.0
    order = [j for j in np.argsort(-values, kind="stable")[:k] if values[j] > 0.005 * total]
    return [
        (study.names[j], _ARROWS[study.bands[j].side(study.coded[i, j])], float(positive[j] / total)) for j in order
    ]


def sentence(findings: Findings, i: int) -> str:
    """An explained row in words, to be copied."""
    study = findings.study
    label = findings.labels[study.rows[i]]
    excess = float(study.explanation.output[i])
    parts = []
    for name, _, share in reasons(study, i, 2):
        j = study.names.index(name)
        band, cell = study.bands[j], study.coded[i, j]
        parts.append(f"{name} is {band.text(cell)} (normal: {band.normal}; {100 * share:.0f} % of the reasons)")
    size = score_text(abs(excess)).removeprefix("+")
    where = " ".join(f"{size} {study.unit.name} {'above' if excess > 0 else 'below'} the alarm line".split())
    return f"{label} is {where}: " + ("; ".join(parts) if parts else "no column stands out") + "."


def _histogram_text(study: Study) -> str:
    return (
        f"Scores of {len(study.excess)} rows from {study.excess.min():.2f} to {study.excess.max():.2f}; "
        f"{int(study.flagged.sum())} lie above the alarm line at zero"
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
        "row": position + 1,
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
        "repair": _repair(study, i),
        "sentence": sentence(findings, i),
        "no_distance": bool(ex.annotations["no_distance"][i]),
    }


def _cell(study: Study, i: int, j: int, picture: Any) -> dict[str, Any]:
    band, code = study.bands[j], float(study.coded[i, j])
    side = band.side(code)
    text = band.text(code)
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
        "arrow": _ARROWS[side],
        "normal": band.normal,
        "plot": plot,
        "nearest": band.text(float(study.nearest_coded[i, j])),
        "p": None if study.p_values is None else float(study.p_values[i, j]),
    }


def _repair(study: Study, i: int) -> dict[str, Any] | None:
    repair = study.repairs[i]
    if repair is None:
        return None
    changes = [
        (
            study.names[j],
            study.bands[j].text(float(study.coded[i, j])),
            study.bands[j].text(float(study.nearest_coded[i, j])),
        )
        for j in repair.columns
    ]
    return {"changes": changes, "after": repair.excess_after}


def _drivers(study: Study) -> list[dict[str, Any]]:
    order = np.argsort(-np.abs(study.drivers), kind="stable")
    main, rest = order[:_MOST_COLUMNS], order[_MOST_COLUMNS:]
    most = float(np.abs(study.drivers[order[0]]))
    lines = [(study.names[j], float(study.drivers[j])) for j in main]
    if len(rest):
        lines.append((f"{len(rest)} other columns", float(study.drivers[rest].sum())))
        most = max(most, abs(lines[-1][1]))
    return [{"name": name, "value": value, "bar": svg.bar(value, most)} for name, value in lines]


def _group_lines(findings: Findings) -> list[dict[str, Any]]:
    study = findings.study
    most = max((len(group.members) for group in study.groups), default=1)
    return [
        {
            "name": group.name,
            "count": len(group.members),
            "bar": svg.bar(len(group.members), most),
            "rows": [str(findings.labels[study.rows[m]]) for m in group.members[:6]],
            "more": max(0, len(group.members) - 6),
        }
        for group in study.groups[:_MOST_GROUPS]
    ]


def _trust(study: Study) -> dict[str, Any] | None:
    check = study.trust
    if check is None:
        return None
    names = {"relevance": "these reasons", "z-score": "plain z-score", "random": "random order"}
    versus: list[dict[str, Any]] = []
    for other, (mean, low, high) in check.differences.items():
        versus.append({"name": names[other], "mean": mean, "low": low, "high": high, "verdict": check.beats(other)})
    beaten = [v["name"] for v in versus if v["verdict"] is True]
    lost = [v["name"] for v in versus if v["verdict"] is False]
    open_ = [v["name"] for v in versus if v["verdict"] is None]
    said = []
    if beaten:
        said.append(f"Removing the named causes lowers the score faster than {_and(beaten)}.")
    if open_:
        said.append(f"It cannot be told apart from {_and(open_)} on these {check.rows} rows.")
    if lost:
        said.append(f"It is slower than {_and(lost)}: do not rely on the order of these reasons.")
    return {
        "verdict": " ".join(said),
        "good": not lost and not open_,
        "short": "yes" if not lost and not open_ else "no" if lost else "in part",
        "rows": check.rows,
        "versus": versus,
        "areas": [(names[name], float(area.mean())) for name, area in check.areas.items()],
        "picture": svg.curves(
            {name: list(curve) for name, curve in check.curves.items()},
            "Share of the score that is left after replacing the 1, 2, … first columns: "
            + "; ".join(f"{names[k]} has area {a.mean():.2f}" for k, a in check.areas.items()),
        ),
    }


def _faults(findings: Findings, faults: KnownFaults) -> dict[str, Any]:
    from sklearn.metrics import roc_auc_score

    study = findings.study
    truth = np.zeros(len(study.excess), dtype=bool)
    truth[list(faults.columns)] = True
    hits: dict[str, list[float]] = {"relevance": [], "z-score": []}
    for i, position in enumerate(study.rows):
        known = faults.columns.get(int(position))
        if not known:
            continue
        for name, ranking in (("relevance", study.explanation.values[i]), ("z-score", study.z_scores[i])):
            named = {study.names[j] for j in np.argsort(-ranking, kind="stable")[: len(known)]}
            hits[name].append(len(named & known) / len(known))
    return {
        "story": faults.story,
        "rows": int(truth.sum()),
        "explained": len(hits["relevance"]),
        "auc": float(roc_auc_score(truth, study.excess)),
        "auc_z": float(roc_auc_score(truth, faults.z_rank)),
        "hit": float(np.mean(hits["relevance"])),
        "hit_z": float(np.mean(hits["z-score"])),
    }


def _and(names: Sequence[str]) -> str:
    return " and ".join(f"a {name}" for name in names)
