"""Which training labels the learner may see."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def choose_labeled(
    image_ids: Sequence[str], labels: Sequence[str | None], *, ratio: float, seed: int
) -> NDArray[np.bool_]:
    """Choose, class by class, the share of images whose label is kept.

    An image's place in its class's queue is the hash of the seed and its id. So the choice at 0.1
    is part of the choice at 0.2, another seed is another draw, and a new image moves at most one
    other image a class.

    Parameters
    ----------
    image_ids, labels
        The training images (n); a label of None is never chosen.
    ratio
        Share to keep, more than 0 and at most 1; at least one image a class is kept.
    seed
        Which draw.

    Returns
    -------
    Mask of shape (n,).
    """
    queues: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for index, (image_id, label) in enumerate(zip(image_ids, labels, strict=True)):
        if label is not None:
            place = hashlib.sha256(f"{seed}:{image_id}".encode()).digest()
            queues[label].append((place, index))
    chosen = np.zeros(len(image_ids), dtype=bool)
    for queue in queues.values():
        keep = max(1, math.floor(ratio * len(queue) + 0.5))
        chosen[[index for _, index in sorted(queue)[:keep]]] = True
    return chosen
