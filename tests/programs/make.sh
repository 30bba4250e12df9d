#!/usr/bin/env bash
# make -j4 of a C project of 120 files with generated headers, a static library and a program; then make again: nothing to do.
# Usage: make.sh DIR
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
dir=$(readlink -f "$1")/make
need_packages make gcc libc6-dev
lib_trap
rm -rf "$dir"
mkdir -p "$dir/src"
cd "$dir"
for i in $(seq 1 120); do
    printf '#include "all.h"\nint f%s(int x) { return x + %s; }\n' "$i" "$i" >"src/f$i.c"
done
cat >src/main.c <<'C'
#include <stdio.h>
#include "all.h"
int main(void) { printf("%d\n", SUM(0)); return 0; }
C
cat >Makefile <<'M'
SRC := $(wildcard src/*.c)
OBJ := $(patsubst src/%.c,obj/%.o,$(filter-out src/main.c,$(SRC)))
prog: obj/main.o libf.a
	$(CC) -o $@ $^
libf.a: $(OBJ)
	$(AR) rcs $@ $^
obj/%.o: src/%.c obj/all.h | obj
	$(CC) -O1 -MMD -Iobj -c -o $@ $<
obj/all.h: $(SRC) | obj
	for i in $$(seq 1 120); do echo "int f$$i(int);"; done >$@.tmp
	(printf '#define SUM(x) (0'; for i in $$(seq 1 120); do printf '+f%d(x)' $$i; done; echo ')') >>$@.tmp
	mv $@.tmp $@
obj:
	mkdir -p $@
-include $(OBJ:.o=.d)
M
make -s -j4
[ "$(./prog)" = 7260 ]
make -q prog || { echo "make: a second run wants to build again: time stamps do not agree"; make -n; exit 1; }
sleep 0.02
printf '#include "all.h"\nint f1(int x) { return x + 1001; }\n' >src/f1.c
make -s -j4
[ "$(./prog)" = 8260 ]
echo "make: built with 4 jobs, nothing to do the second time, rebuilt after a change"
cd /
rm -rf "$dir"
