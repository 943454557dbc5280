"""A bundle as a served model."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgecast.data.schema import FeatureSchema
from hedgecast.programs.catalog import ProgramConfig, load_program
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.registry.bundle import PROGRAM_FILE, Bundle
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.ladder import MeasuredLadder
from hedgecast.registry.session import Context, ContextReader, ScenarioSession
from hedgecast.service.decide import ServedModel
from hedgecast.service.local import LocalModel
from hedgecast.service.models import (
    ArraySpec,
    BundleReference,
    ColumnSpec,
    ModelDescription,
    ProgramDescription,
)
from hedgecast.service.safety import Safety
from hedgecast.service.sample import priced
from hedgecast.version import __version__

# Days of 23, 24 and 25 hours, with room for other histories of clocks.
_PROGRAMS_KEPT = 8


def served_model(reference: BundleReference) -> ServedModel:
    """The model of a bundle, all but its network."""
    bundle = Bundle.open(reference.folder)
    reader = ContextReader(bundle)
    program = _kept(functools.partial(load_program, bundle.program))
    description = _describe(reference, bundle, reader.schema, program(bundle.manifest.generator.num_slots))
    safety = Safety(bundle.manifest.envelope, bundle.manifest.safety)
    return ServedModel(description=description, source=reader, program=program, safety=safety)


def local_model(reference: BundleReference, *, threads: int = 1) -> LocalModel:
    """The model of a bundle with its network in this process."""
    session = ScenarioSession.open(reference.folder, threads=threads)

    def draw(
        context: Context, count: int, seed: int, start: int = 0, *, graph: str = SCENARIOS_GRAPH
    ) -> NDArray[np.float32]:
        drawn = session.draw(
            context.features[None], [context.day_number], count, seed, start=start, graph=graph
        )
        paths: NDArray[np.float32] = drawn[0]
        return paths

    return LocalModel(model=served_model(reference), draw=draw)


def warm_up_context(model: ServedModel) -> Context:
    """A context of zeros for an ordinary period: wrong as a day, right in shape."""
    assert isinstance(model.source, ContextReader)
    shape = model.source.bundle.manifest.generator
    step = np.timedelta64(round(model.description.step_seconds), "s")
    return Context(
        features=np.zeros(shape.num_features),
        day_number=0,
        step_times=(np.datetime64(0, "s") + step * np.arange(shape.num_slots)).astype("datetime64[ns]"),
        step_slots=np.arange(shape.num_slots),
    )


def warm_up(model: ServedModel, context: Context, paths: NDArray[np.float32]) -> None:
    """Build the program and compile what solving it compiles."""
    scenarios = model.source.scenario_set(context, paths, 0)
    program = model.program(scenarios.paths.shape[2])
    # The verdicts do not matter: zeros make no real day.
    priced(program).solve(scenarios.values)
    program.solve(scenarios.values, risk=Risk(beta=0.5, alpha=0.9))
    program.wait_and_see(scenarios.values)
    if program.given:
        # Contexts with given parameters of their own: scenarios known ahead are other code then.
        apart = program.reader.given_entries({}, scenarios.values).expand(2, -1)
        program.wait_and_see(scenarios.values.expand(2, -1, -1), program.reader.given.unflatten(apart))


def _kept(build: Callable[[int], TwoStageProgram]) -> Callable[[int], TwoStageProgram]:
    """``build`` with its last results kept; threads that want the same program wait for one build."""
    cached = functools.lru_cache(maxsize=_PROGRAMS_KEPT)(build)
    lock = threading.Lock()

    def program(num_steps: int) -> TwoStageProgram:
        with lock:
            return cached(num_steps)

    return program


def _describe(
    reference: BundleReference, bundle: Bundle, schema: FeatureSchema, program: TwoStageProgram
) -> ModelDescription:
    shape = bundle.manifest.generator
    measured = MeasuredLadder.read(bundle.folder, bundle.manifest.fingerprint)

    def columns(names: tuple[str, ...]) -> tuple[ColumnSpec, ...]:
        return tuple(ColumnSpec(name=name, unit=schema.units.get(name, "")) for name in names)

    return ModelDescription(
        name=reference.name or bundle.manifest.name,
        version=reference.version,
        fingerprint=bundle.manifest.fingerprint,
        aliases=reference.aliases,
        program=_describe_program(bundle, program),
        history_columns=columns(schema.columns),
        known_columns=columns(schema.known),
        history_steps=schema.history,
        horizon_steps=schema.horizon,
        step_seconds=60.0 * schema.step_minutes,
        time_zone=schema.timezone,
        series=tuple(
            ColumnSpec(name=name, unit=unit) for name, unit in zip(shape.names, shape.units, strict=True)
        ),
        ladder=() if measured is None else measured.steps,
        student=None if measured is None else measured.student,
    )


def _describe_program(bundle: Bundle, program: TwoStageProgram) -> ProgramDescription:
    return ProgramDescription(
        name=program.name,
        version=__version__,
        fingerprint=_program_fingerprint(bundle.manifest.program, bundle.manifest.files.get(PROGRAM_FILE)),
        decision=_specs(program.decision, bundle.program.units),
        uncertain=_specs(program.uncertain, bundle.program.units),
        given=_specs(program.given, bundle.program.units),
    )


def _program_fingerprint(config: ProgramConfig, file_digest: str | None) -> str:
    """Of what determines the program: its name or its file's content, its parameters, our version."""
    content = [config.name, file_digest, config.parameters, __version__]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _specs(leaves: tuple[Any, ...], units: Mapping[str, str]) -> tuple[ArraySpec, ...]:
    return tuple(
        ArraySpec(name=leaf.name(), shape=tuple(leaf.shape), unit=units.get(leaf.name(), ""))
        for leaf in leaves
    )
