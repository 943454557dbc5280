"""The promotion gate: checks that a model must pass before it is served, each with its figure and its bound.

Two questions, both answered on validation days alone.

Is it cheaper? The first champion may not be shown worse than the study's baseline, ridge with residual
scenarios. Whoever replaces a champion must be shown better than it: the 95 % interval of the days' paired
differences, blocks of a week, lies below zero. So a model that is as good does not move a champion. Training
lets the champion decide the new model's validation days; where it did not, both models' own validation days
are compared, and days, outcomes, costs or scenario counts that differ allow no comparison: train again. The
new model's epoch was chosen on these same days, which flatters it a little; its champion's was, too, where
the days are the champion's own.

A student of the present champion is not cheaper: it draws the same scenarios in fewer network calls. It takes
its teacher's place where it is shown to lose less than 2 % (ADR 7), and is what it says, by its own graph.

Are its scenarios real? A model can be cheap on one decision with scenarios that trick the solver, so scores,
calibration, structure, a classifier and the regret on a second decision at other costs must all hold. Bounds
are on the size of what is wrong, not on p-values, which refuse any model once there are days enough.

Where the bounds come from: validation days of two studies, no test day. German grid (176 days): ridge with
residuals / two-stage / joint diffusion; after "|" the same of Victoria (90 days). Planted: the joint model
with its spread times 0.5, or pushed to its 99 % quantile with a fifth of its spread.

    figure              honest                               times 0.5      pushed         bound
    CRPS, ratio         1 / 0.99 / 1.01  | 1 / 0.89 / 0.75   1.10 | 0.78    3.96 | 3.87    1.08
    tail CRPS, ratio    1 / 0.97 / 0.97  | 1 / 0.94 / 0.82   1.03 | 0.84    4.64 | 6.61    1.10
    energy, ratio       1 / 1.00 / 1.02  | 1 / 0.88 / 0.74   1.10 | 0.77    3.62 | 3.44    1.08
    variogram, ratio    1 / 1.00 / 1.00  | 1 / 0.88 / 0.77   1.02 | 0.78    1.75 | 2.16    1.10
    transfer, ratio     1 / 1.00 / 1.04  | 1 / 0.85 / 0.78   1.46 | 0.88    13.0 | 47.6    1.15
    coverage of 90 %    .92 / .93 / .88  | .89 / .94 / .97   .59 | .69      .02 | .00      0.80 to 0.985
    diversity           1.05 / 1.06 / 0.99 | .97 / 1.01 / 1.08  .62 | .73   .10 | .10      0.85 to 1.20
    ranks               .05 / .06 / .11  | .11 / .12 / .11   .24 | .20      .96 | .98      0.15, or + 0.05
    ramps               .15 / .16 / .16  | .42 / .44 / .43   .23 | .33      .36 | .88      0.22, or + 0.05
    autocorrelation     .02 / .03 / .10  | .09 / .03 / .04   .10 | .04      .39 | .55      0.20, or + 0.05
    classifier          .61 / .57 / .59  | .90 / .84 / .84   .83 | .92      1.0 | 1.0      0.70, or + 0.05

Standard deviations of the joint figures over weeks drawn again (German grid): CRPS ratio 0.017, tails 0.023,
energy 0.015, variogram 0.009, transfer 0.05, coverage 0.015, diversity 0.018, ranks 0.03, ramps 0.012,
autocorrelation 0.03, classifier 0.03. "or + 0.05": where the baseline itself is far off (a season unlike
training), a model may be as far off as the baseline and 0.05 more.

The pushed model of Victoria costs no more than the baseline (-376 a day, [-5141, 3533]): it is its scenarios
that refuse it. And half the spread is not always a lie: Victoria's joint model was too wide on these days.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hedgecast.learning.fidelity import BUDGET, SCORES
from hedgecast.registry.descent import Descent
from hedgecast.registry.evidence import ValidationDays
from hedgecast.scenarios.bootstrap import Interval, block_bootstrap

Relation = Literal["at most", "at least", "below"]
Rule = Literal["first", "better", "student"]
"""What a version is held to: no champion yet, better than the champion, or no worse than its teacher."""

# Metrics of a bundle that no realism report holds, and what the baseline's figures begin with.
SCENARIO_PARITY = "scenario_graph_relative_error"
DENOISER_PARITY = "denoiser_graph_relative_error"
UNSOLVED_SHARE = "unsolved_share"
TRANSFER_REGRET = "transfer_regret"
BASELINE_PREFIX = "baseline_"

# Four weeks: below, blocks of a week resample next to nothing and intervals are too narrow.
FEWEST_DAYS = 28
# Share of what the teacher's network does to the noise. German grid, 12 epochs: a distilled student has
# 0.13, one Euler step of the teacher's own weights 0.73, a model that was trained with another seed 1.3.
LARGEST_DISTANCE = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """One measured figure against one bound."""

    name: str
    """What was measured, in words of the field."""
    figure: float
    """The measured value; NaN never passes."""
    bound: float
    """The value it is held against."""
    relation: Relation
    """How the figure must stand to the bound."""

    @property
    def passed(self) -> bool:
        """Whether the figure keeps its bound."""
        if self.relation == "below":
            return self.figure < self.bound
        return self.figure <= self.bound if self.relation == "at most" else self.figure >= self.bound

    def __str__(self) -> str:
        verdict = "holds" if self.passed else "fails"
        return f"{self.name} {verdict}: {self.figure:.4g}, must be {self.relation} {self.bound:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with ``passed``; a figure or a bound that is not a number is None."""
        record = dataclasses.asdict(self)
        for key in ("figure", "bound"):
            if not math.isfinite(record[key]):
                record[key] = None
        return {**record, "passed": self.passed}


