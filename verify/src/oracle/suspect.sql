-- Panes in which a source has far fewer events than usual, from all accepted events.

-- table counted
select topic, occurred_us / 3600000000 as hour, count(*) as n from event group by 1, 2

-- Every hour of a source from its first one on.
-- table hour_of
select b.topic, b.hour, coalesce(c.n, 0) as n
from (select topic, first + n as hour
      from (select topic, min(hour) as first from counted group by 1) join numbers on first + n < {ended} / 3600000000) b
left join counted c on c.topic = b.topic and c.hour = b.hour

-- The same hour of the weeks before, smallest count first.
-- table past
select a.topic, a.hour, b.n,
  row_number() over (partition by a.topic, a.hour order by b.n) as place,
  count(*) over (partition by a.topic, a.hour) as weeks
from hour_of a join hour_of b on b.topic = a.topic and b.hour < a.hour and (a.hour - b.hour) % 168 = 0
where (a.hour - b.hour) / 168 <= {weeks}

-- table low
select u.topic, (u.hour * 3600000000 / {width} + 1) * {width} as as_of
from (select topic, hour, n as usual from past where weeks >= 2 and place = weeks / 2 + 1) u
join hour_of h on h.topic = u.topic and h.hour = u.hour
group by 1, 2
having sum(u.usual) >= {min_events} and sum(h.n) < {below} * sum(u.usual)
