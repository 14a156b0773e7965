-- How the mean contribution of each factor has moved between the first and the last week there is.
with weeks as (
  select factor, contribution, effective_weight,
    as_of < (select min(as_of) + interval 7 day from scores) as is_first,
    as_of > (select max(as_of) - interval 7 day from scores) as is_last
  from score_factors
)
select factor, round(avg(contribution) filter (is_first), 3) as first_week, round(avg(contribution) filter (is_last), 3) as last_week,
  round(avg(contribution) filter (is_last) - avg(contribution) filter (is_first), 3) as drift,
  count(*) filter (contribution is null) as left_out
from weeks
group by factor
order by drift, factor;
