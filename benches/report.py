#!/usr/bin/env python3
"""Writes what was measured into benches/RESULTS.md and plots it: `python3 benches/report.py`.

Reads benches/measured/*.ndjson, lines of `rivals`, `limits` and `scale`. Of each kind and setting the lines of the newest build
count. A figure is the median over its runs. RESULTS.md is the summary; benches/results/<date>-<build>.md has every figure, with
the least and the greatest of its runs.
"""
import json
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent
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


PARTS = ["windows_us", "scores_us", "publish_us", "tables_us"]


def sum_of(close):
    """Microseconds of all four parts of a close, for an account of which every score changed."""
    return sum(close[part] for part in PARTS)


def middle(found, value):
    values = [value(line) for line in found]
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


class Summary:
    """The figures of RESULTS.md: medians of the newest build of each kind."""

    def __init__(self, of):
        self.of = of

    def throughput(self, accounts):
        found = self.of("throughput", accounts=accounts)
        rows = []
        for system in NAMES:
            lines = [line for line in found if line["system"] == system]
            if lines:
                alone = middle(lines, lambda line: line["measured"] / line["cpu_s"])
                both = middle(lines, lambda line: line["measured"] / (line["cpu_s"] + line["broker_cpu_s"]))
                peak = middle(lines, lambda line: line["peak_kb"]) / 1024**2
                rows.append([NAMES[system], f"{alone:,.0f}", f"{both:,.0f}", f"{peak:.1f} GiB"])
        return table(["", "events per CPU-second", "with the broker's CPU", "peak memory"], rows)

    def growth(self):
        found = self.of("growth")
        rows = []
        for accounts in sorted({line["accounts"] for line in found}):
            lines = [line for line in found if line["accounts"] == accounts]
            cpu = middle(lines, lambda line: line["whole_cpu_s"] / line["events"] * 1e6)
            rows.append([f"{accounts:,}", f"{cpu:.0f} us", f"{middle(lines, lambda line: line['peak_kb']) / 1024**2:.1f} GiB"])
        return table(["accounts, one event a day each", "CPU an event", "peak memory of all four"], rows)

    def closes(self):
        found = self.of("scale", fleet="usage")
        rows = []
        for accounts in sorted({line["accounts"] for line in found}):
            lines = [line["measured"]["close"] for line in found if line["accounts"] == accounts]
            each = lambda name: f"{statistics.median(line[name] for line in lines):.1f} us"
            bytes = statistics.median(line["windows_bytes"] + line["health_bytes"] for line in lines)
            rows.append([f"{accounts:,}", *(each(name) for name in PARTS), f"{statistics.median(map(sum_of, lines)):.1f} us", f"{bytes:.0f}"])
        return table(["accounts", "windows", "scores", "publish", "files", "sum", "bytes of windows + health"], rows)

    def latency(self):
        found = self.of("latency")
        rows = []
        for system, rate in sorted({(list(NAMES).index(line["system"]), line["rate"]) for line in found}):
            name = list(NAMES)[system]
            lines = [line for line in found if line["system"] == name and line["rate"] == rate]
            ms = lambda what: f"{middle(lines, lambda line: line[what]) * 1000:,.0f} ms"
            rows.append([NAMES[name], f"{rate:,}", ms("p50_s"), ms("p99_s")])
        return table(["", "events/s", "p50", "p99"], rows)

    def contracts(self):
        """The section on contracts, once they were measured."""
        told = "Ten events of a contract for each account in three years; where fewer days are run, the years before are told on the first of them. One thread."
        return ["## Contracts and periods", "", told, "", self.money()] if self.of("money") else []

    def money(self):
        """Closes at ends of periods, and reports, by the size of the fleet."""
        found = self.of("money")
        sizes = sorted({(line["accounts"], line["days"]) for line in found})
        of = lambda size: [line for line in found if (line["accounts"], line["days"]) == size]
        def row(title, form, value):
            cells = [middle(of(size), lambda line: value(line["measured"], line)) for size in sizes]
            return [title, *("-" if cell is None else form.format(cell) for cell in cells)]
        close = lambda kind: lambda measured, _: measured.get(kind, {}).get("windows_us")
        names = {"day": "close of a day, windows and revenue, us an account", "month": "of the last day of a month", "quarter": "of a quarter", "year": "of a year"}
        rows = [row("events of contracts", "{:,.0f}", lambda _, line: line["contract_events"]), row("days", "{:,.0f}", lambda _, line: line["days"])]
        rows += [row(title, "{:.1f}", close(kind)) for kind, title in names.items()]
        rows += [
            row("rows of revenue at the end of the year", "{:,.0f}", lambda measured, _: measured["year"]["revenue_rows"]),
            row("state of aggregate in memory, bytes an account", "{:,.0f}", lambda measured, line: measured["aggregate state"]["in_memory_bytes"] / line["accounts"]),
        ]
        for period in ["2026-12", "2026-Q4", "2026"]:
            rows.append(row(f"report {period} by segment and owner, s", "{:.1f}", lambda measured, _, period=period: measured[f"report {period}"]["seconds"]))
        rows.append(row("its memory, GiB", "{:.2f}", lambda measured, _: measured["report 2026"]["peak_kb"] / 1024**2))
        return table(["accounts", *(f"{accounts:,}" for accounts, _ in sizes)], rows)

    def doors(self):
        rows = [
            [line["events"], f"{line['requests_per_s']:,.0f}", f"{line['requests_per_s'] * line['events']:,.0f}", f"{line['cpu_us_a_request']:.0f} us", f"{line['p50_ms']:.0f} ms", f"{line['p99_ms']:.0f} ms"]
            for line in self.of("doors")
        ]
        return table(["events in a request", "requests/s", "events/s", "CPU of collect a request", "p50 at half of it", "p99"], rows)

    def targets(self):
        """Targets, and what is measured of them."""
        def peers(accounts, broker):
            cost = lambda line: line["measured"] / (line["cpu_s"] + (line["broker_cpu_s"] if broker else 0))
            found = self.of("throughput", accounts=accounts)
            own, flink = ([line for line in found if line["system"] == system] for system in ("keepwell", "flink-heap"))
            return middle(own, cost) / middle(flink, cost) if own and flink else None
        def close(accounts, value):
            return middle([line["measured"]["close"] for line in self.of("scale", fleet="usage") if line["accounts"] == accounts], value)
        million = [line for line in self.of("growth") if line["accounts"] == 1_000_000]
        peak = middle([line for line in self.of("throughput", accounts=1_000_000) if line["system"] == "keepwell"], lambda line: line["peak_kb"] / 1024**2)
        p99 = middle([line for line in self.of("latency") if line["system"] == "keepwell" and line["rate"] == 20_000], lambda line: line["p99_s"] * 1000)
        rows = [
            ("close, all four parts, one thread, 100,000 accounts, us an account", "<=", 10, close(100_000, sum_of), "{:.1f}", "scores 5.0 us: half of it writes cells and encodes"),
            ("the same at 1,000,000", "<=", 12, close(1_000_000, sum_of), "{:.1f}", "publish 9.9 us: the in-memory log keeps each record"),
            ("bytes of windows + health an account and day", "<=", 1000, close(100_000, lambda of: of["windows_bytes"] + of["health_bytes"]), "{:.0f}"),
            ("CPU an account and day on Kafka, four stages, 1,000,000 accounts, us", "<=", 25, middle(million, lambda line: line["whole_cpu_s"] / line["events"] * 1e6), "{:.0f}", "sink, half of it: JSON and Parquet"),
            ("the same of the broker", "<=", 20, middle(million, lambda line: line["broker_cpu_s"] / line["measured"] * 1e6), "{:.0f}"),
            ("events per CPU-second, times Flink's on the heap, 1,000,000 accounts", ">=", 2, peers(1_000_000, False), "{:.1f}"),
            ("the same with the broker", ">=", 1.5, peers(1_000_000, True), "{:.1f}"),
            ("the same at 10,000 accounts, without the broker", ">=", 6, peers(10_000, False), "{:.1f}", "ingest, 42 %: JSON and the Kafka client"),
            ("with the broker", ">=", 4, peers(10_000, True), "{:.1f}", "each event goes through the broker twice more"),
            ("score, window batch to health batch, one thread, million rows a second", ">=", 0.5, close(100_000, lambda of: 1 / of["scores_us"]), "{:.2f}", "writing cells, and encoding them"),
            ("peak memory of all four, 1,000,000 accounts, GiB", "<=", 1.5, peak, "{:.1f}", "aggregate, 1.0 GiB: ids, users and features of each account"),
            ("p99 from event to score at 20,000 events/s, ms", "<=", 250, p99, "{:.0f}"),
        ]
        met = lambda sign, target, value: (value <= target if sign == "<=" else value >= target)
        return table(["what", "target", "measured", "", "its largest cost"], [
            [what, f"{sign} {target}", form.format(value), *(["met", ""] if met(sign, target, value) else ["missed", *cost])]
            for what, sign, target, value, form, *cost in rows if value is not None])


