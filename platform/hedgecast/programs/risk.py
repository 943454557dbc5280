"""Risk measures of the scenario costs; every measure is a point of one family.

For scenario costs c_s with probabilities p_s and benchmarks v_s (zero, or the wait-and-see costs
when the measure is taken on regret):

    rho = (1 - beta) sum_s p_s c_s  +  beta CVaR_alpha(c - v)  +  beta sum_s p_s v_s [on regret: 0]

    CVaR_alpha(x) = min_eta  eta + 1/(1 - alpha) sum_s p_s (x_s - eta)_+

``beta = 0`` is the expectation, ``beta = 1`` pure CVaR, ``alpha = 1`` the worst case over scenarios
of positive probability.

Source: Rockafellar and Uryasev (2000), eq. 4, https://doi.org/10.21314/JOR.2000.038.
"""

from __future__ import annotations

import dataclasses
import re

from hedgecast.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class Risk:
    """(1 - beta) expectation + beta CVaR(alpha), of cost or of regret."""

    beta: float = 0.0
    """Weight of the CVaR part, in [0, 1]."""
    alpha: float = 0.0
    """Tail level in [0, 1]; 0 is the mean, 1 the worst case."""
    on_regret: bool = False
    """Take the CVaR part on cost less the scenario's wait-and-see cost."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise ConfigError(f"risk beta = {self.beta}: must lie in [0, 1]", beta=self.beta)
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"risk alpha = {self.alpha}: must lie in [0, 1]", alpha=self.alpha)

    @property
    def neutral(self) -> bool:
        """Whether the measure is the plain expectation."""
        return self.beta == 0.0 or self.alpha == 0.0

    @classmethod
    def parse(cls, text: str) -> Risk:
        """A measure from its command-line form.

        Forms: ``expectation``, ``worst``, ``cvar:ALPHA``, ``mixture:BETA:ALPHA``, and the last three
        with the prefix ``regret-`` (``regret-cvar:0.9``, ``regret-worst``).

        Raises
        ------
        ConfigError
            Another form, or a number outside [0, 1].
        """
        on_regret = text.startswith("regret-")
        body = text.removeprefix("regret-")
        number = r"(\d*\.?\d+(?:[eE][-+]?\d+)?)"
        if body == "expectation":
            return cls(on_regret=False)
        if body == "worst":
            return cls(beta=1.0, alpha=1.0, on_regret=on_regret)
        if match := re.fullmatch(rf"cvar:{number}", body):
            return cls(beta=1.0, alpha=float(match[1]), on_regret=on_regret)
        if match := re.fullmatch(rf"mixture:{number}:{number}", body):
            return cls(beta=float(match[1]), alpha=float(match[2]), on_regret=on_regret)
        raise ConfigError(
            f"risk {text!r} is not a measure: use expectation, worst, cvar:ALPHA, "
            "mixture:BETA:ALPHA, or regret- before the last three (regret-cvar:0.9)",
            risk=text,
        )

    def __str__(self) -> str:
        prefix = "regret-" if self.on_regret else ""
        if self.beta == 0.0:
            return "expectation"
        if self.beta < 1.0:
            return f"{prefix}mixture:{self.beta:g}:{self.alpha:g}"
        return f"{prefix}worst" if self.alpha == 1.0 else f"{prefix}cvar:{self.alpha:g}"


EXPECTATION = Risk()
