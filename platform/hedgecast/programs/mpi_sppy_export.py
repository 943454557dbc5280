"""A program with its scenarios as mpi-sppy wants them: one Pyomo model a scenario, joined at the first stage.

In a program of your own:

    models = ScenarioModels.of(program, scenarios, probabilities)
    ExtensiveForm({"solver": "appsi_highs"}, models.all_scenario_names, models.scenario_creator)

Over MPI, where every rank reads the numbers from a file and needs neither torch nor CVXPY:

    models.numbers.save("day.npz")
    mpiexec -n 3 python -m mpi4py -m mpisppy.generic_cylinders --module-name
        hedgecast.programs.mpi_sppy_export --blocks-file day.npz --solver-name ... (--EF or hub and spokes)

The models are of the block form in `hedgecast.programs.blocks`: ``x`` the first stage (the decision first),
``w`` the recourse. Quadratic costs stay quadratic: their solver must know them.

Source: Knueven et al. (2023), https://doi.org/10.1007/s12532-023-00247-3.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hedgecast.core.errors import ConfigError, DependencyError
from hedgecast.programs.block_arrays import BlockArrays

if TYPE_CHECKING:
    from hedgecast.programs.entries import Entries
    from hedgecast.programs.program import TwoStageProgram

# mpi-sppy reads the number at the end of a name.
_PREFIX = "scenario"


class ScenarioModels:
    """The functions that mpi-sppy looks for in a model's module, for one context.

    Parameters
    ----------
    numbers : BlockArrays
    """

    def __init__(self, numbers: BlockArrays) -> None:
        self.numbers = numbers

    @classmethod
    def of(
        cls,
        program: TwoStageProgram,
        scenarios: Entries,
        probabilities: Any = None,
        given: Mapping[str, Any] | None = None,
        *,
        context: int = 0,
    ) -> Self:
        """The models of one context of a batch; see `BlockArrays.of` for arguments and errors."""
        return cls(BlockArrays.of(program, scenarios, probabilities, given, context=context))

    @property
    def all_scenario_names(self) -> list[str]:
        """``scenario0``, ``scenario1``, ...: those of positive probability, in order."""
        return [f"{_PREFIX}{s}" for s in range(self.numbers.num_scenarios)]

    def scenario_creator(self, scenario_name: str, **_options: Any) -> Any:
        """The Pyomo model of one scenario, with its probability and its node of the tree.

        Raises
        ------
        ConfigError
            There is no such scenario.
        DependencyError
            Pyomo or mpi-sppy is not installed.
        """
        scenario = self._number(scenario_name)
        model = pyomo_model(self.numbers, scenario)
        model.name = scenario_name
        model._mpisppy_probability = float(self.numbers.probabilities[scenario])
        _imported("mpisppy.utils.sputils").attach_root_node(model, model.first_stage_cost, [model.x])
        return model

    def scenario_names_creator(self, num_scens: int | None = None, start: int | None = None) -> list[str]:
        """``num_scens`` names from number ``start`` on; all where left out."""
        first = start or 0
        last = self.numbers.num_scenarios if num_scens is None else first + num_scens
        if not 0 <= first <= last <= self.numbers.num_scenarios:
            raise ConfigError(
                f"scenarios {first} to {last} of {self.numbers.num_scenarios}: there are no such",
                key="num_scens",
            )
        return self.all_scenario_names[first:last]

    def kw_creator(self, _cfg: Any) -> dict[str, Any]:
        """No keyword for `scenario_creator`."""
        return {}

    def inparser_adder(self, cfg: Any) -> None:
        """Adds nothing to mpi-sppy's options: the numbers are here."""

    def scenario_denouement(self, _rank: int, _scenario_name: str, _scenario: Any) -> None:
        """Nothing is done with a solved scenario."""

    def decision(self, model: Any) -> dict[str, float]:
        """Decision entries by name, such as ``schedule[3]``, in a solved model of `scenario_creator`."""
        columns = self.numbers.columns[: self.numbers.num_decision]
        return {name: float(model.x[j].value) for j, name in enumerate(columns)}

    def _number(self, name: str) -> int:
        text = name.removeprefix(_PREFIX)
        if not text.isdecimal() or int(text) >= self.numbers.num_scenarios:
            raise ConfigError(
                f"no scenario is called {name!r}: there are {_PREFIX}0 to "
                f"{_PREFIX}{self.numbers.num_scenarios - 1}",
                key=name,
            )
        return int(text)


