"""Connections of the S3 library on which every wait has an end, and a slow upload is no failed one.

The library sends a body under the time limit for connecting, all of a part at once if it can: with 3 s for 16 MiB,
less than 5 MB a second failed (measured).
"""

from __future__ import annotations

from botocore import awsrequest

from manager.storage.bounded import bounded

READ = 60.0
"""Seconds for each CHUNK of an answer, and for each block that is sent: slower is no better than silence."""


def bound() -> None:
    """Let the library make such connections from now on; it has no setting for that."""
    awsrequest.AWSHTTPConnectionPool.ConnectionCls = bounded(awsrequest.AWSHTTPConnection, lambda: READ)
    awsrequest.AWSHTTPSConnectionPool.ConnectionCls = bounded(awsrequest.AWSHTTPSConnection, lambda: READ)
