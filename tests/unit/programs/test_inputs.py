"""What callers pass, as the checked numbers of a batch."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ProgramError, ShapeError
from hedgecast.programs.inputs import InputReader


def reader() -> InputReader:
    uncertain = [cp.Parameter((2, 2), name="load"), cp.Parameter(name="price", nonneg=True)]
    given = [cp.Parameter(2, name="limit", value=np.array([1.0, 2.0])), cp.Parameter(name="share")]
    return InputReader(uncertain, given)


def scenarios(num_contexts: int = 2, num_scenarios: int = 3) -> torch.Tensor:
    return torch.arange(float(num_contexts * num_scenarios * 5)).reshape(num_contexts, num_scenarios, 5)


def test_arrays_and_names_give_the_same_entries() -> None:
    flat = scenarios()
    named = {"price": flat[..., 4], "load": flat[..., :4].reshape(2, 3, 2, 2)}
    for given in ({"share": 0.5}, {"share": torch.tensor([0.5, 0.5])}):
        one, other = (reader().read(entries, None, given) for entries in (flat, named))
        assert torch.equal(one.uncertain, other.uncertain)
        assert one.uncertain.dtype == torch.float32
        assert torch.equal(one.probabilities, torch.full((2, 3), 1 / 3))
        rows = 1 if isinstance(given["share"], float) else 2
        assert one.given.tolist() == [[1.0, 2.0, 0.5]] * rows


def test_defaults_give_way_and_come_back_by_name() -> None:
    limits = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    inputs = reader().read(scenarios(), None, {"share": 1, "limit": limits})
    named = reader().given_of(inputs)
    assert torch.equal(named["limit"], limits)
    assert named["share"].tolist() == [1.0, 1.0]
    assert reader().defaults["limit"].tolist() == [1.0, 2.0]


def test_integers_are_float64_and_weights_follow_the_scenarios() -> None:
    inputs = reader().read(np.ones((1, 2, 5), dtype=np.int64), np.array([[0.25, 0.75]]), {"share": 0})
    assert inputs.uncertain.dtype == inputs.probabilities.dtype == inputs.given.dtype == torch.float64
    assert inputs.probabilities.tolist() == [[0.25, 0.75]]


def test_members_with_unusable_numbers_are_left_out() -> None:
    sets = scenarios(6).double()
    weights = torch.full((6, 3), 1 / 3, dtype=torch.float64)
    sets[0, 1, 2] = torch.inf
    sets[1, 0, 4] = -1.0  # a price below zero
    weights[2] = torch.tensor([1.2, -0.2, 0.0])
    weights[3, 0] = 0.4
    share = torch.tensor([0.0, 0.0, 0.0, 0.0, torch.nan, 0.0]).double()
    inputs = reader().read(sets, weights, {"share": share})
    assert reader().usable(inputs).tolist() == [5]


def test_what_does_not_fit_is_refused() -> None:
    for error, message, arguments in (
        (ShapeError, "no scenario", (scenarios(2, 0), None, {"share": 1})),
        (ShapeError, "contexts x scenarios", (scenarios(), torch.ones(3), {"share": 1})),
        (ProgramError, "'share' has no value", (scenarios(), None, {})),
        (ProgramError, "known names are limit, share", (scenarios(), None, {"shares": 1})),
        (ShapeError, r"given\['limit'\] has shape", (scenarios(), None, {"limit": torch.ones(3, 2)})),
    ):
        with pytest.raises(error, match=message):
            reader().read(*arguments)
