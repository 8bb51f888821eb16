"""Whose files a data directory's are."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from manager.errors import ConfigError
from manager.settings import Settings


def give_to_mysqld(settings: Settings, datadir: Path, *besides: Path) -> None:
    """Give a data directory with all that is in it, and the paths `besides`, to MYSQLD_USER.

    Only root has to, and can; the hooks of another user run mysqld as themselves.
    """
    if os.geteuid() != 0:
        return
    try:
        account = pwd.getpwnam(settings.mysql_user_os)
    except KeyError:
        raise ConfigError(f"MYSQLD_USER: there is no OS user {settings.mysql_user_os}") from None
    for path in (datadir, *datadir.rglob("*"), *besides):
        found = path.lstat()
        if (found.st_uid, found.st_gid) != (account.pw_uid, account.pw_gid):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
