"""The learned map from a scenario set to a decision: an ensemble of DeepSets on a linear base.

    decision = scale * ( L f  +  rho( f, sum_s p_s phi(u_s) ) ) + center

f are the set's features (`set_features.describe`), standardized; L is a ridge regression, phi and rho are
small perceptrons. The members of the ensemble differ in their start; their mean is the answer, and how
far they differ is its doubt.

Source: Zaheer et al. (2017), theorem 2, https://arxiv.org/abs/1703.06114.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hedgecast.decisions.set_features import describe, in_order
from hedgecast.programs.backend import Inputs


class SetNetwork(nn.Module):
    """One member: (features, standardized scenarios, probabilities) to a standardized decision (B, N)."""

    def __init__(self, num_features: int, num_uncertain: int, num_decision: int, width: int) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Linear(num_uncertain, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.whole = nn.Sequential(nn.Linear(num_features + width, 2 * width), nn.SiLU())
        self.last = nn.Linear(2 * width, num_decision)
        # Training starts at the linear base.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor, scenarios: Tensor, probabilities: Tensor) -> Tensor:
        """(B, N)."""
        pooled = (probabilities.unsqueeze(-1) * self.each(scenarios)).sum(dim=1)
        found: Tensor = self.last(self.whole(torch.cat([features, pooled], dim=1)))
        return found


class SetMap(nn.Module):
    """The ensemble with its scaling; float64.

    Parameters
    ----------
    num_features, num_uncertain, num_decision : int
    width : int
        Hidden units of each perceptron.
    num_members : int
        Networks in the ensemble.
    """

    feature_center: Tensor
    feature_scale: Tensor
    scenario_center: Tensor
    scenario_scale: Tensor
    decision_center: Tensor
    decision_scale: Tensor
    linear: Tensor
    """(C, N) coefficients of the base."""

    def __init__(
        self, num_features: int, num_uncertain: int, num_decision: int, width: int, num_members: int
    ) -> None:
        super().__init__()
        self.shape = (num_features, num_uncertain, num_decision, width, num_members)
        self.members = nn.ModuleList(
            SetNetwork(num_features, num_uncertain, num_decision, width) for _ in range(num_members)
        )
        for name, size in (
            ("feature", num_features),
            ("scenario", num_uncertain),
            ("decision", num_decision),
        ):
            self.register_buffer(f"{name}_center", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))
        self.register_buffer("linear", torch.zeros(num_features, num_decision))
        self.double()

    def prepared(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Standardized features (B, C), scenarios (B, S, D), and probabilities (B, S), in one order."""
        uncertain, probabilities = in_order(inputs.uncertain.double(), inputs.probabilities.double())
        features = describe(uncertain, probabilities, inputs.given.double())
        features = (features - self.feature_center) / self.feature_scale
        return features, (uncertain - self.scenario_center) / self.scenario_scale, probabilities

    def standardized(self, features: Tensor, scenarios: Tensor, probabilities: Tensor) -> Tensor:
        """(members, B, N) decisions of every member, in standard units."""
        base = features @ self.linear
        return torch.stack([base + member(features, scenarios, probabilities) for member in self.members])

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """Decisions (B, N), their doubt (B,) and the largest standardized feature (B,).

        The doubt is the root mean square deviation of the members, in standard units of the decision.
        """
        features, scenarios, probabilities = self.prepared(inputs)
        found = self.standardized(features, scenarios, probabilities)
        mean = found.mean(dim=0)
        doubt = (found - mean).square().mean(dim=(0, 2)).sqrt()
        return mean * self.decision_scale + self.decision_center, doubt, features.abs().amax(dim=1)
