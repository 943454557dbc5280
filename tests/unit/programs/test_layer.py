"""The layer: gradients in scenarios, probabilities and given parameters."""

from __future__ import annotations

import concurrent.futures

import cvxpy as cp
import pytest
import torch

from hedgecast.core.errors import ProgramError
from hedgecast.programs.layer import DecisionLayer
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.programs.solution import Verdict


def smooth() -> TwoStageProgram:
    """Strongly convex with one active limit: unique and non-degenerate."""
    z, w, y = cp.Variable(3, name="z"), cp.Variable(3, name="w"), cp.Parameter(3, name="y")
    limit = cp.Parameter(name="limit", value=1.5)
    return TwoStageProgram(
        name="smooth",
        decision=z,
        uncertain=y,
        given=limit,
        constraints=[cp.sum(z) <= limit],
        cost=0.5 * cp.sum_squares(z),
        recourse_cost=cp.sum_squares(z + w - y) + 0.5 * cp.sum_squares(w) + cp.square(w[0] - w[1]),
    )


def arguments(num_contexts: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = 2 + torch.randn(num_contexts, 4, 3, generator=generator, dtype=torch.float64)
    weights = torch.softmax(torch.randn(num_contexts, 4, generator=generator, dtype=torch.float64), dim=1)
    limit = torch.tensor([1.5, 1.2][:num_contexts], dtype=torch.float64)
    return [tensor.requires_grad_() for tensor in (y, weights, limit)]


def slopes_by_difference(
    layer: torch.nn.Module, inputs: list[torch.Tensor], aim: torch.Tensor
) -> list[torch.Tensor]:
    """Central differences; probabilities move in pairs, so that they stay a distribution."""
    step, out = 1e-4, []
    for position, tensor in enumerate(inputs):
        slope = torch.zeros_like(tensor)
        for entry in range(tensor.numel()):
            values = []
            for sign in (1, -1):
                moved = [t.detach().clone() for t in inputs]
                flat = moved[position].view(-1)
                flat[entry] += sign * step
                if position == 1:
                    row = entry // tensor.shape[1]
                    moved[1][row] -= sign * step / tensor.shape[1]
                values.append((layer(moved[0], moved[1], {"limit": moved[2]}) * aim).sum())
            slope.view(-1)[entry] = (values[0] - values[1]) / (2 * step)
        out.append(slope)
    return out


@pytest.mark.parametrize("risk", ["expectation", "cvar:0.4"])
def test_gradients_equal_finite_differences(risk: str) -> None:
    layer = smooth().layer(backend="structured", risk=Risk.parse(risk), tolerance=1e-10)
    inputs = arguments()
    aim = torch.tensor([[1.0, -2.0, 0.5], [0.3, 1.0, -1.0]], dtype=torch.float64)
    found = torch.autograd.grad((layer(inputs[0], inputs[1], {"limit": inputs[2]}) * aim).sum(), inputs)
    wanted = slopes_by_difference(layer, inputs, aim)
    centered = found[1] - found[1].mean(dim=1, keepdim=True)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(centered, wanted[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found[2], wanted[2], rtol=1e-3, atol=1e-4)


def test_the_layer_decides_what_solve_decides() -> None:
    program, inputs = smooth(), arguments()
    solved = program.solve(inputs[0].detach(), inputs[1].detach(), {"limit": inputs[2].detach()})
    layered = program.layer()(inputs[0], inputs[1], {"limit": inputs[2]})
    torch.testing.assert_close(layered.detach(), solved.flat, rtol=0, atol=1e-5)


def test_measures_on_regret_take_their_benchmarks_from_the_scenarios() -> None:
    program, inputs = smooth(), arguments()
    risk = Risk.parse("regret-cvar:0.5")
    decision = program.solve(inputs[0].detach(), inputs[1].detach(), risk=risk)
    layered = program.layer(risk=risk)(inputs[0], inputs[1])
    torch.testing.assert_close(layered.detach(), decision.flat, rtol=0, atol=1e-4)


def test_bad_members_are_nan_and_give_no_gradient() -> None:
    layer = smooth().layer()
    y, weights, _ = arguments()
    broken = y.detach().clone()
    broken[1, 0, 0] = torch.nan
    broken.requires_grad_()
    found = layer(broken, weights)
    assert torch.isnan(found).all(dim=1).tolist() == [False, True]
    (slope,) = torch.autograd.grad(torch.nan_to_num(found).sum(), broken)
    assert torch.isfinite(slope).all()
    assert slope[1].abs().max() == 0


@pytest.mark.parametrize("risk", ["expectation", "regret-cvar:0.5"])
def test_the_layer_tells_which_members_were_solved(risk: str) -> None:
    y, _, _ = arguments()
    broken = y.detach().clone()
    broken[1, 2, 0] = torch.nan
    found, verdicts = smooth().layer(risk=Risk.parse(risk)).judged(broken)
    assert verdicts.tolist() == [Verdict.OPTIMAL, Verdict.INVALID]
    assert torch.isfinite(found).all(dim=1).tolist() == [True, False]
    # No number of steps reaches this tolerance: the last iterate comes back, and says so.
    found, verdicts = smooth().layer(risk=Risk.parse(risk), tolerance=1e-300).judged(broken[:1])
    assert verdicts.tolist() == [Verdict.NOT_CONVERGED]


def test_warm_start_changes_nothing_but_the_way() -> None:
    program = smooth()
    cold, warm = program.layer(), program.layer(warm_start=True)
    y, weights, _ = arguments()
    for shift in (0.0, 0.01, 0.02):
        torch.testing.assert_close(warm(y + shift, weights), cold(y + shift, weights), rtol=0, atol=1e-5)
    # Other sizes start afresh.
    torch.testing.assert_close(warm(y[:1], weights[:1]), cold(y[:1], weights[:1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("warm_start", [False, True])
def test_eight_threads_share_one_layer(warm_start: bool) -> None:
    layer = smooth().layer(smoothing=1e-3, warm_start=warm_start)

    def slope(case: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = case[0].clone().requires_grad_()
        found = layer(leaf, case[1])
        (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
        return found.detach(), gradient

    y, weights, _ = (argument.detach() for argument in arguments())
    cases = [(y[:, :count] + 0.1 * shift, weights[:, :count].softmax(dim=1)) for shift in range(4)
             for count in (2, 3, 4)] * 2  # fmt: skip
    alone = [slope(case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(slope, cases))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other[0], one[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(other[1], one[1], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_backend_without_warm_start_says_so() -> None:
    with pytest.raises(ProgramError, match="'cvxpylayers' has no warm start"):
        smooth().layer(backend="cvxpylayers", warm_start=True)


@pytest.mark.parametrize("how", ["no_grad", "detached"])
def test_without_derivatives_nothing_is_smoothed(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = smooth()
    layer = program.layer(smoothing=0.05, backend="structured")
    assert isinstance(layer, DecisionLayer)
    blocks, seen = layer.inner.blocks, []

    def spy(*args: object, **kwargs: object) -> object:
        seen.append(kwargs["smoothing"])
        return type(blocks).solve_blocks(blocks, *args, **kwargs)

    monkeypatch.setattr(blocks, "solve_blocks", spy)
    y, weights, limit = arguments()
    smoothed = layer(y, weights, {"limit": limit})
    if how == "no_grad":
        with torch.no_grad():
            plain = layer(y, weights, {"limit": limit})
    else:
        plain = layer(y.detach(), weights.detach(), {"limit": limit.detach()})
    assert seen == [0.05, 0.0]
    assert not plain.requires_grad
    torch.testing.assert_close(plain, smoothed.detach(), rtol=0, atol=1e-6)
    # One input that asks is enough.
    layer(y.detach(), weights.detach(), {"limit": limit})
    assert seen[2] == 0.05
