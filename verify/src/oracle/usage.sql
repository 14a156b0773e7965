-- Breadth, depth and surveys: kept by pane, erased by pane.

-- table day
select account_id, pane, visible, count(*) as events, sum("count") as uses, sum(duration_ms) as duration_ms,
  sum(errors) as errors, sum(case when errors is not null then "count" end) as error_uses, max(occurred_us) as last_use_us,
  min(case when feature = '{first_value_feature}' then occurred_us end) as first_value_us
from accepted where kind = 1 group by 1, 2, 3

-- table w_usage
select g.account_id, g.p, d.period, d.is_previous, sum(d.events) as events, sum(d.uses) as uses,
  sum(d.duration_ms) as duration_ms, sum(d.errors) as errors, sum(d.error_uses) as error_uses, count(distinct d.pane) as active_days
from (select d.*, d.pane + r.ahead as p, r.period, r.is_previous from day d cross join reach r) d
join grid g on g.account_id = d.account_id and g.p = d.p
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)
group by 1, 2, 3, 4

-- table user_day
select account_id, user_id, pane, min(visible) as visible
from accepted where kind = 1 and user_id is not null group by 1, 2, 3

-- Who is a champion at the end of a window, and used the product in it.
-- table w_champion
select g.account_id, g.p, g.period, g.is_previous, g.from_pane, g.to_pane, g.floor_pane, n.user_id, n.is_champion,
  row_number() over (partition by g.account_id, g.p, g.period, g.is_previous, n.user_id order by n.occurred_us desc, n.ord desc) as nth
from grid_w g join person n on n.account_id = g.account_id and n.v <= g.p and n.next_v > g.p and n.occurred_us < g.until_us

-- table w_champions
select c.account_id, c.p, c.period, c.is_previous, count(distinct c.user_id) as champions_active
from w_champion c join user_day d on d.account_id = c.account_id and d.user_id = c.user_id and d.visible <= c.p
where c.nth = 1 and c.is_champion and d.pane >= c.from_pane and d.pane < c.to_pane and (c.floor_pane is null or d.pane > c.floor_pane)
group by 1, 2, 3, 4

-- table w_users
select g.account_id, g.p, d.period, d.is_previous, count(distinct d.user_id) as active_users, count(*) as user_days
from (select d.*, d.pane + r.ahead as p, r.period, r.is_previous from user_day d cross join reach r) d
join grid g on g.account_id = d.account_id and g.p = d.p
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)
group by 1, 2, 3, 4

-- table used
select account_id, feature, pane, min(visible) as visible from accepted where kind = 1 group by 1, 2, 3

-- The last telling of the entitled features, else the catalogue.
-- table entitled
select distinct f.account_id, f.p, e.feature
from fact_as_of f join entitlement e on e.part = f.part and e.off = f.off and e.row_no = f.row_no
where f.name = 'features'
union all
select g.account_id, g.p, c.feature
from grid g cross join catalogue c left join fact_as_of f on f.account_id = g.account_id and f.p = g.p and f.name = 'features'
where f.account_id is null

-- table num_entitled
select g.account_id, g.p, count(e.feature) as num_entitled,
  max(case when f.account_id is not null then 1 else 0 end) = 1 as is_fact,
  max(case when f.account_id is not null then 1 else 0 end) = 1 or {catalogue_size} > 0 as is_known
from grid g
left join entitled e on e.account_id = g.account_id and e.p = g.p
left join fact_as_of f on f.account_id = g.account_id and f.p = g.p and f.name = 'features'
group by 1, 2

-- table w_used
select distinct g.account_id, g.p, d.period, d.is_previous, d.feature
from (select d.*, d.pane + r.ahead as p, r.period, r.is_previous from used d cross join reach r) d
join grid g on g.account_id = d.account_id and g.p = d.p
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)

-- table w_features
select d.account_id, d.p, d.period, d.is_previous, count(d.feature) as features_used, count(e.feature) as features_adopted
from w_used d left join entitled e on e.account_id = d.account_id and e.p = d.p and e.feature = d.feature
group by 1, 2, 3, 4

-- A feature belongs to a group once, whatever number of its patterns fit.
-- table grouped
select distinct u.feature, f.name as feature_group
from (select distinct feature from accepted where kind = 1) u join feature_group f on u.feature like f.pattern escape '\'

