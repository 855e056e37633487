"""Is an alert of the monitor a sign of harm? Batches with known shifts, and what is said of them.

    python benchmarks/drill.py                       # the release and dataset of this workspace
    python benchmarks/drill.py --batches 10 --json outcomes.json
    python benchmarks/drill.py --only unknown --left-out 9      # other products

Batches are drawn from the held-out images that the release was not tried out on. For each the rest
is divided again, near duplicates together: the reference is made of one half, the batch is drawn
from the other without replacement. The shifts are of kinds that the release was *not* tried out
under (`grocery.reference.shifts.TRIED`): the rule has never seen them. For an unknown product a
class is left out of the head, which is fitted again from the release's own predictions; the encoder
has seen it. `benchmarks/drill_peers.py` asks other libraries about the same batches.
"""

# ruff: noqa: E402

from __future__ import annotations

from grocery.core.pin import pin

pin()  # before anything loads numpy: the pipeline's own numbers

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from drill_shifts import SHIFTS, copied
from numpy.typing import NDArray
from PIL import Image

from grocery.classifier.fit_head import calibrate, fit_head
from grocery.classifier.head import Head
from grocery.cli.terminal import count
from grocery.core.draws import generator_of
from grocery.core.errors import DataError, one_sentence
from grocery.core.intervals import clopper_pearson
from grocery.core.params import MonitorParams
from grocery.data.near_duplicates import NearDuplicates
from grocery.images.decoding import pixels
from grocery.inbox.judging import read_thresholds
from grocery.monitoring.batches import NEAR_DUPLICATE_BITS, of_their_own
from grocery.monitoring.drift import Judgement, judge
from grocery.parallel import progress
from grocery.reference.image_statistics import image_statistics
from grocery.reference.reference import MAX_SAMPLE, Reference, sample_rows
from grocery.reference.trials import IMAGES as TRIED_OUT
from grocery.release.model import Model
from grocery.shards import images_of, read_columns, shard_paths

MAX_TRAINING = 3_000  # images that a head is fitted on which lacks a class
PICTURES, COPIES = 20, 5  # of a shelf, and of each

Floats = NDArray[np.float32]
Rows = NDArray[np.intp]
Labelled = tuple[Floats, NDArray[np.str_]]  # features (n, d) and labels (n,)
Key = tuple[str, float] | None


@dataclass(frozen=True)
class Seen:
    """What the monitor sees of n images."""

    features: Floats  # (n, d)
    statistics: Floats  # (n, k)


@dataclass(frozen=True)
class Drawn:
    """A batch of n images, what it is compared with, and the truth."""

    reference: Reference
    logits: Floats  # (n, c)
    probabilities: Floats  # (n, c)
    seen: Seen
    labels: list[str | None]  # what the monitor is told
    accuracy: float
    loss: float  # accuracy of the same images as they are, less theirs under the shift


