//! `keepwell report` over the tables that the stages wrote: the published figures of revenue.

use std::collections::BTreeMap;

use keepwell::report::{self, Question, Rates, Report};
use keepwell_core::calendar::PeriodKind::Month;
use keepwell_score::tables_reader::Stored;
use serde_json::json;

use crate::revenue::{COHORT, at_once, contract, deployment, ms, over, raws, with};
use crate::{Deployment, Raw};

/// The shipped figures of March, by name, with two decimals.
fn figures(deployment: &Deployment, report: Report, as_of: Option<&str>) -> BTreeMap<String, String> {
    let march = [report::named("2024-03", &deployment.config.revenue).unwrap()];
    told(deployment, &Question { periods: &march, report, as_of, ..Question::default() })
}

fn told(deployment: &Deployment, question: &Question<'_>) -> BTreeMap<String, String> {
    let url = format!("file://{}", deployment.folder.path().display());
    let stored = Stored::open(&url, &BTreeMap::new(), &deployment.config.aggregate.layout()).unwrap();
    let of_revenue = include_str!("../../../keepwell/kpis/revenue.yaml");
    let kpis = report::parse(Some(("revenue.yaml", of_revenue))).unwrap();
    let given = GIVEN.map(|(name, number)| (name.to_owned(), number)).into();
    // What a life has earned is not told as first reported.
    let asked = kpis.iter().filter(|kpi| question.report == Report::Last || kpi.name != "ltv_to_date");
    let sql = report::sql(&asked.cloned().collect::<Vec<_>>(), &kpis, question, &given).unwrap();
    let rows = stored.texts(&format!("select kpi, round(value, 2) as value from ({sql}) kpis")).unwrap().rows;
    let named = rows.into_iter().map(|row| (row[0].clone().unwrap(), row[1].clone()));
    named.map(|(name, value)| (name, value.unwrap_or_else(|| "none".to_owned()))).collect()
}

/// What no table has.
const GIVEN: [(&str, f64); 3] = [("margin", 0.8), ("cac", 20_000.0), ("forecast", 480.0)];

#[test]
fn the_report_has_the_published_figures() {
    let sources = with(&COHORT, &[("e", 10, "started", Some(15_000))]);
    let of_sources = Deployment::of(&raws(&at_once(&sources)), over(&[Month], &[]));
    let found = figures(&of_sources, Report::Last, None);
    for (name, value) in [
        ("nrr", "105.0"),
        ("grr", "85.0"),
        ("revenue_churn", "15.0"),
        ("expansion_rate", "20.0"),
        ("accounts_expanded", "25.0"),
        ("logo_churn", "25.0"),
        ("crr", "75.0"),
        ("opening_mrr", "100000.0"),
        ("closing_mrr", "120000.0"),
        ("new_mrr", "15000.0"),
        ("customers", "4.0"),
    ] {
        assert_eq!(found[name], value, "{name}");
    }
    let up_and_down = [("f", 0, "started", Some(100)), ("f", 5, "changed", Some(130)), ("f", 20, "changed", Some(110))];
    let found = figures(&Deployment::of(&raws(&at_once(&up_and_down)), over(&[Month], &[])), Report::Last, None);
    assert_eq!((found["grr"].as_str(), found["grr_by_changes"].as_str()), ("100.0", "80.0"));
    // T6, as it was first reported, as it is known now, and as it was known in between.
    let told: Vec<_> = COHORT.iter().map(|told| (*told, (told.1 == 20).then_some(36))).collect();
    let late = Deployment::of(&raws(&told), over(&[Month], &[]));
    for (of, as_of, nrr, grr) in [
        (Report::First, None, "110.0", "90.0"),
        (Report::Last, None, "105.0", "85.0"),
        (Report::Last, Some("2024-04-02T00:00:00Z"), "110.0", "90.0"),
        (Report::Last, Some("2024-03-12T00:00:00Z"), "120.0", "100.0"),
    ] {
        let found = figures(&late, of, as_of);
        assert_eq!((found["nrr"].as_str(), found["grr"].as_str()), (nrr, grr), "{of:?} {as_of:?}");
    }
}

#[test]
fn renewals_of_22_of_25_terms_and_470_of_500_are_88_and_94_percent() {
    let mut told = Vec::new();
    for n in 0..25 {
        let mrr = [vec![21; 21], vec![29], vec![10; 3]].concat()[n];
        let account = format!("r{n:02}");
        let started =
            json!({"account_id": account, "type": "started", "mrr": mrr, "currency": "USD", "ends_at": ms(20)});
        told.push(contract(&format!("s{n}"), -5, started));
        if n < 22 {
            let renewed = json!({"account_id": account, "type": "renewed", "mrr": mrr + 5, "ends_at": ms(400)});
            told.push(contract(&format!("t{n}"), 18, renewed));
        }
    }
    let found = figures(&deployment(&told, over(&[Month], &[])), Report::Last, None);
    assert_eq!((found["renewal_rate"].as_str(), found["renewal_rate_revenue"].as_str()), ("88.0", "94.0"));
    assert_eq!(found["forecast_accuracy"], "97.87", "480 were foreseen, 470 came");
}

