-- The rows, column by column as the `windows` table names them.

-- Contracts are nearer to the truth than facts.
-- table seats
select g.account_id, g.p, case when k.account_id is not null then k.seats else c.seats end as seats
from grid g left join fact_columns c on c.account_id = g.account_id and c.p = g.p left join customer k on k.account_id = g.account_id and k.p = g.p

-- table half
select g.account_id, g.p, g.period, g.is_previous,
  coalesce(u.events, 0) as events, coalesce(u.uses, 0) as uses, coalesce(s.active_users, 0) as active_users, coalesce(s.user_days, 0) as user_days,
  coalesce(f.features_used, 0) as features_used,
  case when n.is_known then coalesce(f.features_adopted, 0) end as features_adopted,
  case when n.is_known and n.num_entitled > 0 then cast(coalesce(f.features_adopted, 0) as double) / cast(n.num_entitled as double) end as adoption_rate,
  cast(u.uses as double) / cast(s.active_users as double) as uses_per_user,
  cast(u.events as double) / cast(s.active_users as double) as events_per_user,
  cast(u.uses as double) / cast(f.features_used as double) as uses_per_feature,
  coalesce(u.active_days, 0) as active_days, cast(coalesce(u.active_days, 0) as double) / cast(g.panes as double) as active_day_share,
  u.duration_ms, u.errors, cast(u.errors as double) / cast(nullif(u.error_uses, 0) as double) as error_rate,
  cast(s.user_days as double) / cast(g.panes * s.active_users as double) as stickiness,
  case when e.seats <> 0 then cast(coalesce(s.active_users, 0) as double) / cast(e.seats as double) end as seat_use,
  coalesce(w.people_added, 0) as people_added, coalesce(w.people_removed, 0) as people_removed, coalesce(w.champions_lost, 0) as champions_lost,
  coalesce(ch.champions_active, 0) as champions_active,
  coalesce(t.opened, 0) as tickets_opened, coalesce(t.opened_low, 0) as tickets_opened_low, coalesce(t.opened_normal, 0) as tickets_opened_normal,
  coalesce(t.opened_high, 0) as tickets_opened_high, coalesce(t.opened_urgent, 0) as tickets_opened_urgent,
  coalesce(k.by_category, '') as tickets_opened_by_category, coalesce(t.escalated, 0) as tickets_escalated, coalesce(t.reopened, 0) as tickets_reopened,
  coalesce(t.responses, 0) as first_responses,
  case when t.responses > 0 then cast(t.response_sum as double) / cast(t.responses as double) end as first_response_ms_mean, r.p90 as first_response_ms_p90,
  case when t.response_n_1 > 0 then cast(t.response_in_1 as double) / cast(t.response_n_1 as double) end as first_response_within_target_low,
  case when t.response_n_2 > 0 then cast(t.response_in_2 as double) / cast(t.response_n_2 as double) end as first_response_within_target_normal,
  case when t.response_n_3 > 0 then cast(t.response_in_3 as double) / cast(t.response_n_3 as double) end as first_response_within_target_high,
  case when t.response_n_4 > 0 then cast(t.response_in_4 as double) / cast(t.response_n_4 as double) end as first_response_within_target_urgent,
  coalesce(t.resolutions, 0) as tickets_resolved,
  case when t.resolutions > 0 then cast(t.resolution_sum as double) / cast(t.resolutions as double) end as resolution_ms_mean, l.p90 as resolution_ms_p90,
  case when t.resolution_n_1 > 0 then cast(t.resolution_in_1 as double) / cast(t.resolution_n_1 as double) end as resolution_within_target_low,
  case when t.resolution_n_2 > 0 then cast(t.resolution_in_2 as double) / cast(t.resolution_n_2 as double) end as resolution_within_target_normal,
  case when t.resolution_n_3 > 0 then cast(t.resolution_in_3 as double) / cast(t.resolution_n_3 as double) end as resolution_within_target_high,
  case when t.resolution_n_4 > 0 then cast(t.resolution_in_4 as double) / cast(t.resolution_n_4 as double) end as resolution_within_target_urgent,
  coalesce(a.ratings, 0) as ticket_csat_count, case when a.ratings > 0 then cast(a.rating_sum as double) / cast(a.ratings as double) end as ticket_csat_mean,
  coalesce(a.rating_low, 0) as ticket_csat_low,
  coalesce(v.nps_n, 0) as nps_responses, cast(100 * v.nps_score as double) / cast(v.nps_n as double) as nps, coalesce(v.nps_low, 0) as nps_detractors,
  coalesce(v.csat_n, 0) as csat_responses, cast(v.csat_score as double) / cast(v.csat_best as double) as csat, coalesce(v.csat_low, 0) as csat_low,
  coalesce(v.ces_n, 0) as ces_responses, cast(v.ces_score as double) / cast(v.ces_best as double) as ces,
  v.csat_high as csat_satisfied, v.ces_high as ces_easy{group_columns}
