"""The servers and the Python environment of the sandbox, unpacked once into a cache directory.

Needs nothing but Debian and its own Python (3.11 or newer): the standard library only. Run as a program
it fills the cache and prints its path; `ensure()` does the same for other modules.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK_FILE = ROOT / "requirements-dev.lock"
LAYOUT = "1"  # raised when the trees below are built differently: an older cache is then built again

DEFAULT_MYSQL = "9.7"
MYSQL_PROGRAMS = ("mysqld", "mysql", "mysqladmin", "mysqldump", "mysqlbinlog", "mysql_tzinfo_to_sql")
# A mirror may be a frozen copy of the archive, whose lists have run out.
APT_OPTIONS = ('Acquire::Check-Valid-Until "false"',)


class PackagesError(Exception):
    """Something is missing on this host; the text is one line that says what to do."""


@dataclass(frozen=True)
class Packages:
    """Where the parts of the cache are. `base` and `programs` are given for another MySQL server than 9.7."""

    cache: Path
    server: str = DEFAULT_MYSQL
    base: Path | None = None
    programs: Path | None = None

    @property
    def mysql(self) -> Path:
        """MySQL's base directory: bin, lib and share."""
        return self.base or self.cache / "mysql"

    @property
    def mysql_bindir(self) -> Path:
        """The directory of mysqld and of the client programs."""
        return self.programs or self.mysql / "bin"

    @property
    def mysql_plugins(self) -> Path:
        """MySQL's plugin directory."""
        return _below(self.mysql / "lib", "plugin")

    @property
    def mysql_messages(self) -> Path:
        """MySQL's share directory (error messages, character sets)."""
        return _below(self.mysql, "share")

    @property
    def consul(self) -> Path:
        """The Consul program."""
        return self.cache / "consul" / "consul"

    @property
    def venv_bin(self) -> Path:
        """The programs of the Python environment."""
        return self.cache / "venv" / "bin"

    @property
    def python(self) -> Path:
        """The interpreter that runs the hooks."""
        return self.venv_bin / "python"

    @property
    def weed(self) -> Path:
        """SeaweedFS, the S3 server."""
        return self.venv_bin / "weed"


def _below(parent: Path, name: str) -> Path:
    """Debian's packages put a directory `mysql` in between; others do not."""
    places = {"plugin": parent / "mysql" / name, "share": parent / name / "mysql"}
    return places[name] if places[name].is_dir() else parent / name


def cache_directory() -> Path:
    """Return $AUTOPILOT_CACHE, or the default of this user.

    root's default is outside its home: mysqld drops root's rights and must still read its own files.
    """
    given = os.environ.get("AUTOPILOT_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    if os.getuid() == 0:
        return Path("/var/cache/autopilot-mysql")
    return Path.home() / ".cache" / "autopilot-mysql"


def ensure() -> Packages:
    """Build what is missing in the cache and return its parts; PackagesError if the host lacks something.

    Two runs at once do not collide: the second waits for the first and finds its work done.
    """
    packages = Packages(cache_directory())
    if not _missing(packages):
        return packages
    packages.cache.mkdir(parents=True, exist_ok=True)
    with _locked(packages.cache):
        if missing := _missing(packages):
            _install_tools(packages)
            with ThreadPoolExecutor() as pool:
                for done in [pool.submit(step, packages) for step in missing]:
                    done.result()
    return packages


def program(package: str, path: str, suite: str = "bookworm") -> list[str]:
    """Return the words that run a program out of Debian's archive, unpacked once into the cache; PackagesError.

    It runs with the libraries that it was built for, through their own loader.
    """
    packages = Packages(cache_directory())
    tree = packages.cache / "programs" / f"{package}-{suite}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _locked(packages.cache):
        if not _current(tree, LAYOUT):
            _install_tools(packages)
            _say(f"unpacking {package}")
            with unpacked(packages.cache, suite, package) as found:
                new = tree.with_name(f"{tree.name}.new")
                shutil.rmtree(new, ignore_errors=True)
                shutil.move(found, new)
            _publish(new, tree)
    # Newer suites have everything below usr.
    libraries = [*tree.glob("lib/*-linux-gnu"), *tree.glob("usr/lib/*-linux-gnu")]
    loader = next(each for where in libraries for each in where.glob("ld-linux-*.so.*"))
    return [str(loader), "--library-path", ":".join(map(str, libraries)), str(tree / path)]


def npm_package(name: str, version: str) -> Path:
    """Return the directory of a package from npm's registry, installed once into the cache; PackagesError."""
    tree = cache_directory() / "npm" / f"{name}-{version}"
    built(tree, lambda new: npm_install(name, version, new))
    return tree / "node_modules" / name


def npm_install(name: str, version: str, prefix: Path) -> None:
    """Install a package from npm's registry below `prefix`/node_modules; PackagesError."""
    install_programs({"node": "nodejs", "npm": "npm"})
    # What its dependencies would compile or run here is not needed, and not wanted.
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
    run(["npm", "install", *options, "--prefix", str(prefix), f"{name}@{version}"])


def built(tree: Path, build: Callable[[Path], None]) -> None:
    """Have `build` fill the directory that it is given, once, which then stands in the cache as `tree`.

    Two runs at once do not collide. PackagesError if it cannot be built.
    """
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cache_directory()):
        if not _current(tree, LAYOUT):
            _install_tools(Packages(cache_directory()))
            _say(f"making {tree.name}")
            new = _fresh(tree.with_name(f"{tree.name}.new"))
            build(new)
            _publish(new, tree)


