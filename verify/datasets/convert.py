#!/usr/bin/env python3
"""Public data as NDJSON of Keepwell's inputs, ordered by event time.

    convert.py oulad FOLDER OUT      Open University Learning Analytics Dataset, module AAA (CC BY 4.0)
    convert.py servicenow FOLDER OUT incident management event log, UCI 498 (CC BY 4.0)

FOLDER holds the files as published (see each function); OUT gets usage.ndjson and accounts.ndjson, or
tickets.ndjson. Only the Python standard library is used.
"""

import csv
import gzip
import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

# OULAD publishes no calendar; J presentations start in October.
STARTS = {"2013J": datetime(2013, 10, 1, tzinfo=timezone.utc), "2014J": datetime(2014, 10, 1, tzinfo=timezone.utc)}


def rows(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


def write(path, events):
    """One event a line, by event time; a stable sort keeps the order of the source among equal times."""
    events.sort(key=lambda event: event["occurred_at"])
    with open(path, "w") as file:
        for event in events:
            file.write(json.dumps(event, separators=(",", ":")) + "\n")
    print(f"{len(events)} events in {path}")


def milliseconds(time):
    return int(time.timestamp() * 1000)


def oulad(folder, out):
    """student_vle.csv.gz and vle.csv: an account is one enrolment, a feature the activity type of a page,
    a use one click. There is no event id: the row's number is one, for rows repeat and each counts."""
    feature = {row["id_site"]: row["activity_type"] for row in rows(folder / "vle.csv")}
    events = []
    for number, row in enumerate(rows(folder / "student_vle.csv.gz"), 1):
        day = STARTS[row["code_presentation"]] + timedelta(days=int(row["date"]))
        events.append({
            "event_id": f"vle-{number}",
            "account_id": f"{row['code_module']}-{row['code_presentation']}-{row['id_student']}",
            "user_id": row["id_student"],
            "feature": feature[row["id_site"]],
            "occurred_at": milliseconds(day),
            "count": int(row["sum_click"]),
        })
    write(out / "usage.ndjson", events)


PRIORITY = {"1": "urgent", "2": "high", "3": "normal", "4": "low"}


def servicenow(folder, out):
    """incident_event_log.csv.gz: an account is a location, as the row has it, so a ticket that moves shows
    it. The first row of a ticket opens it at its opening time; later rows are what their state says; a
    growing reopen_count is a reopening. Times are minutes: rows of one minute follow sys_mod_count."""
    events = []
    source = sorted(rows(folder / "incident_event_log.csv.gz"), key=lambda r: (r["number"], int(r["sys_mod_count"])))
    previous = None
    answered = False
    for number, row in enumerate(source, 1):
        is_first = previous is None or previous["number"] != row["number"]
        types = []
        if is_first:
            types.append("opened")
            answered = False
        elif int(row["reopen_count"]) > int(previous["reopen_count"]):
            types.append("reopened")
        elif row["priority"] != previous["priority"]:
            types.append("priority_changed")
        state = row["incident_state"]
        if state == "Active" and not answered:
            types.append("responded")
            answered = True
        if state in ("Resolved", "Closed") and (is_first or previous["incident_state"] != state):
            types.append(state.lower())
        for type_ in types:
            text = row["opened_at"] if type_ == "opened" else row["sys_updated_at"]
            event = {
                "event_id": f"{number:07d}-{type_}",
                "account_id": row["location"] or None,
                "ticket_id": row["number"],
                "occurred_at": milliseconds(datetime.fromisoformat(text).replace(tzinfo=timezone.utc)),
                "type": type_,
                "priority": PRIORITY[row["priority"]],
                "category": row["category"] or None,
                "user_id": row["caller_id"] or None,
            }
            events.append(event)
        previous = row
    write(out / "tickets.ndjson", events)


def main():
    if len(sys.argv) != 4 or sys.argv[1] not in ("oulad", "servicenow"):
        sys.exit(__doc__)
    folder, out = Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    {"oulad": oulad, "servicenow": servicenow}[sys.argv[1]](folder, out)


main()
