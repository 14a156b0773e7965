#!/usr/bin/env python3
"""Writes what was measured into benches/RESULTS.md and plots it: `python3 benches/report.py`.

Reads benches/measured/*.ndjson, lines of `rivals`, `limits` and `scale`, and replaces what stands between the two marks in
RESULTS.md. Of each kind and setting the lines of the newest build count. A figure is the median over its runs, its spread the
least and the greatest of them.
"""
import json
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NAMES = {
    "keepwell": "Keepwell",
    "flink-heap": "Flink, heap",
    "flink-rocksdb": "Flink, RocksDB",
    "streams-heap": "Kafka Streams, memory",
    "streams-rocksdb": "Kafka Streams, RocksDB",
}


def lines():
    """Measurements, oldest first."""
    for path in sorted((ROOT / "measured").glob("*.ndjson")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def newest(found):
    """Those of the newest build."""
    build = max(found, key=lambda line: line["at"])["build"] if found else None
    return [line for line in found if line["build"] == build]


def spread(values, form="{:.2f}"):
    """The median, with the least and the greatest where there are several."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))}-{form.format(max(values))})"


def table(head, rows):
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"


def about(found):
    """Machine, build, date and load of measurements."""
    machine, days = found[-1]["machine"], sorted({line["at"][:10] for line in found})
    loads = [float(line["machine"]["load"]) for line in found]
    return (
        f"{machine['cores']} cores of an {machine['cpu']}, build {found[-1]['build']}, {' and '.join(days)}; "
        f"load average of the machine when a line was written {min(loads):.1f}-{max(loads):.1f}."
    )


def bars(path, title, unit, values):
    """A plot of named values as horizontal bars."""
    width, row, left = 640, 30, 190
    most = max(value for _, value in values)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{row * len(values) + 40}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="20" font-weight="bold">{title}</text>',
    ]
    for at, (name, value) in enumerate(values):
        y, long = 36 + at * row, (width - left - 90) * value / most
        colour = "#1b7f5c" if name.startswith("Keepwell") else "#9aa5b1"
        parts += [
            f'<text x="8" y="{y + 14}">{name}</text>',
            f'<rect x="{left}" y="{y}" width="{long:.0f}" height="20" fill="{colour}"/>',
            f'<text x="{left + long + 6:.0f}" y="{y + 14}">{value:,.1f} {unit}</text>',
        ]
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def per_event(line, cpu):
    return cpu / line["measured"] * 1e6


def throughput(found):
    text, by_system = [], {}
    for line in found:
        by_system.setdefault(line["system"], []).append(line)
    own = by_system.get("keepwell", [])
    cost = lambda line: per_event(line, line["cpu_s"])
    both = lambda line: per_event(line, line["cpu_s"] + line["broker_cpu_s"])
    rows = []
    for system in [name for name in NAMES if name in by_system]:
        of = by_system[system]
        ratio = lambda cost: "{:.1f}".format(statistics.median(map(cost, of)) / statistics.median(map(cost, own))) if own else "-"
        rows.append([
            NAMES[system], len(of),
            spread([line["measured"] / line["seconds"] / 1e3 for line in of], "{:.0f}"),
            spread([1e3 / cost(line) for line in of], "{:.0f}"), ratio(cost),
            spread([1e3 / both(line) for line in of], "{:.0f}"), ratio(both),
            spread([line["peak_kb"] / 1024 for line in of], "{:.0f}"),
        ])
    first = found[0]
    size = f"{first['events']:,} events, {first['accounts']:,} accounts{', each with an event' if first['every_account'] else ''}, {first['days']} days"
    text.append(f"{size}; heap of a JVM {first['heap']}, peers commit every {first['commit_ms']} ms. {about(found)}\n")
    text.append(table(
        ["", "runs", "thousand events/s", "thousand events per CPU-second", "Keepwell's is times", "with the broker's CPU", "Keepwell's is times", "peak memory, MiB"], rows))
    plot = ROOT / "plots" / f"throughput-{first['accounts']}.svg"
    plot.parent.mkdir(exist_ok=True)
    bars(plot, f"Thousand events per CPU-second, without the broker ({size})", "k",
         [(NAMES[system], statistics.median(1e3 / cost(line) for line in by_system[system])) for system in NAMES if system in by_system])
    text.append(f"![events per CPU-second](plots/{plot.name})\n")
    return "\n".join(text)


def latency(found):
    """From an event to what is said of it, by system and by how often live rows are sent."""
    groups = {}
    for line in found:
        groups.setdefault((list(NAMES).index(line["system"]), line["rate"], -line["live_ms"]), []).append(line)
    rows = [
        [NAMES[of[0]["system"]], len(of), of[0]["rate"], *(spread([line[name] * 1000 for line in of], "{:.0f}") for name in ("p50_s", "p99_s", "max_s")),
         of[0]["commit_ms"] if of[0]["system"] != "keepwell" else "after each batch", of[0]["live_ms"]]
        for _, of in sorted(groups.items())
    ]
    return about(found) + "\n\n" + table(["", "runs", "events/s", "p50, ms", "p99, ms", "greatest, ms", "commit, ms", "live rows, ms"], rows)


def limits(found):
    first = found[0]
    names = list(first["a_second"])
    rows = [[name, spread([line["a_second"][name] / 1e3 for line in found], "{:.0f}")] for name in names]
    shares = [[name, spread([line["shares"][name] for line in found])] for name in first["shares"]]
    text = f"{first['events']:,} events, {first['accounts']:,} accounts, {first['days']} days, {len(found)} runs; one thread each. {about(found)}\n\n"
    return text + table(["", "thousand a second"], rows) + "\n" + table(["share", ""], shares)


STAGES = ["ingest", "aggregate", "score", "sink"]


def size_of(line):
    return f"{line['accounts']:,} accounts, {line['events'] // line['accounts']} events each in {line['days']} days"


def growth(found):
    """Keepwell's four processes by accounts."""
    groups = {}
    for line in found:
        groups.setdefault(line["accounts"], []).append(line)
    head = ["", "runs", "thousand events/s", "CPU us an event", *(f"of it {stage}" for stage in STAGES), "peak memory, MiB", *(f"of it {stage}" for stage in STAGES), "memory, bytes an account"]
    least = groups[min(groups)]
    rows = []
    for of in (groups[accounts] for accounts in sorted(groups)):
        # Whole runs, starts included: where most of the work is that of closes, it matters little which events had been read.
        whole = lambda line: line["whole_cpu_s"] / line["events"] * 1e6
        cost = lambda line, stage: whole(line) * line["stages"][stage]["cpu_s"] / line["cpu_s"]
        peak = lambda line, stage: line["stages"][stage]["peak_kb"] / 1024
        more = statistics.median(line["peak_kb"] for line in of) - statistics.median(line["peak_kb"] for line in least)
        accounts = of[0]["accounts"] - least[0]["accounts"]
        rows.append([
            size_of(of[0]), len(of), spread([line["events"] / line["whole_seconds"] / 1e3 for line in of], "{:.0f}"),
            spread([whole(line) for line in of], "{:.1f}"),
            *(spread([cost(line, stage) for line in of], "{:.1f}") for stage in STAGES),
            spread([line["peak_kb"] / 1024 for line in of], "{:.0f}"),
            *(spread([peak(line, stage) for line in of], "{:.0f}") for stage in STAGES),
            f"{more * 1024 / accounts:,.0f}" if accounts and more > 0 else "-",
        ])
    bars(ROOT / "plots" / "growth.svg", "CPU an event, four processes, us", "us",
         [(f"Keepwell, {accounts:,}", statistics.median(line["whole_cpu_s"] / line["events"] * 1e6 for line in groups[accounts])) for accounts in sorted(groups)])
    return about(found) + "\n\n" + table(head, rows) + "\n![CPU an event by accounts](plots/growth.svg)\n"


def processes(found):
    """Keepwell by partitions and processes."""
    groups = {}
    for line in found:
        groups.setdefault((line["partitions"], line["processes"]), []).append(line)
    rows = [
        [partitions, count, len(of), spread([line["measured"] / line["seconds"] / 1e3 for line in of], "{:.0f}"),
         spread([per_event(line, line["cpu_s"]) for line in of], "{:.1f}"), spread([line["peak_kb"] / 1024 for line in of], "{:.0f}")]
        for (partitions, count), of in sorted(groups.items())
    ]
    first = found[0]
    return f"{first['events']:,} events, {first['accounts']:,} accounts. {about(found)}\n\n" + table(
        ["partitions", "processes a stage", "runs", "thousand events/s", "CPU us an event", "peak memory of all, MiB"], rows)


def scale(found):
    """Single stages by accounts."""
    groups = {}
    for line in found:
        groups.setdefault(line["accounts"], []).append(line["measured"])
    sizes = sorted(groups)
    each = lambda of, what, name, form="{:.1f}": spread([measured[what][name] for measured in of], form)
    def row(title, cell):
        return [title, *(cell(size, groups[size]) for size in sizes)]
    rows = [row("runs", lambda _, of: len(of))]
    for what, name in [("close", "a day's close"), ("1 % changed", "1 % of the accounts changed"), ("10 % changed", "10 %"), ("100 % changed", "all")]:
        rows += [
            row(f"{name}: windows, us an account", lambda _, of, what=what: each(of, what, "windows_us")),
            row("scores, us an account", lambda _, of, what=what: each(of, what, "scores_us")),
        ]
    rows.append(row("scoring 1 % changed, of scoring all", lambda _, of: spread(
        [measured["1 % changed"]["scores_us"] / measured["100 % changed"]["scores_us"] for measured in of], "{:.2f} %")))
    rows.append(row("the close's Parquet files, us an account", lambda _, of: each(of, "close", "tables_us")))
    rows.append(row("the close, bytes an account: windows; health", lambda _, of: f"{each(of, 'close', 'windows_bytes', '{:.0f}')}; {each(of, 'close', 'health_bytes', '{:.0f}')}"))
    for stage in ("aggregate", "score"):
        state = f"{stage} state"
        rows += [
            row(f"{stage}'s snapshot, bytes an account", lambda size, of, state=state: spread([measured[state]["bytes"] / size for measured in of], "{:.0f}")),
            row("restore, s; us an account", lambda size, of, state=state: f"{each(of, state, 'restore_s', '{:.2f}')}; {spread([measured[state]['restore_s'] / size * 1e6 for measured in of], '{:.1f}')}"),
        ]
    return about(found) + "\n\n" + table(["accounts", *(f"{size:,}" for size in sizes)], rows)


def main():
    found = list(lines())
    of = lambda what, **more: newest([line for line in found if line["what"] == what and all(line.get(k) == v for k, v in more.items())])
    text = [BEGIN, "", "Written by `python3 benches/report.py` from `benches/measured/`: medians, and in brackets the least and the greatest.", ""]
    for accounts in sorted({line["accounts"] for line in found if line["what"] == "throughput"}):
        text += [f"### Beside its peers, {accounts:,} accounts", "", throughput(of("throughput", accounts=accounts))]
    for what, title, tell in [
        ("growth", "By accounts", growth), ("processes", "By partitions and processes", processes), ("scale", "Single stages by accounts", scale),
    ]:
        if of(what):
            text += [f"### {title}", "", tell(of(what))]
    if of("latency"):
        text += ["### From an event to what is said of its account", "", latency(of("latency"))]
    if of("limits"):
        text += ["### Limits and stages", "", limits(of("limits"))]
    results = ROOT / "RESULTS.md"
    before, rest = results.read_text().split(BEGIN)
    after = rest.split(END)[1]
    results.write_text(before + "\n".join(text) + "\n" + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
