-- Revenue by calendar period. Contracts are folded again, as they were known at a close q, and as a close p sees it.
-- The fold itself is that of contracts.sql, under other names: see `booked` in oracle.rs.

-- table revenue_known
select k.*, min(k.visible) over (partition by k.account_id, k.p) as first from contract_known k

-- table revenue_news
select account_id, p, end_us from contract_known where visible = p group by 1, 2, 3

-- table revenue_grid
select account_id, p, end_us from contract_known
union select account_id, p, end_us from grid_floor where is_deletion_news and account_id in (select account_id from contract_said)

-- table revenue_past
select n.account_id, n.p, n.end_us, d.kind, d.start_us, d.end_us as period_end, (d.end_us - 1) / {width} as reported
from revenue_news n join period d on d.end_us <= n.p * {width} and d.end_us >= n.p * {width} - {restate_for} and {restates}

-- table revenue_view
select account_id, p, p as q from revenue_grid
union select account_id, p, reported from revenue_past
union select n.account_id, n.p, k.visible from revenue_news n join revenue_known k on k.account_id = n.account_id and k.p = n.p

-- What was told after the shortest period with it was reported restates the past, or counts from when it became known.
-- table booked_said
select v.account_id, v.p * 1000000000 + v.q as p, k.end_us, k.visible, k.contract_id, k.ord, k.occurred_us, k.holds_us, k.effective_us,
  case when k.effective_us >= k.visible * {width} or coalesce(k.reported_us, -9000000000000000000) > k.visible * {width} then k.effective_us
       when k.visible = k.first or ({restates} and coalesce(k.reported_us, -9000000000000000000) >= k.visible * {width} - {restate_for}) then k.effective_us
       else k.visible * {width} end as counts_us,
  k.action, k.mrr, k.currency, k.seats, k.ends_us, k.cleared, k.reason
from revenue_view v join revenue_known k on k.account_id = v.account_id and k.p = v.p and k.visible <= v.q

-- Each time from which something late counts begins a layer: there the contract is what all that counts by then say.
-- table booked_late
select account_id, p, contract_id, counts_us, max(case when action = 3 then 1 else 0 end) as renews,
  last_value(reason order by case when reason is null then 0 else 1 end, effective_us, holds_us, occurred_us, ord) as reason
from booked_said where counts_us > effective_us group by 1, 2, 3, 4

-- table booked_layer
select *, lead(begin_us, 1, 9000000000000000000) over (partition by account_id, p, contract_id order by begin_us) as finish_us from (
  select account_id, p, contract_id, counts_us as begin_us, renews, reason from booked_late
  union all select distinct account_id, p, contract_id, -9000000000000000000, 0, null from booked_said
)

-- table layer_known
select s.account_id, s.p, s.end_us, s.visible, s.contract_id || '/' || cast(l.begin_us as varchar) as contract_id, s.contract_id as of_contract, l.begin_us, l.finish_us,
  l.renews, l.reason as late_reason, s.ord, s.occurred_us, s.holds_us, s.effective_us, s.action, s.mrr, s.currency, s.seats, s.ends_us, s.cleared, s.reason
from booked_said s join booked_layer l on l.account_id = s.account_id and l.p = s.p and l.contract_id = s.contract_id and s.counts_us < l.finish_us

{layers}

-- What the contract is when a layer begins, and what becomes of it in the layer.
-- table layer_row
select l.*, k.of_contract, k.begin_us, k.finish_us, k.renews, k.late_reason,
  l.effective_us < k.begin_us and coalesce(l.next_us, k.begin_us) >= k.begin_us as is_entry,
  l.lapses and l.phase < 3 and l.lapses_us < k.begin_us as has_lapsed_before
from layer_phase l join (select distinct account_id, p, contract_id, of_contract, begin_us, finish_us, renews, late_reason from layer_known) k
  on k.account_id = l.account_id and k.p = l.p and k.contract_id = l.contract_id
where l.effective_us < k.finish_us

-- table booked_row
select account_id, p, end_us, of_contract as contract_id, row_number() over (partition by account_id, p, of_contract order by begin_us, n) as n,
  is_entry, renews, action, case when is_entry then begin_us else effective_us end as effective_us,
  case when is_entry then late_reason else reason end as reason, mrr, currency, seats, ends_us, lapses_us,
  lapses and not has_lapsed_before and lapses_us < finish_us as lapses, case when has_lapsed_before then 3 else phase end as phase
