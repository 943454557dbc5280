"""Make or stock products while demand is uncertain, then serve demand from what there is.

Newsvendor network. For steps t, products k and demands j of the same list, with stock q_tk here and
now, and sales s_tkj of product k to demand j once demand d is known:

    min  sum c_k q_tk + E[ sum_tj b_j u_tj - sum_tkj (v_j - g [k != j]) s_tkj - sum_tk l_k left_tk ]

    s.t. sum_k a_k q_tk <= C,  0 <= q_tk <= limit_k
         sum_j s_tkj + left_tk = q_tk,   sum_k s_tkj + u_tj = d_tj,   s, left, u >= 0

c: unit cost. v: price. b: penalty of unmet demand. l: salvage value. g: cost of serving a demand with
another product. a: use of the shared capacity C. Substitution is ``none`` (k = j), ``downward``
(product k also serves the demands after it in the list: better first) or ``full``.

With one product and no capacity this is the newsvendor: the optimal stock is the
(v + b - c) / (v + b - l) quantile of demand.

Exponential utility, `build_exponential`: amounts 0 <= z <= C of N products with uncertain unit profit y

    min  E[ exp(-y'z) ]

which needs the exponential cone.

Source: Van Mieghem and Rudi (2002), https://doi.org/10.1287/msom.4.4.313.5728 (newsvendor networks);
Zhao et al. (2025), https://arxiv.org/abs/2510.11590 (exponential utility and its data).

Default data: ``history("product_allocation")`` of `hedgecast.programs.catalog.history`.
"""

from __future__ import annotations

from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog import checks
from hedgecast.programs.program import TwoStageProgram

SUBSTITUTIONS = ("none", "downward", "full")
UTILITIES = ("linear", "exponential")


def build(
    num_steps: int = 1,
    *,
    num_products: int = 5,
    utility: str = "linear",
    unit_cost: float | Sequence[float] = 1.0,
    price: float | Sequence[float] = 3.0,
    shortage_cost: float | Sequence[float] = 0.0,
    salvage_value: float | Sequence[float] = 0.2,
    capacity: float = 1000.0,
    capacity_use: float | Sequence[float] = 1.0,
    max_stock: float | Sequence[float] = 1000.0,
    substitution: str = "downward",
    substitution_cost: float = 0.5,
) -> TwoStageProgram:
    """The allocation program over ``num_steps`` demands of ``num_products`` products.

    Decision variable ``stock`` (num_steps, num_products), units; uncertain ``demand`` of that shape.

    Parameters
    ----------
    num_steps : int
        Steps decided at once; stock does not carry over.
    num_products : int
        Products, as many as demands.
    utility : {"linear", "exponential"}
        ``exponential`` is `build_exponential` with ``capacity`` as limit of each product; the other
        parameters do not apply to it.
    unit_cost, price, shortage_cost, salvage_value : float or list of float
        Money per unit, one number or one per product; salvage must be below the unit cost.
    capacity : float
        Shared capacity of one step.
    capacity_use : float or list of float
        Capacity that one unit takes.
    max_stock : float or list of float
        Largest stock of each product.
    substitution : {"none", "downward", "full"}
        Which products may serve which demands.
    substitution_cost : float
        Money lost per unit that serves another demand than its own.

    Raises
    ------
    ConfigError
        A parameter outside its range, or a list of the wrong length.
    """
    checks.one_of("utility", utility, UTILITIES)
    if utility == "exponential":
        return build_exponential(num_steps, num_products=num_products, limit=capacity)
    checks.whole(1, num_steps=num_steps, num_products=num_products)
    checks.one_of("substitution", substitution, SUBSTITUTIONS)
    checks.at_least(0.0, capacity=capacity, substitution_cost=substitution_cost)
    costs = checks.per_item("unit_cost", unit_cost, num_products)
    prices = checks.per_item("price", price, num_products)
    penalties = checks.per_item("shortage_cost", shortage_cost, num_products)
    salvages = checks.per_item("salvage_value", salvage_value, num_products)
    uses = checks.per_item("capacity_use", capacity_use, num_products)
    limits = checks.per_item("max_stock", max_stock, num_products)
    if (salvages >= costs).any():
        product = int(np.argmax(salvages >= costs))
        raise ConfigError(
            f"salvage_value = {salvages[product]:g} of product {product} is not below its unit_cost "
            f"{costs[product]:g}: stock would pay without demand",
            key="salvage_value",
        )
    makers, takers = _arcs(num_products, substitution)
    num_arcs = len(makers)
    from_product = np.zeros((num_arcs, num_products))
    from_product[np.arange(num_arcs), makers] = 1.0
    to_demand = np.zeros((num_arcs, num_products))
    to_demand[np.arange(num_arcs), takers] = 1.0
    margins = prices[takers] - substitution_cost * (makers != takers)

    stock = cp.Variable((num_steps, num_products), name="stock")
    demand = cp.Parameter((num_steps, num_products), name="demand")
    sales = cp.Variable((num_steps, num_arcs), name="sales")
    leftover = cp.Variable((num_steps, num_products), name="leftover")
    unmet = cp.Variable((num_steps, num_products), name="unmet")
    return TwoStageProgram(
        name="product_allocation",
        decision=stock,
        uncertain=demand,
        constraints=[stock >= 0, stock <= np.tile(limits, (num_steps, 1)), stock @ uses <= capacity],
        cost=cp.sum(stock @ costs),
        recourse_cost=cp.sum(unmet @ penalties) - cp.sum(sales @ margins) - cp.sum(leftover @ salvages),
        recourse_constraints=[
            sales @ from_product + leftover == stock,
            sales @ to_demand + unmet == demand,
            sales >= 0,
            leftover >= 0,
            unmet >= 0,
        ],
    )


