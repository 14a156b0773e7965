-- Adoption of each feature over the last four weeks: accounts, users a day, uses.
select feature, count(distinct account_id) as accounts,
  round(count(distinct account_id) / (select count(*) from scores where as_of = (select max(as_of) from scores) and not deleted and not retired), 3) as share_of_accounts,
  round(avg(users), 1) as users_a_day, sum(uses) as uses
from feature_days
where as_of > (select max(as_of) - interval 28 day from feature_days)
group by feature
order by accounts desc, uses desc, feature;
