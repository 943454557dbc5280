import math
import shutil
from pathlib import Path

import highspy
import numpy as np
import pytest
import torch

from hedgecast.core.errors import DataError
from hedgecast.programs.mps import read_core
from hedgecast.programs.smps import SmpsInstance, read_smps

FOLDER = Path(__file__).parent / "smps"


def _copy(tmp_path: Path, name: str, suffix: str, old: str, new: str) -> Path:
    """The instance with one change in one of its files."""
    for path in FOLDER.glob(f"{name}.*"):
        shutil.copy(path, tmp_path / path.name)
    path = tmp_path / f"{name}{suffix}"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return tmp_path / name


def _extensive_optimum(instance: SmpsInstance, base: Path) -> float:
    """The extensive form, row by row from the core file's dictionaries, by HiGHS."""
    core = read_core(base.with_suffix(".cor"))
    num_first = len(instance.columns)
    first, second = list(core.columns)[:num_first], list(core.columns)[num_first:]
    model = highspy.Highs()
    model.silent()
    inf, sign = model.inf, -1.0 if core.maximize else 1.0

    def add(column: str, cost: float) -> int:
        model.addVar(core.lower.get(column, 0.0), core.upper.get(column, inf))
        index = model.getNumCol() - 1
        model.changeColCost(index, sign * cost)
        return index

    where = {c: add(c, core.columns[c].get(core.objective, 0.0)) for c in first}
    touched = {row for column in second for row in core.columns[column]}
    touched |= {element.split("/")[1] for element in instance.elements}
    scenarios = zip(instance.scenarios[0].tolist(), instance.probabilities[0].tolist(), strict=True)
    for position, (values, weight) in enumerate(scenarios):
        random = dict(zip(instance.elements, values, strict=True))
        own = {}
        for c in second:
            cost = random.get(f"{c}/{core.objective}", core.columns[c].get(core.objective, 0.0))
            own[c] = add(c, weight * cost)
        for row in core.senses:
            if row not in touched and position > 0:
                continue
            entries = [
                ({**where, **own}[c], random.get(f"{c}/{row}", core.columns[c].get(row, 0.0)))
                for c in core.columns
                if row in core.columns[c] or f"{c}/{row}" in random
            ]
            rhs = random.get(f"{core.rhs_name}/{row}", core.rhs.get(row, 0.0))
            low, high = core.spread(row)
            low, high = rhs + low if low > -math.inf else -inf, rhs + high if high < math.inf else inf
            indices, coefficients = zip(*entries, strict=True)
            model.addRow(low, high, len(entries), np.array(indices), np.array(coefficients))
    model.run()
    return float(model.getObjectiveValue())


@pytest.mark.parametrize(
    ("name", "optimum", "num_scenarios"),
    [("lands", 381.853, 3), ("airlift", 249101.672072, 25), ("farmer", -108390.0, 3)],
)
def test_a_published_instance_has_its_published_optimum(
    name: str, optimum: float, num_scenarios: int
) -> None:
    instance = read_smps(FOLDER / name)
    assert instance.scenarios.shape[1] == num_scenarios == instance.num_outcomes
    decision = instance.program.solve(instance.scenarios, instance.probabilities).require_optimal()
    assert decision.objective.item() == pytest.approx(optimum, rel=2e-6)
    assert decision.objective.item() == pytest.approx(_extensive_optimum(instance, FOLDER / name), rel=1e-6)


def test_the_farmer_plants_what_the_book_says() -> None:
    instance = read_smps(FOLDER / "farmer")
    assert instance.columns == ("plant_wheat", "plant_corn", "plant_beets")
    assert instance.maximize
    decision = instance.program.solve(instance.scenarios, instance.probabilities).require_optimal()
    np.testing.assert_allclose(decision.values["x"][0], [170.0, 80.0, 250.0], atol=1e-3)


def test_blocks_and_independent_entries_say_the_same(tmp_path: Path) -> None:
    blocks = "BLOCKS DISCRETE\n" + "".join(
        f" BL B SECOND {weight}\n RIGHT DEMAND1 {value}\n" for value, weight in ((3, 0.3), (5, 0.4), (7, 0.3))
    )
    text = (FOLDER / "lands.sto").read_text()
    base = _copy(tmp_path, "lands", ".sto", text, f"STOCH LANDS\n{blocks}ENDATA\n")
    by_block, by_entry = read_smps(base), read_smps(FOLDER / "lands")
    torch.testing.assert_close(by_block.scenarios, by_entry.scenarios)
    torch.testing.assert_close(by_block.probabilities, by_entry.probabilities)