def rule_for(
    days: ValidationDays, champion: ValidationDays | None = None, descent: Descent | None = None
) -> Rule:
    """What a version is held to; arguments as in `gate_checks`."""
    if champion is None:
        return "first"
    if descent is None:
        return "better"
    # Who is shown better than the champion needs no other reason to replace it, whoever taught it.
    comparable = not days.unlike(champion)
    return "better" if comparable and difference(days, champion.cost).high < 0 else "student"


def gate_checks(
    metrics: Mapping[str, float],
    days: ValidationDays,
    champion: ValidationDays | None = None,
    descent: Descent | None = None,
) -> list[Check]:
    """The checks that ``champion`` must pass; a missing metric never passes.

    Parameters
    ----------
    metrics : mapping
        Of the candidate's bundle.
    days : ValidationDays
        The candidate's.
    champion : ValidationDays, optional
        The present champion's; None: there is none yet.
    descent : Descent, optional
        What the candidate is to the present champion, where it calls itself its student.
    """
    return [*_sound(metrics, days), *_cheaper(days, champion, descent), *_real(metrics)]


def difference(days: ValidationDays, other: NDArray[np.float64]) -> Interval:
    """The mean daily cost of a model less ``other`` (D,), with its 95 % paired interval, blocks of a week."""
    # The seed is part of the rule: the same two models always give the same answer.
    return block_bootstrap(days.cost - other, torch.Generator().manual_seed(0))


def _sound(metrics: Mapping[str, float], days: ValidationDays) -> list[Check]:
    def figure(key: str) -> float:
        return metrics.get(key, math.nan)

    return [
        Check("scenario graph against torch, relative error", figure(SCENARIO_PARITY), 1e-4, "at most"),
        Check("denoiser graph against torch, relative error", figure(DENOISER_PARITY), 1e-4, "at most"),
        Check("share of validation days without a decision", figure(UNSOLVED_SHARE), 0.0, "at most"),
        Check("validation days", float(len(days.days)), FEWEST_DAYS, "at least"),
    ]


def _cheaper(days: ValidationDays, champion: ValidationDays | None, descent: Descent | None) -> list[Check]:
    against = difference(days, days.baseline_cost)
    found = [Check(f"cost less that of {days.baseline}, lower 95 % bound", against.low, 0.0, "at most")]
    if champion is None:
        return found
    unlike = days.unlike(champion)
    named = f" ({'; '.join(unlike)})" if unlike else ""
    found.append(Check(f"differences from the champion's validation{named}", len(unlike), 0.0, "at most"))
    if descent is not None and rule_for(days, champion, descent) == "student":
        return [*found, *_student(descent), *_no_worse(days, None if unlike else champion)]
    high = math.nan if unlike else difference(days, champion.cost).high
    found.append(Check("regret less the champion's, upper 95 % bound", high, 0.0, "below"))
    return found


def _student(descent: Descent) -> list[Check]:
    """Whether it is a student of the champion, and of use as one."""
    return [
        Check(
            "distance from the teacher's scenarios of the same noise, share of what its network does",
            descent.distance,
            LARGEST_DISTANCE,
            "at most",
        ),
        Check("network calls against the teacher's", descent.calls, descent.teacher_calls, "below"),
        # Each may lose 2 %: a student of a student could lose it twice.
        Check("students among its teachers", descent.students_before, 0.0, "at most"),
    ]