from layer_row where is_entry or effective_us >= begin_us

-- What was open before.
-- table booked_turn
select *, lag(phase in (1, 2) and not lapses, 1, false) over one as was_open, lag(ends_us) over one as ends_before
from booked_row window one as (partition by account_id, p, contract_id order by n)

-- What happened when a layer begins is what changes the state before it.
-- table booked_phase
select account_id, p, end_us, contract_id, n, effective_us, reason, mrr, currency, seats, ends_us, lapses_us, lapses, phase,
  case when not is_entry then action
       when phase < 3 and renews = 1 and (not was_open or coalesce(ends_before, -1) <> coalesce(ends_us, -1)) then 3
       when was_open and phase = 3 then 6 else 2 end as action
from booked_turn

{booked}

-- table revenue_amount
select m.account_id, m.p, m.at_us, lead(m.at_us) over one as until_us, m.paying,
  case when m.num_currencies <= 1 and m.num_priced = m.num_running then coalesce(m.mrr, 0) end as amount,
  case when m.num_currencies <= 1 then m.currency end as currency, r.reason
from booked_moment m left join booked_reason r on r.account_id = m.account_id and r.p = m.p and r.at_us = m.at_us
window one as (partition by m.account_id, m.p order by m.at_us)

-- table revenue_change
select *, amount - lag(amount, 1, 0) over one as rise, min(case when paying = 1 then at_us end) over (partition by account_id, p) as paid_us
from revenue_amount window one as (partition by account_id, p order by at_us)

-- A term is over when it lapses, is cancelled at its end, is renewed, or gets another end when it was over.
-- table revenue_before
select *, sum(case when action in (1, 3, 6) or (phase < 3 and (last_phase = 3 or has_lapsed)) then 1 else 0 end) over one as part from (
  select *, lag(phase, 1, 0) over one as last_phase, lag(ends_us) over one as last_ends_us, lag(mrr) over one as last_mrr, lag(currency) over one as last_currency,
    coalesce(lag(lapses and phase < 3) over one, false) as has_lapsed
  from booked_phase window one as (partition by account_id, p, contract_id order by n)
) window one as (partition by account_id, p, contract_id order by n)

-- table revenue_term
select l.account_id, l.p, l.ends_us, l.mrr, l.currency, r.account_id is not null as is_renewed, r.mrr as next_mrr, r.currency as next_currency
from revenue_before l left join revenue_before r
  on r.account_id = l.account_id and r.p = l.p and r.contract_id = l.contract_id and r.part = l.part + 1 and r.action = 3 and (r.has_lapsed or r.last_phase = 3)
where l.lapses and l.phase < 3
union all
select account_id, p, last_ends_us, last_mrr, last_currency, action in (2, 3), case when action in (2, 3) then mrr end, case when action in (2, 3) then currency end
from revenue_before
where last_phase in (1, 2) and not has_lapsed and last_ends_us is not null
  and (action = 3 or (action in (1, 6) and last_ends_us <= effective_us)
       or (action = 2 and last_ends_us <= effective_us and coalesce(ends_us, -1) <> last_ends_us))

-- table revenue_moved
select account_id, p from revenue_amount where at_us >= p / 1000000000 * {width} and p / 1000000000 = p % 1000000000
union select account_id, p from revenue_term where ends_us >= p / 1000000000 * {width} and ends_us < (p / 1000000000 + 1) * {width}

-- Roles: 1 ended in this pane, 2 runs, 3 ended before.
-- table revenue_case
select g.account_id, g.p, g.p as q, g.end_us, d.kind, d.start_us, d.end_us as period_end, case when d.end_us <= g.end_us then 1 else 2 end as role
from revenue_grid g join period d on d.end_us > g.p * {width} and d.start_us < g.end_us
union all
select t.account_id, t.p, v.q, t.end_us, t.kind, t.start_us, t.period_end, 3
from revenue_past t join revenue_view v on v.account_id = t.account_id and v.p = t.p and v.q >= t.reported

-- table revenue_cut
select *, p * 1000000000 + q as k, case when period_end < end_us then period_end else end_us end as cut_us from revenue_case

