-- Customers of the segment smb whose first 14 days ended in the last 90 days, and that did not reach their first value in them; longest first.
select account_id, owner, started_at, first_value_at, date_diff('day', started_at, coalesce(first_value_at, as_of)) as days
from windows
where as_of = (select max(as_of) from windows) and segment = 'smb' and started_at between as_of - interval 104 day and as_of - interval 14 day
  and coalesce(customer_status, 'active') in ('active', 'paused') and coalesce(first_value_at, as_of) > started_at + interval 14 day
order by days desc, account_id;
