#!/bin/sh
# Back up the books, the keys and what Redis holds, while the gateway runs:
#
#   deploy/backup.sh FILE.tar.gz
#
#   GATEWAY_DATA_DIR  the data folder (default: ~/.local/share/farthing)
#   LEDGER_URL        ledger.url, where that is PostgreSQL (needs pg_dump)
#   PYTHON            an interpreter with SQLite (default: python3)
#
# What is on its way to SQL is copied before SQL is: a row is then in one copy or in both, and counted once either way.
# A Redis of your own (redis.url) is yours to back up, before this runs.
set -eu
umask 077
[ $# -eq 1 ] || { echo "usage: $0 FILE.tar.gz" >&2; exit 2; }
data=${GATEWAY_DATA_DIR:-$HOME/.local/share/farthing}
[ -d "$data" ] || { echo "$0: no data folder at $data" >&2; exit 1; }
into=$(mktemp -d)
trap 'rm -rf "$into"' EXIT

for part in spool redis; do
  [ ! -d "$data/$part" ] || cp -R "$data/$part" "$into/$part"
done
if [ -n "${LEDGER_URL:-}" ]; then
  pg_dump --format=custom --file "$into/ledger.pgdump" "$(echo "$LEDGER_URL" | sed 's/+asyncpg//')"
else
  "${PYTHON:-python3}" - "$data/ledger.sqlite3" "$into/ledger.sqlite3" <<'EOF'
import sqlite3, sys
source, copy = (sqlite3.connect(path) for path in sys.argv[1:])
source.backup(copy)
copy.close()
EOF
fi
tar -C "$into" -czf "$1.part" .
mv "$1.part" "$1"
echo "$1: $(du -h "$1" | cut -f1)"