-- table group_use
select a.account_id, m.feature_group, a.pane, a.visible, a.user_id, a."count"
from accepted a join grouped m on m.feature = a.feature where a.kind = 1

-- table w_group
select g.account_id, g.p, d.period, d.is_previous, d.feature_group, sum(d."count") as uses, count(distinct d.user_id) as users,
  count(distinct d.pane) as active_days
from (select d.*, d.pane + r.ahead as p, r.period, r.is_previous from group_use d cross join reach r) d
join grid g on g.account_id = d.account_id and g.p = d.p
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)
group by 1, 2, 3, 4, 5

-- table answer
select account_id, pane, visible, user_id, action as survey, occurred_us, ord, survey_scale_max as best,
  case when action = 1 then case when survey_score >= 9 then 1 when survey_score <= 6 then -1 else 0 end else survey_score end as score,
  case when action = 1 and survey_score <= 6 or action <> 1 and 5 * survey_score <= 2 * survey_scale_max then 1 else 0 end as low,
  case when action = 2 and survey_scale_max >= 4 and survey_scale_max - survey_score <= 1 or action = 2 and survey_score = survey_scale_max
    or action = 3 and 7 * survey_score - 5 * survey_scale_max >= 0 then 1 else 0 end as high
from accepted where kind = 3

-- Of each person the last answer within a window; of nobody known every one.
-- table w_answer
select g.account_id, g.p, d.period, d.is_previous, d.survey, d.score, d.low, d.high, d.best,
  d.user_id is null or {all_answers} or row_number() over (
    partition by g.account_id, g.p, d.period, d.is_previous, d.survey, d.user_id order by d.occurred_us desc, d.ord desc) = 1 as counts
from (select d.*, d.pane + r.ahead as p, r.period, r.is_previous from answer d cross join reach r) d
join grid g on g.account_id = d.account_id and g.p = d.p
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)

-- table w_surveys
select account_id, p, period, is_previous,
  sum(case when survey = 1 then 1 end) as nps_n, sum(case when survey = 1 then score end) as nps_score,
  sum(case when survey = 1 then low end) as nps_low, sum(case when survey = 2 then low end) as csat_low,
  sum(case when survey = 2 then high end) as csat_high, sum(case when survey = 3 then high end) as ces_high,
  sum(case when survey = 2 then 1 end) as csat_n, sum(case when survey = 2 then score end) as csat_score, sum(case when survey = 2 then best end) as csat_best,
  sum(case when survey = 3 then 1 end) as ces_n, sum(case when survey = 3 then score end) as ces_score, sum(case when survey = 3 then best end) as ces_best
from w_answer where counts group by 1, 2, 3, 4

-- table use_anchor
select g.account_id, g.p, max(d.last_use_us) as last_use_at, min(d.first_value_us) as first_value_at
from grid g join day d on d.account_id = g.account_id
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)
group by 1, 2

-- table first_use
select account_id, pane, visible, feature, min(occurred_us) as first_us from accepted where kind = 1 group by 1, 2, 3, 4

-- table first_use_as_of
select g.account_id, g.p, d.feature, min(d.first_us) as done_us
from grid g join first_use d on d.account_id = g.account_id
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)
group by 1, 2, 3

-- table survey_anchor
select g.account_id, g.p, max(case when survey = 1 then occurred_us end) as nps_last_at,
  max(case when survey = 2 then occurred_us end) as csat_last_at, max(case when survey = 3 then occurred_us end) as ces_last_at
from grid g join answer d on d.account_id = g.account_id
where d.visible <= g.p and (g.floor_pane is null or d.pane > g.floor_pane)
group by 1, 2

-- Adoption by feature and pane, at the close of that pane: events that came later do not count.
-- table feature_day
select g.account_id, g.p, a.feature, count(*) as events, sum("count") as uses, count(distinct user_id) as users,
  sum(duration_ms) as duration_ms, sum(errors) as errors
from grid_floor g join accepted a on a.account_id = g.account_id and a.pane = g.p
where a.kind = 1 and a.visible = g.p and a.fate = 'on_time' and (g.floor_pane is null or a.pane > g.floor_pane)
group by 1, 2, 3
