//! Alerts: the JSON form of a trigger that was raised, closed or cleared.

use keepwell_core::points::Points;
use keepwell_core::schema::health::{self, rfc3339};
use keepwell_core::schema::json::Place;
use keepwell_core::schema::{Column, ColumnType};
use serde::{Deserialize, Serialize};

/// Name and version of the JSON form of an alert.
pub const ALERT: &str = "alerts/2";

const fn known(name: &'static str, kind: ColumnType, doc: &'static str) -> Column {
    Column { name, kind, nullable: false, doc, json: Place::Own }
}

const fn maybe(name: &'static str, kind: ColumnType, doc: &'static str) -> Column {
    Column { nullable: true, ..known(name, kind, doc) }
}

const fn previous(key: &'static str, kind: ColumnType, doc: &'static str) -> Column {
    Column { json: Place::Within("previous", key), ..maybe(key, kind, doc) }
}

/// What an [`Alert`] has besides its `schema`, for its JSON Schema.
pub const COLUMNS: &[Column] = &[
    known("alert_id", ColumnType::Text, "id of the episode: the same when it is raised and when it ends"),
    known("event", ColumnType::Text, "raised, closed (by an outcome) or cleared"),
    known("account_id", ColumnType::Text, "account"),
    known("as_of", ColumnType::Time, "as_of of the final row that reports this event"),
    known("trigger", ColumnType::Text, "trigger, as the model names it"),
    known("since", ColumnType::Time, "as_of of the final row that raised it"),
    known("severity", ColumnType::Text, "low, medium or high"),
    known("playbook", ColumnType::Text, "what to do, from the model"),
    known("owner_role", ColumnType::Text, "role of the person who must act"),
    maybe("evidence", ColumnType::Json, "the columns that the trigger reads, with their values at as_of"),
    maybe("outcome", ColumnType::Text, "last outcome of the playbook: accepted, done or dismissed"),
    maybe("owner", ColumnType::Text, "who looks after the account: its fact owner"),
    maybe("score", ColumnType::Points, "score of the account at as_of"),
    maybe("band", ColumnType::Text, "band of the account at as_of"),
    previous("as_of", ColumnType::Time, "as_of of the previous final row"),
    previous("score", ColumnType::Points, "its score"),
    previous("band", ColumnType::Text, "its band"),
];

/// A trigger that was raised, closed or cleared: the value of a record of `alerts`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Always `alerts/2`.
    pub schema: String,
    /// Id of the episode: the same when it is raised and when it ends.
    pub alert_id: String,
    /// `raised`, `closed` (by an outcome) or `cleared`.
    pub event: String,
    /// Account id.
    pub account_id: String,
    /// `as_of` of the final row that reports this event.
    pub as_of: String,
    /// Name of the trigger in the model.
    pub trigger: String,
    /// `as_of` of the final row that raised it.
    pub since: String,
    /// `low`, `medium` or `high`.
    pub severity: String,
    /// Name of the playbook: what to do.
    pub playbook: String,
    /// Role of the person who must act.
    pub owner_role: String,
    /// The columns that the trigger reads, with their values at `as_of`.
    pub evidence: serde_json::Value,
    /// Last reported outcome of the playbook: `accepted`, `done` or `dismissed`.
    pub outcome: Option<String>,
    /// Who looks after the account: its fact `owner`.
    pub owner: Option<String>,
    /// Score of the account at `as_of`.
    pub score: Option<f64>,
    /// Band of the account at `as_of`.
    pub band: Option<String>,
    /// The previous final row.
    pub previous: Option<Previous>,
}

/// The previous final row of an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// End of its windows.
    pub as_of: String,
    /// Its score.
    pub score: Option<f64>,
    /// Its band.
    pub band: Option<String>,
}

/// The alert of a trigger on a row.
///
/// # Errors
/// When its evidence is not JSON.
pub(crate) fn alert(row: &health::Row<'_>, trigger: &health::trigger::Row<'_>) -> Result<Alert, serde_json::Error> {
    let since = rfc3339(trigger.since);
    let previous = row.previous_as_of.map(|as_of| Previous {
        as_of: rfc3339(as_of),
        score: row.previous_score.map(Points::to_f64),
        band: row.previous_band.map(str::to_owned),
    });
    Ok(Alert {
        schema: ALERT.to_owned(),
        alert_id: health::alert_id(row.account_id, trigger.name, &since),
        event: trigger.state.to_owned(),
        account_id: row.account_id.to_owned(),
        as_of: rfc3339(row.as_of),
        trigger: trigger.name.to_owned(),
        since,
        severity: trigger.severity.to_owned(),
        playbook: trigger.playbook.to_owned(),
        owner_role: trigger.owner_role.to_owned(),
        evidence: trigger.evidence.map_or(Ok(serde_json::Value::Null), serde_json::from_str)?,
        outcome: trigger.outcome.map(str::to_owned),
        owner: row.owner.map(str::to_owned),
        score: row.score.map(Points::to_f64),
        band: row.band.map(str::to_owned),
        previous,
    })
}

#[cfg(test)]
mod tests {
    use keepwell_core::schema::json_schema::json_schema;

    use super::*;

    #[test]
    fn the_declared_keys_are_those_that_are_written() {
        let previous = Some(Previous { as_of: String::new(), score: None, band: None });
        let alert = Alert { schema: ALERT.to_owned(), previous, ..Alert::default() };
        let written = serde_json::to_value(alert).unwrap();
        let keys = |object: &serde_json::Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let schema = json_schema(COLUMNS, Some(ALERT));
        assert_eq!(keys(&written), keys(&schema["properties"]));
        assert_eq!(keys(&written["previous"]), keys(&schema["properties"]["previous"]["anyOf"][0]["properties"]));
    }
}
