-- Net and gross revenue retention of each quarter by segment: as it is known now, and as it was first reported. Percent.
-- Accounts whose revenue is not known are left out, and counted.
with reports as (
  select *, row_number() over (partition by account_id, period_start order by as_of desc) as from_last, opening is not null and closing is not null as known
  from revenue where period = 'quarter' and final
), sums as (
  select period_start, segment, currency, count(*) filter (from_last = 1 and not known and customer_at_start) as unknown,
    sum(opening) filter (known and from_last = 1) as opening, sum(expansion) filter (known and from_last = 1) as more, sum(contraction + churned) filter (known and from_last = 1) as lost,
    sum(opening) filter (known and revision = 0) as first_opening, sum(expansion - contraction - churned) filter (known and revision = 0) as first_net
  from reports group by all
)
select period_start, segment, currency, opening, round(100 * (opening + more - lost) / opening, 2) as nrr, round(100 * (opening - lost) / opening, 2) as grr,
  round(100 * (first_opening + first_net) / first_opening, 2) as nrr_as_first_reported, unknown
from sums where opening > 0
order by period_start desc, segment, currency;
