"""Whether a second version may take over, from what both would have cost for the same days.

The second version decides beside the first on common random numbers (``DecisionRecord.shadow_of``), and one
outcome gives the regret of both. The difference of the two is what is judged: what makes a day costly for any
decision is in both and falls out.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.outcomes.confidence import SequenceConfig, confidence_sequence

Action = Literal["promote", "rollback", "go_on"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CanaryConfig(Config):
    """When a difference is enough."""

    alpha: float = 0.05
    """Probability of ever promoting or rolling back against the truth, over all looks together."""
    block: int = 7
    """Consecutive outcomes averaged into one value: misses that last for some days make values that follow
    each other, which averages of blocks do much less. 1: outcomes that do not."""
    first_look: int = 10
    """Blocks before which nothing is said."""
    intended_count: int = 365
    """Outcomes at which the interval is narrowest."""
    promote_margin: float = 0.0
    """Mean regret, in the currency of the program, by which the second version must be better."""
    rollback_margin: float = 0.0
    """Mean regret by which it must be worse to be rolled back."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; the rest is checked where it is used."""
        if self.block < 1:
            raise ConfigError(f"block = {self.block}: must be at least 1", key="block")
        for name in ("promote_margin", "rollback_margin"):
            if not getattr(self, name) >= 0.0:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 0", key=name)
        self.sequence()

    def sequence(self) -> SequenceConfig:
        """That of the block means."""
        return SequenceConfig(
            alpha=self.alpha,
            first_look=self.first_look,
            intended_count=max(1, self.intended_count // self.block),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairedRegrets:
    """Realized regrets of two versions for the same decisions, in the order in which they became known."""

    champion: np.ndarray
    """(n,) in the currency of the program."""
    challenger: np.ndarray
    """(n,)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Recommendation:
    """What to do with a second version; a person or an operator's policy does it."""

    action: Action
    difference: float
    """Mean regret of the challenger less that of the champion over whole blocks; negative: it is better."""
    low: float
    """Interval of the difference now; infinite before the first look."""
    high: float
    count: int
    """Pairs of outcomes in whole blocks."""
    decided_at: int
    """Pairs after which ``action`` was first clear; 0 where it is ``go_on``. Later looks do not undo it."""
    alpha: float

    @property
    def reason(self) -> str:
        """A sentence with the figures."""
        interval = f"[{self.low:.4g}, {self.high:.4g}] around {self.difference:.4g}"
        text = f"regret of the challenger less the champion's is in {interval} after {self.count} outcomes"
        return text if self.action == "go_on" else f"{text}; {self.action} was clear after {self.decided_at}"


def recommend(pairs: PairedRegrets, config: CanaryConfig | None = None) -> Recommendation:
    """Promote, roll back, or go on.

    The first interval that lies below ``-promote_margin`` or above ``rollback_margin`` decides. All intervals
    hold together, so that one may ask after every outcome.

    Parameters
    ----------
    pairs : PairedRegrets
        Finite; of the same length.
    config : CanaryConfig, optional
    """
    config = CanaryConfig() if config is None else config
    differences = pairs.challenger - pairs.champion
    num_blocks = differences.size // config.block
    blocks = differences[: num_blocks * config.block].reshape(num_blocks, config.block).mean(axis=1)
    sequence = confidence_sequence(blocks, config.sequence())
    better, worse = sequence.high < -config.promote_margin, sequence.low > config.rollback_margin
    clear = np.flatnonzero(better | worse)
    action: Action = "go_on"
    if clear.size:
        action = "promote" if better[clear[0]] else "rollback"
    return Recommendation(
        action=action,
        difference=float(sequence.means[-1]) if num_blocks else float("nan"),
        low=float(sequence.low[-1]) if num_blocks else -np.inf,
        high=float(sequence.high[-1]) if num_blocks else np.inf,
        count=num_blocks * config.block,
        decided_at=int(clear[0] + 1) * config.block if clear.size else 0,
        alpha=config.alpha,
    )


def pairs_of(table: pa.Table, *, model: str, champion: str, challenger: str) -> PairedRegrets:
    """The pairs of two versions in a table of outcomes, whichever of them was the planner's.

    Parameters
    ----------
    table : Table
        ``decision_id``, ``shadow_of``, ``model``, ``model_version`` and ``regret`` of outcomes, in the order
        in which they were written.
    model, champion, challenger : str
        Name and the two versions; must differ.

    Raises
    ------
    ConfigError
        The versions are the same.
    """
    if champion == challenger:
        raise ConfigError(
            f"champion and challenger are both version {champion!r}: name two", key="challenger"
        )
    versions = pa.array([champion, challenger])
    mine = pc.and_(pc.equal(table["model"], model), pc.is_in(table["model_version"], value_set=versions))
    planners: dict[str, tuple[str, float]] = {}
    shadows: dict[str, list[tuple[str, float]]] = {}
    pairs: list[dict[str, float]] = []
    for row in table.filter(mine).to_pylist():
        found = (row["model_version"], row["regret"])
        if row["shadow_of"]:
            shadows.setdefault(row["shadow_of"], []).append(found)
            partners = [planners[row["shadow_of"]]] if row["shadow_of"] in planners else []
        else:
            planners[row["decision_id"]] = found
            partners = shadows.get(row["decision_id"], [])
        # A pair is known when the later of its rows is written.
        pairs += [dict([found, partner]) for partner in partners if partner[0] != found[0]]
    return PairedRegrets(
        champion=np.array([pair[champion] for pair in pairs], dtype=np.float64),
        challenger=np.array([pair[challenger] for pair in pairs], dtype=np.float64),
    )
