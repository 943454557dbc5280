"""A better version is promoted, a worse one rolled back, an equal one neither more often than alpha."""

import numpy as np
import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.outcomes import CanaryConfig, OutcomeStore, PairedRegrets, recommend

CONFIG = CanaryConfig()


def _pairs(rng: np.random.Generator, count: int, gain: float) -> PairedRegrets:
    """Days of very different size that both share; the challenger is better by ``gain`` on average."""
    day = 10.0 * np.exp(rng.normal(size=count))
    return PairedRegrets(champion=day, challenger=day - gain + rng.normal(size=count))


def test_a_better_version_is_promoted_and_a_worse_one_rolled_back() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        better, worse = recommend(_pairs(rng, 365, 0.4)), recommend(_pairs(rng, 365, -0.4))
        # The gain is 7.6 standard errors of the mean over a year.
        assert better.action == "promote"
        assert worse.action == "rollback"
        assert better.high < 0 < worse.low
        assert 70 <= better.decided_at <= better.count == 364


def test_equal_versions_go_on_but_for_alpha_however_often_one_looks() -> None:
    rng = np.random.default_rng(1)
    actions = [recommend(_pairs(rng, 1400, 0.0)).action for _ in range(600)]
    # n = 600 canaries of 191 looks each, 3 standard errors; each kind of error half of alpha.
    assert np.mean([action != "go_on" for action in actions]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)
    for kind in ("promote", "rollback"):
        assert np.mean([action == kind for action in actions]) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / 600)


def test_the_first_clear_look_decides_whatever_comes_later() -> None:
    rng = np.random.default_rng(2)
    good, bad = _pairs(rng, 210, 1.0), _pairs(rng, 700, -1.0)
    pairs = PairedRegrets(
        champion=np.concatenate([good.champion, bad.champion]),
        challenger=np.concatenate([good.challenger, bad.challenger]),
    )
    now, then = recommend(pairs), recommend(good)
    assert now.action == then.action == "promote"
    assert now.decided_at == then.decided_at
    assert now.low > 0
    assert f"promote was clear after {now.decided_at}" in now.reason


def test_before_the_first_look_nothing_is_said() -> None:
    few = recommend(_pairs(np.random.default_rng(3), 69, 100.0))
    assert (few.action, few.count, few.decided_at) == ("go_on", 63, 0)
    assert few.low == -np.inf
    none = recommend(PairedRegrets(champion=np.array([]), challenger=np.array([])))
    assert (none.action, none.count) == ("go_on", 0)
    assert np.isnan(none.difference)
    assert "after 0 outcomes" in none.reason


def test_the_difference_is_the_mean_over_whole_blocks() -> None:
    pairs = _pairs(np.random.default_rng(4), 100, 0.0)
    found = recommend(pairs)
    assert found.count == 98
    assert found.difference == pytest.approx((pairs.challenger - pairs.champion)[:98].mean())
    single = recommend(pairs, CanaryConfig(block=1, first_look=30))
    assert single.count == 100


def test_a_margin_asks_for_more() -> None:
    pairs = _pairs(np.random.default_rng(5), 365, 0.5)
    assert recommend(pairs).action == "promote"
    assert recommend(pairs, CanaryConfig(promote_margin=0.5)).action == "go_on"
    worse = PairedRegrets(champion=pairs.challenger, challenger=pairs.champion)
    assert recommend(worse).action == "rollback"
    assert recommend(worse, CanaryConfig(rollback_margin=0.5)).action == "go_on"


def test_equal_regrets_go_on() -> None:
    same = np.random.default_rng(6).normal(size=365)
    assert recommend(PairedRegrets(champion=same, challenger=same)).action == "go_on"


def test_pairs_of_a_store_are_those_of_the_two_versions(tmp_path, decided, happened) -> None:
    with OutcomeStore(tmp_path) as store:
        for number in range(1, 6):
            store.keep(decided(number))
            # Version 4 beside 3 each time, 5 beside it too, and of another model.
            for version, model in (("4", "power"), ("5", "power"), ("4", "shop")):
                name = f"{model}-{version}-{number}"
                store.keep(
                    decided(
                        number,
                        decision_id=name,
                        request_id="",
                        shadow_of=f"d-{number}",
                        model=model,
                        model_version=version,
                    )
                )
        # The fifth is the other way round: the planner had version 4.
        store.keep(decided(9, model_version="4"))
        store.keep(decided(10, request_id="", shadow_of="d-9", model_version="3"))
        for number in (2, 1, 3):
            outcomes = {f"d-{number}": happened(decided(number), regret=float(number))}
            for shadow in store.shadows(f"d-{number}"):
                regret = 10.0 * number + float(shadow.model_version)
                outcomes[shadow.decision_id] = happened(shadow, regret=regret, request_id="")
            store.record_all(outcomes)
        # Not yet known for both.
        store.record("d-4", happened(decided(4), regret=4.0))
        store.record("d-10", happened(decided(10), regret=7.0))
        store.roll()
        store.record("d-9", happened(decided(9), regret=8.0))
        pairs = store.pairs("power", champion="3", challenger="4")
        assert pairs.champion.tolist() == [2.0, 1.0, 3.0, 7.0]
        assert pairs.challenger.tolist() == [24.0, 14.0, 34.0, 8.0]
        assert store.pairs("power", champion="4", challenger="5").champion.size == 0
        with pytest.raises(ConfigError, match="name two"):
            store.pairs("power", champion="3", challenger="3")


@pytest.mark.parametrize(
    "change",
    [
        {"block": 0},
        {"alpha": 2.0},
        {"first_look": 0},
        {"promote_margin": -1.0},
        {"rollback_margin": float("nan")},
    ],
)
def test_wrong_settings_are_refused(change) -> None:
    with pytest.raises(ConfigError):
        CanaryConfig.from_dict(change)
