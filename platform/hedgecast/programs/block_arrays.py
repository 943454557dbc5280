"""One context's block form as plain numpy arrays: what exports write down, without torch or CVXPY.

The letters are those of `hedgecast.programs.blocks`. An array may have size 1 along the scenarios where it
does not change with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import DataError, InputError, ProgramError, ShapeError
from hedgecast.core.files import written_whole

if TYPE_CHECKING:
    from hedgecast.programs.entries import Entries
    from hedgecast.programs.program import TwoStageProgram

Floats = NDArray[np.float64]
MATRICES = ("P", "A", "G", "Q", "R", "O", "T", "W", "U", "V")
VECTORS = ("q", "a", "g", "o", "c", "h", "k")
_FORMAT = 1


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix:
    """Sparse matrices of one pattern, one for each scenario or one for all."""

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    shape: tuple[int, int]
    values: Floats
    """(1 or S, nonzeros)."""

    def of(self, scenario: int) -> list[tuple[int, int, float]]:
        """(row, column, value) of the entries of one scenario, zeros of the pattern included."""
        values = self.values[min(scenario, self.values.shape[0] - 1)]
        return list(zip(self.rows.tolist(), self.cols.tolist(), values.tolist(), strict=True))

    @property
    def zero(self) -> bool:
        """Whether every entry is zero."""
        return not self.values.any()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlockArrays:
    """The numbers of one context; see the formula in `hedgecast.programs.blocks`."""

    name: str
    """The program's."""
    columns: tuple[str, ...]
    """(n,) first-stage columns: decision entries such as ``schedule[3]``, then ``auxiliary[0]``, ..."""
    num_decision: int
    """N, of the first n columns."""
    probabilities: Floats
    """(S,) all positive, sum 1."""
    matrices: Mapping[str, Matrix]
    """P, A, G of the first stage; Q, R, O, T, W, U, V of the scenarios."""
    vectors: Mapping[str, Floats]
    """(1 or S, entries) q, a, g of the first stage; o, c, h, k of the scenarios."""
    constant: Floats
    """(1 or S,) d + e, the cost that nothing changes."""

    @property
    def num_scenarios(self) -> int:
        """Scenarios, S."""
        return int(self.probabilities.size)

    @property
    def num_recourse(self) -> int:
        """Columns of one scenario, m."""
        return self.matrices["Q"].shape[0]

    @property
    def linear(self) -> bool:
        """Whether no cost is quadratic."""
        return all(self.matrices[name].zero for name in ("P", "Q", "R", "O"))

    def vector(self, name: str, scenario: int) -> list[float]:
        """The entries of ``name`` in one scenario."""
        values = self.vectors[name]
        found: list[float] = values[min(scenario, values.shape[0] - 1)].tolist()
        return found

    def constant_of(self, scenario: int) -> float:
        """Constant cost d + e of one scenario."""
        return float(self.constant[min(scenario, self.constant.size - 1)])

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
        """The numbers of one context of a batch; scenarios of probability zero are left out.

        Parameters
        ----------
        program : TwoStageProgram
        scenarios, probabilities, given
            See `TwoStageProgram.inputs`.
        context : int

        Raises
        ------
        ProgramError
            The program is no linear or quadratic one, or its numbers are unusable.
        ShapeError
            There is no such context, or a shape is wrong.
        """
        import torch

        if program.template is None:
            raise ProgramError(f"program {program.name!r} has no block form: {program.template_reason}")
        inputs = program.inputs(scenarios, probabilities, given)
        if not 0 <= context < inputs.uncertain.shape[0]:
            raise ShapeError(f"context {context} of {inputs.uncertain.shape[0]}: count from 0")
        alone = inputs.select(torch.tensor([context]))
        if not program.reader.usable(alone).numel():
            raise ProgramError(
                f"context {context}: scenarios, probabilities or parameters are not finite or break a sign "
                "declared in CVXPY, or the probabilities are negative or do not sum to 1",
                context=context,
            )
        weights = alone.probabilities[0].double()
        kept = torch.nonzero(weights > 0)[:, 0]
        with torch.no_grad():
            entries = alone.uncertain[:, kept].double()
            block = program.template.instantiate(entries, alone.given.double())
        shares = weights[kept].numpy()
        return cls(
            name=program.name,
            columns=_column_names(program, block.num_first),
            num_decision=program.num_decision,
            probabilities=shares / shares.sum(),
            matrices={name: _matrix(getattr(block, name)) for name in MATRICES},
            vectors={name: _vector(getattr(block, name)) for name in VECTORS},
            constant=(block.d[:, None] + block.e)[0].numpy(),
        )

    def save(self, path: Path) -> None:
        """Writes all numbers into one file of numpy (npz), whole or not at all."""
        arrays: dict[str, Any] = {
            "format": np.array(_FORMAT),
            "name": np.array(self.name),
            "columns": np.array(self.columns),
            "num_decision": np.array(self.num_decision),
            "probabilities": self.probabilities,
            "constant": self.constant,
        }
        for name, matrix in self.matrices.items():
            for part in ("rows", "cols", "shape", "values"):
                arrays[f"{name}.{part}"] = np.asarray(getattr(matrix, part))
        arrays.update(self.vectors)
        with written_whole(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The numbers that `save` wrote.

        Raises
        ------
        DataError
            The file is missing, or no such file.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such file", file=str(path))
        try:
            with np.load(path, allow_pickle=False) as file:
                found = dict(file)
            if found["format"] != _FORMAT:
                raise DataError(f"{path}: has format {found['format']}: must be {_FORMAT}", file=str(path))
            return cls(
                name=str(found["name"]),
                columns=tuple(found["columns"].tolist()),
                num_decision=int(found["num_decision"]),
                probabilities=found["probabilities"],
                matrices={name: _loaded(found, name) for name in MATRICES},
                vectors={name: found[name] for name in VECTORS},
                constant=found["constant"],
            )
        except InputError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path}: not a file of BlockArrays.save: {error}", file=str(path)) from error


def _column_names(program: TwoStageProgram, num_first: int) -> tuple[str, ...]:
    names = []
    for variable in program.decision:
        if not variable.shape:
            names.append(variable.name())
        else:
            names += [f"{variable.name()}[{','.join(map(str, at))}]" for at in np.ndindex(variable.shape)]
    return (*names, *(f"auxiliary[{j}]" for j in range(num_first - len(names))))


def _matrix(matrix: Any) -> Matrix:
    return Matrix(matrix.rows.numpy(), matrix.cols.numpy(), matrix.shape, matrix.values[0].numpy())


def _vector(vector: Any) -> Floats:
    values: Floats = vector[0].numpy() if vector.ndim == 3 else vector.numpy()
    return values


def _loaded(found: Mapping[str, Any], name: str) -> Matrix:
    rows, columns = found[f"{name}.shape"].tolist()
    return Matrix(found[f"{name}.rows"], found[f"{name}.cols"], (rows, columns), found[f"{name}.values"])