def machines(found):
    """Machine, builds and dates of all measurements."""
    machine, days = found[-1]["machine"], sorted(line["at"][:10] for line in found)
    return f"{machine['cores']} cores of an {machine['cpu']}; {days[0]} to {days[-1]}."


def summary(of, found, full):
    shown = Summary(of)
    peers = of("throughput", accounts=10_000)
    return "\n".join([
        "# Results", "",
        f"Written by `python3 benches/report.py`. {machines(found)}", "",
        f"A figure is the median of several runs. [Every figure, with its spread](results/{full}). [How to run and compare](README.md).", "",
        "## Beside its peers", "",
        f"{peers[0]['events']:,} events of 10,000 accounts. Every system reads the same topic and does the same job; a plain program counts its rows.",
        "Keepwell did more: rows with all default measures instead of 7, scores, alerts and Parquet files. What it writes is compressed with lz4.", "",
        shown.throughput(10_000), "With a million accounts, each closed every day:", "", shown.throughput(1_000_000),
        "## From an event to its score", "", "A probe is the only event of its account; Kafka, the system and the sender share two cores.", "", shown.latency(),
        "## How it grows", "", shown.growth(), "A day's close on one thread, for each account:", "", shown.closes(),
        "Usage fleet, every score changes, `MIMALLOC_PURGE_DELAY=10000`. [How it became so](results/2026-11-29-close.md).", "",
        *shown.contracts(),
        "## Events over HTTP", "", "One `keepwell-collect`, 32 connections that stay open; Kafka and the senders share its two cores.", "", shown.doors(),
        "## Targets", "", shown.targets(),
    ])