THREE_DEMANDS = "INDEP DISCRETE\n" + "".join(
    f" RIGHT DEMAND{j} {value} SECOND {weight}\n"
    for j in (1, 2, 3)
    for value, weight in ((1.0, 0.5), (2.0, 0.25), (3.0, 0.25))
)


def test_the_product_of_independent_entries_is_enumerated(tmp_path: Path) -> None:
    text = (FOLDER / "lands.sto").read_text()
    base = _copy(tmp_path, "lands", ".sto", text, f"STOCH LANDS\n{THREE_DEMANDS}ENDATA\n")
    instance = read_smps(base)
    assert instance.num_outcomes == 27
    assert not instance.sampled
    assert len(torch.unique(instance.scenarios[0], dim=0)) == 27
    weight = instance.probabilities[0, (instance.scenarios[0] == 1.0).all(dim=1)]
    assert weight.item() == pytest.approx(0.125)
    decision = instance.program.solve(instance.scenarios, instance.probabilities).require_optimal()
    assert decision.objective.item() == pytest.approx(_extensive_optimum(instance, base), rel=1e-6)


def test_too_many_outcomes_are_sampled_by_seed(tmp_path: Path) -> None:
    text = (FOLDER / "lands.sto").read_text()
    base = _copy(tmp_path, "lands", ".sto", text, f"STOCH LANDS\n{THREE_DEMANDS}ENDATA\n")
    instance = read_smps(base, max_scenarios=26, num_samples=4000, seed=7)
    assert instance.sampled
    assert instance.scenarios.shape == (1, 4000, 3)
    again = read_smps(base, max_scenarios=26, num_samples=4000, seed=7)
    torch.testing.assert_close(instance.scenarios, again.scenarios, rtol=0.0, atol=0.0)
    torch.testing.assert_close(
        instance.scenarios.mean(dim=1), torch.full((1, 3), 1.75, dtype=torch.float64), atol=0.05, rtol=0.0
    )


def test_random_costs_and_recourse_coefficients_are_read(tmp_path: Path) -> None:
    lines = (
        "BLOCKS DISCRETE\n"
        " BL A SECOND 0.5\n Y11 COST 40 LIMIT1 1\n X1 COST 10 LIMIT1 -1\n"
        " BL A SECOND 0.5\n Y11 COST 25 LIMIT1 1.3\n X1 COST 12 LIMIT1 -0.8\n"
    )
    text = (FOLDER / "lands.sto").read_text()
    base = _copy(tmp_path, "lands", ".sto", text, f"STOCH LANDS\n{lines}ENDATA\n")
    instance = read_smps(base)
    decision = instance.program.solve(instance.scenarios, instance.probabilities).require_optimal()
    # The random cost of X1 enters by its mean in the independent form.
    core = base.with_suffix(".cor")
    core.write_text(core.read_text().replace("COST                10", "COST                11", 1))
    kept = [i for i, element in enumerate(instance.elements) if element != "X1/COST"]
    reduced = SmpsInstance(
        name="", program=instance.program, columns=instance.columns,
        elements=tuple(instance.elements[i] for i in kept), scenarios=instance.scenarios[..., kept],
        probabilities=instance.probabilities, num_outcomes=2, sampled=False, maximize=False,
    )  # fmt: skip
    assert decision.objective.item() == pytest.approx(_extensive_optimum(reduced, base), rel=1e-6)


def test_a_modification_changes_the_core_value(tmp_path: Path) -> None:
    base = _copy(tmp_path, "lands", ".sto", "DISCRETE", "DISCRETE ADD")
    assert read_smps(base).scenarios.flatten().tolist() == [8.0, 10.0, 12.0]
    base = _copy(tmp_path, "lands", ".sto", "DISCRETE", "DISCRETE MULTIPLY")
    assert read_smps(base).scenarios.flatten().tolist() == [15.0, 25.0, 35.0]


def test_a_scenario_inherits_from_its_parent(tmp_path: Path) -> None:
    text = (FOLDER / "farmer.sto").read_text()
    scenarios = " SC a ROOT 0.5 autumn\n plant_corn corn_balance 2\n"
    scenarios += " SC b a 0.5 autumn\n plant_wheat wheat_balance 1\n"
    base = _copy(tmp_path, "farmer", ".sto", text, f"STOCH farmer\nSCENARIOS DISCRETE\n{scenarios}ENDATA\n")
    instance = read_smps(base)
    values = dict(zip(instance.elements, instance.scenarios[0].T.tolist(), strict=True))
    assert values == {"plant_corn/corn_balance": [2.0, 2.0], "plant_wheat/wheat_balance": [2.5, 1.0]}


