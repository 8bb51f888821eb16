#!/bin/sh
# Installs MySQL and what the hooks need into the image; the argument is MYSQL_FLAVOR.
set -eu

export DEBIAN_FRONTEND=noninteractive
needed='ca-certificates python3 tzdata'

add() {
    # shellcheck disable=SC2086  # words
    apt-get install -y --no-install-recommends $needed "$@"
}

# Percona's packaging key, which must have this fingerprint.
percona_key=4D1BB29D63D98E422B2113B19334A25F8507EFA5

add_percona() {
    apt-get install -y --no-install-recommends ca-certificates gnupg python3
    keyring=/usr/share/keyrings/percona.gpg
    python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' \
        https://repo.percona.com/yum/PERCONA-PACKAGING-KEY /percona.asc
    gpg --batch --quiet --dearmor --output "$keyring" /percona.asc
    gpg --batch --quiet --no-default-keyring --keyring "$keyring" --with-colons --fingerprint |
        grep -q "^fpr:*$percona_key:" || { echo "Percona's key is not $percona_key" >&2 && exit 1; }
    # shellcheck source=/dev/null
    . /etc/os-release
    for product in ps-84-lts pxb-84-lts; do
        echo "deb [signed-by=$keyring] https://repo.percona.com/$product/apt $VERSION_CODENAME main"
    done >/etc/apt/sources.list.d/percona.list
    rm /percona.asc
    apt-get purge -y gnupg
    apt-get update
}

apt-get update
# The full server package makes an account, and a data directory that all containers would share with its server_uuid;
# the -core packages bring neither.
groupadd --system --gid 999 mysql
useradd --system --uid 999 --gid mysql --home-dir /nonexistent --shell /usr/sbin/nologin mysql
case $1 in
mysql) add mysql-client-core mysql-server-core ;;
percona)
    add_percona
    add percona-server-client percona-server-server percona-xtrabackup-84
    ;;
*)
    echo "MYSQL_FLAVOR: must be mysql or percona, not $1" >&2
    exit 1
    ;;
esac
apt-get autoremove -y --purge
apt-get clean
rm -rf /var/lib/apt/lists/* /var/lib/mysql /etc/mysql/conf.d/* /var/cache/debconf/*-old /var/cache/ldconfig/* \
    /var/log/apt /var/log/dpkg.log
# Every program has its own copy of the client library, 7 MB: of those that no node and no operator needs,
# and of the plugins that only clients load, nothing is kept.
cd /usr/bin
rm -f ibd2sdi innochecksum my_print_defaults myisam_ftdump myisamchk myisamlog myisampack mysql_config_editor \
    mysql_migrate_keyring mysql_secure_installation mysqlimport mysqlshow mysqlslap perror
rm -f /usr/lib/mysql/plugin/authentication_*_client.so /usr/lib/mysql/plugin/telemetry_client.so
install -d -o mysql -g mysql -m 0750 /var/lib/mysql
install -d -o mysql -g mysql -m 0755 /var/run/mysqld
install -d /etc/mysql/conf.d /etc/mysql/initdb.d
