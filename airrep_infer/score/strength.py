"""How strong a row is for several queries together: the one rule by which their lists become one list.

Every query counts the same. A row counts by how far its score stands above the lowest that the query lists,
as a share of the way to its highest: what all rows of a subject have in common, which a query's scores often
begin with, says nothing about one of them. A query that does not list the row adds nothing, nor does a score
that is not positive.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def list_strengths(scores: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """The strength of each row of one query's list, 0 to 1, (k,); NaN, where there is no row, has 0."""
    listed = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf)
    highest = listed.max(initial=0.0)
    if not 0 < highest < np.inf:
        return np.zeros(len(listed))
    lowest = max(0.0, listed.min())
    shares = (listed - lowest) / (highest - lowest) if highest > lowest else np.ones(len(listed))
    return np.where(listed > 0, shares, 0.0)