def _no_worse(days: ValidationDays, teacher: ValidationDays | None) -> list[Check]:
    """Whether it is shown to lose less than `BUDGET` of its teacher's regret and scores."""
    regret = math.nan if teacher is None else _largest_loss(days.regret, teacher.regret)
    found = [Check("regret less the teacher's, share of it, upper 95 % bound", regret, BUDGET, "below")]
    for score in SCORES:
        own, other = days.scores.get(score), None if teacher is None else teacher.scores.get(score)
        unknown = own is None or other is None
        high = math.nan if own is None or other is None else _largest_loss(own, other)
        named = " (not kept by the day: distill again)" if unknown else ""
        label = f"{score.replace('_', ' ').replace('crps', 'CRPS')} less the teacher's, share of it"
        found.append(Check(f"{label}, upper 95 % bound{named}", high, BUDGET, "below"))
    return found


def _largest_loss(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Upper 95 % bound of the mean of ``own`` less ``other``, (D,) paired, over the mean of ``other``.

    Days where one is not known are left out; NaN where none is left or ``other`` has no positive mean.
    """
    known = np.isfinite(own) & np.isfinite(other)
    if not known.any() or not other[known].mean() > 0:
        return math.nan
    # The seed is part of the rule, as in `difference`.
    shares = (own - other)[known] / other[known].mean()
    return block_bootstrap(shares, torch.Generator().manual_seed(0)).high


# Scores, as a ratio to the baseline's: name, metric, largest ratio.
_SCORES = (
    ("CRPS", "crps", 1.08),
    ("CRPS of the tails", "crps_tails", 1.10),
    ("energy score", "energy_score", 1.08),
    ("variogram score", "variogram_score", 1.10),
    ("regret on the second decision", TRANSFER_REGRET, 1.15),
)
# Distances from being right: name, metric, a bound that any model may reach, and how much worse than the
# baseline's it may be beyond it.
_DISTANCES = (
    ("ranks, largest distance from uniform", "pit_distance", 0.15, 0.05),
    ("ramps, distance in standard deviations", "increment_distance", 0.22, 0.05),
    ("autocorrelation of deviations, distance", "autocorrelation_distance", 0.20, 0.05),
    ("classifier of real days against scenarios, area", "two_sample_auc", 0.70, 0.05),
)
# What these are on days of one step, which have no ramps and no dependence between steps, and of one entry,
# which has no pairs. Of other figures there is always one.
_NOTHING = {"increment_distance": math.nan, "autocorrelation_distance": math.nan, "variogram_score": 0.0}
_NO_SECOND = " (there is none: name a second decision in the study's [transfer], and train again)"
_RANGES = (
    ("coverage of the central 90 %", "coverage", 0.80, 0.985),
    ("diversity of scenarios, ratio", "diversity_ratio", 0.85, 1.20),
)


def _real(metrics: Mapping[str, float]) -> list[Check]:
    checks = []
    for name, key, largest in _SCORES:
        if _says_nothing(metrics, key):
            continue
        figure, baseline = metrics.get(key, math.nan), metrics.get(BASELINE_PREFIX + key, math.nan)
        ratio = figure / baseline if baseline > 0 else math.nan
        named = _NO_SECOND if key == TRANSFER_REGRET and key not in metrics else ""
        checks.append(Check(f"{name}, relative to the baseline's{named}", ratio, largest, "at most"))
    for name, key, floor, slack in _DISTANCES:
        if _says_nothing(metrics, key):
            continue
        baseline = metrics.get(BASELINE_PREFIX + key, math.nan)
        bound = floor if math.isnan(baseline) else max(floor, baseline + slack)
        checks.append(Check(name, metrics.get(key, math.nan), bound, "at most"))
    for name, key, low, high in _RANGES:
        figure = metrics.get(key, math.nan)
        checks += [Check(name, figure, low, "at least"), Check(name, figure, high, "at most")]
    return checks


def _says_nothing(metrics: Mapping[str, float], key: str) -> bool:
    """Whether the days themselves have no such figure: measured, and the same nothing for the baseline."""
    if key not in _NOTHING:
        return False
    nothing = _NOTHING[key]
    figures = [metrics.get(name) for name in (key, BASELINE_PREFIX + key)]
    return all(f is not None and (f == nothing or (math.isnan(f) and math.isnan(nothing))) for f in figures)
