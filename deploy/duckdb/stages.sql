-- How many accounts are in each stage of the lifecycle, how long those that moved on had been in it, and how many left as customers from it.
select stage, count(*) filter (where left_at is null) as accounts_now,
  count(*) filter (where left_at is not null and left_for not in ('churned', 'expired', 'retired', 'deleted')) as moved_on,
  median(date_diff('day', entered_at, left_at)) filter (where left_for not in ('churned', 'expired', 'retired', 'deleted')) as days_in_it,
  count(*) filter (where left_for in ('churned', 'expired')) as churned
from stages
group by stage order by accounts_now desc, stage;