class Stage:
    """Where batches are drawn."""

    def __init__(self, model: Model, shards: Path, tried: Reference, *, images: int) -> None:
        rows = labelled_images(shards, "test")
        if not rows:
            raise DataError(f"{shards} holds no labelled test images")
        self.model, self.shards, self.tried = model, shards, tried
        ids = [row["image_id"] for row in rows]
        free = np.ones(len(ids), bool)
        free[sample_rows(ids, TRIED_OUT)] = False  # the release was tried out on these
        rows = [row for row, kept in zip(rows, free, strict=True) if kept]
        self.ids = [row["image_id"] for row in rows]
        self.labels = np.array([row["label"] for row in rows])
        self.groups = np.arange(len(rows))
        hashes = [row["phash"] for row in rows]
        for group in NearDuplicates(hashes, max_bits=NEAR_DUPLICATE_BITS).groups():
            self.groups[group] = group[0]
        self.jpegs = images_of(shard_paths(shards), self.ids)
        self.chosen = images  # so many are shifted, the first by their hashes
        self.seen: dict[Key, Seen] = {None: self._see(self.jpegs[i] for i in self.ids)}
        self.heads = {"": model.head}
        self.classes = {"": list(model.classes)}

    def _see(self, jpegs: Iterable[bytes]) -> Seen:
        found = list(jpegs)
        return Seen(self.model.features(found), image_statistics(found))

    def shift(self, key: tuple[str, float]) -> Seen:
        """The first images under a shift, predicted once."""
        if key not in self.seen:
            self.seen[key] = self._see(self._shifted(*key))
        return self.seen[key]

    def _shifted(self, name: str, strength: float) -> Iterator[bytes]:
        for image_id in self.ids[: self.chosen]:
            image = Image.fromarray(pixels(self.jpegs[image_id]))
            image = SHIFTS[name][0](image, strength, generator_of(f"drill {name}", image_id))
            yield self.model.preprocessing.prepare(image)

    def leave_out(self, classes: int) -> None:
        """Fit a head without each of so many classes, those of the most images: `fit_without`."""
        counts = Counter(self.labels.tolist())
        known = {split: features_of(self.model, self.shards, split) for split in ("train", "val")}
        for name in sorted(counts, key=lambda one: (-counts[one], one))[:classes]:
            self.heads[name] = fit_without(name, self.model, known)
            self.classes[name] = [one for one in self.model.classes if one != name]

    def divided(self, generator: np.random.Generator, size: int, pool: int) -> tuple[Rows, Rows]:
        """Rows of the reference, and at least `size` of the first `pool` rows to draw from."""
        place = generator.permutation(len(self.groups))[self.groups]
        order = np.argsort(place, kind="stable")
        usable = np.cumsum(order < pool)
        half = max(int(usable[-1]) // 2, min(size, int(usable[-1])))
        cut = max(
            int(np.searchsorted(usable, half)) + 1, len(order) // 2 if pool == len(order) else 0
        )
        while cut < len(order) and place[order[cut - 1]] == place[order[cut]]:
            cut += 1
        drawn = order[:cut][order[:cut] < pool]
        return generator.permutation(order[cut:]), generator.permutation(drawn)

    def draw(self, shift: str, strength: float, size: int, number: int) -> Drawn | None:
        """One batch; the arguments decide what is in it. None when there are too few images."""
        generator = generator_of("drill batch", shift, f"{strength:g}", size, number)
        key = (shift, strength) if shift in SHIFTS else None
        seen = self.shift(key) if key else self.seen[None]
        unknown = sorted(set(self.heads) - {""}) if shift == "unknown" else [""]
        left_out = unknown[number % len(unknown)]
        before, pool = self.divided(generator, size, len(seen.features))
        before, pool = (rows[self.labels[rows] != left_out] for rows in (before, pool))
        if shift == "unknown":
            strange = generator.permutation(np.flatnonzero(self.labels == left_out))
            pool = np.concatenate([strange[: round(strength * size)], pool])
        if shift == "few classes":
            present = generator.permutation(np.unique(self.labels[pool]))[: int(strength)]
            pool = pool[np.isin(self.labels[pool], present)]
        if shift == "copies":
            rows = pool[:PICTURES]
            return self._drawn(before, rows, self._copies(rows, number), "", [None] * len(rows))
        rows = pool[:size]
        if len(rows) < (20 if shift == "few classes" else size):
            return None
        batch = Seen(seen.features[rows], seen.statistics[rows])
        labels: list[str | None] = [None] * len(rows)
        if shift in ("labels", "wrong labels"):
            labels = self.labels[rows].tolist()
            for row in range(round(strength * len(rows))):
                others = [name for name in self.model.classes if name != labels[row]]
                labels[row] = others[int(generator.integers(len(others)))]
        return self._drawn(before, rows, batch, left_out, labels)

    def _copies(self, rows: Rows, number: int) -> Seen:
        """A few pictures of each image, as the monitor judges them: near duplicates left out."""
        jpegs = [
            self.model.preprocessing.prepare(
                copied(Image.fromarray(pixels(self.jpegs[self.ids[row]])), place, number)
            )
            for row in rows
            for place in range(COPIES)
        ]
        return self._see(jpegs[place] for place in of_their_own(jpegs))

    def _drawn(
        self, before: Rows, rows: Rows, batch: Seen, left_out: str, labels: list[str | None]
    ) -> Drawn:
        head, classes = self.heads[left_out], self.classes[left_out]
        known = self.seen[None]
        logits = head.logits(known.features[before])
        sample = slice(0, MAX_SAMPLE)
        reference = Reference.from_predictions(
            head.calibrate(logits),
            self.labels[before].tolist(),
            classes,
            "drill",
            features=known.features[before][sample],
            logits=logits[sample],
            image_statistics=known.statistics[before][sample],
        )
        now = head.logits(batch.features)
        names, truth = np.array(classes), self.labels[rows]
        clean = names[head.logits(known.features[rows]).argmax(axis=1)] == truth
        right = clean if len(now) != len(rows) else names[now.argmax(axis=1)] == truth
        return Drawn(
            replace(reference, trials=self.tried.trials),
            now,
            head.calibrate(now),
            batch,
            labels if len(now) == len(rows) else [None] * len(now),
            float(right.mean()),
            float(clean.mean() - right.mean()),
        )


def labelled_images(shards: Path, split: str) -> list[dict[str, str]]:
    """Id, label and perceptual hash of the labelled images of a split, in order of their ids."""
    table = read_columns(shards, ["image_id", "label", "split", "phash"]).to_pylist()
    rows = [row for row in table if row["split"] == split and row["label"] is not None]
    return sorted(rows, key=lambda row: str(row["image_id"]))


def features_of(model: Model, shards: Path, split: str) -> Labelled:
    """What a head may be fitted on: the labelled images of a split, `MAX_TRAINING` at most."""
    rows = labelled_images(shards, split)[:MAX_TRAINING]
    jpegs = images_of(shard_paths(shards), [row["image_id"] for row in rows])
    features = model.features([jpegs[row["image_id"]] for row in rows])
    return features, np.array([row["label"] for row in rows])


def fit_without(left_out: str, model: Model, known: Mapping[str, Labelled]) -> Head:
    """A logistic regression that learns from the model, without images of one class.

    No image that is of the class, or taken for it, is in the training or the calibration.
    """
    parts = {}
    classes = np.array([name for name in model.classes if name != left_out])
    order = np.argsort(classes)
    for split, (features, labels) in known.items():
        said = np.array(model.classes)[model.head.logits(features).argmax(axis=1)]
        taught = labels if split == "val" else np.where(np.isin(labels, said), said, labels)
        kept = (labels != left_out) & (taught != left_out)
        numbers = order[np.searchsorted(classes, taught[kept], sorter=order)]
        parts[split] = features[kept], numbers
    head = fit_head(*parts["train"], classes=len(classes), C=10.0)
    return calibrate(head, *parts["val"], level=0.95)


def judged(drawn: Drawn, params: MonitorParams) -> Judgement:
    """What the monitor says of a batch."""
    return judge(
        drawn.reference,
        drawn.probabilities,
        drawn.labels,
        0,
        params,
        features=drawn.seen.features,
        logits=drawn.logits,
        image_statistics=drawn.seen.statistics,
    )


def conditions(sizes: Sequence[int], size: int) -> list[tuple[str, float, int]]:
    """What is drawn: a shift, its strength, and images per batch."""
    found = [("clean", 0.0, one) for one in sizes] + [("copies", 0.0, PICTURES)]
    found += [("few classes", many, size) for many in (1.0, 3.0)]
    found += [("unknown", 0.1, size), ("unknown", 0.2, size)]
    found += [("labels", 0.0, size), ("wrong labels", 0.1, size), ("wrong labels", 0.2, size)]
    return found + [(name, s, size) for name, (_, many) in SHIFTS.items() for s in many]


def outcome(drawn: Drawn, found: Judgement) -> dict[str, Any]:
    """What became of one batch, as JSON values."""
    return {
        "verdict": found.verdict,
        "alerts": [one.name for one in found.signals if one.verdict == "alert"],
        "accuracy": drawn.accuracy,
        "loss": drawn.loss,
        "estimate": found.estimated_accuracy,
        "interval": found.estimate_interval,
    }


def row(name: str, outcomes: Sequence[dict[str, Any]]) -> str:
    """A line of the table: rates of verdicts, and the estimates that were given."""
    alerts = sum(one["verdict"] == "alert" for one in outcomes)
    low, high = clopper_pearson(alerts, len(outcomes))
    watched = np.mean([one["verdict"] == "watch" for one in outcomes])
    said = [one for one in outcomes if one["estimate"] is not None]
    cells = [name, f"{len(outcomes)}", f"{100 * np.mean([o['loss'] for o in outcomes]):.1f}"]
    cells += [f"{100 * alerts / len(outcomes):.0f} % ({100 * low:.0f} to {100 * high:.0f})"]
    cells += [f"{100 * watched:.0f} %", f"{100 * len(said) / len(outcomes):.0f} %"]
    if said:
        off = np.array([abs(one["estimate"] - one["accuracy"]) for one in said])
        held = [one["interval"][0] <= one["accuracy"] <= one["interval"][1] for one in said]
        width = np.median([one["interval"][1] - one["interval"][0] for one in said])
        cells += [f"{100 * off.mean():.1f}", f"{100 * np.mean(off <= 0.05):.0f} %"]
        cells += [f"{100 * np.mean(held):.0f} %", f"{width:.2f}"]
    else:
        cells += [""] * 4
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| batches | number | points lost | alert | watch | estimate given | off by | within 5 points "
    "| interval holds | its width |\n| --- " + "| ---: " * 9 + "|"
)


