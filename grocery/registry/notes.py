"""What was done to the registry that W&B is not told yet, in ``wandb/outbox/registry.jsonl``.

A line for each thing; ``{"told": 3}`` says that W&B knows of the first three lines.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex

from grocery.journal import Journal, held

# Locks that say that this process is between its note and git, by the folder of the notes.
_changing: dict[Path, ExitStack] = {}


class Notes:
    """The notes of a project.

    Parameters
    ----------
    root
        Folder that W&B's own folder lies in.
    """

    def __init__(self, root: Path) -> None:
        folder = root / "wandb" / "outbox"
        self._journal = Journal(folder / "registry.jsonl")
        self._busy = folder / "registry.busy"  # holds a locked file per command that changes git
        self.lock = folder / "registry.lock"  # of who tells W&B

    def waiting(self) -> list[str]:
        """What W&B does not know, oldest first."""
        lines = self._journal.entries()
        told = max((line["told"] for line in lines if isinstance(line.get("told"), int)), default=0)
        noted = [str(line["what"]) for line in lines[told:] if "what" in line]
        for line in lines[told:]:
            if line.get("not") in noted:
                noted.remove(line["not"])
        return noted

    def add(self, what: str) -> None:
        """Note what is about to be done to git; it is on disk when this returns.

        Until `done`, or until this process has ended, nobody takes it for told.
        """
        if self._busy not in _changing:
            file = self._busy / token_hex(8)
            _changing[self._busy] = stack = ExitStack()
            stack.callback(file.unlink, missing_ok=True)
            stack.enter_context(held(file))
        self._journal.add({"what": what})

    def take_back(self, what: str) -> None:
        """What was noted has not been done, and is not going to be."""
        self._journal.add({"not": what})
        self.done()

    def done(self) -> None:
        """Git is now as the notes of this process say."""
        if stack := _changing.pop(self._busy, None):
            stack.close()

    def settled(self) -> int:
        """The number of lines that git is certain to know of: none while somebody changes it."""
        lines = len(self._journal.entries())  # before the look at who is at work
        for file in self._busy.glob("*"):
            with held(file) as left_behind:
                if left_behind is None:
                    return 0
        return lines

    def told(self, lines: int) -> None:
        """W&B knows of so many lines. Only who holds `lock` may say so."""
        if lines and not self._journal.empty(lines):
            self._journal.add({"told": lines})
