-- Tickets. What is known of a ticket changes when one of its events, or a deletion, becomes visible:
-- each such pane starts a version, and a row for pane p shows the version that holds at p.

-- table ticket_version
select account_id, ticket_id, v, lead(v, 1, 1000000000) over (partition by account_id, ticket_id order by v) as next_v
from (
  select account_id, ticket_id, visible as v from accepted where kind = 2
  union
  select t.account_id, t.ticket_id, d.visible as v
  from (select distinct account_id, ticket_id from accepted where kind = 2) t join deletion d on d.account_id = t.account_id
)

-- table ticket_event
select v.account_id, v.ticket_id, v.v, v.next_v, e.ord, e.occurred_us, e.action, e.priority, e.category, e.csat
from (
  select v.account_id, v.ticket_id, v.v, v.next_v, max(d.at_us) as floor_us
  from ticket_version v left join deletion d on d.account_id = v.account_id and d.visible <= v.v group by 1, 2, 3, 4
) v
join accepted e on e.account_id = v.account_id and e.ticket_id = v.ticket_id and e.kind = 2 and e.visible <= v.v
where v.floor_us is null or e.occurred_us > v.floor_us

-- Steps of one time come as one follows from another: opened, priority changed, escalated, responded, resolved, closed, reopened, rated.
-- table ticket_step
select *, case action when 1 then 0 when 6 then 1 when 5 then 2 when 2 then 3 when 3 then 4 when 8 then 5 when 4 then 6 when 7 then 7 end as step
from ticket_event

-- table ticket_first
select *,
  case when action = 1 then row_number() over (partition by account_id, ticket_id, v, action order by occurred_us, ord) end = 1 as is_opening,
  min(case when action = 1 then occurred_us end) over (partition by account_id, ticket_id, v) as opening_us
from ticket_step

-- Steps of a ticket before its opening count at the opening. A ticket that ends and is reopened at one time stays as it was.
-- table ticket_in_turn
select *, greatest(occurred_us, opening_us) as at_us,
  row_number() over (partition by account_id, ticket_id, v
    order by greatest(occurred_us, opening_us), case when is_opening then 0 else 1 end, occurred_us, step, ord) as turn,
  max(case when action = 4 then 1 else 0 end) over one_time + max(case when action in (3, 8) then 1 else 0 end) over one_time = 2 as is_both
from ticket_first window one_time as (partition by account_id, ticket_id, v, occurred_us)

-- table ticket_before
select *, last_value(case when is_opening then 1 when is_both then null when action in (3, 8) then 0 when action = 4 then 1 end) ignore nulls
    over (partition by account_id, ticket_id, v order by turn rows between unbounded preceding and current row) = 0 as was_closed
from ticket_in_turn

-- What is closed is reopened before it is closed again.
-- table ticket_nth
select *,
  row_number() over (partition by account_id, ticket_id, v
    order by at_us, case when is_opening then 0 else 1 end, occurred_us,
      case when is_both and coalesce(was_closed, false) and action = 4 then 35 else step * 10 end, ord) as nth
from ticket_before

-- table ticket_opening
select account_id, ticket_id, v, min(nth) as opening from ticket_nth where is_opening group by 1, 2, 3

-- A ticket's life from its opening on; priority 2 (normal) where none is given.
-- table ticket_life
select e.*, o.opening,
  first_value(e.at_us) over life as opened_us,
  coalesce(last_value(e.priority) ignore nulls over life, 2) as priority_now,
  last_value(e.category) ignore nulls over life as category_now,
  last_value(case when e.action in (3, 8) then 0 when e.action = 4 or e.nth = o.opening then 1 end) ignore nulls over life = 1 as is_open,
  sum(case when e.action = 2 then 1 else 0 end) over life as responses_so_far,
  lead(case when e.action in (3, 4) then e.at_us end) ignore nulls over (partition by e.account_id, e.ticket_id, e.v order by e.nth) as next_change_us,
  row_number() over (partition by e.account_id, e.ticket_id, e.v order by e.nth desc) as nth_last
from ticket_nth e join ticket_opening o on o.account_id = e.account_id and o.ticket_id = e.ticket_id and o.v = e.v and e.nth >= o.opening
window life as (partition by e.account_id, e.ticket_id, e.v order by e.nth rows between unbounded preceding and current row)

-- table ticket
select l.*, case when c.category is null then 'other' else c.category end as counted_under,
  (l.at_us - l.opened_us) / 1000 as age_ms, t.first_response_ms, t.resolution_ms
