-- The latest final score of each account.
select account_id, as_of, display, band, delta, coverage, model, model_version
from scores
where not deleted
qualify row_number() over (partition by account_id order by as_of desc) = 1
order by account_id;
