"""Runs the table of workloads on each system in turn, round by round, and prints medians, ratios and what was promised."""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time

from systems import start_all
from workloads import GROUPS, Bench, Tree, packing, target_of

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--systems", default="local,cairn,moosefs,glusterfs", help="which, in this order")
    parser.add_argument("--only", action="append", choices=list(GROUPS), help="only this group of workloads (may be repeated)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all systems; medians are shown (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of operations")
    parser.add_argument("--json", metavar="FILE", help="write all figures of all rounds there")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, as docs/benchmarks.md shows it")
    parser.add_argument("--options", default="", help="mount options for Cairn (-o)")
    parser.add_argument("--before", metavar="DIR", help="measure the Cairn of these programs, too: a release of an older state")
    parser.add_argument("--dir", default=os.environ.get("TMPDIR", "/tmp"), help="where the systems keep their data (one disk for all)")
    parser.add_argument("--programs", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


class Figures:
    """Rows in the order in which they came, with one figure for each round and system."""

    def __init__(self):
        self.rows = {}

    def note(self, system, round_):
        def add(row, unit, value):
            self.rows.setdefault(row, {"unit": unit, "figures": {}})["figures"].setdefault(system, {})[round_] = value
        return add

    def median(self, row, system):
        figures = self.rows[row]["figures"].get(system)
        return statistics.median(figures.values()) if figures else None

    def ratio(self, row, system, other):
        """The median of the rounds' ratios: both were measured minutes apart at most."""
        mine, theirs = (self.rows[row]["figures"].get(name, {}) for name in (system, other))
        pairs = [mine[r] / theirs[r] for r in mine if r in theirs]
        return statistics.median(pairs) if pairs else None


def measure(systems, args, loader, tree, figures):
    for round_ in range(args.rounds):
        for name, group in GROUPS.items():
            if args.only and name not in args.only:
                continue
            # Each round another one begins, so that none is always the first after the others.
            order = systems[round_ % len(systems):] + systems[:round_ % len(systems)]
            for system in order:
                directory = os.path.join(system.path, f"{name}-{round_}")
                os.mkdir(directory)
                start = time.monotonic()
                try:
                    group(Bench(system, directory, loader, tree, args.scale, figures.note(system.name, round_)))
                except (RuntimeError, OSError) as e:
                    print(f"bench: {name} on {system.name} failed: {e}", file=sys.stderr, flush=True)
                shutil.rmtree(directory, ignore_errors=True)
                os.sync()
                print(f"bench: round {round_ + 1}, {name} on {system.name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def short(value):
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def table(figures, names):
    """Lines of cells: the row, each system, Cairn's ratios, and the promise with its outcome."""
    others = [name for name in names if name != "cairn"]
    yield ["workload", "unit", *names, *(f"cairn/{other}" for other in others if "cairn" in names), "promised"]
    for row, entry in figures.rows.items():
        ratios = {other: figures.ratio(row, "cairn", other) for other in others}
        yield [row, entry["unit"], *(short(figures.median(row, name)) for name in names),
               *("-" if ratios[other] is None else f"{ratios[other]:.2f}" for other in others if "cairn" in names), promise(figures, row, ratios)]


def promise(figures, row, ratios):
    target = target_of(row)
    if not target or "cairn" not in figures.rows[row]["figures"]:
        return ""
    _, other, least, absolute = target
    local = figures.median(row, other)
    # "0.85 of the local directory where that does less than 1 GB/s, else at least 0.8 GB/s."
    if absolute and local and local >= 1000:
        held, text = figures.median(row, "cairn") >= absolute, f">= {absolute} MB/s"
    elif ratios.get(other) is None:
        return ""
    else:
        held, text = ratios[other] >= least, f">= {least} x {other}"
    return text + (" held" if held else " MISSED")


def as_text(lines):
    lines = list(lines)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    right = range(2, len(lines[0]) - 1)
    return "\n".join("  ".join(cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip()
                     for line in lines)


def as_markdown(lines):
    lines = list(lines)
    rule = ["---", "---", *["---:"] * (len(lines[0]) - 3), "---"]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def puts_of(cairn):
    def puts():
        try:
            nodes = json.loads(cairn.status())["data"]["nodes"]
            return sum(node["puts"] for node in nodes) if nodes else None
        except (KeyError, ValueError, TypeError, RuntimeError):
            return None
    return puts


def main():
    args = arguments()
    if os.geteuid() != 0:
        sys.exit("scripts/bench: needs root, to drop caches and to mount")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    programs = args.programs or os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
    work = tempfile.mkdtemp(prefix="cairn-bench-", dir=args.dir)
    figures, systems, packed = Figures(), [], None
    try:
        tree = Tree(work, os.path.join(ROOT, "tests/programs/gentree.py"), max(20, int(4000 * args.scale)))
        wanted = args.systems.split(",") + (["before"] if args.before else [])
        systems, missing = start_all(wanted, work, programs, args.options, args.before)
        if not systems:
            sys.exit("scripts/bench: none of the systems can run")
        loader = os.path.join(programs, "cairn-bench-load")
        cairn = next((s for s in systems if s.name == "cairn"), None)
        if cairn and not args.only:
            packed = packing(cairn, loader, puts_of(cairn))
        measure(systems, args, loader, tree, figures)
    finally:
        for system in systems:
            system.stop()
        shutil.rmtree(work, ignore_errors=True)
    report(args, figures, [s.name for s in systems], missing, packed)


def report(args, figures, names, missing, packed):
    machine = f"{os.cpu_count()} CPUs, Linux {platform.release()}, {args.rounds} rounds, medians; ratios are medians of the rounds' ratios"
    notes = [f"{name} left out: {why}" for name, why in missing.items()]
    if "cairn" in names and not args.only:
        notes.append("10,000 files of 4 KiB without fsync: "
                     + (f"{packed} puts at the data daemon (promised: fewer than 100)" if packed is not None else "the put count is not in cairn status"))
    print(as_text(table(figures, names)))
    print("\n".join([machine, *notes]))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"machine": machine, "rows": figures.rows, "missing": missing, "puts_of_10000_files": packed}, f, indent=1)
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(as_markdown(table(figures, names)) + "\n\n" + machine + ".\n" + "".join(f"\n{note}.\n" for note in notes))


if __name__ == "__main__":
    main()
