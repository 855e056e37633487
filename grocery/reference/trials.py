"""What shifts of the photographs cost the model: tried out on its own held-out images.

A drop of confidence alone says little of accuracy. So a few held-out images are shifted in the ways
and strengths of `grocery.reference.shifts.TRIED`, predicted, and compared with their labels. From
these trials the monitor knows how much accuracy is lost where the model's lead has fallen by so
much, how well that is known, and how far from the held-out images it was tried out at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery import action_cache
from grocery.action_cache import Action
from grocery.classifier.head import Head
from grocery.core.draws import generator_of
from grocery.core.pin import one_thread
from grocery.features.encoder import Encoder
from grocery.images.decoding import pixels
from grocery.images.preprocessing import Preprocessing
from grocery.reference.image_statistics import image_statistics
from grocery.reference.reference import Reference
from grocery.reference.shifts import TRIED
from grocery.reference.typical import leads

IMAGES = 80  # that are shifted, each in all ways

Floats = NDArray[np.float32]
Look = tuple[tuple[str, float] | None, Path]  # a shift and its strength, and where to write


def try_shifts(
    reference: Reference,
    *,
    encoder: Encoder,
    head: Head,
    preprocessing: Preprocessing,
    images: Sequence[tuple[str, bytes, int]],
    decided_by: Sequence[str],
    scratch: Path,
) -> Floats:
    """The trials of a reference, shape (t, 7); see `Reference.trials`.

    What the encoder sees is remembered (`grocery.action_cache`), since it is the same whatever the
    head has learnt.

    Parameters
    ----------
    images
        Id, canonical JPEG and number of the true class of images in the reference's sample.
    decided_by
        Digests of the encoder and of how images are prepared.
    scratch
        A new folder for what is seen.
    """
    tasks = [(name, strength) for name, (_, strengths) in TRIED.items() for strength in strengths]
    looks: list[Look] = [(None, scratch / "before.npz")]
    looks += [(task, scratch / f"{number}.npz") for number, task in enumerate(tasks)]
    shown = [(one, jpeg) for one, jpeg, _ in images]
    content = [f"{one} {hashlib.sha256(jpeg).hexdigest()}" for one, jpeg in shown]
    look_at = partial(see, encoder=encoder, preprocessing=preprocessing, images=shown)
    scratch.mkdir()
    actions = [Action(look, [*decided_by, repr(look[0]), *content], (look[1],)) for look in looks]
    action_cache.do(look_at, actions, title="shifts")

    truth = np.array([number for *_, number in images])
    with one_thread():
        before, *after = (_compared(file, truth, reference, head) for _, file in looks)
    kinds = list(TRIED)
    rows = [
        (kinds.index(name), fall - before[0], loss - before[1], *distances)
        for (name, _), (fall, loss, *distances) in zip(tasks, after, strict=True)
    ]
    return np.array(rows, np.float32)


@one_thread()
def see(
    look: Look,
    *,
    encoder: Encoder,
    preprocessing: Preprocessing,
    images: Sequence[tuple[str, bytes]],
) -> None:
    """Write the features and statistics of images under a shift, or as they are."""
    task, file = look
    jpegs = [jpeg for _, jpeg in images]
    if task is not None:
        (name, strength), (shift, _) = task, TRIED[task[0]]
        jpegs = [
            preprocessing.prepare(
                shift(Image.fromarray(pixels(jpeg)), strength, generator_of("trial", name, one))
            )
            for one, jpeg in images
        ]
    features = encoder([pixels(jpeg) for jpeg in jpegs])
    np.savez(file, features=features, statistics=image_statistics(jpegs))


def _compared(
    file: Path, truth: NDArray[np.intp], reference: Reference, head: Head
) -> tuple[float, ...]:
    """What became of lead and accuracy, and how far the images are from the reference."""
    with np.load(file, allow_pickle=False) as seen:
        features, statistics = seen["features"], seen["statistics"]
    logits = head.logits(features)
    predicted = logits.argmax(axis=1)
    right = float((predicted == truth).mean())
    return (
        -float(reference.typical["leads"].common(leads(logits)[:, None], predicted)[0]),
        float(reference.class_accuracies[predicted].mean(dtype=np.float64)) - right,
        *reference.distances(features, statistics, predicted),
    )
