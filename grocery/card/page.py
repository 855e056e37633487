"""The dataset card as a page for people: what is in the dataset, and what is doubtful about it.

One HTML file that needs nothing else: styles and pictures are inside it, there is no script, and
its content policy forbids the browser to fetch anything. Equal cards give equal bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from grocery.card.contact_sheet import SIDE
from grocery.shards import SPLITS

# Pictures on the page; about 3 KB each.
MOST_PICTURES = 900
MOST_SUSPECTS = 40
_MOST_LINES = 100

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --ink: #1c2128; --soft: #59636e; --line: #d8dee4;
  --bar: #0b62d6; --bad: #c21f2c; --good: #17753a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f1318; --card: #181d24; --ink: #e6eaef; --soft: #98a2ae; --line: #2f3742;
    --bar: #6cabff; --bad: #ff7b80; --good: #54c77d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 74rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 0 0 .5rem; }
h3 { font-size: .95rem; margin: 0; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
small, .soft { color: var(--soft); font-size: .875rem; font-weight: 400; }
code { font-size: .85em; }
section, details {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.1rem; margin: 1.25rem 0 0;
}
summary { cursor: pointer; font-weight: 650; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem 2rem; margin: 0; }
.facts div { min-width: 7rem; }
.facts dt { color: var(--soft); font-size: .875rem; }
.facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
.bad { color: var(--bad); } .good { color: var(--good); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
th, td { padding: .2rem .6rem .2rem 0; text-align: right; border-top: 1px solid var(--line); }
thead th { border: 0; color: var(--soft); font-size: .875rem; font-weight: 400; }
tbody th { font-weight: 400; }
th:first-child, th.name { text-align: left; }
td.bar { width: 30%; min-width: 5rem; padding-right: 0; }
td.bar i { display: block; height: .5rem; min-width: 1px; background: var(--bar); }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(4.2rem, 1fr)); gap: .3rem; }
.strip { margin: .3rem 0 1.1rem; }
img { display: block; width: 100%; height: auto; aspect-ratio: 1; background: var(--line); }
img { border-radius: .3rem; }
.suspects { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }
.suspects { gap: 1rem 1.5rem; list-style: none; padding: 0; margin: .75rem 0 0; }
.suspects li { display: grid; grid-template-columns: 5.5rem 1fr; gap: .75rem; line-height: 1.35; }
.witnesses { display: flex; gap: .3rem; margin-top: .3rem; }
.witnesses img { width: 2.6rem; }
ul.lines { padding-left: 1.1rem; margin: .5rem 0 0; font-size: .95rem; }
@media (max-width: 40rem) {
  body { padding: 1rem .6rem 2rem; }
  section, details { padding: .85rem; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1rem; }
  .suspects { grid-template-columns: 1fr; }
  td.bar { display: none; }
}
"""


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
    near = card["near_duplicates"]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Dataset {card['digest'][:12]}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        f"<header><h1>Dataset card</h1>\n<p class=soft>Content <code>{card['digest']}</code></p>"
        "</header>\n"
        + _facts(card)
        + _suspects(card["suspected_labels"], pictures)
        + _lines("Files that cannot be read", map(_quarantined, card["quarantined"]))
        + _lines("Exact copies, kept once", map(_copies, card["duplicates"]))
        + _lines("Left out to keep the splits apart", map(_quarantined, card["leaked"]))
        + _lines("Near duplicates in several splits", map(_paths, near["across"]))
        + _table(card)
        + _sheets(card, classes, pictures)
        + "</body></html>\n"
    ).encode()


def _facts(card: Mapping[str, Any]) -> str:
    near = card["near_duplicates"]
    facts = {
        "Images": card["images"],
        "Classes": len(card["classes"]),
        "Labelled": card["labeled"],
        "Unlabelled": card["unlabeled"],
        "Stored": f"{card['sizes']['bytes'] / 1e6:,.1f} MB",
        "Width, pixels": _range(card["sizes"]["width"]),
        "Height, pixels": _range(card["sizes"]["height"]),
        "Unreadable files": len(card["quarantined"]),
        "Exact copies left out": sum(len(entry["dropped"]) for entry in card["duplicates"]),
        "Near-duplicate groups": near["groups"],
        "Near duplicates across splits": near["across_splits"],
        "Labels to check": len(card["suspected_labels"]),
    }
    kinds = {"Near duplicates across splits": "bad" if near["across_splits"] else "good"}
    items = "".join(
        f'<div><dt>{name}</dt><dd class="{kinds.get(name, "")}">'
        f"{value if isinstance(value, str) else format(value, ',')}</dd></div>\n"
        for name, value in facts.items()
    )
    return f'<section><dl class="facts">\n{items}</dl></section>\n'


def _range(quantiles: Mapping[str, int]) -> str:
    if not quantiles:
        return "none"
    low, high = quantiles["min"], quantiles["max"]
    return f"{low}" if low == high else f"{low} to {high}"


