"""From what a caller passes to the checked numbers of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ProgramError, ShapeError
from hedgecast.programs.backend import Inputs
from hedgecast.programs.entries import Entries, Layout, as_float


class InputReader:
    """Reads scenarios, probabilities and given parameters of one program.

    Parameters
    ----------
    uncertain, given : sequence of cvxpy.Parameter
        Values that given parameters have now become their defaults.
    """

    def __init__(self, uncertain: Sequence[Any], given: Sequence[Any]) -> None:
        self.uncertain = Layout(uncertain, "scenarios")
        self.given = Layout(given, "given")
        self.defaults: dict[str, Tensor] = {
            parameter.name(): torch.as_tensor(_dense(parameter.value), dtype=torch.float64)
            for parameter in given
            if parameter.value is not None
        }

    def read(self, scenarios: Entries, probabilities: Any, given: Mapping[str, Any] | None) -> Inputs:
        """The numbers of a batch; see `TwoStageProgram.inputs`."""
        uncertain = self.uncertain.flatten(scenarios, ("contexts", "scenarios"))
        num_contexts, num_scenarios = uncertain.shape[:2]
        if not num_scenarios:
            raise ShapeError("scenarios has no scenario: give at least one for each context")
        if probabilities is None:
            weights = uncertain.new_full((num_contexts, num_scenarios), 1.0 / num_scenarios)
        else:
            weights = as_float(probabilities).to(uncertain)
            if weights.shape != uncertain.shape[:2]:
                raise ShapeError(
                    f"probabilities have shape {tuple(weights.shape)}: must be contexts x scenarios = "
                    f"{tuple(uncertain.shape[:2])}"
                )
        return Inputs(
            uncertain=uncertain, probabilities=weights, given=self.given_entries(given or {}, uncertain)
        )

    def given_entries(self, given: Mapping[str, Any], like: Tensor) -> Tensor:
        """(1 or B, K) entries of the given parameters, defaults filled in.

        Parameters
        ----------
        given : mapping of names to *shape or (B, *shape)
        like : Tensor
            (B, ...) whose contexts, dtype and device they must have.
        """
        self.given.check_names(given, complete=False)
        parts = []
        for name, shape in zip(self.given.names, self.given.shapes, strict=True):
            value = given.get(name, self.defaults.get(name))
            if value is None:
                raise ProgramError(
                    f"given parameter {name!r} has no value: pass given={{{name!r}: ...}} or set .value "
                    "before the program is made",
                    name=name,
                )
            part = as_float(value).to(like)
            if tuple(part.shape) == shape:
                part = part[None]
            elif tuple(part.shape[1:]) != shape or part.shape[0] not in (1, like.shape[0]):
                raise ShapeError(
                    f"given[{name!r}] has shape {tuple(part.shape)}: must be {shape} or "
                    f"{(like.shape[0], *shape)}"
                )
            parts.append(part.reshape(part.shape[0], -1))
        if not parts:
            return like.new_zeros(1, 0)
        rows = max(part.shape[0] for part in parts)
        return torch.cat([part.expand(rows, -1) for part in parts], dim=1)

    def given_of(self, inputs: Inputs) -> dict[str, Tensor]:
        """Given parameters by name, (1 or B, *shape), out of checked inputs."""
        return self.given.unflatten(inputs.given)

    def usable(self, inputs: Inputs) -> Tensor:
        """Indices of the members whose numbers can be solved.

        Entries must be finite and keep the signs declared in CVXPY; probabilities must be a distribution.
        """
        probabilities = inputs.probabilities
        slack = 1e-6 if probabilities.dtype == torch.float64 else 1e-3
        usable = (probabilities >= 0).all(dim=1) & ((probabilities.sum(dim=1) - 1).abs() <= slack)
        usable &= self.uncertain.lawful(inputs.uncertain).all(dim=1)
        usable &= self.given.lawful(inputs.given)
        return torch.nonzero(usable)[:, 0]


def _dense(value: Any) -> np.ndarray:
    return np.asarray(value.toarray() if hasattr(value, "toarray") else value, dtype=np.float64)
