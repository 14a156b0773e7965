-- What became of each event, by its arrival alone.

-- table arrived
select *,
  occurred_us / {width} as pane,
  kind in (2, 5, 6) or (kind = 4 and action in (1, 2, 3)) as is_exact,
  kind in (5, 6) or (kind = 4 and action in (1, 3)) as is_fact,
  coalesce(watermark_us >= (occurred_us / {width} + 1) * {width}, false) as is_closed,
  coalesce(watermark_us >= (occurred_us / {width} + 1) * {width} + {lateness}, false) as is_forgotten
from events

-- A second sighting of an id among events of its kind, while the pane of the first is not forgotten.
-- table duplicate
select distinct r.part, r.off, r.row_no
from arrived r
join arrived s on r.account_id = s.account_id and r.kind = s.kind and r.event_id = s.event_id
where (s.off < r.off or (s.off = r.off and s.row_no < r.row_no))
  and not s.is_forgotten
  and (r.watermark_us is null or (s.pane + 1) * {width} + {lateness} > r.watermark_us)
  and (r.is_fact or not r.is_forgotten)

-- table judged
select a.*, d.part is not null as is_duplicate, a.is_forgotten and not a.is_fact as is_too_late
from arrived a left join duplicate d on a.part = d.part and a.off = d.off and a.row_no = d.row_no

-- Events of a closed pane whose account was deleted after them, while the deletion is remembered.
-- table erased
select distinct r.part, r.off, r.row_no
from judged r
join judged d on r.account_id = d.account_id
where d.kind = 4 and d.action = 2 and not d.is_duplicate and not d.is_too_late
  and (d.off < r.off or (d.off = r.off and d.row_no < r.row_no))
  and r.is_closed and not r.is_duplicate and not r.is_too_late
  and (d.pane + 1) * {width} + {lateness} > r.watermark_us / {width} * {width}
  and ((r.is_exact and r.occurred_us <= d.occurred_us) or (not r.is_exact and r.pane <= d.pane))

-- table fated
select j.*,
  case when j.is_too_late then 'too_late' when j.is_duplicate then 'duplicate' when e.part is not null then 'deleted'
       when j.is_closed then 'late' else 'on_time' end as fate
from judged j left join erased e on j.part = e.part and j.off = e.off and j.row_no = e.row_no

-- The first pane that closes at or after each arrival.
-- table first_close
select o.part, o.off, min(c.pane) as first_close
from (select distinct part, off from arrived) o join closes c on c.part = o.part and c.off >= o.off
group by o.part, o.off

-- Accepted events, and the pane from whose close on they count.
-- A deletion is remembered for the lateness. A fact that arrives when it is forgotten outlives it.
-- table outlived
select e.part, e.off, e.row_no, max(d.occurred_us) as outlives_us
from fated e join fated d on d.account_id = e.account_id
where e.is_fact and d.kind = 4 and d.action = 2 and d.fate in ('on_time', 'late')
  and (d.off < e.off or (d.off = e.off and d.row_no < e.row_no))
  and (d.pane + 1) * {width} + {lateness} <= e.watermark_us / {width} * {width}
group by 1, 2, 3

-- table accepted
select f.*, greatest(c.first_close, f.pane) as visible, o.outlives_us
from fated f join first_close c on f.part = c.part and f.off = c.off
left join outlived o on f.part = o.part and f.off = o.off and f.row_no = o.row_no
where f.fate in ('on_time', 'late')
