"""What a nightly job costs: the dense fleet of `scale` in one batch of DuckDB, from its raw events.

    deploy/python/python benches/nightly.py [--accounts 10000] [--threads 1]

Each account has a usage event on each of 180 days, and a ticket a month for every third. The job makes the rows of the
last day: over 7, 28 and 90 days events, uses, active users, features used, active days, the same uses in the window
before, tickets opened and tickets resolved. Prints microseconds of CPU for each account.
"""

import argparse
import resource

import duckdb

EVENTS = """
create table usage as
select 'account-' || lpad(n::varchar, 7, '0') as account_id, 'u' || n as user_id, 'f' || (n % 10) as feature, 1 as count,
  timestamp '2024-01-01' + interval (day) day + interval (n % 3000000) millisecond as occurred_at
from range({accounts}) a(n) cross join range(180) d(day);
create table ticket as
select 'account-' || lpad(n::varchar, 7, '0') as account_id, 't' || n || '-' || month as ticket_id, step as type,
  timestamp '2024-01-01' + interval (30 * month + if(step = 'opened', 0, 1)) day as occurred_at
from range(0, {accounts}, 3) a(n) cross join range(6) m(month) cross join (values ('opened'), ('resolved')) s(step);
"""

JOB = """
create table answer as
with period(days) as (values (7), (28), (90)), day as (select timestamp '2024-06-29' as end_at),
used as (
  select u.account_id, p.days, count(*) as events, sum(count) as uses, count(distinct user_id) as active_users,
    count(distinct feature) as features_used, count(distinct occurred_at::date) as active_days
  from usage u, period p, day d
  where occurred_at < end_at and occurred_at >= end_at - interval 1 day * days group by all
), before as (
  select u.account_id, p.days, sum(count) as previous_uses from usage u, period p, day d
  where occurred_at < end_at - interval 1 day * days and occurred_at >= end_at - interval 1 day * 2 * days group by all
), tickets as (
  select t.account_id, p.days, count(*) filter (type = 'opened') as opened, count(*) filter (type = 'resolved') as resolved
  from ticket t, period p, day d
  where occurred_at < end_at and occurred_at >= end_at - interval 1 day * days group by all
)
select * from used left join before using (account_id, days) left join tickets using (account_id, days);
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    connection = duckdb.connect(config={"threads": args.threads})
    connection.execute(EVENTS.format(accounts=args.accounts))
    begin = cpu()
    connection.execute(JOB)
    seconds = cpu() - begin
    rows, uses = connection.execute("select count(*), sum(uses) from answer").fetchone()
    if (rows, uses) != (3 * args.accounts, (7 + 28 + 90) * args.accounts):
        raise SystemExit(f"not the rows of the fleet: {rows}, {uses}")
    print(f"{args.accounts} accounts with 180 events: {seconds:.2f} s of CPU, {seconds * 1e6 / args.accounts:.1f} us an account")


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
