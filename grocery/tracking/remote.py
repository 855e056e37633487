"""Where DVC's remote keeps its objects."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit


def remote_objects(root: Path) -> str | None:
    """URL below which the default remote of a DVC repository keeps objects, by their MD5.

    An object lies at ``URL/ab/cdef…`` where ``abcdef…`` is its hash. None without a repository or a
    default remote, and for a remote that keeps files by name (``worktree``, ``version_aware``).
    A user name, a password and a query in the address are left out.
    """
    from dvc.config import Config, ConfigError

    if not (root / ".dvc").is_dir():
        return None
    try:
        config = Config(str(root / ".dvc"))
        remote = config["remote"][config["core"]["remote"]]
    except (ConfigError, KeyError):
        return None
    if remote.get("worktree") or remote.get("version_aware"):
        return None
    url = str(remote["url"]).rstrip("/")
    if "://" not in url:
        return (Path(url).absolute() / "files" / "md5").as_uri()
    parts = urlsplit(url)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="")
    return urlunsplit(place).rstrip("/") + "/files/md5"
