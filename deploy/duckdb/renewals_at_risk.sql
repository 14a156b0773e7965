-- Customers with a term that ends within 90 days of the last day, and a band that is not green: revenue at risk, largest first.
select account_id, owner, band, display, mrr, currency, renews_at
from scores
where as_of = (select max(as_of) from scores) and customer_status = 'active' and band <> 'green'
  and renews_at < as_of + interval 90 day
order by mrr desc, account_id;