def main():
    found = list(lines())
    of = lambda what, **more: newest([line for line in found if line["what"] == what and all(line.get(k) == v for k, v in more.items())])
    newest_of_all = max(found, key=lambda line: line["at"])
    full = f"{newest_of_all['at'][:10]}-{newest_of_all['build']}.md"
    text = [f"# Every figure of {full.removesuffix('.md')}", "", "Written by `python3 benches/report.py` from `benches/measured/`: medians, and in brackets the least and the greatest.", ""]
    for accounts in sorted({line["accounts"] for line in found if line["what"] == "throughput"}):
        text += [f"## Beside its peers, {accounts:,} accounts", "", throughput(of("throughput", accounts=accounts))]
    for what, title, write in [
        ("growth", "By accounts", growth), ("processes", "By partitions and processes", processes), ("scale", "Single stages by accounts", scale),
    ]:
        if of(what):
            text += [f"## {title}", "", write(of(what))]
    if of("latency"):
        text += ["## From an event to its score", "", latency(of("latency"))]
    if of("limits"):
        text += ["## Limits and stages", "", limits(of("limits"))]
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / full).write_text("\n".join(text).replace("](plots/", "](../plots/") + "\n")
    (ROOT / "RESULTS.md").write_text(summary(of, found, full))
    return 0


if __name__ == "__main__":
    sys.exit(main())
