#!/usr/bin/env bash
# git as a person uses it: init, commits, clone, gc, fsck, branches, checkout back and forth, a worktree.
# Usage: git.sh DIR
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
dir=$(readlink -f "$1")/git
need_packages git python3
lib_trap
rm -rf "$dir"
work_dir
export GIT_CONFIG_GLOBAL=$WORK_DIR/gitconfig GIT_CONFIG_SYSTEM=/dev/null HOME=$WORK_DIR
git config --global user.name test
git config --global user.email test@example.com
git config --global init.defaultBranch main
git config --global gc.auto 0
git config --global safe.directory '*'
mkdir -p "$dir"
cd "$dir"
git init -q one
cd one
python3 "$ROOT/tests/programs/gentree.py" tree 1500
git add -A
git commit -qm first
for i in $(seq 1 30); do
    echo "$i" >>"tree/change-$((i % 7))"
    git add -A
    git commit -qm "change $i"
done
git checkout -q -b other HEAD~10
for file in $(git ls-files tree | grep -v change- | head -n 40); do git mv "$file" "moved-$(basename "$file")"; done
git commit -qam moved
git checkout -q main
[ -z "$(git status --porcelain)" ]
git fsck --full --strict >/dev/null
cd ..
git clone -q --no-hardlinks one two
git clone -q one three
diff -r --no-dereference --exclude=.git one two
cd two
git gc -q --aggressive --prune=now
git fsck --full >/dev/null
git checkout -q origin/other
git checkout -q main
git rebase -q origin/other >/dev/null
git worktree add -q ../worktree HEAD
git fsck --full >/dev/null
[ -z "$(git status --porcelain)" ]
cd ../three
git pull -q ../two main --rebase
git repack -adq
git fsck --full >/dev/null
cd ..
diff -r --no-dereference --exclude=.git two three
echo "git: clone, gc, fsck, checkout, rebase, worktree agree"
cd /
rm -rf "$dir"
