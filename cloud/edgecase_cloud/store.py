"""The object store, as the rest of the cloud sees it: bytes under keys, and grants to put one object there once."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from threading import Lock
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from edgecase_models import wire

BUCKET: Final = "edgecase"
RULE: Final = "edgecase-retention"
PART_BYTES: Final = 8_000_000
"""A larger object may be sent in parts of this size. S3 takes none below 5 MiB, apart from the last."""
_CHUNK_BYTES: Final = 1 << 20
_CONNECTIONS: Final = 16


class StoreError(RuntimeError):
    """Something about the store; see the classes below for what to do."""


class Unreachable(StoreError):
    """The store did not answer, or not now; back off and try again."""


class Refused(StoreError):
    """The store said no and will say so again; set the work aside and show it."""


class NotFound(StoreError):
    """There is no object under this key."""


class PutGrant(NamedTuple):
    """A URL that takes one PUT with exactly these headers."""

    url: str
    headers: dict[str, str]


@dataclass(frozen=True)
class ObjectInfo:
    """What the store holds under a key; `sha256` is in hex, `modified_at` of whole seconds by the store's clock."""

    key: str
    size_bytes: int
    sha256: str
    modified_at: datetime = field(default=datetime.min.replace(tzinfo=UTC), compare=False)


class ObjectStore:
    """One bucket of an S3 server. Safe to use from several threads; connects at the first call."""

    def __init__(
        self,
        endpoint_url: str,
        access_key: str,
        secret_key: str,
        *,
        bucket: str = BUCKET,
        region: str = "us-east-1",
        timeout_s: float = 10.0,
        attempts: int = 3,
    ) -> None:
        self.endpoint_url = endpoint_url
        self.bucket = bucket
        self._keys = (access_key, secret_key)
        self._region = region
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._opening = Lock()

    def ensure_bucket(self) -> None:
        """Make the bucket where it is missing."""
        with _translated(f"bucket {self.bucket}", allowed=("BucketAlreadyOwnedByYou", "BucketAlreadyExists")):
            self._client.create_bucket(Bucket=self.bucket)

    def presign_put(
        self, key: str, size_bytes: int, sha256: str, *, media_type: str = "image/jpeg", expires_s: int = 900
    ) -> PutGrant:
        """A grant for exactly these bytes under this key, once. Needs no connection.

        Other bytes, another length or another key are refused by the store, and so is a second object (412).
        """
        headers = {
            "Content-Length": str(size_bytes),
            "Content-Type": media_type,
            "If-None-Match": "*",
            "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
        }
        return PutGrant(self._signed("PUT", key, headers, expires_s), headers)

    def parts(self, key: str, size_bytes: int, *, media_type: str = "image/jpeg", expires_s: int = 900) -> wire.Parts:
        """A grant for these many bytes under this key, in parts; one that was begun for the key goes on.

        Each part takes exactly its length. What the parts are together is only known once they were put together: check it then.
        """
        uploads = self._uploads(key)
        begun = [upload_id for upload_key, upload_id, _ in uploads if upload_key == key]
        with _translated(key):
            upload_id = (
                begun[0]
                if begun
                else self._client.create_multipart_upload(Bucket=self.bucket, Key=key, ContentType=media_type)[
                    "UploadId"
                ]
            )
        lengths = [min(PART_BYTES, size_bytes - start) for start in range(0, size_bytes, PART_BYTES)]
        urls = [
            self._client.generate_presigned_url(
                "upload_part",
                Params={
                    "Bucket": self.bucket,
                    "Key": key,
                    "UploadId": upload_id,
                    "PartNumber": number,
                    "ContentLength": length,
                },
                ExpiresIn=expires_s,
            )
            for number, length in enumerate(lengths, 1)
        ]
        return wire.Parts(upload_id, PART_BYTES, urls)

    def put_together(self, key: str, done: wire.PartsDone) -> bool:
        """Make one object of its parts; False where they are not there, and then the upload is given up, so that another begins."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(done.etags, 1)]
        try:
            with _translated(key):
                self._client.complete_multipart_upload(
                    Bucket=self.bucket, Key=key, UploadId=done.upload_id, MultipartUpload={"Parts": parts}
                )
        except (NotFound, Refused):
            self._give_up(key, done.upload_id)
            return False
        return True

    def give_up_parts(self, prefix: str, before: datetime | None = None) -> list[str]:
        """Drop uploads in parts that never came to an end, those that were begun before then or all; their keys."""
        stale = [
            (key, upload_id)
            for key, upload_id, begun_at in self._uploads(prefix)
            if before is None or begun_at < before
        ]
        for key, upload_id in stale:
            self._give_up(key, upload_id)
        return [key for key, _ in stale]

    def _uploads(self, prefix: str) -> list[tuple[str, str, datetime]]:
        """Uploads in parts that go on under `prefix`, the oldest of a key first: key, id, when it was begun."""
        found = []
        with _translated(prefix):
            paginator = self._client.get_paginator("list_multipart_uploads")
            for answer in paginator.paginate(Bucket=self.bucket, Prefix=prefix):
                found += [(each["Key"], each["UploadId"], each["Initiated"]) for each in answer.get("Uploads", [])]
        return sorted(found, key=lambda each: each[2])

    def _give_up(self, key: str, upload_id: str) -> None:
        with contextlib.suppress(NotFound, Refused), _translated(key):
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)

    def presign_get(self, key: str, *, expires_s: int = 900) -> str:
        """A URL that anyone may read this object from until it expires. Needs no connection."""
        url: str = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=expires_s
        )
        return url

    def head(self, key: str) -> ObjectInfo | None:
        """What lies under `key`, or None. Where the store keeps no SHA-256 of the whole the object is read to compute it.

        The checksum of what was put together from parts is one of the parts' checksums (`COMPOSITE`), and tells nothing of the whole.
        """
        try:
            with _translated(key):
                answer = self._told_of(key)
        except NotFound:
            return None
        modified_at = parsedate_to_datetime(answer["last-modified"])
        return ObjectInfo(key, int(answer["content-length"]), _sha256_told(answer) or self._sha256(key), modified_at)

    def _told_of(self, key: str) -> Mapping[str, str]:
        """The headers of a HEAD."""
        answer = self._answer("HEAD", key)
        if answer is not None:
            return answer.headers  # type: ignore[no-any-return]
        told = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        return told["ResponseMetadata"]["HTTPHeaders"]  # type: ignore[no-any-return]

    def _answer(self, method: str, key: str) -> Any:
        """To what is asked for every frame, with its checksum. The client takes four times as long as its own signer and connection do.

        None where the answer is no plain one: then the client is asked, which tries again, and says what it means.
        """
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import ConnectionClosedError

        headers = {"x-amz-checksum-mode": "ENABLED"}
        request = AWSRequest(method, self._signed(method, key, headers, expires_s=300), headers=headers)
        with contextlib.suppress(ConnectionClosedError):  # one that was kept for long, as a rule
            answer = self._connection.send(request.prepare())
            if answer.status_code == 404:
                raise NotFound(f"{key} is not in the store")
            if answer.status_code == 200:
                return answer
        return None

    def _signed(self, method: str, key: str, headers: Mapping[str, str], expires_s: int) -> str:
        """An address that takes one request with these headers. The client would come to the same one, in thrice the time."""
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        request = AWSRequest(
            method, f"{self.endpoint_url.rstrip('/')}/{self.bucket}/{quote(key, safe='/~')}", headers=headers
        )
        S3SigV4QueryAuth(Credentials(*self._keys), "s3", self._region, expires=expires_s).add_auth(request)
        return str(request.url)

    def get(self, key: str) -> bytes:
        """The bytes under `key`; raises `NotFound`."""
        with _translated(key):
            answer = self._answer("GET", key)
            if answer is not None and _is_whole(answer.content, answer.headers):
                content: bytes = answer.content
            else:
                content = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            return content

    def holds(self, key: str, size_bytes: int, sha256: str) -> bool:
        """Whether these bytes can be read from under `key`. A power cut may leave an entry, of which `head` tells, without them."""
        try:
            content = self.get(key)
        except StoreError:
            return False
        return (len(content), hashlib.sha256(content).hexdigest()) == (size_bytes, sha256)

    def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        with _translated(key):
            for chunk in self._client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def put(self, key: str, content: bytes, *, media_type: str = "application/octet-stream") -> ObjectInfo:
        """Put bytes under `key`, in place of what was there; the store checks them on arrival."""
        digest = hashlib.sha256(content)
        with _translated(key):
            self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=content,
                ContentType=media_type,
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
            )
        return ObjectInfo(key, len(content), digest.hexdigest())

    def keys(self, prefix: str = "", *, page: int = 1000) -> Iterator[str]:
        """Every key that begins with `prefix`, in order, asked for `page` at a time."""
        with _translated(prefix or self.bucket):
            paginator = self._client.get_paginator("list_objects_v2")
            sizes = {"PageSize": page}
            for answer in paginator.paginate(Bucket=self.bucket, Prefix=prefix, PaginationConfig=sizes):
                for entry in answer.get("Contents", []):
                    yield entry["Key"]

    def delete(self, keys: Sequence[str]) -> None:
        """Remove what lies under these keys, at most 1000; those under which nothing lies are as good as removed."""
        if not keys:
            return
        with _translated(f"{len(keys)} objects"):
            wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            answer = self._client.delete_objects(Bucket=self.bucket, Delete=wanted)
        for error in answer.get("Errors", []):
            if error.get("Code") != "NoSuchKey":
                raise Refused(f"the store did not remove {error.get('Key')}: {error.get('Code')}")

    def expire_after(self, prefix: str, days: int | None) -> None:
        """Have the store itself remove what lies under `prefix` for longer than so many days, or None: not any more.

        Other rules of the bucket stay as they are.
        """
        rules = [rule for rule in self._rules() if rule.get("ID") != RULE]
        if days is not None:
            rules.append({"ID": RULE, "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": days}})
        with _translated(f"the lifecycle of {self.bucket}"):
            if rules:
                self._client.put_bucket_lifecycle_configuration(
                    Bucket=self.bucket, LifecycleConfiguration={"Rules": rules}
                )
            else:
                self._client.delete_bucket_lifecycle(Bucket=self.bucket)

    def expires_after(self) -> int | None:
        """The days of the rule that `expire_after` made; None where there is none."""
        found = (rule["Expiration"]["Days"] for rule in self._rules() if rule.get("ID") == RULE)
        return next(found, None)

    def _rules(self) -> list[dict[str, Any]]:
        try:
            with _translated(f"the lifecycle of {self.bucket}"):
                answer = self._client.get_bucket_lifecycle_configuration(Bucket=self.bucket)
        except NotFound:
            return []
        rules: list[dict[str, Any]] = answer.get("Rules", [])
        return rules

    @cached_property
    def _connection(self) -> Any:
        """As the client has it."""
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        return URLLib3Session(
            timeout=self._timeouts_s,
            proxies={} if self._is_local else get_environ_proxies(self.endpoint_url),
            max_pool_connections=_CONNECTIONS,
        )

    @property
    def _is_local(self) -> bool:
        return urlsplit(self.endpoint_url).hostname in {"127.0.0.1", "localhost"}

    @property
    def _timeouts_s(self) -> tuple[float, float]:
        """To connect, and to read."""
        return min(3.0, self._timeout_s), self._timeout_s

    @property
    def _client(self) -> Any:
        with self._opening:  # making a client is not safe in two threads at once; using one is
            return self._opened

    @cached_property
    def _opened(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        connect_s, read_s = self._timeouts_s
        config = Config(
            signature_version="s3v4",  # the older one that boto3 would pick here cannot bind the checksum
            s3={"addressing_style": "path"},
            connect_timeout=connect_s,
            read_timeout=read_s,
            retries={"mode": "standard", "total_max_attempts": self._attempts},
            max_pool_connections=_CONNECTIONS,
            proxies={} if self._is_local else None,
        )
        access_key, secret_key = self._keys
        return Session(access_key, secret_key, region_name=self._region).client(
            "s3", endpoint_url=self.endpoint_url, config=config
        )


def _sha256_told(headers: Mapping[str, str]) -> str:
    """The SHA-256 of the whole object in hex, where the store says it, else empty."""
    checksum = headers.get("x-amz-checksum-sha256", "")
    whole = checksum and "-" not in checksum and headers.get("x-amz-checksum-type") != "COMPOSITE"
    return base64.b64decode(checksum).hex() if whole else ""


def _is_whole(content: bytes, headers: Mapping[str, str]) -> bool:
    """Whether an answer came to its end, and is what the store keeps, as far as it says so."""
    told = _sha256_told(headers)
    return len(content) == int(headers.get("content-length", -1)) and told in {"", hashlib.sha256(content).hexdigest()}


@contextlib.contextmanager
def _translated(subject: str, allowed: tuple[str, ...] = ()) -> Iterator[None]:
    """Nothing of botocore leaves this file."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in allowed:
            return
        if status == 404:
            raise NotFound(f"{subject} is not in the store") from error
        if status >= 500 or status in {408, 409, 429} or code == "SlowDown":
            raise Unreachable(f"the store cannot serve {subject} now: {status} {code}") from error
        raise Refused(f"the store refused {subject}: {status} {code}") from error
    except BotoCoreError as error:
        raise Unreachable(f"the store did not answer for {subject}: {error}") from error