def pyomo_model(numbers: BlockArrays, scenario: int) -> Any:
    """The Pyomo model of one scenario alone: its cost after the best recourse, and both stages' rows.

    Its variables are ``x`` and ``w``, its costs ``first_stage_cost``, ``second_stage_cost`` and the objective
    ``total_cost``, its rows ``first_equal``, ``first_below``, ``equal`` and ``below``.

    Parameters
    ----------
    numbers : BlockArrays
    scenario : int
        From 0.

    Raises
    ------
    DependencyError
        Pyomo is not installed.
    """
    pyo = _imported("pyomo.environ")
    model = pyo.ConcreteModel()
    model.x = pyo.Var(range(len(numbers.columns)))
    model.w = pyo.Var(range(numbers.num_recourse))
    x, w = model.x, model.w
    matrices = {name: matrix.of(scenario) for name, matrix in numbers.matrices.items()}
    model.first_stage_cost = pyo.Expression(
        expr=_linear(enumerate(numbers.vector("q", scenario)), x) + _quadratic(matrices["P"], x, x, 0.5)
    )
    model.second_stage_cost = pyo.Expression(
        expr=numbers.constant_of(scenario)
        + _linear(enumerate(numbers.vector("o", scenario)), x)
        + _linear(enumerate(numbers.vector("c", scenario)), w)
        + _quadratic(matrices["O"], x, x, 0.5)
        + _quadratic(matrices["Q"], w, w, 0.5)
        + _quadratic(matrices["R"], w, x, 1.0)
    )
    model.total_cost = pyo.Objective(expr=model.first_stage_cost + model.second_stage_cost)
    for name, parts, side, equal in (
        ("first_equal", (("A", x),), "a", True),
        ("first_below", (("G", x),), "g", False),
        ("equal", (("T", x), ("W", w)), "h", True),
        ("below", (("U", x), ("V", w)), "k", False),
    ):
        limits = numbers.vector(side, scenario)
        terms = _terms([(matrices[letter], variable) for letter, variable in parts], len(limits))
        model.add_component(name, pyo.Constraint(range(len(limits))))
        rows = getattr(model, name)
        for i, (coefficients, variables) in enumerate(terms):
            # Pyomo refuses a row without variables: it gets one that changes nothing.
            body = _expression(coefficients or [0.0], variables or [x[0]])
            rows.add(i, (limits[i] if equal else None, body, limits[i]))
    return model


def _terms(
    parts: Sequence[tuple[list[tuple[int, int, float]], Any]], num_rows: int
) -> list[tuple[list[float], list[Any]]]:
    """(coefficients, variables) of every row, zeros left out."""
    found: list[tuple[list[float], list[Any]]] = [([], []) for _ in range(num_rows)]
    for entries, variable in parts:
        for i, j, value in entries:
            if value != 0.0:
                found[i][0].append(value)
                found[i][1].append(variable[j])
    return found


def _linear(coefficients: Iterable[tuple[int, float]], variable: Any) -> Any:
    kept = [(value, variable[j]) for j, value in coefficients if value != 0.0]
    return _expression([value for value, _ in kept], [entry for _, entry in kept]) if kept else 0.0


def _quadratic(entries: list[tuple[int, int, float]], left: Any, right: Any, factor: float) -> Any:
    return sum((factor * value * left[i] * right[j] for i, j, value in entries if value != 0.0), start=0.0)


def _expression(coefficients: list[float], variables: list[Any]) -> Any:
    linear = _imported("pyomo.core.expr.numeric_expr").LinearExpression
    return linear(constant=0.0, linear_coefs=coefficients, linear_vars=variables)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"{module.split('.')[0]} is not installed ({error}): pip install 'hedgecast[sppy]'", module=module
        ) from error


# What mpi-sppy's generic_cylinders looks for in a module.


def inparser_adder(cfg: Any) -> None:
    """Adds ``--blocks-file`` to mpi-sppy's options."""
    if "blocks_file" not in cfg:
        cfg.add_to_config(
            "blocks_file",
            description="file that BlockArrays.save of hedgecast wrote",
            domain=str,
            default=None,
            argparse=True,
        )


def get_mpisppy_helper_object(cfg: Any) -> ScenarioModels:
    """The models of the file at ``--blocks-file``, in place of this module."""
    if not cfg.blocks_file:
        raise ConfigError(
            "--blocks-file is missing: give a file that BlockArrays.save wrote", key="blocks_file"
        )
    return ScenarioModels(BlockArrays.load(Path(cfg.blocks_file)))
