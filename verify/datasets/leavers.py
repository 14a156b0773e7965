#!/usr/bin/env python3
"""How well scores rank who leaves a course within 28 days: OULAD, module AAA.

    keepwell backfill product-usage=OUT/usage.ndjson --out SCORED --set score.model=score/models/course.yaml --set 'aggregate.measures=["usage", {"of": ["uses"], "previous": true}, {"of": ["active_days"], "windows": ["90d"], "previous": true}]'
    leavers.py fit FOLDER SCORED     the weights that rank best on 2013J, among multiples of five
    leavers.py judge FOLDER SCORED   2014J: the score against every single measure

FOLDER holds student_registration.csv. Every seventh day from day 14 to day 238 each enrolment that has been seen and
has not been left is ranked by its final row of that day, which knows of earlier days only; it counts as a leaver when it
is left within the 28 days from then on. AUC is the share of pairs of a leaver and a stayer that are ranked right. The
interval is a bootstrap by enrolment (2,000 draws, seed 1). Runs in deploy/python/python.
"""

import csv
import itertools
import random
import sys
from pathlib import Path

import duckdb

START = {"2013J": "2013-10-01", "2014J": "2014-10-01"}
DAYS = range(14, 239, 7)
HORIZON = 28
# Measures of the same rows; healthy is high.
MEASURES = {
    "uses, 7 days": "uses_7d",
    "uses, 28 days": "uses_28d",
    "active days, 28 days": "active_days_28d",
    "kinds of pages, 28 days": "features_used_28d",
    "uses against the window before": "uses_28d / greatest(previous_uses_28d, 1)",
    "days since the last use": "-date_diff('hour', last_use_at, as_of)",
}


def left_on(folder):
    """Day of leaving by account; none for those who stay."""
    with open(Path(folder) / "student_registration.csv", newline="") as file:
        return {
            f"{row['code_module']}-{row['code_presentation']}-{row['id_student']}": int(row["date_unregistration"] or 10**6)
            for row in csv.DictReader(file)
        }


def cases(folder, scored, presentation, sql):
    """account, day, leaves, values: one for each enrolment and day; `sql` gives account_id, day and values."""
    left = left_on(folder)
    rows = duckdb.connect().execute(sql.format(scored=scored, start=START[presentation], presentation=presentation)).fetchall()
    found = []
    for account, day, *values in rows:
        if day in DAYS and left[account] > day:
            found.append((account, day, left[account] < day + HORIZON, values))
    return found


def auc(ranked, weight=None):
    """`ranked`: (value, is_leaver, account) by rising value; leavers should come first."""
    right = leavers_before = leavers = stayers = 0.0
    for _, tied in itertools.groupby(ranked, key=lambda case: case[0]):
        tied_leavers = tied_stayers = 0.0
        for _, leaves, account in tied:
            times = 1 if weight is None else weight[account]
            if leaves:
                tied_leavers += times
            else:
                tied_stayers += times
        right += tied_stayers * (leavers_before + tied_leavers / 2)
        leavers_before += tied_leavers
        leavers += tied_leavers
        stayers += tied_stayers
    return right / (leavers * stayers)


def ranked(cases, value):
    return sorted((value(values), leaves, account) for account, _, leaves, values in cases)


def fit(folder, scored):
    names = ["breadth", "depth", "trend", "inactivity"]
    columns = ", ".join(f"max(list_filter(factors, lambda f: f.name = '{name}')[1].normalised)" for name in names)
    sql = (
        f"select account_id, date_diff('day', date '{{start}}', as_of::date) as day, {columns} "
        "from '{scored}/tables/scores/*/*.parquet' where account_id like '%-{presentation}-%' group by all"
    )
    found = cases(folder, scored, "2013J", sql)
    found = [(account, day, leaves, [float(value or 0) for value in values]) for account, day, leaves, values in found]
    grid = [weights for weights in itertools.product(range(5, 101, 5), repeat=len(names)) if sum(weights) == 100]
    best = max(grid, key=lambda weights: auc(ranked(found, lambda values: sum(w * v for w, v in zip(weights, values)))))
    value = auc(ranked(found, lambda values: sum(w * v for w, v in zip(best, values))))
    print(f"2013J: {len(found)} cases, {sum(case[2] for case in found)} leave; best of {len(grid)}: {dict(zip(names, best))}, AUC {value:.4f}")


def judge(folder, scored):
    columns = ", ".join(f"{sql} as m{n}" for n, sql in enumerate(MEASURES.values()))
    windows = f" join (select account_id, as_of, {columns} from '{{scored}}/tables/windows/*/*.parquet') w using (account_id, as_of)"
    sql = (
        "select account_id, date_diff('day', date '{start}', as_of::date) as day, score, "
        + ", ".join(f"m{n}" for n in range(len(MEASURES)))
        + " from '{scored}/tables/scores/*/*.parquet' s"
        + windows
        + " where account_id like '%-{presentation}-%'"
    )
    for presentation in START:
        found = cases(folder, scored, presentation, sql)
        found = [(a, d, leaves, [float(-10**9 if value is None else value) for value in values]) for a, d, leaves, values in found]
        accounts = sorted({case[0] for case in found})
        print(f"{presentation}: {len(found)} cases of {len(accounts)} enrolments, {sum(case[2] for case in found)} leave within {HORIZON} days")
        orders = {name: ranked(found, lambda values, n=n: values[n]) for n, name in enumerate(["score", *MEASURES])}
        aucs = {name: auc(order) for name, order in orders.items()}
        single = max(MEASURES, key=aucs.get)
        rng = random.Random(1)
        draws = {name: [] for name in ("score", single)}
        for _ in range(2000):
            weight = dict.fromkeys(accounts, 0)
            for account in rng.choices(accounts, k=len(accounts)):
                weight[account] += 1
            for name, values in draws.items():
                values.append(auc(orders[name], weight))
        for name, value in sorted(aucs.items(), key=lambda item: -item[1]):
            interval = f", 95 % interval {low(draws[name]):.4f}-{high(draws[name]):.4f}" if name in draws else ""
            print(f"  AUC {value:.4f}  {name}{interval}")
        apart = [a - b for a, b in zip(draws["score"], draws[single])]
        print(f"  score less {single}: {aucs['score'] - aucs[single]:+.4f}, 95 % interval {low(apart):+.4f} to {high(apart):+.4f}")


def low(values):
    return sorted(values)[len(values) * 25 // 1000]


def high(values):
    return sorted(values)[len(values) * 975 // 1000]


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("fit", "judge"):
        sys.exit(__doc__)
    {"fit": fit, "judge": judge}[sys.argv[1]](sys.argv[2], sys.argv[3])
