"""The dataset card as a page for people: what is in the dataset, and what is doubtful about it.

See `grocery.pages.page` for what all pages are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grocery.pages import page
from grocery.shards import SPLITS

# Pictures on the page; about 3 KB each.
MOST_PICTURES = 900
MOST_SUSPECTS = 40
_MOST_LINES = 100


def pictures_per_class(classes: int, wanted: int) -> int:
    """How many pictures per class the page has room for; at least one."""
    return max(1, min(wanted, MOST_PICTURES // max(classes, 1)))


def render(
    card: Mapping[str, Any], classes: Mapping[str, Sequence[str]], pictures: Mapping[str, bytes]
) -> bytes:
    """Render the page, as UTF-8 bytes.

    Parameters
    ----------
    card
        See `grocery.card.numbers.dataset_card`.
    classes
        Ids of the images that show each class.
    pictures
        JPEG bytes by image id, of these images and of suspects with their witnesses. An image
        without a picture is left out.
    """
    lists = {
        "Files that cannot be read": map(_reason, card["quarantined"]),
        "Exact copies, kept once": map(_copies, card["duplicates"]),
        "Left out to keep the splits apart": map(_reason, card["leaked"]),
        "Nearly the same image in several splits": (
            (", ".join(paths), "") for paths in card["near_duplicates"]["across"]
        ),
    }
    return page.render(
        __file__,
        card=card,
        count="{:,}".format,
        classes=classes,
        pictures=pictures,
        lists=[(title, list(lines)) for title, lines in lists.items()],
        in_test=sum(suspect["split"] == "test" for suspect in card["suspected_labels"]),
        most=max(map(_total, card["classes"].values()), default=1),
        most_lines=_MOST_LINES,
        most_suspects=MOST_SUSPECTS,
        note=note,
        splits=SPLITS,
        total=_total,
    ).encode()


def _reason(entry: Mapping[str, str]) -> tuple[str, str]:
    return f"{entry['path']}: {entry['reason']}", ""


def _copies(entry: Mapping[str, Any]) -> tuple[str, str]:
    """What is the same, and that its labels are not."""
    doubt = f"labels disagree: {', '.join(entry['labels'])}" if "labels" in entry else ""
    return f"{entry['kept']} = {', '.join(entry['dropped'])}", doubt


def _total(row: Mapping[str, Any]) -> int:
    return sum(row[split] for split in SPLITS)


def note(row: Mapping[str, Any]) -> str:
    """The line about a class in the contact sheets: its coarse class if any, and its images."""
    images = f"{_total(row):,} images"
    return f"{row['coarse']}, {images}" if row["coarse"] else images
