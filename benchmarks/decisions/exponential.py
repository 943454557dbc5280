"""Product allocation with exponential utility: is the population optimum reached?

The published synthetic task: ten products, amounts from 0 to 2, cost exp(-profit), independent profits of two
modes and no context. Its population optimum is 0.40056. Decisions from each method's scenarios are
priced on 100,000 fresh draws, the same for all; the optimum's own cost on them shows the noise that is left.

The exponential cone has no block form, so the joint phase decides through cvxpylayers, with few scenarios.

Source: Zhao et al. (2025), section 5.1, https://arxiv.org/abs/2510.11590.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch
from small import CONFIG
from torch import Tensor

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.whitening import Whitening
from hedgecast.learning.methods import fit_methods
from hedgecast.learning.part import Part
from hedgecast.programs.catalog.product_allocation import build_exponential, exponential_profits

NUM_PRODUCTS = 10
LIMIT = 2.0
OPTIMAL_AMOUNT = 0.54521
POPULATION_OPTIMUM = 0.40056
NUM_TRAIN, NUM_VALIDATION, NUM_FRESH = 10_000, 200, 100_000
COUNTS = (25, 200, 1000, 10_000)
METHODS = ("ridge-residual", "gaussian", "diffusion", "diffusion-dfl")
# Two modes in every product. Chosen on draws of their own (seeds 50 and 77), where with 10,000 scenarios
# 3 sampler steps cost 0.866, 8 cost 0.402, 16 cost 0.399, 32 cost 0.398, and the optimum 0.392.
SETTINGS = dataclasses.replace(
    CONFIG,
    generator=Generator.Config(
        denoiser=Denoiser.Config(hidden=128, num_blocks=2),
        whitening=Whitening.Config(conditional_size=False),
        sampler_steps=16,
    ),
    learning_rate=2e-3,
    epochs=40,
    patience=12,
    batch_days=128,
    samples_per_day=8,
    smoothing=0.0,
    scenarios=25,
    joint_epochs=1,
    joint_learning_rate=3e-4,
)


def run(seeds: int) -> dict[str, Any]:
    """Cost on fresh draws by method and number of scenarios."""
    fresh = exponential_profits(NUM_FRESH, generator=torch.Generator().manual_seed(1_000_003))
    best = torch.full((NUM_PRODUCTS,), OPTIMAL_AMOUNT, dtype=torch.float64)
    rows = [_row("population optimum", None, None, best, fresh)]
    for seed in range(seeds):
        draws = torch.Generator().manual_seed(seed)
        profits = exponential_profits(NUM_TRAIN + NUM_VALIDATION, generator=draws)
        rows += [_row("training draws", seed, NUM_TRAIN, minimizer(profits[:NUM_TRAIN]), fresh)]
        rows += _methods(profits, seed, fresh)
    return {
        "title": "product allocation, exponential utility",
        "rows": rows,
        "population_optimum": POPULATION_OPTIMUM,
        "fresh_draws": NUM_FRESH,
    }


def _methods(profits: Tensor, seed: int, fresh: Tensor) -> list[dict[str, Any]]:
    whole = Part.of_arrays(torch.zeros(len(profits), 1), profits.unsqueeze(1))
    train, validation = whole.select(slice(0, NUM_TRAIN)), whole.select(slice(NUM_TRAIN, None))
    rows = []
    config = dataclasses.replace(SETTINGS, seed=seed)
    for name in METHODS:
        started = time.perf_counter()
        program = build_exponential(1, num_products=NUM_PRODUCTS, limit=LIMIT)
        fitted = fit_methods((name,), train, validation, config, program)[name]
        seconds = time.perf_counter() - started
        for count in COUNTS:
            scenarios = fitted.scenarios(validation.select(slice(0, 1)), count, seed).paths[0].flatten(1)
            rows.append(_row(name, seed, count, minimizer(scenarios), fresh, train_seconds=seconds))
    return rows


def minimizer(profits: Tensor) -> Tensor:
    """(N,) the amounts of least mean cost over the draws, to 1e-10 of the cost, by projected Newton steps.

    The program's own cone solver takes minutes for 10,000 draws; a test compares the two on a few.
    """
    amounts = torch.full((profits.shape[1],), 0.5, dtype=torch.float64)
    for _ in range(200):
        weight = torch.exp(-profits @ amounts) / len(profits)
        slope = -(profits.T @ weight)
        # Bounds that hold the amount back leave the system.
        held = ((amounts <= 0) & (slope > 0)) | ((amounts >= LIMIT) & (slope < 0))
        if not bool((slope[~held].abs() > 1e-10).any()):
            break
        free = torch.nonzero(~held)[:, 0]
        curvature = (profits[:, free].T * weight) @ profits[:, free]
        step = torch.zeros_like(amounts)
        step[free] = -torch.linalg.solve(
            curvature + 1e-12 * torch.eye(len(free), dtype=torch.float64), slope[free]
        )
        amounts = _searched(profits, amounts, step, float(weight.sum()))
    return amounts


def _searched(profits: Tensor, amounts: Tensor, step: Tensor, cost: float) -> Tensor:
    size = 1.0
    while size > 1e-8:
        moved = (amounts + size * step).clamp(0.0, LIMIT)
        if float(torch.exp(-profits @ moved).mean()) <= cost:
            return moved
        size /= 2.0
    return amounts


def _row(
    method: str, seed: int | None, count: int | None, amounts: Tensor, fresh: Tensor, **more: float
) -> dict[str, Any]:
    costs = torch.exp(-fresh @ amounts).numpy()
    return {
        "method": method,
        "seed": seed,
        "scenarios": count,
        "cost": float(costs.mean()),
        "standard_error": float(costs.std() / np.sqrt(len(costs))),
        "amounts": [round(float(amount), 4) for amount in amounts],
        **more,
    }