from ticket_life l left join category c on c.category = l.category_now join target t on t.priority = l.priority_now

-- table w_event
select g.account_id, g.p, t.period, t.is_previous, t.ticket_id, t.nth, t.action, t.csat, t.age_ms, t.priority_now, t.counted_under, t.first_response_ms, t.resolution_ms,
  t.nth = t.opening as is_opening,
  t.action = 2 and t.responses_so_far = 1 as is_response,
  t.action = 3 and (t.next_change_us is null or t.next_change_us >= (g.p + 1 - t.panes * t.is_previous) * {width}) as is_resolution
from (select t.*, t.at_us / {width} + r.ahead as p, r.period, r.panes, r.is_previous from ticket t cross join reach r) t
join grid g on g.account_id = t.account_id and g.p = t.p
where t.v <= g.p and t.next_v > g.p

-- A ticket has one rating: within a window the last one.
-- table w_rating
select account_id, p, period, is_previous, count(*) as ratings, sum(csat) as rating_sum, sum(case when csat <= 2 then 1 else 0 end) as rating_low
from (select *, row_number() over (partition by account_id, p, period, is_previous, ticket_id order by nth desc) as nth_last from w_event where action = 7)
where nth_last = 1 or {all_answers} group by 1, 2, 3, 4

-- table w_tickets
select account_id, p, period, is_previous,
  sum(case when is_opening then 1 else 0 end) as opened,
  sum(case when is_opening and priority_now = 1 then 1 else 0 end) as opened_low,
  sum(case when is_opening and priority_now = 2 then 1 else 0 end) as opened_normal,
  sum(case when is_opening and priority_now = 3 then 1 else 0 end) as opened_high,
  sum(case when is_opening and priority_now = 4 then 1 else 0 end) as opened_urgent,
  sum(case when action = 5 then 1 else 0 end) as escalated, sum(case when action = 4 then 1 else 0 end) as reopened,
  sum(case when is_response then 1 else 0 end) as responses, sum(case when is_response then age_ms end) as response_sum,
  sum(case when is_resolution then 1 else 0 end) as resolutions, sum(case when is_resolution then age_ms end) as resolution_sum,
  {within_target}
from w_event group by 1, 2, 3, 4

-- table w_category
select account_id, p, period, is_previous, string_agg(counted_under || '=' || n, ';' order by counted_under) as by_category
from (select account_id, p, period, is_previous, counted_under, count(*) as n from w_event where is_opening group by 1, 2, 3, 4, 5)
group by 1, 2, 3, 4

-- Nearest rank: the value at rank ceil(0.9 n).
-- table w_response_p90
select account_id, p, period, is_previous, age_ms as p90
from (select *, row_number() over one as rank, count(*) over (partition by account_id, p, period, is_previous) as n
      from w_event where is_response window one as (partition by account_id, p, period, is_previous order by age_ms))
where rank = (n * 9 + 9) / 10

-- table w_resolution_p90
select account_id, p, period, is_previous, age_ms as p90
from (select *, row_number() over one as rank, count(*) over (partition by account_id, p, period, is_previous) as n
      from w_event where is_resolution window one as (partition by account_id, p, period, is_previous order by age_ms))
where rank = (n * 9 + 9) / 10

-- table open_ticket
select g.account_id, g.p, t.priority_now, t.counted_under
from grid g join ticket t on t.account_id = g.account_id and t.v <= g.p and t.next_v > g.p
where t.nth_last = 1 and t.is_open

-- table backlog
select account_id, p, count(*) as backlog,
  sum(case when priority_now = 1 then 1 else 0 end) as low, sum(case when priority_now = 2 then 1 else 0 end) as normal,
  sum(case when priority_now = 3 then 1 else 0 end) as high, sum(case when priority_now = 4 then 1 else 0 end) as urgent
from open_ticket group by 1, 2

-- table backlog_category
select account_id, p, string_agg(counted_under || '=' || n, ';' order by counted_under) as by_category
from (select account_id, p, counted_under, count(*) as n from open_ticket group by 1, 2, 3) group by 1, 2

-- table moved
select g.account_id, g.p, count(distinct e.ticket_id) as moved
from grid g join ticket_event e on e.account_id = g.account_id and e.v <= g.p and e.next_v > g.p
left join ticket_opening o on o.account_id = e.account_id and o.ticket_id = e.ticket_id and o.v = e.v
where o.opening is null group by 1, 2
