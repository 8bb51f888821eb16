"""The single servers that the other tests stand on (addresses 127.0.70.*)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import boto3
import pymysql
import pytest
from botocore.exceptions import ClientError

from sandbox import servers
from sandbox.packages import Packages
from sandbox.processes import ServerFailed


def _uuid(server: servers.Mysql) -> str:
    with pymysql.connect(unix_socket=str(server.socket), user="root", read_timeout=5) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT @@server_uuid, @@port")
        uuid, port = cursor.fetchone()
    assert port == server.port
    return str(uuid)


def test_two_mysqlds_share_a_port_and_have_their_own_identity(
    start_mysqld: Callable[..., servers.Mysql],
) -> None:
    first, second = start_mysqld("127.0.70.1"), start_mysqld("127.0.70.2")
    assert _uuid(first) != _uuid(second)


def test_mysqld_that_cannot_start_says_why(packages: Packages, server_directory: Path) -> None:
    with (
        pytest.raises(ServerFailed, match="no-such-option"),
        servers.mysqld(packages, server_directory / "m", address="127.0.70.3", options=["--no-such-option"]),
    ):
        pass


def test_a_consul_agent_joins_a_server(packages: Packages, server_directory: Path) -> None:
    with (
        servers.consul_server(packages, server_directory / "server", address="127.0.70.4") as server,
        servers.consul_agent(
            packages, server_directory / "agent", address="127.0.70.5", server="127.0.70.4", name="client"
        ) as client,
    ):
        assert client.get("status/leader") == server.get("status/leader") == "127.0.70.4:8300"


def test_s3_keeps_to_its_bucket_and_key(start_s3: Callable[..., servers.S3]) -> None:
    server = start_s3("127.0.70.6")

    def client(secret: str) -> object:
        return boto3.client(
            "s3",
            endpoint_url=server.endpoint,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
        )

    right = client(server.secret_key)
    right.put_object(Bucket="backups", Key="a", Body=b"content")  # type: ignore[attr-defined]
    assert right.get_object(Bucket="backups", Key="a")["Body"].read() == b"content"  # type: ignore[attr-defined]
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client("wrong").get_object(Bucket="backups", Key="a")  # type: ignore[attr-defined]
