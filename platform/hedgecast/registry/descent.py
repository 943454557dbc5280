"""Whether a model is what its manifest says: a student of another one.

A manifest can say anything, and its ``training`` table is not part of the fingerprint. What cannot be said
is measured on the served graphs of both bundles: a student takes the same noise to the same scenarios,

    d = rms (y_student - y_teacher) / rms (y_teacher - y_0)                                     (1)

over contexts drawn about the teacher's own training statistics and noise of a fixed seed, with y_0 what the
teacher's statistics make of that noise without any network. 0 is the teacher itself, 1 as far from it as no
network at all. Where the network moves noise by less than a hundredth of the scenarios' spread, that takes
its place below the line. The teacher is known by its fingerprint, which its graphs and weights are part of.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from hedgecast.diffusion.generator import Generator
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.session import ScenarioSession
from hedgecast.registry.weights import generator_of

TEACHER, TEACHER_FINGERPRINT = "teacher", "teacher_fingerprint"
"""Keys of a student's ``training`` table: the teacher's reference and its fingerprint."""
_CONTEXTS, _SCENARIOS, _SEED = 64, 50, 0
_LEAST_SHARE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """What was measured of a model that calls itself a student."""

    distance: float
    """Equation (1); NaN where the two do not take the same contexts and noise."""
    calls: int
    """Network calls of one scenario."""
    teacher_calls: int
    """The teacher's."""
    students_before: int
    """0: the teacher is no student itself; 1: it says that it is one."""


def descent_of(bundle: Bundle, teacher: Bundle) -> Descent | None:
    """What ``bundle`` is to ``teacher``; None where it does not call itself a student of it.

    Raises
    ------
    BundleError
        It does, and one of both holds no weights.
    """
    if bundle.manifest.training.get(TEACHER_FINGERPRINT) != teacher.manifest.fingerprint:
        return None
    generator = generator_of(teacher)
    return Descent(
        distance=scenario_distance(bundle, teacher, generator),
        calls=generator_of(bundle).config.evaluations,
        teacher_calls=generator.config.evaluations,
        students_before=int(TEACHER_FINGERPRINT in teacher.manifest.training),
    )


def scenario_distance(bundle: Bundle, teacher: Bundle, generator: Generator) -> float:
    """Equation (1), by both served graphs; ``generator`` is the teacher's, for its statistics alone."""
    shapes = (bundle.manifest.generator, teacher.manifest.generator)
    sizes = [(shape.num_features, shape.noise_size, shape.num_slots, shape.names) for shape in shapes]
    if sizes[0] != sizes[1]:
        return float("nan")
    whitening = generator.whitening
    draws = torch.Generator().manual_seed(_SEED)
    standard = torch.randn(_CONTEXTS, generator.num_features, generator=draws)
    contexts = (whitening.center + whitening.spread * standard).double().numpy()

    def drawn(session: ScenarioSession, graph: str = SCENARIOS_GRAPH) -> NDArray[np.float64]:
        paths = session.draw(contexts, range(_CONTEXTS), _SCENARIOS, _SEED, graph=graph)
        return paths.astype(np.float64)

    session = ScenarioSession(teacher)
    expected = drawn(session)
    moved = _size(expected - drawn(session, BASELINE_GRAPH))
    spread = _size(expected - expected.mean(axis=1, keepdims=True))
    return _size(drawn(ScenarioSession(bundle)) - expected) / max(moved, _LEAST_SHARE * spread)


def _size(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(values).mean()))