def by_harm(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The lines of the shifts together, by what they cost on average."""
    groups: dict[str, list[dict[str, Any]]] = {"under 1": [], "1 to 5": [], "5 and more": []}
    for name, outcomes in results.items():
        if name.rsplit(" ", 1)[0] in SHIFTS:
            groups[cost([one["loss"] for one in outcomes])] += outcomes
    return [row(f"**shifts that cost {kind}**", found) for kind, found in groups.items() if found]


def cost(losses: Sequence[float]) -> str:
    """Which of three kinds a shift is of, by the accuracy that its batches lose on average."""
    lost = 100 * float(np.mean(losses))
    return "under 1" if lost < 1 else "1 to 5" if lost < 5 else "5 and more"


def options(description: str, *, batches: int) -> argparse.ArgumentParser:
    """A command line that says what is drawn, with the default number of batches."""
    parser = argparse.ArgumentParser(
        description=description.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--release", type=Path, default=Path("models/release"), help="folder")
    parser.add_argument("--shards", type=Path, default=Path("data/prepared/shards"), help="folder")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="of thresholds")
    parser.add_argument("--batches", type=int, default=batches, help="of each kind")
    parser.add_argument("--images", type=int, default=300, help="that are shifted")
    parser.add_argument("--size", type=int, default=100, help="images per batch")
    return parser


def opened(arguments: argparse.Namespace) -> tuple[Stage, MonitorParams]:
    """Where batches are drawn, and the thresholds that they are judged by."""
    params, model = read_thresholds(arguments.params), Model.load(arguments.release)
    tried = Reference.load(arguments.release / "reference")
    return Stage(model, arguments.shards, tried, images=arguments.images), params


def main() -> None:
    """Read the command line."""
    parser = options(__doc__, batches=40)
    parser.add_argument(
        "--left-out",
        type=count,
        default=3,
        metavar="N",
        help="classes that are unknown products in turn: those of the most held-out images",
    )
    kinds = sorted({kind for kind, *_ in conditions((100,), 100)})
    parser.add_argument("--only", choices=kinds, help="batches of one kind")
    parser.add_argument("--json", type=Path, help="also write the outcomes to this file")
    with one_sentence("drill"):
        run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Draw, judge, print."""
    stage, params = opened(arguments)
    wanted = conditions((50, 100, 500), arguments.size)
    wanted = [one for one in wanted if arguments.only in (None, one[0])]
    if any(shift == "unknown" for shift, *_ in wanted):
        stage.leave_out(arguments.left_out)
    results: dict[str, list[dict[str, Any]]] = {}
    seconds, drawn_so_far = 0.0, 0
    for shift, strength, size in progress(wanted, title="conditions"):
        outcomes = []
        many = 4 if shift in ("clean", "copies") else 1
        for number in range(many * arguments.batches):
            if (drawn := stage.draw(shift, strength, size, number)) is None:
                break
            start = time.process_time()
            outcomes.append(outcome(drawn, judged(drawn, params)))
            seconds, drawn_so_far = seconds + time.process_time() - start, drawn_so_far + 1
        if outcomes:
            results[f"{shift} {size if shift == 'clean' else f'{strength:g}'}"] = outcomes
    if not drawn_so_far:
        raise DataError(f"{arguments.shards} holds too few test images for any such batch")
    print(HEAD)
    print("\n".join([row(name, found) for name, found in results.items()] + by_harm(results)))
    print(f"\n{seconds / drawn_so_far:.2f} CPU s a batch")
    if arguments.json:
        arguments.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
