#!/usr/bin/env bash
# sqlite3 in rollback and WAL mode: several writers at once, all rows there, integrity_check ok; a crash of a writer rolls back.
# Usage: sqlite.sh DIR
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
dir=$(readlink -f "$1")/sqlite
need_packages sqlite3
lib_trap
rm -rf "$dir"
mkdir -p "$dir"
cd "$dir"

writer() {
    local db=$1 who=$2 i
    {
        echo '.timeout 60000'
        for i in $(seq 1 60); do
            echo "BEGIN IMMEDIATE; INSERT INTO t(who, n, blob) VALUES ('$who', $i, randomblob(3000)); UPDATE total SET n = n + 1; COMMIT;"
        done
    } | sqlite3 -bail "$db"
}

for mode in delete truncate persist wal; do
    db=$mode.db
    sqlite3 "$db" "PRAGMA journal_mode=$mode; CREATE TABLE t(id INTEGER PRIMARY KEY, who TEXT, n INT, blob BLOB);
        CREATE INDEX byn ON t(n); CREATE TABLE total(n INT); INSERT INTO total VALUES (0);" >mode.out
    [ "$(head -n 1 mode.out)" = "$mode" ] || { echo "sqlite: journal mode $mode was refused"; exit 1; }
    pids=()
    for who in a b c; do
        writer "$db" $who &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
    [ "$(sqlite3 "$db" 'SELECT count(*) FROM t')" = 180 ] || { echo "sqlite: rows are missing in mode $mode"; exit 1; }
    [ "$(sqlite3 "$db" 'SELECT n FROM total')" = 180 ] || { echo "sqlite: updates were lost in mode $mode"; exit 1; }
    # A writer that dies in the middle of a transaction leaves nothing of it.
    mkfifo pipe
    sqlite3 "$db" <pipe &
    pid=$!
    exec 9>pipe
    echo ".timeout 60000
BEGIN IMMEDIATE; DELETE FROM t; UPDATE total SET n = -1;" >&9
    for _ in $(seq 100); do
        [ "$(sqlite3 "$db" 'BEGIN IMMEDIATE; ROLLBACK;' 2>&1 | grep -c locked)" = 1 ] && break
        sleep 0.05
    done
    kill -KILL $pid
    wait $pid 2>/dev/null || true
    exec 9>&-
    rm pipe
    [ "$(sqlite3 "$db" 'SELECT n FROM total')" = 180 ] || { echo "sqlite: a killed transaction left traces in mode $mode"; exit 1; }
    sqlite3 "$db" 'DELETE FROM t WHERE id % 3 = 0; VACUUM;'
    [ "$(sqlite3 "$db" 'PRAGMA integrity_check')" = ok ] || { echo "sqlite: integrity check failed in mode $mode"; exit 1; }
    echo "sqlite: mode $mode: 3 writers, 180 rows, killed writer rolled back, integrity ok"
done
cd /
rm -rf "$dir"
