"""Surrogate: pathwise, but through a learned map from the scenario set to the decision.

    dL/dtheta = sum_s (df(y, z)/dz) (dz_phi/dy_s) (dG_theta(x, noise_s)/dtheta),
    z = z_phi(y_1..y_S)                                                                          (1)

z_phi is the network of the backend ``surrogate`` (`hedgecast.decisions.surrogate`), trained beforehand
and projected onto the first-stage constraints; where its gate does not trust it, the exact layer decides.
The bias is that of the map: none where z_phi = z*. Its slope is smooth in the scenarios, where that of the
exact decision jumps at kinks.

Source: Zharmagambetov et al. (2023), section 3 (LANCER), https://arxiv.org/abs/2307.08964, with the map
in place of their loss.
"""

from __future__ import annotations

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.estimators.pathwise import Pathwise
from hedgecast.learning.estimators.seam import Estimate, Scene
from hedgecast.learning.objective import TaskLoss


class SurrogateGradient:
    """Equation (1).

    Parameters
    ----------
    pathwise : Pathwise
        How the scenarios are drawn and differentiated.

    Raises
    ------
    ProgramError
        At the first call, where no surrogate was trained for the program; the message says how.
    """

    def __init__(self, pathwise: Pathwise) -> None:
        self.pathwise = pathwise
        self._task: TaskLoss | None = None

    def __call__(self, model: Generator, scene: Scene, task: TaskLoss) -> Estimate:
        """The estimate at the model's current weights; the cost is that of the surrogate's decisions."""
        if self._task is None or self._task.program is not task.program:
            self._task = TaskLoss(task.program, smoothing=task.smoothing, backend="surrogate")
        return self.pathwise(model, scene, self._task)
