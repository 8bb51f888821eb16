#!/usr/bin/env bash
# Checks that Docker and Compose are here, and writes the file _env with generated passwords. Run it once, in the
# folder with local-compose.yml; it never overwrites an _env.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: ./setup.sh [-h | --help]

Writes _env (readable by you alone) for local-compose.yml: accounts with generated passwords, and the keys of the
S3 server that comes with it. Edit it for a store and a Consul of your own; every variable is in
docs/configuration.md.
TEXT
}

fail() {
    echo "setup.sh: $1" >&2
    exit 1
}

secret() {
    head -c 18 /dev/urandom | base64 | tr '+/' '-_'
}

case "${1-}" in
'') ;;
-h | --help)
    usage
    exit 0
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

[ ! -e _env ] || fail "there is an _env already, which is left as it is; remove it to have a new one"
command -v docker >/dev/null || fail "docker is missing: install Docker"
docker compose version >/dev/null 2>&1 || command -v docker-compose >/dev/null ||
    fail "Compose is missing: install docker-compose, or Docker's compose plugin"

umask 077
cat >_env.new <<TEXT
MYSQL_USER=app
MYSQL_PASSWORD=$(secret)
MYSQL_DATABASE=app
MYSQL_REPL_USER=repl
MYSQL_REPL_PASSWORD=$(secret)
INNODB_BUFFER_POOL_SIZE=128M
AWS_ACCESS_KEY=snapshots
AWS_SECRET_ACCESS_KEY=$(secret)
AWS_BUCKET=snapshots
TEXT
mv _env.new _env
echo "_env is written; next: docker-compose -f local-compose.yml up -d"
