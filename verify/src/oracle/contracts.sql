-- Contracts: what each is over time, in every version of what was known, and the customer that they make together.
-- Phases: 1 runs, 2 is paused, 3 has ended.

-- table contract_said
select account_id, contract_id, event_id, ord, occurred_us, effective_us, action, mrr, currency, seats, ends_us, coalesce(cleared, 0) as cleared,
  reason, outlives_us, d.end_us as reported_us, visible, off, row_no
from accepted left join shortest_period d on d.start_us <= effective_us and d.end_us > effective_us
where kind = 6

-- A fact whose pane is long forgotten is no duplicate, however often it is sent: the first of its id counts, as far as no deletion has erased it.
-- table contract_known
select * from (
  select g.account_id, g.p, g.end_us, s.visible, s.contract_id, s.ord, s.occurred_us, s.effective_us, s.effective_us as holds_us, s.reported_us, s.action, s.mrr,
    s.currency, s.seats, s.ends_us, s.cleared, s.reason, row_number() over (partition by g.account_id, g.p, s.event_id order by s.off, s.row_no) as nth_copy
  from grid_floor g join contract_said s on s.account_id = g.account_id
  where s.visible <= g.p and (g.floor_us is null or g.floor_us <= s.outlives_us or s.occurred_us > g.floor_us)
) where nth_copy = 1

-- A life begins with each start, a spell with whatever brings a contract back.
-- table contract_numbered
select *, row_number() over one as n, sum(case when action = 1 then 1 else 0 end) over one as life,
  sum(case when action in (1, 3) then 1 else 0 end) over one as spell, lead(effective_us) over one as next_us
from contract_known
window one as (partition by account_id, p, contract_id order by effective_us, holds_us, occurred_us, ord)

-- A value that null has cleared is one that no contract has.
-- table contract_terms
select account_id, p, end_us, contract_id, n, spell, action, effective_us, reason, next_us,
  nullif(last_value(case when mrr is not null then mrr when cleared & 8 > 0 then -1 end) ignore nulls over in_life, -1) as mrr,
  nullif(last_value(case when currency is not null then currency when cleared & 16 > 0 then '' end) ignore nulls over in_life, '') as currency,
  nullif(last_value(case when seats is not null then seats when cleared & 32 > 0 then -1 end) ignore nulls over in_life, -1) as seats,
  nullif(last_value(case when ends_us is not null then ends_us when cleared & 64 > 0 or action = 3 then 9000000000000000000 end) ignore nulls over in_life, 9000000000000000000) as ends_us
from contract_numbered
window in_life as (partition by account_id, p, contract_id, life order by n rows between unbounded preceding and current row)

-- table contract_lapse
select *, case when ends_us + {grace} < effective_us then effective_us else ends_us + {grace} end as lapses_us from contract_terms

-- table contract_spell
select *, coalesce(lapses_us <= coalesce(next_us, lapses_us) and effective_us < coalesce(next_us, effective_us + 1), false) as lapses,
  max(case when action = 6 then 1 else 0 end) over upto as cancelled, coalesce(last_value(case when action in (4, 5) then action end) ignore nulls over upto, 5) = 4 as paused,
  coalesce(max(case when lapses_us <= coalesce(next_us, lapses_us) and effective_us < coalesce(next_us, effective_us + 1) then 1 else 0 end) over before, 0) as lapsed
from contract_lapse
window upto as (partition by account_id, p, contract_id, spell order by n rows between unbounded preceding and current row),
  before as (partition by account_id, p, contract_id, spell order by n rows between unbounded preceding and 1 preceding)

-- table contract_phase
select *, case when cancelled = 1 or lapsed = 1 then 3 when paused then 2 else 1 end as phase from contract_spell

-- table contract_step
select account_id, p, end_us, contract_id, n, 0 as is_lapse, effective_us as from_us, phase, mrr, currency, seats, ends_us, reason from contract_phase
union all
select account_id, p, end_us, contract_id, n, 1, lapses_us, 3, mrr, currency, seats, ends_us, 'not_renewed' from contract_phase where lapses and phase < 3

-- table contract_span
select *, lead(from_us) over (partition by account_id, p, contract_id order by n, is_lapse) as until_us from contract_step

-- All contracts at each time at which one of them takes a step.
-- table customer_moment
select t.account_id, t.p, t.at_us,
  max(case when s.phase = 1 and coalesce(s.mrr, 1) <> 0 then 1 else 0 end) as paying, max(case when s.phase = 2 then 1 else 0 end) as paused,
  max(case when s.phase = 1 then 1 else 0 end) as running, sum(case when s.phase < 3 then 1 else 0 end) as contracts,
  sum(case when s.phase = 1 then 1 else 0 end) as num_running, count(case when s.phase = 1 then s.mrr end) as num_priced,
  count(distinct case when s.phase = 1 then coalesce(s.currency, '') end) as num_currencies,
  sum(case when s.phase = 1 then s.mrr end) as mrr, max(case when s.phase = 1 then s.currency end) as currency,
  sum(case when s.phase = 1 then s.seats end) as seats, min(case when s.phase < 3 then s.ends_us end) as renews_us
from (select distinct account_id, p, from_us as at_us from contract_step where from_us < end_us) t
join contract_span s on s.account_id = t.account_id and s.p = t.p and s.from_us <= t.at_us and (s.until_us is null or s.until_us > t.at_us)
group by 1, 2, 3

-- table customer_reason
select account_id, p, from_us as at_us, first_value(reason order by contract_id desc, n desc, is_lapse desc) as reason
from contract_step where reason is not null group by 1, 2, 3

-- table customer_turn
select *, paying = 1 or paused = 1 as is_customer, row_number() over one as nth, row_number() over (partition by account_id, p order by at_us desc) as nth_last,
  lag(paying = 1 or paused = 1, 1, false) over one as was_customer
from customer_moment window one as (partition by account_id, p order by at_us)

-- table customer_since
select account_id, p, min(case when is_customer then at_us end) as started_us, max(case when nth = 1 or is_customer <> was_customer then at_us end) as since_us
from customer_turn group by 1, 2

-- table customer_now
select t.account_id, t.p, s.started_us, s.since_us, t.contracts, r.reason, case when t.num_currencies <= 1 then t.currency end as currency,
  case when t.num_currencies <= 1 and t.num_priced = t.num_running then coalesce(t.mrr, 0) end as mrr, t.seats, t.renews_us,
  case when t.paying = 1 then 'active' when t.paused = 1 then 'paused' when s.started_us is not null then 'churned' when t.running = 1 then 'trial' else 'expired' end as status
from customer_turn t join customer_since s on s.account_id = t.account_id and s.p = t.p
left join customer_reason r on r.account_id = t.account_id and r.p = t.p and r.at_us = s.since_us
where t.nth_last = 1

-- table customer
select k.account_id, k.p, coalesce(n.status, 'upcoming') as status, n.started_us, n.since_us, case when n.status = 'churned' then n.reason end as churn_reason,
  coalesce(n.contracts, 0) as contracts, n.mrr, n.currency, n.seats, n.renews_us,
  case when n.status in ('active', 'paused') then k.end_us when n.status = 'churned' then n.since_us end as until_us, k.told_us
from (select account_id, p, end_us, max(visible) * {width} as told_us from contract_known group by 1, 2, 3) k
left join customer_now n on n.account_id = k.account_id and n.p = k.p