def _missing(packages: Packages) -> list[Callable[[Packages], None]]:
    steps = [
        (_build_mysql, _current(packages.mysql, LAYOUT)),
        (_build_consul, _current(packages.consul.parent, LAYOUT)),
        (_build_venv, _current(packages.cache / "venv", _requirements_mark())),
    ]
    return [step for step, done in steps if not done]


@contextlib.contextmanager
def _locked(cache: Path, what: str = "") -> Iterator[None]:
    with open(cache / f".{what}lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _current(tree: Path, mark: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return (tree / ".complete").read_text() == mark
    return False


def _install_tools(packages: Packages) -> None:
    """Install the few Debian programs that unpacking takes, or name them in one line."""
    missing = [tool for tool in ("mmdebstrap", "patchelf") if shutil.which(tool) is None]
    if importlib.util.find_spec("ensurepip") is None and not packages.python.exists():
        missing.append("python3-venv")
    _install(missing)


def install_programs(programs: Mapping[str, str]) -> None:
    """Install the Debian packages (values) of the programs (keys) that are not there; PackagesError as `ensure`."""
    _install(sorted({package for program, package in programs.items() if shutil.which(program) is None}))


def _install(missing: Sequence[str]) -> None:
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise PackagesError(f"this host has no apt-get; install these programs yourself: {' '.join(missing)}")
    if os.getuid() != 0:
        raise PackagesError(
            f"missing Debian packages, install them as root: apt-get install {' '.join(missing)}"
        )
    _say(f"installing Debian packages: {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    # apt-get waits for another install, but not for another update.
    with _locked(cache, "apt-"):
        run(["apt-get", "update"], env=environment)
        run(
            [
                "apt-get",
                "-o",
                "DPkg::Lock::Timeout=300",
                "install",
                "-y",
                "--no-install-recommends",
                *missing,
            ],
            env=environment,
        )


def _build_mysql(packages: Packages) -> None:
    """Unpack MySQL with the libraries it was built for, and bind its programs to their own loader."""
    _say("unpacking MySQL")
    with unpacked(packages.cache, "sid", "mysql-server-core,mysql-client-core") as tree:
        new = _fresh(packages.cache / "mysql.new")
        (new / "bin").mkdir()
        for program in MYSQL_PROGRAMS:
            source = tree / "usr" / "sbin" / program
            shutil.move(source if source.exists() else tree / "usr" / "bin" / program, new / "bin" / program)
        shutil.move(tree / "usr" / "lib", new / "lib")
        (new / "share").mkdir()
        shutil.move(tree / "usr" / "share" / "mysql", new / "share" / "mysql")
    libraries = next(new.glob("lib/*-linux-gnu"))
    for path in new.glob("bin/*"):
        loader = Path(run(["patchelf", "--print-interpreter", str(path)]).strip()).name
        final = packages.mysql / libraries.relative_to(new)
        run(["patchelf", "--set-interpreter", str(final / loader), str(path)])
        run(
            [
                "patchelf",
                "--force-rpath",
                "--set-rpath",
                f"$ORIGIN/../{libraries.relative_to(new)}",
                str(path),
            ]
        )
    _publish(new, packages.mysql)


def _build_consul(packages: Packages) -> None:
    """Unpack Consul, one static program."""
    _say("unpacking Consul")
    with unpacked(packages.cache, "bullseye", "consul") as tree:
        new = _fresh(packages.cache / "consul.new")
        shutil.move(tree / "usr" / "bin" / "consul", new / "consul")
    _publish(new, packages.consul.parent)


def _build_venv(packages: Packages) -> None:
    """Make the Python environment from the lock file, in place: its scripts hold absolute paths."""
    _say("installing the Python environment")
    venv = packages.cache / "venv"
    if not packages.python.exists():
        run([sys.executable, "-m", "venv", str(venv)])
    # The file is complete but for what is left out of it on purpose (LEFT_OUT in the Makefile).
    options = ["--quiet", "--no-deps", "--requirement", str(LOCK_FILE)]
    run([str(packages.python), "-m", "pip", "install", *options])
    (venv / ".complete").write_text(_requirements_mark())


def _requirements_mark() -> str:
    return hashlib.sha256(LOCK_FILE.read_bytes()).hexdigest()


@contextlib.contextmanager
def unpacked(cache: Path, suite: str, wanted: str) -> Iterator[Path]:
    """Yield a directory with Debian packages and what they depend on, unpacked and not configured."""
    with tempfile.TemporaryDirectory(prefix=f"unpack-{suite}-", dir=cache) as directory:
        command = ["mmdebstrap", "--quiet", "--variant=extract", "--mode=chrootless", f"--include={wanted}"]
        command += [f"--aptopt={option}" for option in APT_OPTIONS]
        tree = Path(directory) / "tree"
        run([*command, suite, str(tree), debian_mirror()])
        yield tree


def debian_mirror(etc: Path = Path("/etc")) -> str:
    """Return the address that this host's own apt sources give for its Debian release."""
    release = dict(_assignments((etc / "os-release").read_text()))
    codename = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or not codename:
        raise PackagesError(
            "the sandbox takes its servers from Debian's archive: run it on Debian 12 or newer"
        )
    for address, suites in _apt_sources(etc / "apt"):
        if codename in suites and address.startswith(("http:", "https:")):
            return address
    raise PackagesError(
        f"no apt source of this host names a mirror for Debian {codename}: add one to /etc/apt"
    )


def _apt_sources(apt: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (address, suites) of every source, from both formats that apt reads."""
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]:
        if path.exists():
            for line in path.read_text().splitlines():
                words = _without_options(line)
                if len(words) >= 3 and words[0] == "deb":
                    yield words[1], [words[2]]
    for path in sorted(apt.glob("sources.list.d/*.sources")):
        for paragraph in path.read_text().split("\n\n"):
            fields = {
                name.strip().lower(): value.split()
                for name, colon, value in (line.partition(":") for line in paragraph.splitlines())
                if colon and not name.startswith("#")
            }
            if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
                for address in fields.get("uris", []):
                    yield address, fields.get("suites", [])


def _without_options(line: str) -> list[str]:
    """Split a line of sources.list, leaving out `[option=value ...]` and comments."""
    line = line.partition("#")[0]
    if "[" in line and "]" in line:
        line = line.partition("[")[0] + line.partition("]")[2]
    return line.split()


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name, value.strip().strip('"')


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def _publish(new: Path, final: Path) -> None:
    """Put a complete tree in place of an older one."""
    (new / ".complete").write_text(LAYOUT)
    shutil.rmtree(final, ignore_errors=True)
    new.rename(final)


def run(command: list[str], env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return what it printed; PackagesError with its last words if it fails."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["(no output)"]
        raise PackagesError(f"{Path(command[0]).name} failed with status {done.returncode}: {said[-1]}")
    return done.stdout


def _say(text: str) -> None:
    print(f"packages: {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Fill the cache and print where it is; return the exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts us has not read pyproject.toml
        _say("Python 3.11 or newer is needed: make PYTHON=python3.11 ...")
        return 1
    try:
        packages = ensure()
    except PackagesError as error:
        _say(str(error))
        return 1
    print(packages.cache)
    return 0


if __name__ == "__main__":
    sys.exit(main())
