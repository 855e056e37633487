"""Announcements of what an inbox brought: one W&B run, and a POST of JSON per alert."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from grocery.core.errors import TrackingError
from grocery.core.params import MonitorParams
from grocery.inbox.entries import Entry
from grocery.inbox.judging import Judged
from grocery.inbox.record import recalled
from grocery.monitoring.batches import told
from grocery.monitoring.report import cannot_be_said
from grocery.settings import TrackingParams
from grocery.tracking.run import stage_run
from grocery.tracking.shown import batch

ANSWER = 10.0  # seconds in which a receiver has to answer


def said(entry: Entry) -> tuple[str, list[str], list[str]]:
    """What is an alert in an entry: in words, the names of the batches, and the sentences."""
    unsaid: list[str] = []
    if entry.kind == "labels":
        title, names, found = f"Labels of batch {entry.batch}", [entry.batch], entry.by_labels
    elif entry.sequence and entry.sequence.verdict == "alert":
        names, found = entry.sequence.batches, entry.sequence.signals
        title = f"Drift in the batches {names[0]} to {names[-1]}"
    else:
        title, names, found = f"Drift in batch {entry.batch}", [entry.batch], entry.signals
        unsaid = cannot_be_said(recalled(entry))
    return title, names, [*(one.sentence for one in found if one.verdict != "ok"), *unsaid]


class Receiver:
    """Takes alerts as JSON at an address, which may hold secrets: only its host is ever said."""

    def __init__(self, url: str) -> None:
        """Take an address.

        Raises
        ------
        ValueError
            When it is none of http or https.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
            raise ValueError("no address of http or https")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        place = host if parts.port is None else f"{host}:{parts.port}"
        self._url = urlunsplit((parts.scheme, place, parts.path, parts.query, ""))
        self.name = f"{parts.scheme}://{place}"
        self._headers = {"Content-Type": "application/json"}
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def deliver(self, entry: Entry, page: Path | None) -> None:
        """Send an alert, once.

        Raises
        ------
        TrackingError
            When it was not taken in time: by an answer of 200 to 299.
        """
        title, names, sentences = said(entry)
        document = {
            "text": f"{title}: {' '.join(sentences)}",
            "alert": title,
            "batches": names,
            "sentences": sentences,
            "page": None if page is None else str(page.absolute()),
            "time": entry.time,
            "model": entry.model,
            "version": entry.version,
            "digest": entry.digest,
        }
        request = Request(self._url, json.dumps(document).encode(), self._headers, method="POST")
        trouble = [_silence()]

        def send() -> None:
            trouble[:] = _trouble(request)

        # Neither looking a host up nor an answer that trickles has an end of its own.
        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        thread.join(ANSWER)
        if trouble:
            raise TrackingError(
                f"the alert {title!r} was not taken by {self.name} ({trouble[0]}); it is announced "
                "again by the next run"
            )


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would become a GET, whose answer says nothing; and may lead anywhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing."""


def _silence() -> str:
    return f"no answer within {ANSWER:g} s"


def _trouble(request: Request) -> list[str]:
    """Send a request; what is wrong, without its address, or nothing."""
    try:
        with build_opener(_NoRedirect).open(request, timeout=ANSWER):
            return []
    except HTTPError as error:
        return [f"it answers {error.code}"]
    except URLError as error:
        reason = error.reason
        if isinstance(reason, TimeoutError):
            return [_silence()]
        return [(reason.strerror if isinstance(reason, OSError) else None) or "no connection"]
    except TimeoutError:
        return [_silence()]
    except (OSError, HTTPException, ValueError) as error:  # whose text may hold the address
        return [type(error).__name__]


def track(
    settings: TrackingParams, params: MonitorParams, new: Sequence[Judged], page: Path | None
) -> None:
    """Tell W&B of new batches; the history is complete by now, and W&B cannot change that.

    A batch that came again with labels sends its accuracy alone.
    """
    found = [(one, one.entry) for one in new if one.entry is not None]
    latest = found[-1][1]
    model = {"digest": latest.model, "reference": latest.reference, "version": latest.version}
    config = {"monitor": params.model_dump(), "model": model}
    with stage_run("monitoring", settings=settings, config=config) as tracked:
        for step, one in enumerate(one for one, entry in found if entry.kind == "batch"):
            batch(tracked, step, told(one.report, one.timing))
        for _, entry in found:
            # An alert of a batch by itself is among what is told of the batch.
            if entry.alert and not (entry.kind == "batch" and entry.verdict == "alert"):
                title, _, sentences = said(entry)
                tracked.alert(title, " ".join(sentences))
        tracked.summary(_summary([entry for _, entry in found]))
        if page is not None:
            tracked.html("report", page)


def _summary(entries: Sequence[Entry]) -> dict[str, Any]:
    """The columns of W&B's table of runs; the accuracy is the latest that was realised."""
    alerts = [entry.alert for entry in entries if entry.kind == "batch"]
    values: dict[str, Any] = {"batches": len(alerts), "alerts": sum(alerts)}
    known = (entry for entry in entries if entry.accuracy is not None)
    return values | {f"accuracy/{entry.batch}": entry.accuracy for entry in known}
