//! Figures as one SQL statement. Each table is read a few times, however many figures there are.
//!
//! The SQL has no function beyond sums, `case`, casts, `extract`, `floor`, `abs`, `replace`, `row_number` and `first_value`,
//! so that each engine gives the same numbers.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::kpi::{Kpi, Unit};
use super::rows::{From, Question, Report, day};

/// Numbers that a formula needs and no table has, by name.
pub type Given = BTreeMap<String, f64>;

/// What a row of figures consists of, beside its period and group.
const CELLS: [&str; 4] = ["numerator", "denominator", "value", "unknown"];

/// SQL for the figures of the periods: columns `period`, the dimensions, `currency`, `kpi`, `numerator`, `denominator`,
/// `value`, and `unknown`, the number of rows that were left out. `all` are the figures that formulas may name.
///
/// # Errors
/// When a formula needs a number that is not given.
pub fn sql(kpis: &[Kpi], all: &[Kpi], question: &Question<'_>, given: &Given) -> Result<String> {
    if question.report == Report::First && kpis.iter().any(|kpi| kpi.from == From::Lifetime) {
        bail!("months of the past are not told as first reported");
    }
    let summed: Vec<&Kpi> = kpis.iter().filter(|kpi| kpi.formula.is_none()).collect();
    let derived: Vec<&Kpi> = kpis.iter().filter(|kpi| kpi.formula.is_some()).collect();
    let bases: Vec<&Kpi> =
        all.iter().filter(|base| base.formula.is_none() && derived.iter().any(|kpi| kpi.names(base))).collect();
    let with = question.with(|from| summed.iter().chain(&bases).any(|kpi| kpi.from == from));
    let mut parts = of_rows(&summed, question);
    if !derived.is_empty() {
        parts.push(of_others(&derived, &bases, question, given)?);
    }
    Ok(format!("with {with}\n{}", parts.join("\nunion all\n")))
}

/// Columns after `period`, each with a comma before it.
fn by(question: &Question<'_>) -> String {
    question.by.iter().map(|dimension| format!(", {dimension}")).collect()
}

/// One statement for the figures of the same rows and groups.
fn of_rows(kpis: &[&Kpi], question: &Question<'_>) -> Vec<String> {
    let mut groups = BTreeMap::<(From, bool), Vec<&Kpi>>::new();
    for kpi in kpis {
        groups.entry((kpi.from, kpi.by_currency)).or_default().push(kpi);
    }
    groups.into_iter().map(|((from, by_currency), kpis)| sums(from, by_currency, &kpis, question)).collect()
}

fn sums(from: From, by_currency: bool, kpis: &[&Kpi], question: &Question<'_>) -> String {
    let by = by(question);
    let currency = match (by_currency, from) {
        (false, _) | (true, From::Predictions) => "cast(null as string)",
        (true, From::Revenue) => "currency",
        (true, From::Lifetime) => "currency_of_life",
        (true, From::Windows | From::Scores | From::BreakEven | From::Alerts) => "amount_currency",
    };
    let mut shorts = Shorts::default();
    let counted: String = kpis.iter().map(|kpi| shorts.counted(kpi)).collect();
    let cells: String = kpis.iter().map(|kpi| shorts.cells(kpi)).collect();
    let sums: String = kpis.iter().map(|kpi| sum(&kpi.name)).collect();
    let flagged = format!("select *{counted} from (\nselect *{} from {}\n) in_full", shorts.columns(), from.name());
    let rows = format!("select of_period as period{by}, {currency} as currency{cells} from (\n{flagged}\n) flagged");
    let summed = format!("select period{by}, currency{sums} from (\n{rows}\n) each_row group by period{by}, currency");
    let value = |kpi: &Kpi| {
        let name = &kpi.name;
        let quotient = format!("cast(n_{name} as double) / cast(d_{name} as double)");
        let value = match (kpi.unit, kpi.denominator.is_some()) {
            (Unit::Percent | Unit::Points, _) => format!("case when d_{name} <> 0 then 100 * {quotient} end"),
            (_, true) => format!("case when d_{name} <> 0 then {quotient} end"),
            (_, false) => format!("cast(n_{name} as double)"),
        };
        let denominator = if kpi.denominator.is_some() { format!("d_{name}") } else { "null".to_owned() };
        [format!("n_{name}"), denominator, value, format!("c_{name} - k_{name}")]
    };
    let is_any = |kpi: &Kpi| format!("c_{} > 0", kpi.name);
    one_by_one(&summed, kpis, question, (&value, &is_any))
}

