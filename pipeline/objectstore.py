"""The few things that the pipeline does with single objects, by boto3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.config import S3Endpoint, S3Login
from pipeline.errors import Unavailable

if TYPE_CHECKING:
    from botocore.config import _RetryDict


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/some/key`` as ``("bucket", "some/key")``; ``s3a://`` likewise."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key


def spark_uri(uri: str) -> str:
    """The same address as Hadoop's file systems name it: ``s3a://`` instead of ``s3://``."""
    return uri.replace("s3://", "s3a://", 1)


def s3_client(
    endpoint: S3Endpoint, login: S3Login, *, connect_timeout: float, read_timeout: float, retries: _RetryDict
) -> Any:
    """A client of boto3; both timeouts are in seconds, ``retries`` is botocore's own setting."""
    # Imported late: it costs a third of a second, and most commands do without.
    import boto3
    import botocore.config

    return boto3.client(
        "s3",
        endpoint_url=endpoint.endpoint,
        region_name=endpoint.region,
        aws_access_key_id=login.access_key.get_secret_value(),
        aws_secret_access_key=login.secret_key.get_secret_value(),
        # None leaves it to boto3, which asks the authorities that it knows.
        verify=None if endpoint.tls is None else str(endpoint.tls.ca_file),
        config=botocore.config.Config(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            retries=retries,
            s3={"addressing_style": "path"},
        ),
    )


class ObjectStore:
    """Reads and conditionally creates objects, named by s3:// addresses.

    Each call fails within seconds instead of hanging when the store is below quorum; every error
    that is no answer of the store becomes :class:`Unavailable`.

    :param endpoint: where the store answers.
    :param login: the user.
    """

    def __init__(self, endpoint: S3Endpoint, login: S3Login) -> None:
        import botocore.exceptions

        self._endpoint = endpoint.endpoint
        self._client_error = botocore.exceptions.ClientError
        self._no_answer = botocore.exceptions.BotoCoreError
        self._client = s3_client(
            endpoint, login, connect_timeout=3, read_timeout=10, retries={"max_attempts": 2, "mode": "standard"}
        )

    def get(self, uri: str) -> bytes | None:
        """The content of an object, None when there is none.

        :raises Unavailable: no answer, or a refusal.
        """
        bucket, key = split_uri(uri)
        try:
            body: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self._client_error as error:
            if error_code(error) in ("NoSuchKey", "404"):
                return None
            raise self._unavailable(uri, error) from error
        except self._no_answer as error:
            raise self._unavailable(uri, error) from error
        return body

    def create(self, uri: str, body: bytes) -> bool:
        """Create an object only if none has this name.

        :returns: False when there is one already; it stays as it is.
        :raises Unavailable: no answer, or a refusal.
        """
        bucket, key = split_uri(uri)
        try:
            self._client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        except self._client_error as error:
            # 409 is another conditional writer at the same moment: it has won, or nobody has and
            # the reader that follows says so.
            if error_code(error) in ("PreconditionFailed", "412", "ConditionalRequestConflict", "409"):
                return False
            raise self._unavailable(uri, error) from error
        except self._no_answer as error:
            raise self._unavailable(uri, error) from error
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """The names of the objects below a prefix, without the prefix, in the store's order.

        :param prefix: an s3:// address that ends with a slash.
        :raises Unavailable: no answer, or a refusal.
        """
        bucket, key = split_uri(prefix)
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        try:
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield str(entry["Key"]).removeprefix(key)
        except (self._client_error, self._no_answer) as error:
            raise self._unavailable(prefix, error) from error

    def has_bucket(self, bucket: str) -> bool:
        """Whether a bucket is there and may be used.

        :raises Unavailable: no answer, or a refusal other than "not found".
        """
        try:
            self._client.head_bucket(Bucket=bucket)
        except self._client_error as error:
            if error_code(error) in ("NoSuchBucket", "404"):
                return False
            raise self._unavailable(f"bucket {bucket}", error) from error
        except self._no_answer as error:
            raise self._unavailable(f"bucket {bucket}", error) from error
        return True

    def _unavailable(self, thing: str, error: Exception) -> Unavailable:
        return Unavailable(f"object store {self._endpoint}, {thing}", str(error), "an answer")


def error_code(error: Any) -> str:
    """The store's own word for what is wrong, of a botocore ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))
