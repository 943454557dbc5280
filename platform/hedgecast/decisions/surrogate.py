"""Decisions from a learned map, with a gate that hands over to the exact solver when in doubt.

For each context: the map proposes, a projection makes the proposal keep the first-stage constraints,
and the gate accepts it when

- every feature of the scenario set lies within the range seen in training, and
- the members of the ensemble agree to within a threshold that was calibrated on instances that training did
  not see: among accepted decisions, those of more than the stated relative regret are rarer than ``risk``.

All others are solved exactly. The guarantee is for scenario sets drawn as the calibration sets were;
elsewhere the first rule is what protects.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.stats import beta
from torch import Tensor, nn

from hedgecast.core.errors import BundleError, ProgramError
from hedgecast.data.datasets import cache_folder
from hedgecast.decisions.projection import project
from hedgecast.decisions.surrogate_network import SetMap
from hedgecast.programs.backend import Backend, Inputs, RawSolution, StageValue, backend
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Verdict
from hedgecast.programs.stages import CompiledStage

FORMAT = 1
_NUM_CANDIDATES = 10
_RECORD, _WEIGHTS = "surrogate.json", "weights.npz"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """When a proposal is trusted."""

    budget: float
    """Relative regret that a trusted decision should not exceed."""
    risk: float
    """Largest share of trusted decisions that exceed the budget all the same."""
    max_doubt: float
    """Largest disagreement of the ensemble; below zero: nothing is trusted."""
    max_feature: float
    """Largest standardized feature."""

    def trusts(self, doubt: Tensor, feature: Tensor) -> Tensor:
        """(B,) bool."""
        return (doubt <= self.max_doubt) & (feature <= self.max_feature)


def calibrated_threshold(doubt: Tensor, harmful: Tensor, risk: float, confidence: float) -> float:
    """The largest doubt at which trusting is safe enough; -1 where there is none.

    Parameters
    ----------
    doubt : Tensor
        (n,) of calibration instances that may be trusted, independent draws like those to come.
    harmful : Tensor
        (n,) bool: whether trusting the instance would exceed the budget.
    risk : float
        Bound on the share of harmful instances among the trusted ones.
    confidence : float
        Probability, over calibration sets, that the bound holds.

    Notes
    -----
    Among a few candidate thresholds (quantiles of the doubt), the largest whose exact binomial upper bound
    on that share, at a confidence shared out among the candidates, is at most ``risk``.
    Source: Geifman and El-Yaniv (2017), algorithm 1, https://arxiv.org/abs/1705.08500.
    """
    if not doubt.numel():
        return -1.0
    levels = torch.linspace(1.0, 1.0 / _NUM_CANDIDATES, _NUM_CANDIDATES, dtype=doubt.dtype)
    for limit in torch.quantile(doubt, levels, interpolation="lower").tolist():
        trusted = doubt <= limit
        count, bad = int(trusted.sum()), int((trusted & harmful).sum())
        bound = (
            1.0
            if bad == count
            else float(beta.ppf(1 - (1 - confidence) / _NUM_CANDIDATES, bad + 1, count - bad))
        )
        if bound <= risk:
            return float(limit)
    return -1.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Surrogate:
    """A trained map with its gate, for one program and one risk measure."""

    program: str
    fingerprint: str
    """Of the program's numbers: a surrogate fits no other program."""
    risk: str
    network: SetMap
    gate: Gate
    report: dict[str, Any]
    """What training measured."""

    def save(self, folder: Path) -> None:
        """Write the surrogate into ``folder``: JSON and plain arrays, nothing that runs on reading."""
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {key: value.detach().cpu().numpy() for key, value in self.network.state_dict().items()}
        with open(folder / _WEIGHTS, "wb") as file:
            np.savez(file, **arrays)
        record = {
            "format": FORMAT,
            "program": self.program,
            "fingerprint": self.fingerprint,
            "risk": self.risk,
            "shape": list(self.network.shape),
            "gate": dataclasses.asdict(self.gate),
            "report": self.report,
            "weights_sha256": hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest(),
        }
        (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Surrogate:
        """The surrogate in ``folder``.

        Raises
        ------
        BundleError
            It is missing, damaged or of another version.
        """
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            content = (folder / _WEIGHTS).read_bytes()
            if record["format"] != FORMAT:
                raise BundleError(
                    f"{folder}: format {record['format']}, this version reads {FORMAT}: train it again"
                )
            if hashlib.sha256(content).hexdigest() != record["weights_sha256"]:
                raise BundleError(f"{folder}: {_WEIGHTS} is not the file that was saved: train it again")
            network = SetMap(*record["shape"])
            with np.load(folder / _WEIGHTS, allow_pickle=False) as arrays:
                network.load_state_dict({key: torch.from_numpy(arrays[key]) for key in arrays.files})
            return cls(
                program=record["program"],
                fingerprint=record["fingerprint"],
                risk=record["risk"],
                network=network.eval(),
                gate=Gate(**record["gate"]),
                report=record["report"],
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise BundleError(f"{folder}: no readable surrogate: {error}: train it again") from error


class SurrogateBackend:
    """The backend ``surrogate``: the map where it is trusted, the exact solver elsewhere.

    Accepted members have 0 iterations, a ``gap`` that is the budget of relative regret, and no dual
    residual (NaN): nothing was solved for them.

    Parameters
    ----------
    folder : Path, optional
        Where trained surrogates lie; default `surrogate_folder`.
    exact : str
        Backend for everything that the gate refuses.
    """

    name = "surrogate"

    def __init__(self, folder: Path | None = None, *, exact: str = "structured") -> None:
        self._folder = folder
        self._exact = exact
        self._loaded: dict[Path, Surrogate] = {}
        self._lock = threading.Lock()

    def refusal(self, program: TwoStageProgram, risk: Risk) -> str | None:
        """Why there is no surrogate for this program and measure; None where there is one."""
        if program.template is None:
            return program.template_reason
        folder = self.home(program, risk)
        if not (folder / _RECORD).is_file():
            return f"none was trained for it with risk {risk} ({folder}): run hedgecast train-surrogate"
        return None

    def home(self, program: TwoStageProgram, risk: Risk) -> Path:
        """Where the surrogate of this program and measure lies."""
        return surrogate_home(program, risk, self._folder)

    def surrogate(self, program: TwoStageProgram, risk: Risk) -> Surrogate:
        """The trained surrogate, read once."""
        folder = self.home(program, risk)
        with self._lock:
            if folder not in self._loaded:
                found = Surrogate.load(folder)
                if found.fingerprint != fingerprint(program) or found.risk != str(risk):
                    raise BundleError(
                        f"{folder}: trained for another program or risk measure: train it again"
                    )
                self._loaded[folder] = found
            return self._loaded[folder]

    def solve(
        self,
        program: TwoStageProgram,
        inputs: Inputs,
        *,
        risk: Risk,
        benchmarks: Tensor | None,
        tolerance: float,
        max_iterations: int,
    ) -> RawSolution:
        """Decisions of a batch; see `hedgecast.programs.backend`."""
        exact = backend(self._exact)
        with torch.no_grad():
            proposal = self._propose(program, inputs, risk)
            costs = _costs(program, exact, proposal.flat, inputs.select(proposal.members), tolerance)
            usable = torch.isfinite(costs[1]).all(dim=1)
        parts = []
        if bool(usable.any()):
            parts.append((proposal.members[usable], _accepted(proposal, usable, costs, inputs)))
        rest = torch.ones(inputs.uncertain.shape[0], dtype=torch.bool, device=inputs.uncertain.device)
        rest[proposal.members[usable]] = False
        if bool(rest.any()):
            members = torch.nonzero(rest)[:, 0]
            found = exact.solve(
                program,
                inputs.select(members),
                risk=risk,
                benchmarks=None if benchmarks is None else benchmarks[members],
                tolerance=tolerance,
                max_iterations=max_iterations,
            )
            parts.append((members, found))
        return _merged(parts, inputs.uncertain.shape[0])

    def evaluate(
        self, compiled: CompiledStage, decision: Tensor, uncertain: Tensor, given: Tensor, *, tolerance: float
    ) -> StageValue:
        """Optimal cost of one stage for fixed decisions, by the exact solver."""
        return backend(self._exact).evaluate(compiled, decision, uncertain, given, tolerance=tolerance)

    def layer(
        self, program: TwoStageProgram, *, risk: Risk, smoothing: float, tolerance: float | None
    ) -> nn.Module:
        """A module (Inputs, benchmarks or None) -> decisions (B, N) and verdicts (B,).

        Gradients are those of the map where it is trusted, and of the exact layer elsewhere.
        """
        exact = backend(self._exact).layer(program, risk=risk, smoothing=smoothing, tolerance=tolerance)
        return _SurrogateLayer(self, program, risk, exact)

    def _propose(self, program: TwoStageProgram, inputs: Inputs, risk: Risk) -> _Proposal:
        """The trusted members and their feasible decisions, differentiable."""
        surrogate = self.surrogate(program, risk)
        wish, doubt, feature = surrogate.network(inputs)
        members = torch.nonzero(surrogate.gate.trusts(doubt, feature))[:, 0]
        if not members.numel():
            nothing = inputs.uncertain.new_zeros(0)
            return _Proposal(members, wish[members].to(inputs.uncertain), nothing, surrogate.gate.budget)
        chosen = wish[members].to(inputs.uncertain)
        scale = surrogate.network.decision_scale.to(inputs.uncertain)
        feasible = project(program, inputs.select(members), chosen, scale)
        kept = torch.nonzero(feasible.verdicts == Verdict.OPTIMAL)[:, 0]
        return _Proposal(
            members[kept], feasible.flat[kept], feasible.primal_residual[kept], surrogate.gate.budget
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Proposal:
    members: Tensor
    flat: Tensor
    primal_residual: Tensor
    budget: float


class _SurrogateLayer(nn.Module):
    def __init__(
        self, owner: SurrogateBackend, program: TwoStageProgram, risk: Risk, exact: nn.Module
    ) -> None:
        super().__init__()
        self.owner, self.program, self.risk, self.exact = owner, program, risk, exact

    def forward(self, inputs: Inputs, benchmarks: Tensor | None) -> tuple[Tensor, Tensor]:
        proposal = self.owner._propose(self.program, inputs, self.risk)
        out = inputs.uncertain.new_zeros(inputs.uncertain.shape[0], self.program.num_decision)
        out = out.index_copy(0, proposal.members, proposal.flat)
        rest = torch.ones(out.shape[0], dtype=torch.bool, device=out.device)
        rest[proposal.members] = False
        members = torch.nonzero(rest)[:, 0]
        verdicts = torch.full(out.shape[:1], int(Verdict.OPTIMAL), device=out.device)
        if not members.numel():
            return out, verdicts
        found, verdicts[members] = self.exact(
            inputs.select(members), None if benchmarks is None else benchmarks[members]
        )
        return out.index_copy(0, members, found), verdicts


def surrogate_folder() -> Path:
    """``$HEDGECAST_SURROGATES``, or ``surrogates`` in the cache folder."""
    named = os.environ.get("HEDGECAST_SURROGATES")
    return Path(named) if named else cache_folder() / "surrogates"


def surrogate_home(program: TwoStageProgram, risk: Risk = EXPECTATION, folder: Path | None = None) -> Path:
    """The folder of the surrogate of one program and one risk measure."""
    measure = str(risk).replace(":", "-")
    return (folder or surrogate_folder()) / f"{program.name}-{measure}-{fingerprint(program)[:16]}"


_FINGERPRINTS: weakref.WeakKeyDictionary[TwoStageProgram, str] = weakref.WeakKeyDictionary()


def fingerprint(program: TwoStageProgram) -> str:
    """Hexadecimal SHA-256 of a program's name and block form, which hold all its numbers.

    Raises
    ------
    ProgramError
        The program has no block form.
    """
    if program.template is None:
        raise ProgramError(f"program {program.name!r} has no block form: {program.template_reason}")
    known = _FINGERPRINTS.get(program)
    if known is None:
        digest = hashlib.sha256(program.name.encode())
        _digest(program.template, digest)
        known = _FINGERPRINTS[program] = digest.hexdigest()
    return known


def _digest(value: Any, digest: Any) -> None:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            _digest(getattr(value, field.name), digest)
    elif isinstance(value, sp.csr_array):
        table = value.tocoo()
        for array in (table.row, table.col, table.data):
            _digest(array, digest)
    elif isinstance(value, np.ndarray):
        plain = value.astype("<f8")
        digest.update(repr(plain.shape).encode() + np.ascontiguousarray(plain).tobytes())
    else:
        digest.update(repr(value).encode())


def _costs(
    program: TwoStageProgram, exact: Backend, flat: Tensor, inputs: Inputs, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Known cost (M,) and recourse costs (M, S) of decisions; +inf where there is no recourse."""
    total = program.costs_of(exact, flat, inputs, tolerance)
    nothing = inputs.uncertain.new_zeros(flat.shape[0], program.num_uncertain)
    given = inputs.given.expand(flat.shape[0], -1)
    known_stage = program.known_cost
    if known_stage.separable is not None:
        known = known_stage.separable(flat, nothing[:, None], given)[:, 0]
    else:
        known = exact.evaluate(known_stage, flat, nothing, given, tolerance=tolerance).cost
    return known, total - known[:, None]


def _accepted(
    proposal: _Proposal, usable: Tensor, costs: tuple[Tensor, Tensor], inputs: Inputs
) -> RawSolution:
    count = int(usable.sum())
    like = inputs.uncertain
    return RawSolution(
        flat=proposal.flat[usable],
        first_cost=costs[0][usable],
        recourse_costs=costs[1][usable],
        verdicts=torch.full((count,), int(Verdict.OPTIMAL), device=like.device),
        primal_residual=proposal.primal_residual[usable],
        dual_residual=like.new_full((count,), torch.nan),
        gap=like.new_full((count,), proposal.budget),
        iterations=torch.zeros(count, dtype=torch.int64, device=like.device),
    )


def _merged(parts: list[tuple[Tensor, RawSolution]], num_contexts: int) -> RawSolution:
    """One solution of the whole batch from those of disjoint members; what a part lacks is zero, or -1."""
    merged: dict[str, Tensor | None] = {}
    for field in dataclasses.fields(RawSolution):
        known = [(members, getattr(part, field.name)) for members, part in parts]
        found = next((value for _, value in known if value is not None), None)
        if found is None:
            merged[field.name] = None
            continue
        fill = -1 if field.name == "infeasible_scenario" else 0
        out = found.new_full((num_contexts, *found.shape[1:]), fill)
        for members, value in known:
            if value is not None:
                out[members] = value.to(out.dtype)
        merged[field.name] = out
    return RawSolution(**merged)  # type: ignore[arg-type]
