"""setup.sh: what it writes is what the settings take, and what it refuses it refuses in one line."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from manager.settings import Settings, load
from sandbox.packages import ROOT, install_programs
from tests.documents import the_block

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
FORMS = {
    "pem": serialization.PrivateFormat.TraditionalOpenSSL,
    "pkcs8": serialization.PrivateFormat.PKCS8,
    "openssh": serialization.PrivateFormat.OpenSSH,
}
USED = ("bash", "base64", "cat", "chmod", "cp", "env", "grep", "head", "mktemp", "mv", "rm", "sed", "tr")
DOCKER = ("docker", "docker-compose")
TRITON = """#!/usr/bin/env bash
case "$1" in
profile) printf 'name: work\\nurl: https://us-east-1.api.joyent.com\\n' ;;
account) printf 'id: 1f2e\\nlogin: me\\n' ;;
esac
"""


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    install_programs({"ssh-keygen": "openssh-client", "shellcheck": "shellcheck"})


def run(
    directory: Path,
    *arguments: str,
    tools: tuple[str, ...] = (*DOCKER, "ssh-keygen"),
    triton: str = TRITON,
    **environ: str,
) -> tuple[int, str, str]:
    """Run it where only these tools are to be found (of Docker's it asks no more than whether they are there)."""
    found = directory / "tools"
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir()
    for name in (*USED, *(tool for tool in tools if tool == "ssh-keygen")):
        (found / name).symlink_to(f"/usr/bin/{name}")
    for name in (*DOCKER, "triton"):
        if name in tools:
            (found / name).write_text(triton if name == "triton" else "#!/usr/bin/env bash\nexit 1\n")
            (found / name).chmod(0o755)
    command = [str(ROOT / "setup.sh"), *arguments]
    done = subprocess.run(
        command,
        cwd=directory,
        env={"PATH": str(found), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def refusal(directory: Path, *arguments: str, code: int = 1, **options: str | tuple[str, ...]) -> str:
    """The one line with which it refuses; nothing is written."""
    result, _, error = run(directory, *arguments, **options)  # type: ignore[arg-type]
    assert (result, error.count("\n")) == (code, 1), error
    assert not list(directory.glob("_env*"))
    return error


def written(directory: Path) -> dict[str, str]:
    """What Compose reads: a value may stand in single quotes (tests/e2e/test_compose.py asks Compose itself)."""
    assert (directory / "_env").stat().st_mode & 0o777 == 0o600
    text = (directory / "_env").read_text()
    lines = (line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: re.sub(r"^'(.*)'$", r"\1", value).replace("\\'", "'") for name, value in lines}


def settings(directory: Path, **environ: str) -> Settings:
    return load({"NODE_ADDRESS": "127.0.0.1", **written(directory), **environ})


def key_file(directory: Path, key: Key, form: str) -> Path:
    path = directory / f"key-{form}"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, FORMS[form], serialization.NoEncryption()))
    path.chmod(0o600)
    return path


def fingerprint(key: Key) -> str:
    """The md5 of the public key's ssh form, as ssh-keygen shows it."""
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    blob = base64.b64decode(public.split()[1])
    digest = hashlib.md5(blob, usedforsecurity=False).hexdigest()
    return ":".join(digest[i : i + 2] for i in range(0, 32, 2))


def test_it_writes_what_the_settings_take(tmp_path: Path) -> None:
    code, out, _ = run(tmp_path)
    assert code == 0
    assert "docker-compose -f local-compose.yml up -d" in out
    assert settings(tmp_path, BACKUP_DRIVER="s3").replication
    found = written(tmp_path)
    passwords = {found[name] for name in found if "PASSWORD" in name or "SECRET" in name}
    assert len(passwords) == 3
    assert all(len(password) == 24 for password in passwords)


def test_it_writes_the_documented_file(tmp_path: Path) -> None:
    run(tmp_path)
    block = the_block(__file__, "test_it_writes_the_documented_file")
    documented = dict(line.split("=", 1) for line in block.lines)
    generated = {name for name, value in documented.items() if value == "..."}
    assert generated == {name for name in documented if "PASSWORD" in name or "SECRET" in name}
    found = written(tmp_path)
    assert list(found) == list(documented)
    assert {**found, **dict.fromkeys(generated, "...")} == documented


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_a_key_is_encoded_so_that_the_settings_have_what_signs(tmp_path: Path, kind: str, form: str) -> None:
    key: Key = (
        rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())
    )
    path = key_file(tmp_path, key, form)
    before = path.read_bytes()
    code, out, error = run(tmp_path, str(path), MANTA_USER="me", MANTA_SUBUSER="backup")
    assert (code, error) == (0, "")
    assert "docker-compose up -d" in out
    found = settings(tmp_path)
    assert (found.backup_driver, found.manta_user, found.manta_subuser) == ("manta", "me", "backup")
    assert found.manta_bucket == "/me/stor/mysql"
    assert found.manta_key_id == fingerprint(key)
    assert found.manta_private_key is not None
    text = found.manta_private_key.value.replace("#", "\n")
    assert text.startswith(f"-----BEGIN {'RSA' if kind == 'rsa' else 'EC'} PRIVATE KEY-----\n")
    loaded = serialization.load_pem_private_key(text.encode(), password=None)
    if isinstance(loaded, rsa.RSAPrivateKey) and isinstance(key, rsa.RSAPrivateKey):
        signed = loaded.sign(b"date: now", padding.PKCS1v15(), hashes.SHA256())
        key.public_key().verify(signed, b"date: now", padding.PKCS1v15(), hashes.SHA256())
    else:
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signed = loaded.sign(b"date: now", ec.ECDSA(hashes.SHA256()))
        key.public_key().verify(signed, b"date: now", ec.ECDSA(hashes.SHA256()))
    assert path.read_bytes() == before