-- table revenue_relevant
select c.k, c.account_id, c.kind, c.start_us, c.cut_us, a.at_us, a.until_us, a.paying, a.amount, a.currency, a.reason, a.rise, a.paid_us, a.at_us >= c.start_us as is_within,
  a.until_us is null or a.until_us >= c.cut_us as is_last
from revenue_cut c join revenue_change a on a.account_id = c.account_id and a.p = c.k and a.at_us < c.cut_us and (a.until_us is null or a.until_us >= c.start_us)

-- table revenue_sums
select k, account_id, kind, start_us,
  count(distinct case when amount is null or amount <> 0 then coalesce(currency, '') end) as num_currencies,
  max(case when amount is null or amount <> 0 then currency end) as currency,
  coalesce(max(case when not is_within then paying end), 0) = 1 as pays_before, coalesce(max(case when is_last then paying end), 0) = 1 as pays_after,
  sum(case when not is_within then 1 else 0 end) as num_before, max(case when not is_within then amount end) as opening,
  max(case when is_last then amount end) as closing, sum(case when is_within then 1 else 0 end) as num_within,
  sum(case when is_within and amount is null then 1 else 0 end) as num_unknown, min(paid_us) < start_us as has_paid,
  coalesce(sum(case when is_within and rise > 0 then rise end), 0) as rises,
  coalesce(sum(case when is_within and rise < 0 and amount > 0 then -rise end), 0) as falls,
  coalesce(sum(case when is_within and rise < 0 and amount = 0 then -rise end), 0) as losses,
  coalesce(sum(case when is_within and rise < 0 and amount > 0 and reason = 'seat_removed' then -rise end), 0) as seats
from revenue_relevant group by 1, 2, 3, 4

-- table revenue_weighted
select r.k, r.account_id, r.kind, r.start_us, m.start_us as month_us, m.end_us - m.start_us as length_us,
  sum(case when r.amount is null then 1 else 0 end) as num_unknown,
  sum(2 * cast(r.amount as decimal(38, 0)) * cast(
    least(coalesce(r.until_us, r.cut_us), r.cut_us, m.end_us) - greatest(r.at_us, r.start_us, m.start_us) as decimal(20, 0))) as twice
from revenue_relevant r join month m
  on m.start_us < least(coalesce(r.until_us, r.cut_us), r.cut_us) and m.end_us > greatest(r.at_us, r.start_us)
  and least(coalesce(r.until_us, r.cut_us), r.cut_us) > greatest(r.at_us, r.start_us)
group by 1, 2, 3, 4, 5, 6

-- table revenue_earned
select k, account_id, kind, start_us, sum(num_unknown) as num_unknown,
  sum(cast((twice + length_us - (twice + length_us) % (2 * length_us)) / (2 * length_us) as bigint)) as earned
from revenue_weighted group by 1, 2, 3, 4

-- table revenue_due
select c.k, c.account_id, c.kind, c.start_us, count(*) as due, sum(case when t.is_renewed then 1 else 0 end) as made,
  case when count(t.mrr) = count(*) then sum(t.mrr) end as due_mrr,
  count(distinct case when t.mrr is null or t.mrr <> 0 then coalesce(t.currency, '') end) as num_currencies, max(case when t.mrr is null or t.mrr <> 0 then t.currency end) as currency,
  case when count(case when not t.is_renewed or (t.mrr is not null and t.next_mrr is not null and coalesce(t.currency, '') = coalesce(t.next_currency, '')) then 1 end) = count(*)
       then coalesce(sum(case when t.is_renewed then least(t.mrr, t.next_mrr) end), 0) end as made_mrr
from revenue_cut c join revenue_term t on t.account_id = c.account_id and t.p = c.k and t.ends_us >= c.start_us and t.ends_us < c.cut_us
group by 1, 2, 3, 4

