//! Exchange rates: a file that is read when a report is made, so that the tables keep the currencies of contracts.

use anyhow::{Context, Result, ensure};
use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::Deserialize;

/// Rates into one currency.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// The currency of the report.
    pub r#in: String,
    rates: Vec<Rate>,
    /// Where the days of the rates begin.
    #[serde(skip, default = "utc")]
    zone: TimeZone,
}

fn utc() -> TimeZone {
    TimeZone::UTC
}

/// What one unit of a currency is worth from the start of a day on.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    currency: String,
    from: Date,
    rate: f64,
}

impl Rates {
    /// The rates of a file. Days begin in the time zone of the business.
    ///
    /// # Errors
    /// When the file cannot be read, or is none of rates: with line and column.
    pub fn read(path: &std::path::Path, time_zone: &str) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text, time_zone).with_context(|| path.display().to_string())
    }

    /// The rates of a text. Days begin in the time zone of the business.
    ///
    /// # Errors
    /// When the text is none of rates, with line and column; when a rate is not above 0, or a currency is no word.
    pub fn parse(text: &str, time_zone: &str) -> Result<Self> {
        let zone = TimeZoneDatabase::bundled().get(time_zone)?;
        let rates = Self { zone, ..serde_saphyr::from_str(text).context("these are no rates")? };
        for currency in rates.rates.iter().map(|rate| &rate.currency).chain([&rates.r#in]) {
            let is_word = !currency.is_empty() && currency.bytes().all(|b| b.is_ascii_alphanumeric());
            ensure!(is_word, "{currency:?} is no currency: expected a word such as EUR");
        }
        for Rate { currency, from, rate } in &rates.rates {
            ensure!(
                *rate >= 1e-6 && *rate < 1e9,
                "the rate of {currency} from {from} is {rate}: expected at least 0.000001 and below 1000000000"
            );
        }
        Ok(rates)
    }

    /// SQL for what one unit of the currency in `column` is worth at a time (UTC microseconds). Null: not known.
    pub(super) fn at(&self, column: &str, at_us: i64) -> String {
        let since = |rate: &&Rate| {
            let start = rate.from.to_zoned(self.zone.clone()).map(|start| start.timestamp().as_microsecond());
            start.is_ok_and(|start_us| start_us <= at_us)
        };
        let mut known: Vec<&Rate> = self.rates.iter().filter(since).collect();
        // The newest of each currency.
        known.sort_by(|a, b| (&a.currency, b.from).cmp(&(&b.currency, a.from)));
        known.dedup_by(|a, b| a.currency == b.currency);
        let cases: String = known
            .into_iter()
            .filter(|rate| rate.currency != self.r#in)
            .map(|rate| format!("when '{}' then '{}' ", rate.currency, rate.rate))
            .collect();
        format!("cast(case {column} when '{}' then '1' {cases}end as decimal(19, 10))", self.r#in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US_MARCH: i64 = 1_709_251_200_000_000;

    #[test]
    fn the_newest_rate_by_then_counts() {
        let text = "in: INR\nrates:\n- {currency: USD, from: 2024-01-01, rate: 83}\n\
                    - {currency: USD, from: 2024-03-01, rate: 84.66}\n- {currency: USD, from: 2024-04-01, rate: 90}\n\
                    - {currency: EUR, from: 2024-03-02, rate: 91}\n";
        let rates = Rates::parse(text, "UTC").unwrap();
        let at = |us| rates.at("currency", us);
        assert_eq!(
            at(US_MARCH),
            "cast(case currency when 'INR' then '1' when 'USD' then '84.66' end as decimal(19, 10))"
        );
        assert_eq!(
            at(US_MARCH - 1),
            "cast(case currency when 'INR' then '1' when 'USD' then '83' end as decimal(19, 10))"
        );
        // In India the day has begun by then.
        let india = Rates::parse(text, "Asia/Kolkata").unwrap();
        assert!(india.at("currency", US_MARCH - 1).contains("'84.66'"));
        assert_eq!(at(0), "cast(case currency when 'INR' then '1' end as decimal(19, 10))");
    }

    #[test]
    fn wrong_rates_are_refused() {
        let of = |rate: &str| format!("in: EUR\nrates:\n- {rate}\n");
        for (text, expected) in [
            ("in: EUR\nrats: []\n".to_owned(), "line 2"),
            (of("{currency: USD, from: soon, rate: 1}"), "line 3"),
            (of("{currency: USD, from: 2024-01-01, rate: 0}"), "expected at least 0.000001"),
            (of("{currency: USD, from: 2024-01-01, rate: 1000000000}"), "below 1000000000"),
            (of("{currency: 'U''S', from: 2024-01-01, rate: 1}"), "is no currency"),
        ] {
            let why = format!("{:#}", Rates::parse(&text, "UTC").unwrap_err());
            assert!(why.contains(expected), "{why}");
        }
    }
}
