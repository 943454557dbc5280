import pytest
import torch

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.diffusion.feature_groups import choose_groups
from hedgecast.diffusion.ridge import ridge_path

ROWS, HELD_OUT = 400, 100


def _days(seed: int, *, broken: bool) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Two targets of load and temperature; from row 250 a broken sensor shows 60 degrees more."""
    draws = torch.Generator().manual_seed(seed)
    load = torch.randn(ROWS, 3, generator=draws, dtype=torch.float64)
    temperature = torch.randn(ROWS, 1, generator=draws, dtype=torch.float64)
    noise = torch.randn(ROWS, 2, generator=draws, dtype=torch.float64)
    targets = torch.stack([load[:, 0] + 2.0 * temperature[:, 0], load[:, 1]], dim=1) + 0.1 * noise
    shown = temperature.clone()
    if broken:
        shown[250:] = 60.0 + torch.arange(ROWS - 250).unsqueeze(1) / 10
    return torch.cat([load, shown], dim=1), targets, ["load"] * 3 + ["temperature"]


@pytest.mark.parametrize("seed", range(3))
def test_drops_a_broken_group_and_keeps_a_sound_one(seed: int) -> None:
    for broken, kept in ((False, ("load", "temperature")), (True, ("load",))):
        context, targets, groups = _days(seed, broken=broken)
        choice = choose_groups(context, targets, groups, held_out_rows=HELD_OUT)
        assert choice.kept == kept
        assert choice.columns(groups) == [index for index, name in enumerate(groups) if name in kept]
        assert list(choice.errors) == sorted(choice.errors, reverse=True)


def test_the_error_is_that_of_the_best_ridge_on_the_kept_columns() -> None:
    context, targets, groups = _days(0, broken=True)
    choice = choose_groups(context, targets, groups, held_out_rows=HELD_OUT, strengths=(0.1,))
    columns = choice.columns(groups)
    first = slice(0, ROWS - HELD_OUT)
    (fit,) = ridge_path(context[first][:, columns], targets[first], (0.1,))
    errors = (fit(context[-HELD_OUT:][:, columns]) - targets[-HELD_OUT:]).square().mean(dim=0)
    expected = (errors / targets[first].var(dim=0, unbiased=False)).mean()
    torch.testing.assert_close(torch.tensor(choice.errors[-1]), expected, check_dtype=False)


def test_units_change_nothing_and_rows_before_the_held_out_ones_alone_are_fitted() -> None:
    context, targets, groups = _days(1, broken=True)
    choice = choose_groups(context, targets, groups, held_out_rows=HELD_OUT)
    scale = torch.tensor([1.0, 1e3], dtype=torch.float64)
    rescaled = choose_groups(7.0 * context, targets * scale, groups, held_out_rows=HELD_OUT)
    assert rescaled.kept == choice.kept
    torch.testing.assert_close(torch.tensor(rescaled.errors), torch.tensor(choice.errors))


def test_one_group_stays() -> None:
    context, targets, _ = _days(2, broken=False)
    choice = choose_groups(context, targets, ["all"] * 4, held_out_rows=HELD_OUT)
    assert (choice.kept, choice.dropped, len(choice.errors)) == (("all",), (), 1)


def test_refuses_what_cannot_be_judged() -> None:
    context, targets, groups = _days(0, broken=False)
    with pytest.raises(ShapeError, match="3 groups for 4 features"):
        choose_groups(context, targets, groups[:3], held_out_rows=HELD_OUT)
    for rows in (0, ROWS - 1):
        with pytest.raises(DataError, match="held-out rows of 400"):
            choose_groups(context, targets, groups, held_out_rows=rows)