from grid_w g
left join w_usage u on u.account_id = g.account_id and u.p = g.p and u.period = g.period and u.is_previous = g.is_previous
left join w_users s on s.account_id = g.account_id and s.p = g.p and s.period = g.period and s.is_previous = g.is_previous
left join w_features f on f.account_id = g.account_id and f.p = g.p and f.period = g.period and f.is_previous = g.is_previous
left join w_surveys v on v.account_id = g.account_id and v.p = g.p and v.period = g.period and v.is_previous = g.is_previous
left join w_people w on w.account_id = g.account_id and w.p = g.p and w.period = g.period and w.is_previous = g.is_previous
left join w_champions ch on ch.account_id = g.account_id and ch.p = g.p and ch.period = g.period and ch.is_previous = g.is_previous
left join w_tickets t on t.account_id = g.account_id and t.p = g.p and t.period = g.period and t.is_previous = g.is_previous
left join w_rating a on a.account_id = g.account_id and a.p = g.p and a.period = g.period and a.is_previous = g.is_previous
left join w_category k on k.account_id = g.account_id and k.p = g.p and k.period = g.period and k.is_previous = g.is_previous
left join w_response_p90 r on r.account_id = g.account_id and r.p = g.p and r.period = g.period and r.is_previous = g.is_previous
left join w_resolution_p90 l on l.account_id = g.account_id and l.p = g.p and l.period = g.period and l.is_previous = g.is_previous
left join num_entitled n on n.account_id = g.account_id and n.p = g.p
left join seats e on e.account_id = g.account_id and e.p = g.p
{group_joins}
-- The plan of an account is the first that names its segment, or that names none.
-- table started
select * from (
  select g.account_id, g.p, g.end_us, g.floor_pane, case when k.account_id is not null then k.started_us else c.started_at end as start_us, c.segment
  from grid g left join fact_columns c on c.account_id = g.account_id and c.p = g.p left join customer k on k.account_id = g.account_id and k.p = g.p
) where start_us is not null

-- table planned
select s.account_id, s.p, s.end_us, s.start_us, min(pl.place) as place
from started s join plan_of_segment pl on pl.segment is null or pl.segment = s.segment group by 1, 2, 3, 4

-- The first days of a customer, as long as nothing of them is forgotten.
-- table first_days
select s.account_id, s.p, s.floor_pane, n.days, s.start_us / {width} as from_pane, s.start_us / {width} + n.days * 86400000000 / {width} as to_pane
from started s cross join (select 14 as days union all select 60 union all select 90) n
where s.start_us / {width} <= s.p and s.start_us / {width} > s.p - 2 * {longest}

-- table first_users
select a.account_id, a.p, a.days, count(distinct d.user_id) as users
from first_days a join user_day d on d.account_id = a.account_id and d.visible <= a.p and (a.floor_pane is null or d.pane > a.floor_pane)
  and d.pane >= a.from_pane and d.pane < a.to_pane and d.pane <= a.p
group by 1, 2, 3

-- table first_used
select a.account_id, a.p, a.days, count(distinct d.feature) as features
from first_days a join used d on d.account_id = a.account_id and d.visible <= a.p and (a.floor_pane is null or d.pane > a.floor_pane)
  and d.pane >= a.from_pane and d.pane < a.to_pane and d.pane <= a.p
group by 1, 2, 3

-- table first_uses
select a.account_id, a.p, a.days, sum(d.uses) as uses
from first_days a join day d on d.account_id = a.account_id and d.visible <= a.p and (a.floor_pane is null or d.pane > a.floor_pane)
  and d.pane >= a.from_pane and d.pane < a.to_pane and d.pane <= a.p
group by 1, 2, 3

-- table first_wide
select a.account_id, a.p,
  max(case when a.days = 14 then coalesce(u.users, 0) end) as first_14d_active_users, max(case when a.days = 14 then coalesce(n.uses, 0) end) as first_14d_uses,
  max(case when a.days = 14 then coalesce(f.features, 0) end) as first_14d_features_used,
  max(case when a.days = 60 then coalesce(u.users, 0) end) as first_60d_active_users, max(case when a.days = 60 then coalesce(n.uses, 0) end) as first_60d_uses,
  max(case when a.days = 60 then coalesce(f.features, 0) end) as first_60d_features_used,
  max(case when a.days = 90 then coalesce(u.users, 0) end) as first_90d_active_users, max(case when a.days = 90 then coalesce(n.uses, 0) end) as first_90d_uses,
  max(case when a.days = 90 then coalesce(f.features, 0) end) as first_90d_features_used
from first_days a
left join first_users u on u.account_id = a.account_id and u.p = a.p and u.days = a.days
left join first_used f on f.account_id = a.account_id and f.p = a.p and f.days = a.days
left join first_uses n on n.account_id = a.account_id and n.p = a.p and n.days = a.days
group by 1, 2

-- table plan_item_state
select d.account_id, d.p, i.plan, i.nth as item_nth, i.item, d.start_us + i.after_us as due_us, d.start_us + i.after_us <= d.end_us as is_due,
  case when i.feature is not null then f.done_us when m.done_us <= d.end_us then m.done_us end is not null as is_done
