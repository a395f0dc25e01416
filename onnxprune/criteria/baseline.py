"""What every criterion has to beat."""

import numpy as np

from onnxprune.criteria.registry import ROLES, Rows, Scores, criterion
from onnxprune.errors import OnnxPruneError


@criterion("random", roles=ROLES, reduce="first")
def random(rows: Rows) -> Scores:
    """s_c ~ U[0, 1), drawn from `seed`

    One draw a group, whatever its slices hold: mix the group's name into the seed, or groups of one size draw alike.
    Source: Mittal et al. 2018, Recovering from Random Pruning, arXiv 1801.10447
    """
    if rows.seed < 0:
        raise OnnxPruneError(f"criterion 'random': seed {rows.seed} is negative; use an integer of at least 0")
    return np.random.default_rng(rows.seed).random(rows.n)
