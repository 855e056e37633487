"""Which training labels the learner may see."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from grocery.core.draws import draw


def choose_labeled(
    image_ids: Sequence[str],
    labels: Sequence[str | None],
    *,
    ratio: float,
    seed: int,
    stratified: bool = True,
) -> NDArray[np.bool_]:
    """Choose the share of images whose label is kept.

    An image's place in its queue is drawn from the seed and its id. So the choice at 0.1 is part of
    the choice at 0.2, another seed is another draw, and a new image moves at most one other image
    per queue.

    Parameters
    ----------
    image_ids, labels
        The training images (n); a label of None is never chosen.
    ratio
        Share to keep of each queue, more than 0 and at most 1; at least one image is kept.
    seed
        Which draw.
    stratified
        One queue for each class, as in benchmarks of few labels. Whoever has yet to label the
        images cannot draw so. Otherwise one queue for all images: chance may leave a class without
        a label.

    Returns
    -------
    Mask of shape (n,).
    """
    queues: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
    for index, (image_id, label) in enumerate(zip(image_ids, labels, strict=True)):
        if label is not None:
            queues[label if stratified else ""].append((draw("label", seed, image_id), index))
    chosen = np.zeros(len(image_ids), dtype=bool)
    for queue in queues.values():
        keep = max(1, math.floor(ratio * len(queue) + 0.5))
        chosen[[index for _, index in sorted(queue)[:keep]]] = True
    return chosen
