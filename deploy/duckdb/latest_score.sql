-- The latest final score of each account that is there.
select account_id, as_of, display, band, delta, coverage, model, model_version
from (from scores qualify row_number() over (partition by account_id order by as_of desc) = 1)
where not deleted and not retired
order by account_id;