def test_stages_may_be_listed_by_name(tmp_path: Path) -> None:
    core = read_core(FOLDER / "lands.cor")
    explicit = "TIME LANDS\nPERIODS EXPLICIT\n FIRST\n SECOND\nROWS\n"
    explicit += "".join(
        f" {row} {'FIRST' if row in ('MINCAP', 'BUDGET') else 'SECOND'}\n" for row in core.senses
    )
    explicit += "COLUMNS\n" + "".join(f" {c} {'FIRST' if c[0] == 'X' else 'SECOND'}\n" for c in core.columns)
    base = _copy(tmp_path, "lands", ".tim", (FOLDER / "lands.tim").read_text(), explicit + "ENDATA\n")
    instance = read_smps(base)
    decision = instance.program.solve(instance.scenarios, instance.probabilities).require_optimal()
    assert decision.objective.item() == pytest.approx(381.853, rel=2e-6)


@pytest.mark.parametrize(
    ("suffix", "old", "new", "message"),
    [
        (
            ".sto",
            "           0.3",
            "           0.5",
            r"lands\.sto, line 5: the probabilities of INDEP .* sum to 1\.2",
        ),
        (".sto", "DISCRETE", "NORMAL", r"line 2: INDEP NORMAL: only DISCRETE is supported"),
        (".sto", "DISCRETE", "DISCRETE SWAP", "line 2: modification SWAP: must be one of REPLACE"),
        (".sto", "DEMAND1", "DEMAND9", "line 3: row 'DEMAND9' is not a row of the core file"),
        (".sto", "DEMAND1", "BUDGET ", "line 3: row 'BUDGET' belongs to the first stage"),
        (".sto", "RIGHT", "WRONG", "line 3: column 'WRONG' is neither a column nor the right-hand side"),
        (".sto", "SECOND", "FIRST ", "line 3: period 'FIRST': random entries belong to the second"),
        (".sto", "0.3", "1.3", r"line 3: probability 1\.3: must lie in \[0, 1\]"),
        (".sto", "INDEP ", "TREES ", "line 2: unknown section TREES: known are"),
        (".tim", "Y11 ", "Y99 ", r"lands\.tim, line 4: column 'Y99' is not in the core file"),
        (".tim", "LIMIT1", "DEMAND1", "first-stage row 'LIMIT1' has second-stage column 'Y11'"),
        (".tim", "ENDATA", "    Y21       LIMIT2   THIRD\nENDATA", "3 periods: only two-stage programs"),
        (".cor", "RHS\n", "RIGHTS\n", r"lands\.cor, line \d+: unknown section RIGHTS"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_line(
    tmp_path: Path, suffix: str, old: str, new: str, message: str
) -> None:
    base = _copy(tmp_path, "lands", suffix, old, new)
    with pytest.raises(DataError, match=message):
        read_smps(base)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            " BL B SECOND 0.5\n RIGHT DEMAND1 1\n BL B SECOND 0.5\n RIGHT DEMAND2 1\n",
            "lists other entries than its",
        ),
        (" RIGHT DEMAND1 1\n", "stands before the first realization"),
        (
            " BL A SECOND 1\n RIGHT DEMAND1 1\n BL B SECOND 1\n RIGHT DEMAND1 1\n",
            "is random in BLOCK A and in BLOCK B",
        ),
        ("", "nothing is random"),
        (" BL A SECOND 1\n RIGHT DEMAND1 1\nSCENARIOS DISCRETE\n", "SCENARIOS cannot be mixed"),
    ],
)
def test_wrong_blocks_are_refused(tmp_path: Path, sections: str, message: str) -> None:
    text = (FOLDER / "lands.sto").read_text()
    base = _copy(tmp_path, "lands", ".sto", text, f"STOCH LANDS\nBLOCKS DISCRETE\n{sections}ENDATA\n")
    with pytest.raises(DataError, match=message):
        read_smps(base)


def test_a_missing_file_of_the_three_is_named(tmp_path: Path) -> None:
    base = _copy(tmp_path, "lands", ".sto", "STOCH", "STOCH")
    base.with_suffix(".tim").unlink()
    with pytest.raises(DataError, match=r"lands\.tim: no such file: the time file of an SMPS triple"):
        read_smps(base)
