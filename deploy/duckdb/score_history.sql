-- How many accounts were in which band, day by day.
select cast(as_of as date) as day, band, count(*) as accounts, round(avg(score), 2) as mean_score
from scores
where score is not null
group by all
order by day, band;