from planned d join plan_item i on i.place = d.place
left join first_use_as_of f on f.account_id = d.account_id and f.p = d.p and f.feature = i.feature
left join milestone_as_of m on m.account_id = d.account_id and m.p = d.p and m.milestone_id = i.milestone

-- table plan_progress
select account_id, p, plan as success_plan, count(*) as plan_items, sum(case when is_due then 1 else 0 end) as plan_items_due,
  sum(case when is_done then 1 else 0 end) as plan_items_done, sum(case when is_due and not is_done then 1 else 0 end) as plan_items_overdue
from plan_item_state group by 1, 2, 3

-- table plan_next
select account_id, p, item, due_us, row_number() over (partition by account_id, p order by due_us, item_nth) as nth
from plan_item_state where not is_done

-- table plan_first
select d.account_id, d.p, d.start_us + v.within_us as due_us,
  case when v.feature is not null then f.done_us when m.done_us <= d.end_us then m.done_us end as first_value_us
from planned d join plan_first_value v on v.place = d.place
left join first_use_as_of f on f.account_id = d.account_id and f.p = d.p and f.feature = v.feature
left join milestone_as_of m on m.account_id = d.account_id and m.p = d.p and m.milestone_id = v.milestone

-- table as_of
select g.account_id, g.p, g.end_us, g.retired, g.deleted,
  coalesce(b.backlog, 0) as tickets_backlog, coalesce(b.low, 0) as tickets_backlog_low, coalesce(b.normal, 0) as tickets_backlog_normal,
  coalesce(b.high, 0) as tickets_backlog_high, coalesce(b.urgent, 0) as tickets_backlog_urgent, coalesce(k.by_category, '') as tickets_backlog_by_category,
  coalesce(m.moved, 0) as tickets_moved, sa.nps_last_at, sa.csat_last_at, sa.ces_last_at,
  coalesce(h.people, 0) as people, coalesce(h.champions, 0) as champions, g.first_seen_at, g.last_activity_at, ua.last_use_at,
  case when pf.account_id is not null then pf.first_value_us else ua.first_value_at end as first_value_at,
  k2.status as customer_status, k2.since_us as customer_since, k2.churn_reason, k2.contracts, k2.currency,
  case when k2.account_id is not null then k2.started_us else c.started_at end as started_at,
  case when k2.account_id is not null then k2.renews_us else c.renews_at end as renews_at, c.plan, c.segment, c.stage, c.owner, e.seats,
  case when k2.account_id is not null then cast(cast(k2.mrr as decimal(20, 0)) / 100 as decimal(18, 2)) else c.mrr end as mrr, case when n.is_fact then n.num_entitled end as features_entitled,
  c.sentiment, c.sentiment_at, c.trained, c.invoices, c.other_facts,
  coalesce(ms.milestones, 0) as milestones, coalesce(ms.milestones_done, 0) as milestones_done,
  coalesce(ms.milestones_overdue, 0) as milestones_overdue, ms.oldest_overdue_at,
  pp.success_plan, pp.plan_items, pp.plan_items_due, pp.plan_items_done, pp.plan_items_overdue, pn.item as plan_next_item, pn.due_us as plan_next_due_at,
  pf.due_us as first_value_due_at, fd.first_14d_active_users, fd.first_14d_uses, fd.first_14d_features_used, fd.first_60d_active_users, fd.first_60d_uses,
  fd.first_60d_features_used, fd.first_90d_active_users, fd.first_90d_uses, fd.first_90d_features_used, coalesce(oc.outcomes, '') as outcomes, cast(null as bigint) as left_out
from grid g
left join backlog b on b.account_id = g.account_id and b.p = g.p
left join backlog_category k on k.account_id = g.account_id and k.p = g.p
left join moved m on m.account_id = g.account_id and m.p = g.p
left join survey_anchor sa on sa.account_id = g.account_id and sa.p = g.p
left join use_anchor ua on ua.account_id = g.account_id and ua.p = g.p
left join headcount h on h.account_id = g.account_id and h.p = g.p
left join fact_columns c on c.account_id = g.account_id and c.p = g.p
left join num_entitled n on n.account_id = g.account_id and n.p = g.p
left join customer k2 on k2.account_id = g.account_id and k2.p = g.p
left join seats e on e.account_id = g.account_id and e.p = g.p
left join outcomes oc on oc.account_id = g.account_id and oc.p = g.p
left join milestones ms on ms.account_id = g.account_id and ms.p = g.p
left join plan_progress pp on pp.account_id = g.account_id and pp.p = g.p
left join plan_next pn on pn.account_id = g.account_id and pn.p = g.p and pn.nth = 1
left join plan_first pf on pf.account_id = g.account_id and pf.p = g.p
left join first_wide fd on fd.account_id = g.account_id and fd.p = g.p

-- table finals
select a.account_id, a.end_us as as_of, n.period, a.end_us <= {closed} as final, a.retired, a.deleted, {now_columns}, {previous_columns}, {as_of_columns}
from as_of a
join half n on n.account_id = a.account_id and n.p = a.p and n.is_previous = 0
join half b on b.account_id = a.account_id and b.p = a.p and b.is_previous = 1 and b.period = n.period
order by a.account_id, a.end_us, n.period