/// The SQL that something short stands for.
type Long<'l> = &'l dyn Fn(&str) -> String;

/// What figures write in short, each computed once for a row: `{day(time)}`, the day of a time, counted from 1970;
/// `{fact(name)}`, a fact that is a number; `{day_of(name)}`, the day of a fact that is a time.
#[derive(Debug, Default)]
struct Shorts {
    /// The SQL that they stand for. The column of the first is `short_0`.
    longs: Vec<String>,
}

impl Shorts {
    /// The column of a figure that says whether a row counts.
    fn counted(&mut self, kpi: &Kpi) -> String {
        let condition = self.filled_in(kpi.r#where.as_deref().unwrap_or("true"));
        format!(",\ncase when {condition} then 1 else 0 end as c_{}", kpi.name)
    }

    /// Columns of a figure on a row: whether it counts, numerator and denominator.
    fn cells(&mut self, kpi: &Kpi) -> String {
        let name = &kpi.name;
        let mut cell = |sql: Option<&str>| {
            let sql = self.filled_in(sql.unwrap_or("1"));
            format!("case when c_{name} = 1 then cast({sql} as decimal(28, 6)) end")
        };
        let (numerator, denominator) = (cell(kpi.numerator.as_deref()), cell(kpi.denominator.as_deref()));
        format!(",\nc_{name}, {numerator} as n_{name}, {denominator} as d_{name}")
    }

    /// Their columns, each with a comma before it.
    fn columns(&self) -> String {
        self.longs.iter().enumerate().map(|(nth, long)| format!(",\n{long} as short_{nth}")).collect()
    }

    /// The SQL with their columns in place of them.
    fn filled_in(&mut self, sql: &str) -> String {
        let fact = |name: &str| format!("other_facts['{name}']");
        let number = |name: &str| {
            let number = format!("try_cast({} as double)", fact(name));
            // What no column can hold is unknown.
            format!("case when abs({number}) < 1e15 then {number} end")
        };
        // A text in JSON has quotes.
        let day_of = |name: &str| day(&format!("try_cast(replace({}, '\"', '') as timestamp)", fact(name)));
        let kinds: [(&str, Long<'_>); 3] = [("{day(", &day), ("{fact(", &number), ("{day_of(", &day_of)];
        kinds.iter().fold(sql.to_owned(), |sql, (short, long)| {
            let mut parts = sql.split(short);
            let whole = parts.next().unwrap_or_default().to_owned();
            parts.fold(whole, |whole, part| match part.split_once(")}") {
                Some((inner, rest)) => whole + &self.column(long(inner)) + rest,
                None => whole + part,
            })
        })
    }

    fn column(&mut self, long: String) -> String {
        let known = self.longs.iter().position(|known| *known == long);
        let nth = known.unwrap_or_else(|| {
            self.longs.push(long);
            self.longs.len() - 1
        });
        format!("short_{nth}")
    }
}

/// Columns of a figure over rows: how many count, how many of them are known, numerator and denominator.
fn sum(name: &str) -> String {
    let known = format!("n_{name} is not null and d_{name} is not null");
    format!(
        ",\nsum(c_{name}) as c_{name}, sum(case when {known} then 1 else 0 end) as k_{name}, \
         sum(case when {known} then n_{name} end) as n_{name}, sum(case when {known} then d_{name} end) as d_{name}"
    )
}

/// What SQL says of a figure.
type Says<'s, T> = &'s dyn Fn(&Kpi) -> T;

/// Makes a row of each figure in a row of `wide`. `of` gives the cells of a figure, and whether it has a row.
fn one_by_one(
    wide: &str,
    kpis: &[&Kpi],
    question: &Question<'_>,
    of: (Says<'_, [String; 4]>, Says<'_, String>),
) -> String {
    let names: Vec<String> = kpis.iter().map(|kpi| format!("('{}')", kpi.name)).collect();
    let each = |of_kpi: Says<'_, String>| {
        let cases: String = kpis.iter().map(|kpi| format!("\nwhen '{}' then {}", kpi.name, of_kpi(kpi))).collect();
        format!("case kpi {cases} end")
    };
    let (cells_of, is_any) = of;
    let cells: Vec<String> = CELLS
        .iter()
        .enumerate()
        .map(|(nth, cell)| {
            let sql = each(&|kpi| cells_of(kpi)[nth].clone());
            // All may be null, and then have no type.
            let kind = match *cell {
                "value" => "double",
                "unknown" => "bigint",
                _ => "decimal(38, 6)",
            };
            format!("cast({sql} as {kind}) as {cell}")
        })
        .collect();
    let by = by(question);
    format!(
        "select period{by}, currency, kpi, {}\nfrom (\n{wide}\n) wide cross join (values {}) names(kpi)\nwhere {}",
        cells.join(", "),
        names.join(", "),
        each(&|kpi| is_any(kpi))
    )
}

/// One statement for all formulas, over the values of the figures that they name.
fn of_others(kpis: &[&Kpi], bases: &[&Kpi], question: &Question<'_>, given: &Given) -> Result<String> {
    let by = by(question);
    let formulas = kpis
        .iter()
        .map(|kpi| Ok((kpi.name.as_str(), filled(kpi, question, given)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let pivot = |base: &&Kpi| {
        let name = &base.name;
        format!(
            ",\nmax(case when kpi = '{name}' then value end) as {name}, sum(case when kpi = '{name}' then unknown else 0 end) as u_{name}"
        )
    };
    let pivots: String = bases.iter().map(pivot).collect();
    let values = of_rows(bases, question).join("\nunion all\n");
    let wide = format!("select period{by}, currency{pivots} from (\n{values}\n) bases group by period{by}, currency");
    let named = |kpi: &Kpi| bases.iter().filter(|base| kpi.names(base)).map(|base| base.name.clone()).collect();
    let cells = |kpi: &Kpi| {
        let formula = formulas.get(kpi.name.as_str()).cloned().unwrap_or_default();
        let names: Vec<String> = named(kpi);
        // An account may be unknown in several of them.
        let unknown = names
            .iter()
            .fold("0".to_owned(), |most, name| format!("case when u_{name} > {most} then u_{name} else {most} end"));
        ["null".to_owned(), "null".to_owned(), formula, unknown]
    };
    let is_any = |kpi: &Kpi| {
        let names: Vec<String> = named(kpi);
        names.iter().map(|name| format!("{name} is not null")).collect::<Vec<_>>().join(" or ")
    };
    Ok(one_by_one(&wide, kpis, question, (&cells, &is_any)))
}

/// A formula, with what is given in place of `{name}`.
fn filled(kpi: &Kpi, question: &Question<'_>, given: &Given) -> Result<String> {
    let mut filled = String::new();
    let mut rest = kpi.formula.as_deref().unwrap_or_default();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').with_context(|| format!("{}: a {{ has no }}", kpi.name))?;
        filled += before;
        filled += &match (name, given.get(name)) {
            ("months", _) => question.months(),
            (_, Some(number)) => format!("cast({number} as double)"),
            _ => bail!("it needs --given {name}=NUMBER"),
        };
        rest = behind;
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::parse;

    #[test]
    fn a_formula_without_its_number_is_refused_by_the_name_of_the_option() {
        let kpis = parse(None).unwrap();
        let why = sql(&kpis, &kpis, &Question::default(), &Given::new()).unwrap_err().to_string();
        assert!(why.contains("--given "), "{why}");
    }
}
