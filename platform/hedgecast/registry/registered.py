"""A registered model as a method, so that it stands in one table with those of today."""

from __future__ import annotations

import numpy as np
import torch

from hedgecast.core.errors import BundleError
from hedgecast.data.schema import FeatureSchema
from hedgecast.diffusion.noise import day_numbers
from hedgecast.learning.methods.method import scenario_set
from hedgecast.learning.part import Part
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.session import ScenarioSession
from hedgecast.scenarios.scenario_set import ScenarioSet

# Days drawn together: 64 of 200 scenarios of 24 slots are 1.2 MiB of float32.
_CHUNK = 64


class RegisteredModel:
    """Draws the scenarios of a bundle for any days, by the graph that is served.

    Parameters
    ----------
    bundle : Bundle
        Checked.
    schema : FeatureSchema
        What the days' context rows are made of.
    name : str
        In tables.

    Raises
    ------
    BundleError
        The model reads other features than these.
    """

    def __init__(self, bundle: Bundle, schema: FeatureSchema, name: str) -> None:
        if bundle.manifest.schema != schema.to_dict():
            raise BundleError(
                f"{bundle.manifest.name} {bundle.manifest.fingerprint[:12]} reads other columns, history or "
                "slots than this study: it cannot decide these days",
                model=bundle.manifest.name,
            )
        self.name = name
        self.bundle = bundle
        self._session = ScenarioSession(bundle)

    def scenarios(self, part: Part, count: int, seed: int, *, graph: str = SCENARIOS_GRAPH) -> ScenarioSet:
        """``count`` scenarios of each day, by one of its graphs; ``source`` is the fingerprint."""
        context, numbers = part.context.numpy(), day_numbers(part.days)
        parts = [
            self._session.draw(context[rows], numbers[rows], count, seed, graph=graph)
            for rows in (slice(begin, begin + _CHUNK) for begin in range(0, len(part), _CHUNK))
        ]
        paths = torch.from_numpy(np.concatenate(parts).astype(np.float64))
        return scenario_set(paths.flatten(2), part, self.bundle.manifest.fingerprint, seed)
