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

-- table grid
select g.*, s.first_pane * {width} as first_seen_at, s.last_us as last_activity_at,
  coalesce(g.end_us - s.last_us >= {retire}, false) as retired, s.last_us is null as deleted
from grid_floor g left join survivor s on s.account_id = g.account_id and s.p = g.p
where (s.last_us is not null and g.end_us - s.last_us < {retire} + {width}) or (s.last_us is null and g.is_deletion_news)

-- A pane is seen by the windows that end with it or less than their length later, and by the windows
-- before those: for each, how many panes ahead the row stands.
-- table reach
select w.period, w.panes, b.is_previous, a.n as ahead
from windows w cross join (values (0), (1)) as b (is_previous)
join numbers a
  on a.n >= w.panes * b.is_previous and a.n < w.panes * (1 + b.is_previous)

-- Every window and the one before it.
-- table grid_w
select g.account_id, g.p, g.floor_us, g.floor_pane, w.period, w.panes, b.is_previous,
  g.p + 1 - w.panes * (1 + b.is_previous) as from_pane, g.p + 1 - w.panes * b.is_previous as to_pane,
  (g.p + 1 - w.panes * (1 + b.is_previous)) * {width} as from_us, (g.p + 1 - w.panes * b.is_previous) * {width} as until_us
from grid g cross join windows w cross join (values (0), (1)) as b (is_previous)