#[test]
fn of_1000_dollars_and_83000_rupees_that_stay_nrr_is_100_at_the_rates_of_the_start_and_101_at_those_of_the_end() {
    let of = |account, mrr, currency| {
        contract(account, -5, json!({"account_id": account, "type": "started", "mrr": mrr, "currency": currency}))
    };
    let deployment = deployment(&[of("usd", 1000, "USD"), of("inr", 83_000, "INR")], over(&[Month], &[]));
    let rates = Rates::parse(
        "in: INR\nrates:\n- {currency: USD, from: 2024-01-01, rate: 83.00}\n- {currency: USD, from: 2024-04-01, rate: 84.66}\n",
        "UTC",
    );
    let (march, rates) = ([report::named("2024-03", &deployment.config.revenue).unwrap()], rates.unwrap());
    let question = Question { periods: &march, rates: Some(&rates), ..Question::default() };
    let found = told(&deployment, &question);
    let figure = |name: &str| found[name].as_str();
    assert_eq!([figure("nrr"), figure("nrr_spot"), figure("opening_mrr")], ["100.0", "101.0", "166000.0"]);
    // A currency without a rate is unknown, and is not added.
    let euros = Rates::parse("in: EUR\nrates:\n- {currency: INR, from: 2024-01-01, rate: 0.01}\n", "UTC").unwrap();
    assert_eq!(told(&deployment, &Question { rates: Some(&euros), ..question })["opening_mrr"], "830.0");
}

#[test]
fn a_customer_of_2000_at_2_percent_churn_is_worth_80000_four_times_its_cost_and_pays_for_itself_in_12_and_a_half_months()
 {
    let of = |nth: usize| {
        contract(&format!("s{nth}"), -5, json!({"account_id": format!("c{nth}"), "type": "started", "mrr": 2000}))
    };
    let mut told_of: Vec<Raw> = (0..50).map(of).collect();
    told_of.push(contract("x", 9, json!({"account_id": "c7", "type": "cancelled"})));
    let found = figures(&deployment(&told_of, over(&[Month], &[])), Report::Last, None);
    let figure = |name: &str| found[name].as_str();
    assert_eq!([figure("arpa"), figure("revenue_churn")], ["2000.0", "2.0"]);
    assert_eq!(
        [figure("ltv_expected"), figure("ltv_to_cac"), figure("cac_payback_months")],
        ["80000.0", "4.0", "12.5"]
    );
}

#[test]
fn half_a_year_of_2000_and_half_a_year_of_2500_have_earned_27000() {
    let told_of = [
        contract("1", 1 - 31 - 29 - 31 - 30 - 31 - 30, json!({"account_id": "a", "type": "started", "mrr": 2000})),
        contract("2", 1, json!({"account_id": "a", "type": "changed", "mrr": 2500})),
        contract("3", 200, json!({"account_id": "b", "type": "started", "mrr": 1})),
    ];
    let deployment = deployment(&told_of, over(&[Month], &["revenue.restate_for=400d"]));
    let question = |name| [report::named(name, &deployment.config.revenue).unwrap()];
    let of = |name| told(&deployment, &Question { periods: &question(name), ..Question::default() });
    assert_eq!(of("2024-08")["ltv_to_date"], "27000.0");
    assert_eq!(of("2024-07")["ltv_to_date"], "24500.0");
    let first = [report::named("2024-08", &deployment.config.revenue).unwrap()];
    let first = Question { periods: &first, report: Report::First, ..Question::default() };
    let kpis = report::parse(None).unwrap();
    let lifetime: Vec<_> = kpis.iter().filter(|kpi| kpi.name == "ltv_to_date").cloned().collect();
    let why = report::sql(&lifetime, &kpis, &first, &report::Given::new()).unwrap_err().to_string();
    assert!(why.contains("first reported"), "{why}");
}

#[test]
fn a_life_with_a_month_in_two_currencies_or_before_all_months_is_unknown_and_who_left_keeps_its_currency() {
    let started = |account, on, mrr, currency| {
        contract(account, on, json!({"account_id": account, "type": "started", "mrr": mrr, "currency": currency}))
    };
    let told_of = [
        started("left", -59, 100, "EUR"),
        contract("x", -28, json!({"account_id": "left", "type": "cancelled"})),
        started("moved", -59, 300, "USD"),
        contract("y", -28, json!({"account_id": "moved", "type": "changed", "mrr": 300, "currency": "EUR"})),
        // Nobody knows what it earned before the months that are restated.
        contract(
            "z",
            -59,
            json!({"account_id": "old", "type": "started", "mrr": 7, "currency": "CHF", "effective_at": ms(-700)}),
        ),
    ];
    let deployment = deployment(&told_of, over(&[Month], &[]));
    let march = [report::named("2024-02", &deployment.config.revenue).unwrap()];
    let question = Question { periods: &march, ..Question::default() };
    let kpis = report::parse(None).unwrap();
    let lifetime: Vec<_> = kpis.iter().filter(|kpi| kpi.name == "ltv_to_date").cloned().collect();
    let sql = report::sql(&lifetime, &kpis, &question, &report::Given::new()).unwrap();
    let url = format!("file://{}", deployment.folder.path().display());
    let stored = Stored::open(&url, &BTreeMap::new(), &deployment.config.aggregate.layout()).unwrap();
    let rows =
        stored.texts(&format!("select currency, round(value, 2), unknown from ({sql}) kpis order by 1")).unwrap().rows;
    let text = |text: &str| Some(text.to_owned());
    let unknown = |currency| [text(currency), None, text("1")];
    assert_eq!(rows, [unknown("CHF"), [text("EUR"), text("100.0"), text("0")], unknown("USD")]);
}
