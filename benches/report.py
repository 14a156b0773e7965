#!/usr/bin/env python3
"""Writes what was measured into benches/RESULTS.md and plots it: `python3 benches/report.py`.

Reads benches/measured/*.ndjson, lines of `rivals` and `limits`, and replaces what stands between the two marks in
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
    rows = [
        [NAMES[system], line["rate"], line["probes"], *(f"{line[name] * 1000:.0f}" for name in ("p50_s", "p99_s", "max_s")), line["commit_ms"] if system != "keepwell" else "after each batch", line["live_ms"]]
        for system in NAMES for line in found if line["system"] == system
    ]
    return about(found) + "\n\n" + table(["", "events/s", "probes", "p50, ms", "p99, ms", "greatest, ms", "commit, ms", "live rows, ms"], rows)


def limits(found):
    first = found[0]
    names = list(first["a_second"])
    rows = [[name, spread([line["a_second"][name] / 1e3 for line in found], "{:.0f}")] for name in names]
    shares = [[name, spread([line["shares"][name] for line in found])] for name in first["shares"]]
    text = f"{first['events']:,} events, {first['accounts']:,} accounts, {first['days']} days, {len(found)} runs; one thread each. {about(found)}\n\n"
    return text + table(["", "thousand a second"], rows) + "\n" + table(["share", ""], shares)


def main():
    found = list(lines())
    of = lambda what, **more: newest([line for line in found if line["what"] == what and all(line.get(k) == v for k, v in more.items())])
    text = [BEGIN, "", "Written by `python3 benches/report.py` from `benches/measured/`: medians, and in brackets the least and the greatest.", ""]
    for accounts in sorted({line["accounts"] for line in found if line["what"] == "throughput"}):
        text += [f"### Beside its peers, {accounts:,} accounts", "", throughput(of("throughput", accounts=accounts))]
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
