"""A real S3 endpoint on loopback, and what DVC is to keep there.

The server is moto's, in a process of its own; it verifies signatures and IAM policies.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3

from conftest import Project
from running import wait_for

BUCKET = "groceries"
_REGION = "us-east-1"
_ALL_OF_S3 = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
_UPLOAD = re.compile(rf'"PUT /{BUCKET}/storage/files/md5/(\w\w)/([\w.]+) HTTP/1.1" 200 ')


class S3Endpoint:
    """An endpoint with one bucket and one user.

    Parameters
    ----------
    url
        Address of a fresh server.
    log
        File that it writes its requests to.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url, self._log = url, log
        self._prepare()

    def _client(self, service: str, key: str, secret: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=_REGION,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def _prepare(self) -> None:
        """A bucket, and a user who may use it; then nobody else may do anything."""
        self._client("s3", "root", "root").create_bucket(Bucket=BUCKET)
        iam = self._client("iam", "root", "root")
        iam.create_user(UserName="ann")
        policy = json.dumps({"Version": "2012-10-17", "Statement": [_ALL_OF_S3]})
        iam.put_user_policy(UserName="ann", PolicyName="s3", PolicyDocument=policy)
        made = iam.create_access_key(UserName="ann")["AccessKey"]
        self.key, self.secret = made["AccessKeyId"], made["SecretAccessKey"]
        plain = {"Content-Type": "text/plain"}
        with urlopen(Request(f"{self.url}/moto-api/reset-auth", b"0", plain)) as answer:
            assert answer.status == 200
        self._s3 = self._client("s3", self.key, self.secret)

    def environment(self, **changes: str) -> dict[str, str]:
        """Variables with which AWS's SDK is the user, and gives up at once."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": _REGION,
            "AWS_MAX_ATTEMPTS": "1",
            **changes,
        }

    def remote_of(self, project: Project) -> None:
        """Make the endpoint the DVC remote of a project, and commit that."""
        address = f"s3://{BUCKET}/storage"
        add = f"remote add --force --default storage {address}"
        project.dvc(add, f"remote modify storage endpointurl {self.url}")
        project.commit("S3")

    def objects(self) -> dict[str, int]:
        """Sizes of the objects in the bucket, by DVC's hash."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        found = [entry for page in pages for entry in page.get("Contents", ())]
        return {"".join(entry["Key"].split("/")[-2:]): entry["Size"] for entry in found}

    def uploads(self) -> Counter[str]:
        """How often each object was sent, by DVC's hash, since the server is there."""
        return Counter(first + rest for first, rest in _UPLOAD.findall(self._log.read_text()))


@contextmanager
def s3_endpoint(log: Path) -> Iterator[S3Endpoint]:
    """An endpoint that is there while the block runs; its server logs to this file."""
    command = [sys.executable, "-m", "moto.server", "--port", "0"]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            found = wait_for(lambda: re.search(r"Running on (http://\S+:\d+)", log.read_text()))
            yield S3Endpoint(found[1], log)
        finally:
            process.kill()


def listing(project: Project, md5: str) -> dict[str, str]:
    """Hash by name of the files of an output, as DVC's own .dir object in the cache has them."""
    entries = json.loads(cached(project, md5).read_bytes())
    return {entry["relpath"]: entry["md5"] for entry in entries}


def cached(project: Project, md5: str) -> Path:
    """Where DVC's cache has an object."""
    return project.path / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def recorded(project: Project, *hashes: str) -> dict[str, int]:
    """Sizes, by hash, of the objects that outputs consist of.

    By default of all that dvc.lock names and git has not.
    """
    if not hashes:
        in_git = set(project.run("git", "ls-files").stdout.splitlines())
        outs = [out for stage in project.lock().values() for out in stage["outs"]]
        hashes = tuple(out["md5"] for out in outs if out["path"] not in in_git)
    found: dict[str, int] = {}
    for md5 in hashes:
        parts = listing(project, md5).values() if md5.endswith(".dir") else ()
        found |= {part: cached(project, part).stat().st_size for part in (md5, *parts)}
    return found
