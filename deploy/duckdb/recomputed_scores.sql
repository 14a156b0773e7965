-- An audit: scores that differ from what their factors give. There must be none.
-- In integers of millionths: normalised * effective_weight / 100, summed, is the score, rounded half-up once; the
-- contributions sum to it, and the effective weights to 100. (The parts of an additive score are rounded one by one.)
with factors as (
  select account_id, as_of, sum(contribution) as contributions, sum(effective_weight) as weights,
    sum(cast(normalised * 1000000 as hugeint) * cast(effective_weight * 1000000 as hugeint)) as weighted,
    bool_or(factor = '(start)') as is_additive
  from score_factors
  group by account_id, as_of
)
select account_id, as_of, score, contributions, (2 * weighted + 100000000) // 200000000 as recomputed_millionths
from scores left join factors using (account_id, as_of)
where not deleted and (score is distinct from contributions
  or not is_additive and (weights is distinct from 100
    or cast(score * 1000000 as hugeint) is distinct from (2 * weighted + 100000000) // 200000000));
