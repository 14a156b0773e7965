-- Which final rows there must be.

-- table deletion
select account_id, visible, max(occurred_us) as at_us from accepted where kind = 4 and action = 2 group by 1, 2

-- table activity
select account_id, pane, visible, is_exact, outlives_us, max(occurred_us) as last_us
from accepted where not (kind = 4 and action = 2) group by 1, 2, 3, 4, 5

-- table grid_all
select a.account_id, c.pane as p, (c.pane + 1) * {width} as end_us
from (select account_id, part, min(visible) as first from accepted group by 1, 2) a
join closes c on c.part = a.part and c.pane >= a.first

-- table grid_floor
select g.account_id, g.p, g.end_us, max(d.at_us) as floor_us, max(d.at_us) / {width} as floor_pane,
  coalesce(max(d.visible), -1) = g.p as is_deletion_news
from grid_all g left join deletion d on d.account_id = g.account_id and d.visible <= g.p
group by g.account_id, g.p, g.end_us

-- table survivor
select g.account_id, g.p, min(a.pane) as first_pane, max(a.last_us) as last_us
from grid_floor g join activity a on a.account_id = g.account_id and a.visible <= g.p
where g.floor_us is null or g.floor_us <= a.outlives_us or (a.is_exact and a.last_us > g.floor_us) or (not a.is_exact and a.pane > g.floor_pane)
group by g.account_id, g.p
