-- Net and gross revenue retention of each quarter by segment: as it is known now, and as it was first reported. Percent.
with reports as (
  select *, row_number() over (partition by account_id, period_start order by as_of desc) as from_last
  from revenue where period = 'quarter' and final and opening is not null
), sums as (
  select period_start, segment, currency,
    sum(opening) filter (from_last = 1) as opening, sum(expansion) filter (from_last = 1) as more, sum(contraction + churned) filter (from_last = 1) as lost,
    sum(opening) filter (revision = 0) as first_opening, sum(expansion - contraction - churned) filter (revision = 0) as first_net
  from reports group by all
)
select period_start, segment, currency, opening, round(100 * (opening + more - lost) / opening, 2) as nrr, round(100 * (opening - lost) / opening, 2) as grr,
  round(100 * (first_opening + first_net) / first_opening, 2) as nrr_as_first_reported
from sums where opening > 0
order by period_start desc, segment, currency;