@pytest.mark.parametrize("form", [["-m", "PEM"], []])
def test_a_key_with_a_passphrase_is_refused(tmp_path: Path, form: list[str]) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "geheim", *form, "-f", str(path)], check=True)
    assert "has a passphrase" in refusal(tmp_path, str(path), MANTA_USER="me")


def test_what_is_no_key_of_mantas_is_refused(tmp_path: Path) -> None:
    assert "there is no key" in refusal(tmp_path, str(tmp_path / "none"), MANTA_USER="me")
    (tmp_path / "text").write_text("no key\n")
    assert "is no private key" in refusal(tmp_path, str(tmp_path / "text"), MANTA_USER="me")
    other = key_file(tmp_path, ed25519.Ed25519PrivateKey.generate(), "openssh")
    assert "of the kind ssh-ed25519" in refusal(tmp_path, str(other), MANTA_USER="me")
    curve = key_file(tmp_path, ec.generate_private_key(ec.SECP384R1()), "pem")
    assert "of the kind ecdsa-sha2-nistp384" in refusal(tmp_path, str(curve), MANTA_USER="me")


def test_what_a_key_needs_besides_is_named(tmp_path: Path) -> None:
    path = key_file(tmp_path, ec.generate_private_key(ec.SECP256R1()), "pem")
    assert "MANTA_USER is not set" in refusal(tmp_path, str(path))
    assert "ssh-keygen is missing" in refusal(tmp_path, str(path), tools=DOCKER, MANTA_USER="me")


@pytest.mark.parametrize("value", ["${HOME}", "back\\slash"])
def test_what_compose_would_change_is_refused(tmp_path: Path, value: str) -> None:
    path = key_file(tmp_path, ec.generate_private_key(ec.SECP256R1()), "pem")
    assert "MANTA_ROLE cannot be written" in refusal(tmp_path, str(path), MANTA_USER="me", MANTA_ROLE=value)


def test_it_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "_env").write_text("MYSQL_USER=mine\n")
    code, _, error = run(tmp_path)
    assert (code, error.count("\n")) == (1, 1)
    assert "there is an _env already" in error
    assert (tmp_path / "_env").read_text() == "MYSQL_USER=mine\n"


def test_a_missing_tool_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, tools=()) == "setup.sh: docker is missing: install Docker\n"


def test_a_missing_compose_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, tools=("docker",)).startswith("setup.sh: Compose is missing")


@pytest.mark.parametrize(
    ("broken", "said"), [("profile", "triton profile create"), ("account", "account get says")]
)
def test_a_triton_that_fails_is_named(tmp_path: Path, broken: str, said: str) -> None:
    stub = TRITON.replace(f"{broken})", f"{broken}) exit 1; #")
    assert said in refusal(tmp_path, "--triton", tools=(*DOCKER, "triton"), triton=stub)


def test_triton_is_asked_only_when_wanted(tmp_path: Path) -> None:
    assert "triton is missing" in refusal(tmp_path, "--triton")
    code, _, _ = run(tmp_path, "--triton", tools=(*DOCKER, "triton"))
    assert code == 0
    assert written(tmp_path)["CONSUL"] == "consul.svc.1f2e.us-east-1.cns.joyent.com"


def test_help_and_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path, "--help")[0] == 0
    assert run(tmp_path, "--what")[0] == 2
    assert run(tmp_path, "one", "two")[0] == 2


@pytest.mark.parametrize(
    "script", ["setup.sh", "containers/install_mysql.sh", "containers/s3/start.sh", ".ci/run"]
)
def test_the_scripts_are_clean(script: str) -> None:
    done = subprocess.run(["shellcheck", str(ROOT / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
