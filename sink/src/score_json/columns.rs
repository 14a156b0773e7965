//! The columns of a `health` batch, looked up by name once for each batch, and the rows made from them.

use std::ops::Range;

use arrow::array::{
    Array, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow::error::ArrowError;
use keepwell_core::schema::columns::{Columns, TimeArray, millionths, number, text};
use keepwell_core::schema::health::rfc3339;

use super::{Driver, Factor, Health, ModelName, Previous, Provenance, Row, SCORE, Trigger};

/// Columns of the `health` table.
pub(super) struct Scores<'b> {
    account_id: &'b StringArray,
    as_of: &'b TimeArray,
    is_final: &'b BooleanArray,
    retired: &'b BooleanArray,
    deleted: &'b BooleanArray,
    score: &'b Decimal128Array,
    display: &'b Decimal128Array,
    band: &'b StringArray,
    band_since: &'b TimeArray,
    previous_as_of: &'b TimeArray,
    previous_score: &'b Decimal128Array,
    previous_band: &'b StringArray,
    delta: &'b Decimal128Array,
    coverage: &'b Decimal128Array,
    baseline_score: &'b Decimal128Array,
    factors: Factors<'b>,
    drivers: Drivers<'b>,
    triggers: Triggers<'b>,
    segment: &'b StringArray,
    stage: &'b StringArray,
    owner: &'b StringArray,
    model: &'b StringArray,
    model_version: &'b Int64Array,
    changed: &'b BooleanArray,
    epoch: &'b Int32Array,
    partition: &'b Int32Array,
    next_offset: &'b Int64Array,
    ordinal: &'b Int64Array,
    events_next_offset: &'b Int64Array,
    watermark: &'b TimeArray,
}

/// Columns of the factors, a list in each row. `Drivers` and `Triggers` have the same form.
struct Factors<'b> {
    list: &'b ListArray,
    name: &'b StringArray,
    group: &'b StringArray,
    value: &'b Float64Array,
    normalised: &'b Decimal128Array,
    weight: &'b Decimal128Array,
    effective_weight: &'b Decimal128Array,
    contribution: &'b Decimal128Array,
    missing: &'b StringArray,
    carried_from: &'b TimeArray,
}

struct Drivers<'b> {
    list: &'b ListArray,
    name: &'b StringArray,
    delta: &'b Decimal128Array,
}

struct Triggers<'b> {
    list: &'b ListArray,
    name: &'b StringArray,
    state: &'b StringArray,
    since: &'b TimeArray,
    news: &'b BooleanArray,
    severity: &'b StringArray,
    playbook: &'b StringArray,
    owner_role: &'b StringArray,
    evidence: &'b StringArray,
    outcome: &'b StringArray,
}

impl<'b> Scores<'b> {
    /// Looks up the columns.
    ///
    /// # Errors
    /// [`ArrowError::SchemaError`] when a column is missing or has another type. The lookups below fail in the same
    /// way.
    pub(super) fn of(batch: &'b RecordBatch) -> Result<Self, ArrowError> {
        let columns = Columns::Batch(batch);
        Ok(Self {
            account_id: columns.text("account_id")?,
            as_of: columns.time("as_of")?,
            is_final: columns.flag("final")?,
            retired: columns.flag("retired")?,
            deleted: columns.flag("deleted")?,
            score: columns.decimal("score")?,
            display: columns.decimal("display")?,
            band: columns.text("band")?,
            band_since: columns.time("band_since")?,
            previous_as_of: columns.time("previous_as_of")?,
            previous_score: columns.decimal("previous_score")?,
            previous_band: columns.text("previous_band")?,
            delta: columns.decimal("delta")?,
            coverage: columns.decimal("coverage")?,
            baseline_score: columns.decimal("baseline_score")?,
            factors: Factors::of(columns)?,
            drivers: Drivers::of(columns)?,
            triggers: Triggers::of(columns)?,
            segment: columns.text("segment")?,
            stage: columns.text("stage")?,
            owner: columns.text("owner")?,
            model: columns.text("model")?,
            model_version: columns.int("model_version")?,
            changed: columns.flag("changed")?,
            epoch: columns.int32("epoch")?,
            partition: columns.int32("partition")?,
            next_offset: columns.int("next_offset")?,
            ordinal: columns.int("ordinal")?,
            events_next_offset: columns.int("events_next_offset")?,
            watermark: columns.time("watermark")?,
        })
    }

