"""How real the scenarios of each method are: a picture and a table."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from hedgecast.report.style import BLUE, GREEN, GREY, ORANGE, RED, picture
from hedgecast.scenarios.realism import Realism

_COLORS = (GREY, BLUE, GREEN, ORANGE, RED)
# Heading, name in the report, form.
_COLUMNS = (
    ("CRPS", "crps", "{:.3f}"),
    ("tail CRPS", "crps_tails", "{:.3f}"),
    ("energy", "energy_score", "{:.2f}"),
    ("variogram", "variogram_score", "{:.3g}"),
    ("in 90 %", "coverage", "{:.1%}"),
    ("ranks", "pit_distance", "{:.3f}"),
    ("ramps", "increment_distance", "{:.3f}"),
    ("autocorr.", "autocorrelation_distance", "{:.3f}"),
    ("AUC", "two_sample_auc", "{:.3f}"),
    ("diversity", "diversity_ratio", "{:.2f}"),
)


def realism_chart(reports: Mapping[str, Realism]) -> Figure:
    """Ranks of what came true among the scenarios, and coverage of central bands with their intervals.

    Parameters
    ----------
    reports : mapping of labels to Realism
        Methods of one scenario have no ranks and are left out.
    """
    shown = {label: report for label, report in reports.items() if report.rank_histogram}
    figure, (ranks, bands) = picture(columns=2, share_heights=False)
    for color, (label, report) in zip(_COLORS * len(shown), shown.items(), strict=False):
        heights = np.asarray(report.rank_histogram) * len(report.rank_histogram)
        ranks.stairs(heights, np.linspace(0.0, 1.0, len(heights) + 1), color=color, lw=1.8, label=label)
        levels = np.array([band.level for band in report.coverages])
        shares = np.array([band.share for band in report.coverages]) - levels
        low = np.array([band.low for band in report.coverages]) - levels
        high = np.array([band.high for band in report.coverages]) - levels
        bands.errorbar(levels, shares, yerr=[shares - low, high - shares], color=color, capsize=3, lw=1.8)
    ranks.axhline(1.0, color="black", lw=1)
    ranks.set_ylim(bottom=0.0)
    ranks.set_xlabel("rank of the real day among the scenarios")
    ranks.set_title("density of ranks: 1 everywhere when right")
    bands.axhline(0.0, color="black", lw=1)
    bands.set_xlabel("level of the central band")
    bands.set_title("share inside less the level, 95 % by weeks")
    if shown:
        ranks.legend(frameon=False)
    return figure


def realism_table(reports: Mapping[str, Realism], transfer: Mapping[str, float]) -> str:
    """An HTML table, one row a method.

    Parameters
    ----------
    reports : mapping of labels to Realism
    transfer : mapping of labels to floats
        Regret per day on the second decision; the column is left out where there is none.
    """
    heads = ["method", *(heading for heading, _, _ in _COLUMNS), *(["transfer"] if transfer else [])]
    body = []
    for label, report in reports.items():
        cells = [html.escape(label)]
        cells += [_or_dash(getattr(report, name), form) for _, name, form in _COLUMNS]
        if transfer:
            cells.append(_or_dash(transfer.get(label, math.nan), "{:.2f}"))
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f'<table class="wide"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _or_dash(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
