-- An audit: scores that differ from what their factors give. There must be none.
-- Integers of millionths, rounded half-up once: score = sum(normalised * weight) / sum(weight).
with factors as (
  select account_id, as_of, sum(contribution) as contributions,
    sum(cast(normalised * 1000000 as hugeint) * cast(weight * 1000000 as hugeint)) as weighted,
    sum(cast(weight * 1000000 as hugeint)) filter (normalised is not null) as weights
  from score_factors
  group by account_id, as_of
)
select account_id, as_of, score, contributions, ((2 * weighted + weights) // (2 * weights)) as recomputed_millionths
from scores left join factors using (account_id, as_of)
where not deleted and (score is distinct from contributions
  or cast(score * 1000000 as hugeint) is distinct from (2 * weighted + weights) // (2 * weights));