-- table revenue_figures
select c.account_id, c.p, c.q, c.k, c.end_us, c.kind, c.start_us, c.period_end, c.role,
  case when n.is_one and n.num_currencies = 1 then s.currency when n.is_one and d.num_currencies = 1 then d.currency end as currency,
  case when n.is_one and n.num_before > 0 then s.opening when n.is_one then 0 end as opening,
  case when n.is_one and n.num_all > 0 then s.closing when n.is_one then 0 end as closing,
  n.num_within, n.num_unknown, n.has_paid, n.rises, n.falls, n.losses, n.seats,
  case when n.is_one and coalesce(e.num_unknown, 0) = 0 then coalesce(e.earned, 0) end as earned,
  n.pays_before, n.pays_before and not n.pays_after as is_churned,
  coalesce(d.due, 0) as due, coalesce(d.made, 0) as made,
  case when d.due is null then 0 when n.is_one and d.num_currencies <= 1 and (n.num_currencies = 0 or d.num_currencies = 0 or coalesce(s.currency, '') = coalesce(d.currency, '')) then d.due_mrr end as due_mrr,
  case when d.due is null then 0 when n.is_one and d.num_currencies <= 1 and (n.num_currencies = 0 or d.num_currencies = 0 or coalesce(s.currency, '') = coalesce(d.currency, '')) then d.made_mrr end as made_mrr
from revenue_cut c
left join revenue_sums s on s.k = c.k and s.account_id = c.account_id and s.kind = c.kind and s.start_us = c.start_us
left join revenue_earned e on e.k = c.k and e.account_id = c.account_id and e.kind = c.kind and e.start_us = c.start_us
left join revenue_due d on d.k = c.k and d.account_id = c.account_id and d.kind = c.kind and d.start_us = c.start_us
join (
  select c.k, c.account_id, c.kind, c.start_us, coalesce(s.num_currencies, 0) <= 1 as is_one, coalesce(s.num_currencies, 0) as num_currencies, coalesce(s.num_before, 0) as num_before,
    coalesce(s.num_before + s.num_within, 0) as num_all, coalesce(s.num_within, 0) as num_within, coalesce(s.num_unknown, 0) as num_unknown,
    coalesce(s.has_paid, false) as has_paid, coalesce(s.rises, 0) as rises, coalesce(s.falls, 0) as falls, coalesce(s.losses, 0) as losses,
    coalesce(s.seats, 0) as seats, coalesce(s.pays_before, false) as pays_before, coalesce(s.pays_after, false) as pays_after
  from revenue_cut c left join revenue_sums s on s.k = c.k and s.account_id = c.account_id and s.kind = c.kind and s.start_us = c.start_us
) n on n.k = c.k and n.account_id = c.account_id and n.kind = c.kind and n.start_us = c.start_us

-- table revenue_moves
select *, case when opening = 0 and not has_paid then closing when opening is not null and closing is not null then 0 end as new,
  case when opening > 0 and closing > opening then closing - opening when opening is not null and closing is not null then 0 end as expansion,
  case when opening > 0 and closing < opening and closing > 0 then opening - closing when opening is not null and closing is not null then 0 end as fall,
  case when opening > 0 and closing = 0 then opening when opening is not null and closing is not null then 0 end as lost,
  case when opening = 0 and has_paid then closing when opening is not null and closing is not null then 0 end as reactivated,
  opening is not null and (opening = 0 or num_unknown = 0) as has_gross,
  case when {seats_are_churn} and opening > 0 and num_unknown = 0 then seats else 0 end as seats_lost
from revenue_figures

-- table revenue_all
select account_id, p, q, k, end_us, kind, start_us, period_end, role, currency, opening, new, expansion,
  fall - least(seats_lost, fall) as contraction, lost + least(seats_lost, fall) as churned, reactivated, closing,
  case when has_gross then case when opening = 0 then 0 else rises end end as gross_expansion,
  case when has_gross then case when opening = 0 then 0 else falls end end as gross_contraction,
  case when has_gross then case when opening = 0 then 0 else losses end end as gross_churned,
  earned, pays_before, is_churned, due, made, due_mrr, made_mrr, pays_before or num_within > 0 or due > 0 as is_anything
from revenue_moves

