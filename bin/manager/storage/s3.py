"""The `s3` driver: Amazon S3, and every store that speaks its protocol (AWS_ENDPOINT_URL).

Limits measured with SeaweedFS: two parts of a multipart upload are held in memory at a time, so a snapshot of
any size is sent and fetched in constant memory; an upload that is never completed is never visible.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from manager.errors import AutopilotError, ConfigError, ObjectMissing, StoreError
from manager.settings import Settings
from manager.storage import s3_connection
from manager.storage.base import CHUNK, Objects, Store, StoredObject, check_name

MIB = 1 << 20
SMALLEST_PART = 5 * MIB  # S3's limit, but for the last one
DEFAULT_PART = 32 * MIB
LARGEST_PART = 512 * MIB
PARTS = 10_000  # S3's limit for one object
AT_ONCE = 2  # parts on their way: the store works on one while the next one comes
LIMITS = Config(
    connect_timeout=3,
    read_timeout=s3_connection.READ,
    retries={"total_max_attempts": 3, "mode": "standard"},
    signature_version="s3v4",
)


def part_size(at_most: int) -> int:
    """Bytes in each part of an object that is no larger than `at_most` bytes (0: unknown).

    Equal parts, since some S3-compatible stores demand them; 9000 of them at most, 5 to 512 MiB each. An
    unknown size gets 32 MiB, good for 312 GiB.
    """
    if at_most <= 0:
        return DEFAULT_PART
    wanted = -(-at_most // 9000)
    return min(max(-(-wanted // MIB) * MIB, SMALLEST_PART), LARGEST_PART)


class S3Store(Store):
    """Objects of AWS_BUCKET, which must exist."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__(settings)
        if not self.settings.aws_bucket:
            raise ConfigError("BACKUP_DRIVER=s3 needs AWS_BUCKET, the bucket that holds the snapshots")
        if self.settings.aws_access_key and self.settings.aws_secret_access_key is None:
            raise ConfigError("AWS_ACCESS_KEY is set and AWS_SECRET_ACCESS_KEY is not")
        self._bucket = self.settings.aws_bucket

    def put_stream(self, name: str, chunks: Iterable[bytes], *, at_most: int = 0) -> str:
        size = part_size(at_most)
        target = {"Bucket": self._bucket, "Key": check_name(name)}
        sent: list[Future[dict[str, Any]]] = []
        memory: list[io.BytesIO] = []

        def free() -> io.BytesIO:
            """The memory of the part that was begun AT_ONCE parts ago, once that has been sent."""
            if len(sent) >= AT_ONCE:
                sent[-AT_ONCE].result()
            else:
                memory.append(_part_memory(size))
            return memory[len(sent) % AT_ONCE]

        parts = _parts(chunks, size, free)
        first = next(parts, io.BytesIO())
        if _length(first) < size:
            with self._faults(name):
                self._client.put_object(**target, Body=first)
            return f"{self._bucket}/{name}"
        with self._upload(name) as upload:
            # All have ended when it is left, so that what is aborted after an error stays aborted.
            with ThreadPoolExecutor(AT_ONCE) as threads:
                for number, part in enumerate(itertools.chain((first,), parts), 1):
                    if number > PARTS:
                        raise StoreError(f"{name} has more than {PARTS} parts of {size} bytes, S3's limit")
                    sent.append(threads.submit(self._send, name, upload, number, part))
                done = [each.result() for each in sent]
            with self._faults(name):
                self._client.complete_multipart_upload(
                    **target, UploadId=upload, MultipartUpload={"Parts": done}
                )
        return f"{self._bucket}/{name}"

    def _send(self, name: str, upload: str, number: int, part: io.BytesIO) -> dict[str, Any]:
        with self._faults(name):
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=name, UploadId=upload, PartNumber=number, Body=part
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    @contextlib.contextmanager
    def _upload(self, name: str) -> Iterator[str]:
        """Begin a multipart upload; whatever ends it early takes its parts away."""
        with self._faults(name):
            upload = self._client.create_multipart_upload(Bucket=self._bucket, Key=name)["UploadId"]
        try:
            yield upload
        except BaseException:
            # What cannot be aborted now is invisible; the next snapshot's `clear_leftovers` removes it.
            with contextlib.suppress(StoreError), self._faults(name):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)
            raise

    def get_stream(self, name: str) -> Iterator[bytes]:
        with self._faults(name):
            body = self._client.get_object(Bucket=self._bucket, Key=check_name(name))["Body"]
        with contextlib.closing(body):
            while True:
                with self._faults(name):
                    chunk = body.read(CHUNK)
                if not chunk:
                    return
                yield chunk

    def stat(self, name: str) -> StoredObject:
        with self._faults(name):
            found = self._client.head_object(Bucket=self._bucket, Key=check_name(name))
        return StoredObject(name, found["ContentLength"], found["LastModified"].timestamp())

    def list(self, prefix: str) -> Objects:
        objects = []
        with self._faults(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            for page in pages:
                for each in page.get("Contents", ()):
                    objects.append(StoredObject(each["Key"], each["Size"], each["LastModified"].timestamp()))
        return sorted(objects, key=lambda each: each.name)

    def delete(self, name: str) -> None:
        with self._faults(name):
            self._client.delete_object(Bucket=self._bucket, Key=check_name(name))

    def clear_leftovers(self, ours: Callable[[str], bool]) -> int:
        removed = 0
        with self._faults("multipart uploads"):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket)
            for page in pages:
                for each in page.get("Uploads", ()):
                    if ours(each["Key"]):
                        with contextlib.suppress(self._client.exceptions.NoSuchUpload):
                            self._client.abort_multipart_upload(
                                Bucket=self._bucket, Key=each["Key"], UploadId=each["UploadId"]
                            )
                            removed += 1
        return removed

    @cached_property
    def _client(self) -> Any:
        settings = self.settings
        secret = settings.aws_secret_access_key
        own_keys = bool(settings.aws_access_key) and secret is not None
        region = "us-east-1" if settings.aws_region == "us-standard" else settings.aws_region
        config = LIMITS
        if settings.aws_endpoint_url:
            config = LIMITS.merge(Config(s3={"addressing_style": "path"}))
        s3_connection.bound()
        try:
            return boto3.session.Session().client(
                "s3",
                region_name=region,
                endpoint_url=settings.aws_endpoint_url or None,
                aws_access_key_id=settings.aws_access_key if own_keys else None,
                aws_secret_access_key=secret.value if own_keys and secret is not None else None,
                config=config,
            )
        except ValueError as error:
            raise ConfigError(f"AWS_ENDPOINT_URL or AWS_REGION is wrong: {error}") from None
        except boto.BotoCoreError as error:
            raise ConfigError(f"the S3 client cannot be set up: {error}") from None

    @contextlib.contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        """The one place where the library's errors become ours."""
        try:
            yield
        except boto.ClientError as error:
            raise self._refused(error, name) from None
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
            raise StoreError(
                "no credentials for S3: set AWS_ACCESS_KEY and AWS_SECRET_ACCESS_KEY, or give a role"
            ) from None
        except boto.ParamValidationError:
            raise StoreError(f"AWS_BUCKET={self._bucket} is no possible name of a bucket") from None
        except (boto.BotoCoreError, boto.HTTPClientError, OSError) as error:
            raise self._no_answer(error) from None

    def _no_answer(self, error: Exception) -> StoreError:
        where = self.settings.aws_endpoint_url or f"Amazon S3, region {self.settings.aws_region}"
        setting = "AWS_ENDPOINT_URL" if self.settings.aws_endpoint_url else "AWS_REGION and the network"
        text = repr(error) + repr(getattr(error, "kwargs", ""))
        if any(part in text for part in ("NameResolution", "gaierror", "Name or service not known")):
            return StoreError(f"the name of the S3 server cannot be resolved ({where}); check {setting}")
        if isinstance(error, boto.SSLError):
            return StoreError(f"the S3 server's certificate is not accepted ({where}); check AWS_CA_BUNDLE")
        # One that is reset in the moment in which it stands is told like one that is reset just after that.
        no_connection = isinstance(error, boto.EndpointConnectionError | boto.ConnectTimeoutError)
        if no_connection and "Connection reset" not in text:
            why = "connection refused" if "refused" in text else "no connection"
            return StoreError(f"no S3 server answers at {where}: {why}; check {setting}")
        if isinstance(error, boto.ReadTimeoutError) or "timed out" in text:
            return StoreError(f"the S3 server does not answer in time ({where})")
        return StoreError(f"the connection to the S3 server failed ({where}): {type(error).__name__}")

    def _refused(self, error: boto.ClientError, name: str) -> AutopilotError:
        body = error.response.get("Error", {})
        code = str(body.get("Code", ""))
        bucket = f"AWS_BUCKET={self._bucket}"
        if code in ("NoSuchKey", "404", "NotFound"):
            return ObjectMissing(f"{name} is not in {bucket}")
        if code in ("AccessDenied", "403", "Forbidden"):
            return StoreError(f"AWS_ACCESS_KEY may not use {name} in {bucket}; it must read, write and list")
        known = {
            "NoSuchBucket": f"{bucket} does not exist; create it, or correct AWS_BUCKET",
            "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is wrong: the store refuses the signature",
            "InvalidAccessKeyId": "AWS_ACCESS_KEY is unknown to the store",
            "ExpiredToken": "the temporary AWS credentials have expired",
            "RequestTimeTooSkewed": "this machine's clock differs too much from the store's",
            "PermanentRedirect": f"{bucket} is in another region; correct AWS_REGION",
            "AuthorizationHeaderMalformed": f"{bucket} is in another region; correct AWS_REGION",
            "InvalidBucketName": f"{bucket} is no possible name of a bucket",
        }
        answer = f"{code} {body.get('Message', '')}".strip()
        return StoreError(known.get(code) or f"{error.operation_name} of {name} in {bucket} failed: {answer}")


def _part_memory(size: int) -> io.BytesIO:
    """All of a part's memory at once: growing would copy it."""
    part = io.BytesIO()
    part.seek(size - 1)
    part.write(b"\0")
    return part


def _parts(chunks: Iterable[bytes], size: int, free: Callable[[], io.BytesIO]) -> Iterator[io.BytesIO]:
    """Gather `chunks` into parts of exactly `size` bytes; the last one may be shorter.

    They are files, which are sent in small blocks: a time limit is then one for a block, not for the part. `free`
    gives the memory for the next one, which may have been an earlier one's.
    """
    part: io.BytesIO | None = None
    filled = 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            if part is None:
                part = free()
                filled = part.seek(0)
            taken = part.write(rest[: size - filled])
            filled, rest = filled + taken, rest[taken:]
            if filled == size:
                part.seek(0)
                yield part
                part = None
    if part is not None:
        part.truncate(filled)
        part.seek(0)
        yield part


def _length(part: io.BytesIO) -> int:
    return part.getbuffer().nbytes
