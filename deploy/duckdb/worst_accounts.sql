-- The worst accounts of the last day, with the change of four weeks and the factor that costs most points.
with today as (
  select * from scores where as_of = (select max(as_of) from scores) and score is not null
), before as (
  select account_id, score from scores where as_of = (select max(as_of) - interval 28 day from scores)
), cost as (
  select account_id, arg_max(factor, effective_weight - contribution) as factor, max(effective_weight - contribution) as points
  from score_factors where as_of = (select max(as_of) from scores) group by account_id
)
select t.account_id, t.display, t.band, t.score - b.score as change_28d, c.factor as costs_most, c.points, t.owner,
  list_transform(t.triggers, lambda trigger: trigger.name) as triggers
from today t left join before b using (account_id) left join cost c using (account_id)
order by t.score, t.account_id
limit 20;