-- The past as each close that told something knew it: a change makes a revision.
-- table revenue_text
select *, concat_ws('|', coalesce(currency, '-'), coalesce(cast(opening as varchar), '-'), coalesce(cast(new as varchar), '-'), coalesce(cast(expansion as varchar), '-'),
  coalesce(cast(contraction as varchar), '-'), coalesce(cast(churned as varchar), '-'), coalesce(cast(reactivated as varchar), '-'), coalesce(cast(closing as varchar), '-'),
  coalesce(cast(gross_expansion as varchar), '-'), coalesce(cast(gross_contraction as varchar), '-'), coalesce(cast(gross_churned as varchar), '-'),
  coalesce(cast(earned as varchar), '-'), pays_before, is_churned, due, made, coalesce(cast(due_mrr as varchar), '-'), coalesce(cast(made_mrr as varchar), '-'), is_anything) as figures
from revenue_all

-- table revenue_changed
select *, coalesce(figures <> lag(figures) over (partition by account_id, p, role, kind, start_us order by q), false) as is_changed from revenue_text

-- table revenue_revised
select *, sum(case when is_changed then 1 else 0 end) over (partition by account_id, p, role, kind, start_us order by q) as revision from revenue_changed

-- What was to be told at the close before: a row that is not true any more is replaced.
-- table revenue_lagged
select *, coalesce(lag(is_anything) over (partition by account_id, kind, start_us, role < 3 order by p, q), false) and role < 3 as was_anything from revenue_revised

-- table revenue_emitted
select r.* from revenue_lagged r
left join revenue_news n on n.account_id = r.account_id and n.p = r.p
left join revenue_moved m on m.account_id = r.account_id and m.p = r.k
left join grid_floor g on g.account_id = r.account_id and g.p = r.p
where (r.role = 1 and (r.is_anything or r.was_anything)) or (r.role = 3 and r.q = r.p and r.is_changed)
  or (r.role = 2 and (r.is_anything or r.was_anything) and (n.p is not null or m.p is not null or r.start_us >= r.p * {width} or g.is_deletion_news))

-- Segment, owner and plan as of the start, as the close of the pane before it knew them.
-- table revenue_start
select e.account_id, e.p, e.start_us, g.floor_us, (e.start_us - 1) / {width} as known,
  coalesce(min(k.visible) <= (e.start_us - 1) / {width}, false) and (g.floor_us is null or (g.floor_us < e.start_us and min(d.visible) <= (e.start_us - 1) / {width})) as is_locked
from (select distinct account_id, p, start_us from revenue_emitted) e
join grid_floor g on g.account_id = e.account_id and g.p = e.p
left join contract_known k on k.account_id = e.account_id and k.p = e.p
left join deletion d on d.account_id = e.account_id and d.at_us = g.floor_us
group by 1, 2, 3, 4, 5

-- table revenue_fact
select s.account_id, s.p, s.start_us, f.name, f.value, f.valid_until_us,
  row_number() over (partition by s.account_id, s.p, s.start_us, f.name order by f.occurred_us desc, f.ord desc) as nth
from revenue_start s join fact_version f on f.account_id = s.account_id and f.name in ('segment', 'owner', 'plan')
where s.is_locked and f.visible <= s.known and f.occurred_us < s.start_us
  and (s.floor_us is null or s.floor_us <= f.outlives_us or f.occurred_us > s.floor_us)

-- table revenue_dimension
select account_id, p, start_us, max(case when name = 'segment' then trim(both '"' from value) end) as segment,
  max(case when name = 'owner' then trim(both '"' from value) end) as owner, max(case when name = 'plan' then trim(both '"' from value) end) as plan
from revenue_fact where nth = 1 and value <> 'null' and (valid_until_us is null or valid_until_us > start_us) group by 1, 2, 3

-- table revenue
select r.account_id, r.kind as period, r.start_us as period_start, r.period_end, r.end_us as as_of, r.role <> 2 as final,
  case when r.role = 3 then r.revision else 0 end as revision, r.currency, {money}, r.pays_before as customer_at_start, r.is_churned as churned_logo,
  r.due as renewals_due, r.made as renewals_made,
  case when s.is_locked then x.segment else c.segment end as segment, case when s.is_locked then x.owner else c.owner end as owner,
  case when s.is_locked then x.plan else c.plan end as plan
from revenue_emitted r
join revenue_start s on s.account_id = r.account_id and s.p = r.p and s.start_us = r.start_us
left join revenue_dimension x on x.account_id = r.account_id and x.p = r.p and x.start_us = r.start_us
left join fact_columns c on c.account_id = r.account_id and c.p = r.p
