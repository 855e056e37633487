"""What shifts of the photographs cost the model: tried out on its own held-out images.

A drop of confidence alone says little of accuracy. So a few held-out images are shifted in the ways
and strengths of `grocery.reference.shifts.TRIED`, predicted, and compared with their labels. From
these trials the monitor knows how much accuracy is lost where the model's lead has fallen by so
much, how well that is known, and how far from the held-out images it was tried out at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery.classifier.head import Head
from grocery.core.draws import generator_of
from grocery.core.pin import one_thread
from grocery.features.encoder import Encoder
from grocery.images.decoding import pixels
from grocery.images.preprocessing import Preprocessing
from grocery.parallel import parallel_map
from grocery.reference.image_statistics import image_statistics
from grocery.reference.reference import Reference
from grocery.reference.shifts import TRIED
from grocery.reference.typical import leads

IMAGES = 80  # that are shifted, each in all ways

Floats = NDArray[np.float32]


def try_shifts(
    reference: Reference,
    *,
    encoder: Encoder,
    head: Head,
    preprocessing: Preprocessing,
    images: Sequence[tuple[str, bytes, int]],
) -> Floats:
    """The trials of a reference, shape (t, 7); see `Reference.trials`.

    Parameters
    ----------
    images
        Id, canonical JPEG and number of the true class of images in the reference's sample.
    """
    tasks = [(name, strength) for name, (_, strengths) in TRIED.items() for strength in strengths]
    look = partial(
        _look,
        reference=reference,
        encoder=encoder,
        head=head,
        preprocessing=preprocessing,
        images=images,
    )
    before, *after = parallel_map(look, [None, *tasks], title="shifts")
    kinds = list(TRIED)
    rows = [
        (kinds.index(name), fall - before[0], loss - before[1], *distances)
        for (name, _), (fall, loss, *distances) in zip(tasks, after, strict=True)
    ]
    return np.array(rows, np.float32)


@one_thread()
def _look(
    task: tuple[str, float] | None,
    *,
    reference: Reference,
    encoder: Encoder,
    head: Head,
    preprocessing: Preprocessing,
    images: Sequence[tuple[str, bytes, int]],
) -> tuple[float, ...]:
    """What a shift does to images, or what is seen of them as they are."""
    jpegs, truth = [jpeg for _, jpeg, _ in images], np.array([number for *_, number in images])
    if task is not None:
        (name, strength), (shift, _) = task, TRIED[task[0]]
        jpegs = [
            preprocessing.prepare(
                shift(Image.fromarray(pixels(jpeg)), strength, generator_of("trial", name, one))
            )
            for one, jpeg, _ in images
        ]
    features = encoder([pixels(jpeg) for jpeg in jpegs])
    logits = head.logits(features)
    predicted = logits.argmax(axis=1)
    right = float((predicted == truth).mean())
    return (
        -float(reference.typical["leads"].common(leads(logits)[:, None], predicted)[0]),
        float(reference.class_accuracies[predicted].mean(dtype=np.float64)) - right,
        *reference.distances(features, image_statistics(jpegs), predicted),
    )
