#!/usr/bin/env bash
# Checks what the compose files need, and writes the file _env with generated passwords. Run it once, in the folder
# with the compose files; it never overwrites an _env.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./setup.sh [--triton] [KEY]
       ./setup.sh -h | --help

Writes _env, readable by you alone, with generated passwords.
  without KEY   for local-compose.yml, with the keys of the S3 server that comes with it
  KEY           a private key, such as ~/.ssh/id_rsa: snapshots go to Manta, and the key is put into _env in the
                form that MANTA_PRIVATE_KEY has; MANTA_USER must be set, and MANTA_URL, MANTA_BUCKET, MANTA_SUBUSER
                and MANTA_ROLE are taken over where they are set
  --triton      checks besides that the command triton is here and has a profile, and names its Consul
Edit it for a store and a Consul of your own; every variable is in docs/configuration.md.
TEXT
}

fail() {
    echo "setup.sh: $1" >&2
    exit 1
}

secret() {
    head -c 18 /dev/urandom | base64 | tr '+/' '-_'
}

# Prints a setting in single quotes: without them Compose takes $ and # for its own.
setting() {
    case $2 in
    *\$\{* | *\\*) fail "$1 cannot be written into _env: it has \${ or a backslash" ;;
    esac
    echo "$1='${2//\'/\\\'}'"
}

check_docker() {
    command -v docker >/dev/null || fail "docker is missing: install Docker"
    docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
        fail "Compose is missing: install docker-compose, or Docker's compose plugin"
}

# Sets triton_consul to the name that Triton's CNS gives the service `consul`.
check_triton() {
    command -v triton >/dev/null || fail "triton is missing: npm install -g triton"
    local account place
    place=$({ triton profile get 2>/dev/null || true; } | sed -n 's#^url: https://\([^.]*\)\..*#\1#p')
    [ -n "$place" ] || fail "triton has no profile: triton profile create"
    account=$({ triton account get 2>/dev/null || true; } | sed -n 's/^id: //p')
    [ -n "$account" ] || fail "triton does not reach its account: triton account get says why"
    triton_consul="consul.svc.$account.$place.cns.joyent.com"
}

# Writes a copy of the key in PEM to $1, and prints the md5 fingerprint.
read_key() {
    local key=$1 copy=$2 public kind
    [ -f "$key" ] || fail "there is no key $key"
    [ -r "$key" ] || fail "the key $key cannot be read"
    cp "$key" "$copy"
    chmod 600 "$copy"
    if ! public=$(ssh-keygen -y -P '' -f "$copy" 2>"$copy.error"); then
        grep -q 'incorrect passphrase' "$copy.error" &&
            fail "the key $key has a passphrase, which no hook can type: make a key without one for this cluster"
        fail "$key is no private key"
    fi
    kind=${public%% *}
    case $kind in
    ssh-rsa | ecdsa-sha2-nistp256) ;;
    *) fail "the key $key is of the kind $kind: Manta takes RSA and ECDSA with the curve P-256" ;;
    esac
    # Manta's library reads no other form.
    ssh-keygen -q -p -m PEM -P '' -N '' -f "$copy" >/dev/null 2>&1 || fail "the key $key cannot be turned into PEM"
    ssh-keygen -l -E md5 -f - <<<"$public" | sed 's/^[0-9]* MD5:\([0-9a-f:]*\) .*/\1/'
}

write_manta() {
    local key=$1 work=$2 fingerprint
    fingerprint=$(read_key "$key" "$work/key")
    echo BACKUP_DRIVER=manta
    setting MANTA_URL "${MANTA_URL:-https://us-east.manta.joyent.com}"
    setting MANTA_USER "$MANTA_USER"
    setting MANTA_BUCKET "${MANTA_BUCKET:-/$MANTA_USER/stor/mysql}"
    setting MANTA_KEY_ID "$fingerprint"
    setting MANTA_PRIVATE_KEY "$(tr '\n' '#' <"$work/key")"
    [ -z "${MANTA_SUBUSER-}" ] || setting MANTA_SUBUSER "$MANTA_SUBUSER"
    [ -z "${MANTA_ROLE-}" ] || setting MANTA_ROLE "$MANTA_ROLE"
}

key=
triton_consul=
with_triton=
for word in "$@"; do
    case $word in
    -h | --help)
        usage
        exit 0
        ;;
    --triton) with_triton=1 ;;
    -*)
        usage >&2
        exit 2
        ;;
    *)
        [ -z "$key" ] || { usage >&2 && exit 2; }
        key=$word
        ;;
    esac
done

[ ! -e _env ] || fail "there is an _env already, which is left as it is; remove it to have a new one"
check_docker
[ -z "$with_triton" ] || check_triton
if [ -n "$key" ]; then
    command -v ssh-keygen >/dev/null || fail "ssh-keygen is missing: install OpenSSH's client"
    [ -n "${MANTA_USER-}" ] || fail "MANTA_USER is not set: export the name of your Manta account"
fi

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work" _env.new' EXIT
{
    cat <<TEXT
MYSQL_USER=app
MYSQL_PASSWORD=$(secret)
MYSQL_DATABASE=app
MYSQL_REPL_USER=repl
MYSQL_REPL_PASSWORD=$(secret)
INNODB_BUFFER_POOL_SIZE=128M
TEXT
    if [ -n "$key" ]; then
        write_manta "$key" "$work"
    else
        cat <<TEXT
AWS_ACCESS_KEY=snapshots
AWS_SECRET_ACCESS_KEY=$(secret)
AWS_BUCKET=snapshots
TEXT
    fi
    [ -z "$triton_consul" ] || echo "CONSUL=$triton_consul"
    echo "# A key made by age-keygen encrypts snapshots; keep a copy of it elsewhere (docs/snapshots.md, Encryption)."
    echo "# SNAPSHOT_KEY=AGE-SECRET-KEY-1..."
} >_env.new
mv _env.new _env
if [ -n "$key" ]; then
    echo "_env is written; next: mmkdir -p with its MANTA_BUCKET, unless that is there, and docker-compose up -d"
else
    echo "_env is written; next: docker-compose -f local-compose.yml up -d"
fi