def _suspects(suspects: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes]) -> str:
    """Labels that look wrong, with the images that contradict them."""
    if not suspects:
        return ""
    items = []
    for suspect in suspects[:MOST_SUSPECTS]:
        label, suggested = escape(suspect["label"]), escape(suspect["suggested"])
        witnesses = "".join(_picture(i, suggested, pictures) for i in suspect["witnesses"])
        items.append(
            f"<li><div>{_picture(suspect['image_id'], label, pictures)}</div>"
            f"<div>labelled <b>{label}</b><br>looks like <b>{suggested}</b>, "
            f"{suspect['agreement']:.0%} of its look-alikes' votes"
            f'<div class="witnesses">{witnesses}</div>'
            f"<small>{escape(suspect['path'])}</small></div></li>\n"
        )
    return (
        "<section><h2>Labels to check</h2>\n<p class=soft>The images that resemble these most, "
        "some of them shown small, have another label. Nothing was changed.</p>\n"
        f'<ul class="suspects">\n{"".join(items)}</ul>{_more(suspects, MOST_SUSPECTS)}</section>\n'
    )


def _lines(title: str, lines: Iterable[str]) -> str:
    """A folded list of sentences that are HTML already; nothing when there are none."""
    every = list(lines)
    if not every:
        return ""
    items = "".join(f"<li>{line}</li>\n" for line in every[:_MOST_LINES])
    return (
        f"<details><summary>{title}: {len(every):,}</summary>\n"
        f'<ul class="lines">\n{items}</ul>{_more(every, _MOST_LINES)}</details>\n'
    )


def _more(every: Sequence[Any], shown: int) -> str:
    hidden = len(every) - shown
    return f"<p class=soft>and {hidden:,} more, see card.json</p>" if hidden > 0 else ""


def _quarantined(entry: Mapping[str, str]) -> str:
    return f"{escape(entry['path'])}: {escape(entry['reason'])}"


def _copies(entry: Mapping[str, Any]) -> str:
    text = f"{escape(entry['kept'])} = {_paths(entry['dropped'])}"
    if "labels" in entry:
        text += f' <b class="bad">labels disagree: {_paths(entry["labels"])}</b>'
    return text


def _paths(paths: Sequence[str]) -> str:
    return escape(", ".join(paths))


def _total(row: Mapping[str, Any]) -> int:
    return sum(row[split] for split in SPLITS)


def note(row: Mapping[str, Any]) -> str:
    """The line about a class in the contact sheets: its coarse class if any, and its images."""
    images = f"{_total(row):,} images"
    return f"{row['coarse']}, {images}" if row["coarse"] else images


def _table(card: Mapping[str, Any]) -> str:
    """Images by class and split."""
    most = max(map(_total, card["classes"].values()), default=1)
    coarse = bool(card["coarse_classes"])
    body = []
    for name, row in card["classes"].items():
        total = _total(row)
        counts = "".join(f"<td>{row[split]:,}</td>" for split in SPLITS)
        group = f'<th class="name soft">{escape(row["coarse"] or "")}</th>' if coarse else ""
        body.append(
            f"<tr><th>{escape(name)}</th>{group}{counts}<td><b>{total:,}</b></td>"
            f'<td class="bar"><i style="width:{total / most:.1%}"></i></td></tr>\n'
        )
    counts = "".join(f"<th>{split}</th>" for split in SPLITS)
    group = '<th class="name">coarse</th>' if coarse else ""
    return (
        '<section><h2>Labelled images</h2><div class="wide"><table>\n<thead><tr><th>class</th>'
        f"{group}{counts}<th>all</th><th></th></tr></thead>\n<tbody>\n{''.join(body)}</tbody>\n"
        "</table></div></section>\n"
    )


def _sheets(
    card: Mapping[str, Any], classes: Mapping[str, Sequence[str]], pictures: Mapping[str, bytes]
) -> str:
    """A strip of pictures of each class."""
    strips = []
    for name, members in classes.items():
        images = "".join(_picture(i, escape(name), pictures) for i in members)
        strips.append(
            f"<h3>{escape(name)} <small>{escape(note(card['classes'][name]))}</small></h3>\n"
            f'<div class="strip">{images}</div>\n'
        )
    return (
        "<section><h2>Contact sheets</h2>\n<p class=soft>Images of each class as they come by "
        f"content hash, which nobody chose.</p>\n{''.join(strips)}</section>\n"
    )


def _picture(image_id: str, alt: str, pictures: Mapping[str, bytes]) -> str:
    """An image inside the page; `alt` is HTML already."""
    if image_id not in pictures:
        return ""
    data = b64encode(pictures[image_id]).decode()
    return (
        f'<img loading="lazy" width="{SIDE}" height="{SIDE}" alt="{alt}" '
        f'src="data:image/jpeg;base64,{data}">\n'
    )