def build_exponential(num_steps: int = 1, *, num_products: int = 10, limit: float = 2.0) -> TwoStageProgram:
    """The exponential-utility program: amounts of each product in each step, cost exp(-profit).

    Decision variable ``amounts`` (num_steps, num_products), in [0, ``limit``]; uncertain ``profit`` of
    that shape, per unit. Its cone is exponential: use the backend ``cvxpylayers`` or ``reference``.
    """
    checks.whole(1, num_steps=num_steps, num_products=num_products)
    checks.positive(capacity=limit)
    amounts = cp.Variable((num_steps, num_products), name="amounts")
    profit = cp.Parameter((num_steps, num_products), name="profit")
    return TwoStageProgram(
        name="product_allocation",
        decision=amounts,
        uncertain=profit,
        constraints=[amounts >= 0, amounts <= limit],
        recourse_cost=cp.exp(-cp.sum(cp.multiply(profit, amounts))),
    )


def exponential_profits(count: int, *, num_products: int = 10, generator: torch.Generator) -> Tensor:
    """(count, num_products) float64 unit profits of the published synthetic task.

    Each entry on its own is 0.5 (1 + 0.15 e) with probability 0.9, else 0.5 (-3 + 0.15 e), e standard
    normal. For 10 products and amounts up to 2 the population optimum is 0.40056, at 0.54521 of each.
    """
    gain = torch.rand(count, num_products, generator=generator, dtype=torch.float64) < 0.9
    noise = torch.randn(count, num_products, generator=generator, dtype=torch.float64)
    return 0.5 * (torch.where(gain, 1.0, -3.0) + 0.15 * noise)


def _arcs(num_products: int, substitution: str) -> tuple[np.ndarray, np.ndarray]:
    makers, takers = np.divmod(np.arange(num_products**2), num_products)
    kept = {"none": makers == takers, "downward": makers <= takers, "full": np.full(makers.shape, True)}
    return makers[kept[substitution]], takers[kept[substitution]]