    /// Makes the JSON form of a row.
    ///
    /// # Errors
    /// [`ArrowError::JsonError`] when a trigger's evidence is not JSON.
    pub(super) fn row(&self, row: usize) -> Result<Row, ArrowError> {
        let previous = time(self.previous_as_of, row).map(|as_of| Previous {
            as_of,
            score: points(self.previous_score, row),
            band: owned(self.previous_band, row),
        });
        let health = Health {
            schema: SCORE.to_owned(),
            account_id: self.account_id.value(row).to_owned(),
            as_of: rfc3339(self.as_of.value(row)),
            is_final: self.is_final.value(row),
            retired: self.retired.value(row),
            score: points(self.score, row),
            display: points(self.display, row),
            band: owned(self.band, row),
            band_since: time(self.band_since, row),
            previous,
            delta: points(self.delta, row),
            coverage: points(self.coverage, row).unwrap_or_default(),
            baseline_score: points(self.baseline_score, row),
            factors: self.factors.of_row(row),
            drivers: self.drivers.of_row(row),
            triggers: self.triggers.of_row(row)?,
            segment: owned(self.segment, row),
            stage: owned(self.stage, row),
            owner: owned(self.owner, row),
            model: ModelName { name: self.model.value(row).to_owned(), version: self.model_version.value(row) },
            provenance: Provenance {
                epoch: self.epoch.value(row),
                partition: self.partition.value(row),
                next_offset: self.next_offset.value(row),
                ordinal: self.ordinal.value(row),
                events_next_offset: self.events_next_offset.value(row),
                watermark: time(self.watermark, row),
            },
        };
        Ok(Row { health, is_changed: self.changed.value(row), is_deleted: self.deleted.value(row) })
    }
}

impl<'b> Factors<'b> {
    fn of(columns: Columns<'b>) -> Result<Self, ArrowError> {
        let (list, items) = columns.list("factors")?;
        Ok(Self {
            list,
            name: items.text("name")?,
            group: items.text("group")?,
            value: items.float("value")?,
            normalised: items.decimal("normalised")?,
            weight: items.decimal("weight")?,
            effective_weight: items.decimal("effective_weight")?,
            contribution: items.decimal("contribution")?,
            missing: items.text("missing")?,
            carried_from: items.time("carried_from")?,
        })
    }

    fn of_row(&self, row: usize) -> Vec<Factor> {
        let factor = |item| Factor {
            name: self.name.value(item).to_owned(),
            group: owned(self.group, item),
            value: number(self.value, item),
            normalised: points(self.normalised, item),
            weight: points(self.weight, item).unwrap_or_default(),
            effective_weight: points(self.effective_weight, item).unwrap_or_default(),
            contribution: points(self.contribution, item),
            missing: owned(self.missing, item),
            carried_from: time(self.carried_from, item),
        };
        items_of(self.list, row).map(factor).collect()
    }
}

impl<'b> Drivers<'b> {
    fn of(columns: Columns<'b>) -> Result<Self, ArrowError> {
        let (list, items) = columns.list("drivers")?;
        Ok(Self { list, name: items.text("name")?, delta: items.decimal("delta")? })
    }

    fn of_row(&self, row: usize) -> Vec<Driver> {
        let delta = |item| points(self.delta, item).unwrap_or_default();
        let driver = |item| Driver { name: self.name.value(item).to_owned(), delta: delta(item) };
        items_of(self.list, row).map(driver).collect()
    }
}

impl<'b> Triggers<'b> {
    fn of(columns: Columns<'b>) -> Result<Self, ArrowError> {
        let (list, items) = columns.list("triggers")?;
        Ok(Self {
            list,
            name: items.text("name")?,
            state: items.text("state")?,
            since: items.time("since")?,
            news: items.flag("news")?,
            severity: items.text("severity")?,
            playbook: items.text("playbook")?,
            owner_role: items.text("owner_role")?,
            evidence: items.text("evidence")?,
            outcome: items.text("outcome")?,
        })
    }

    fn of_row(&self, row: usize) -> Result<Vec<Trigger>, ArrowError> {
        let evidence = |item| match text(self.evidence, item) {
            Some(json) => serde_json::from_str(json).map_err(|error| ArrowError::JsonError(error.to_string())),
            None => Ok(serde_json::Value::Null),
        };
        let trigger = |item| {
            Ok(Trigger {
                name: self.name.value(item).to_owned(),
                state: self.state.value(item).to_owned(),
                since: rfc3339(self.since.value(item)),
                is_news: self.news.value(item),
                severity: self.severity.value(item).to_owned(),
                playbook: self.playbook.value(item).to_owned(),
                owner_role: self.owner_role.value(item).to_owned(),
                evidence: evidence(item)?,
                outcome: owned(self.outcome, item),
            })
        };
        items_of(self.list, row).map(trigger).collect()
    }
}

fn owned(column: &StringArray, row: usize) -> Option<String> {
    text(column, row).map(str::to_owned)
}

fn time(column: &TimeArray, row: usize) -> Option<String> {
    number(column, row).map(rfc3339)
}

/// Converts millionths to a float. Below 2^53 millionths its shortest text is exactly the decimal.
fn points(column: &Decimal128Array, row: usize) -> Option<f64> {
    millionths(column, row).map(|millionths| millionths as f64 / 1e6)
}

/// The range of a row's items in the list.
fn items_of(list: &ListArray, row: usize) -> Range<usize> {
    let offsets = list.value_offsets();
    let at = |index: usize| offsets.get(index).copied().unwrap_or_default() as usize;
    if list.is_null(row) { 0..0 } else { at(row)..at(row + 1) }
}
