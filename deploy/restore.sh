#!/bin/sh
# Put a backup of deploy/backup.sh into an empty data folder; start the gateway afterwards.
#
#   deploy/restore.sh FILE.tar.gz
#
#   GATEWAY_DATA_DIR  the data folder (default: ~/.local/share/farthing); must be empty or not there
#   LEDGER_URL        ledger.url, where that is PostgreSQL (needs pg_restore): an empty database; a full one is refused
set -eu
umask 077
[ $# -eq 1 ] || { echo "usage: $0 FILE.tar.gz" >&2; exit 2; }
data=${GATEWAY_DATA_DIR:-$HOME/.local/share/farthing}
mkdir -p "$data"
[ -z "$(ls -A "$data")" ] || { echo "$0: $data is not empty" >&2; exit 1; }
tar -C "$data" -xzf "$1"
if [ -f "$data/ledger.pgdump" ]; then
  [ -n "${LEDGER_URL:-}" ] || { echo "$0: this is a backup of PostgreSQL: set LEDGER_URL" >&2; exit 1; }
  pg_restore --no-owner --exit-on-error --single-transaction \
    --dbname "$(echo "$LEDGER_URL" | sed 's/+asyncpg//')" "$data/ledger.pgdump"
  rm "$data/ledger.pgdump"
fi
echo "restored to $data"
