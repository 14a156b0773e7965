-- Facts, people and milestones: the last one by (event time, event id) wins. Digits of ids are numbers: see `ord`.

-- table fact_version
select a.account_id, a.ord, a.occurred_us, a.visible, a.outlives_us, f.name, f.value, f.valid_until_us, a.part, a.off, a.row_no
from fact f join accepted a on a.part = f.part and a.off = f.off and a.row_no = f.row_no

-- table fact_last
select *, row_number() over (partition by account_id, p, name order by occurred_us desc, ord desc) as nth
from (
  select g.account_id, g.p, g.end_us, f.ord, f.occurred_us, f.name, f.value, f.valid_until_us, f.part, f.off, f.row_no
  from grid g join fact_version f on f.account_id = g.account_id
  where f.visible <= g.p and (g.floor_us is null or g.floor_us <= f.outlives_us or f.occurred_us > g.floor_us)
)

-- table fact_as_of
select * from fact_last where nth = 1 and value <> 'null' and (valid_until_us is null or valid_until_us > end_us)

-- table fact_columns
select account_id, p,
  max(case when name = 'plan' then trim(both '"' from value) end) as plan,
  max(case when name = 'segment' then trim(both '"' from value) end) as segment,
  max(case when name = 'stage' then trim(both '"' from value) end) as stage,
  max(case when name = 'owner' then trim(both '"' from value) end) as owner,
  max(case when name = 'seats' then cast(value as bigint) end) as seats,
  max(case when name = 'mrr' then cast(value as decimal(18, 2)) end) as mrr,
  max(case when name = 'started_at' then cast(value as bigint) end) as started_at,
  max(case when name = 'renews_at' then cast(value as bigint) end) as renews_at,
  max(case when name = 'sentiment' then cast(value as double) end) as sentiment,
  max(case when name = 'sentiment' then occurred_us end) as sentiment_at,
  max(case when name = 'trained' then cast(value as double) end) as trained,
  max(case when name = 'invoices' then cast(value as double) end) as invoices,
  string_agg(case when name not in ('plan', 'segment', 'stage', 'owner', 'seats', 'mrr', 'started_at', 'renews_at', 'features', 'sentiment', 'trained', 'invoices')
             then name || '=' || value end, ';' order by name) as other_facts
from fact_as_of group by 1, 2

-- Each person after each event, in every version of what was known.
-- table person_version
select account_id, visible as v, lead(visible, 1, 1000000000) over (partition by account_id order by visible) as next_v
from (select distinct account_id, visible from accepted where kind = 5 or (kind = 4 and action = 2))

-- table person_floor
select v.account_id, v.v, v.next_v, max(d.at_us) as floor_us
from person_version v left join deletion d on d.account_id = v.account_id and d.visible <= v.v
group by 1, 2, 3

-- A fact whose pane is long forgotten is no duplicate, however often it is sent: it counts once, as far as no deletion has erased it.
-- table person_event
select * from (
  select v.account_id, v.v, v.next_v, e.user_id, e.event_id, e.ord, e.occurred_us, e.action, e.role, e.cleared,
    row_number() over (partition by v.account_id, v.v, e.user_id, e.event_id, e.occurred_us order by e.off, e.row_no) as nth_copy
  from person_floor v join accepted e on e.account_id = v.account_id and e.kind = 5 and e.visible <= v.v
  where v.floor_us is null or v.floor_us <= e.outlives_us or e.occurred_us > v.floor_us
) where nth_copy = 1

-- table person_step
select e.account_id, e.v, e.next_v, e.user_id, e.event_id, e.ord, e.occurred_us, e.action,
  last_value(case when e.action in (1, 2) then e.action end) ignore nulls over one = 1 as is_member,
  -- A role that null has cleared is an empty text here, which no role is: it is no missing value.
  nullif(last_value(case when e.cleared = 1 then '' else e.role end) ignore nulls over one, '') as role,
  row_number() over (partition by e.account_id, e.v, e.user_id order by e.occurred_us desc, e.ord desc) as nth_last
from person_event e
window one as (partition by e.account_id, e.v, e.user_id order by e.occurred_us, e.ord rows between unbounded preceding and current row)

-- table person
select s.*, coalesce(s.is_member, false) and c.role is not null as is_champion
from person_step s left join champion_role c on c.role = s.role

-- table person_change
select *, lag(is_champion, 1, false) over (partition by account_id, v, user_id order by occurred_us, ord) as was_champion from person

-- table headcount
select g.account_id, g.p, sum(case when n.is_member then 1 else 0 end) as people, sum(case when n.is_champion then 1 else 0 end) as champions
from grid g join person n on n.account_id = g.account_id and n.v <= g.p and n.next_v > g.p and n.nth_last = 1
group by 1, 2

-- table w_people
select g.account_id, g.p, g.period, g.is_previous,
  sum(case when n.action = 1 then 1 else 0 end) as people_added, sum(case when n.action = 2 then 1 else 0 end) as people_removed,
  sum(case when n.was_champion and not coalesce(n.is_champion, false) then 1 else 0 end) as champions_lost
from grid_w g join person_change n on n.account_id = g.account_id and n.v <= g.p and n.next_v > g.p
where n.occurred_us >= g.from_us and n.occurred_us < g.until_us
group by 1, 2, 3, 4

-- table milestone_version
select g.account_id, g.p, g.end_us, m.milestone_id, m.due_us, m.done_us,
  row_number() over (partition by g.account_id, g.p, m.milestone_id order by m.due_us is null and coalesce(m.cleared, 0) not in (2, 6), m.occurred_us desc, m.ord desc) as nth_due,
  row_number() over (partition by g.account_id, g.p, m.milestone_id order by m.done_us is null and coalesce(m.cleared, 0) not in (4, 6), m.occurred_us desc, m.ord desc) as nth_done
from grid g join accepted m on m.account_id = g.account_id and m.kind = 4 and m.action = 3
where m.visible <= g.p and (g.floor_us is null or g.floor_us <= m.outlives_us or m.occurred_us > g.floor_us)

-- table milestone_as_of
select account_id, p, end_us, milestone_id, max(case when nth_due = 1 then due_us end) as due_us,
  max(case when nth_done = 1 then done_us end) as done_us, coalesce(max(case when nth_done = 1 then done_us end) <= end_us, false) as is_done
from milestone_version group by 1, 2, 3, 4

-- table milestones
select account_id, p, count(*) as milestones, sum(case when is_done then 1 else 0 end) as milestones_done,
  sum(case when due_us <= end_us and not is_done then 1 else 0 end) as milestones_overdue,
  min(case when due_us <= end_us and not is_done then due_us end) as oldest_overdue_at
from milestone_as_of group by 1, 2

-- The last outcome of each alert within the longest window.
-- table outcome_last
select g.account_id, g.p, a.alert_id, a.outcome, row_number() over (partition by g.account_id, g.p, a.alert_id order by a.occurred_us desc, a.ord desc) as nth
from grid g cross join (select max(panes) as longest from windows) w
join accepted a on a.account_id = g.account_id and a.kind = 4 and a.action = 4
where a.visible <= g.p and a.pane > g.p - w.longest and (g.floor_pane is null or a.pane > g.floor_pane)

-- table outcomes
select account_id, p, string_agg(alert_id || '=' || case outcome when 1 then 'accepted' when 2 then 'done' when 3 then 'dismissed' end, ';' order by alert_id) as outcomes
from outcome_last where nth = 1 group by 1, 2
