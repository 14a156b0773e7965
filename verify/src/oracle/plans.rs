//! Success plans of the configuration as tables.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use keepwell_pipeline::config::SuccessPlan;

fn numbers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn texts<'t>(values: impl IntoIterator<Item = Option<&'t str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

/// Name and rows of each table. `place` is the place of a plan in the list.
pub fn tables(plans: &[SuccessPlan]) -> Result<[(&'static str, RecordBatch); 3]> {
    let placed = || (0_i64..).zip(plans);
    let segments = placed().flat_map(|(place, plan)| {
        let named: Vec<Option<&str>> = match plan.segments.is_empty() {
            true => vec![None],
            false => plan.segments.iter().map(|segment| Some(segment.as_str())).collect(),
        };
        named.into_iter().map(move |segment| (place, segment))
    });
    let segments: Vec<(i64, Option<&str>)> = segments.collect();
    let items = placed().flat_map(|(place, plan)| {
        (0_i64..).zip(&plan.items).map(move |(nth, item)| {
            // Without a feature and a milestone: the milestone of the item's name.
            let milestone = item.milestone.as_deref().or(item.feature.is_none().then_some(item.name.as_str()));
            (place, plan.name.as_str(), nth, item, milestone)
        })
    });
    let items: Vec<_> = items.collect();
    let firsts: Vec<_> =
        placed().filter_map(|(place, plan)| plan.first_value.as_ref().map(|first| (place, first))).collect();
    Ok([
        (
            "plan_of_segment",
            RecordBatch::try_from_iter_with_nullable([
                ("place", numbers(segments.iter().map(|of| of.0)), false),
                ("segment", texts(segments.iter().map(|of| of.1)), true),
            ])?,
        ),
        (
            "plan_item",
            RecordBatch::try_from_iter_with_nullable([
                ("place", numbers(items.iter().map(|of| of.0)), false),
                ("plan", texts(items.iter().map(|of| Some(of.1))), true),
                ("nth", numbers(items.iter().map(|of| of.2)), false),
                ("item", texts(items.iter().map(|of| Some(of.3.name.as_str()))), true),
                ("after_us", numbers(items.iter().map(|of| of.3.due.as_micros())), false),
                ("feature", texts(items.iter().map(|of| of.3.feature.as_deref())), true),
                ("milestone", texts(items.iter().map(|of| of.4)), true),
            ])?,
        ),
        (
            "plan_first_value",
            RecordBatch::try_from_iter_with_nullable([
                ("place", numbers(firsts.iter().map(|of| of.0)), false),
                ("within_us", numbers(firsts.iter().map(|of| of.1.within.as_micros())), false),
                ("feature", texts(firsts.iter().map(|of| of.1.feature.as_deref())), true),
                ("milestone", texts(firsts.iter().map(|of| of.1.milestone.as_deref())), true),
            ])?,
        ),
    ])
}
