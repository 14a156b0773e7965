-- The final rows that there are, and their windows.

-- A customer is not silent, one that has left not before it had gone, and nobody in the pane in which something of a contract becomes known.
-- table silence
select s.account_id, s.p, s.first_pane, s.last_us, greatest(s.last_us, coalesce(c.until_us, s.last_us), coalesce(c.told_us, s.last_us)) as silent_from_us
from survivor s left join customer c on c.account_id = s.account_id and c.p = s.p

-- table grid
select g.*, s.first_pane * {width} as first_seen_at, s.last_us as last_activity_at,
  coalesce(g.end_us - s.silent_from_us >= {retire}, false) as retired, s.last_us is null as deleted
from grid_floor g left join silence s on s.account_id = g.account_id and s.p = g.p
where (s.last_us is not null and g.end_us - s.silent_from_us < {retire} + {width}) or (s.last_us is null and g.is_deletion_news)

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
