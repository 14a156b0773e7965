//! Success plans: what an account should have reached, and by when.

use serde::{Deserialize, Serialize};

use super::Span;

/// The plan of the accounts of some segments. It begins when the account becomes a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuccessPlan {
    /// Name of the plan.
    pub name: String,
    /// Values of the fact `segment`. Without any the plan is for all accounts.
    #[serde(default)]
    pub segments: Vec<String>,
    /// What counts as the first value, in place of `first_value_feature`.
    #[serde(default)]
    pub first_value: Option<FirstValue>,
    /// The items of the plan.
    pub items: Vec<PlanItem>,
}

/// What counts as the first value: the first use of a feature, or a milestone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstValue {
    /// How long after the start it should be there.
    pub within: Span,
    /// The feature.
    #[serde(default)]
    pub feature: Option<String>,
    /// The id of the milestone.
    #[serde(default)]
    pub milestone: Option<String>,
}

/// An item of a plan. It is done by the first use of a feature, or by a milestone; without both, by the milestone of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanItem {
    /// Name of the item.
    pub name: String,
    /// How long after the start it is due.
    pub due: Span,
    /// The feature.
    #[serde(default)]
    pub feature: Option<String>,
    /// The id of the milestone.
    #[serde(default)]
    pub milestone: Option<String>,
}

/// What shows that something was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReachedBy<'p> {
    /// The first use of this feature.
    Feature(&'p str),
    /// The milestone with this id.
    Milestone(&'p str),
}

impl PlanItem {
    /// What shows that the item is done.
    pub fn reached_by(&self) -> ReachedBy<'_> {
        match &self.feature {
            Some(feature) => ReachedBy::Feature(feature),
            None => ReachedBy::Milestone(self.milestone.as_ref().unwrap_or(&self.name)),
        }
    }
}

impl FirstValue {
    /// What shows that the first value is there. None: it says neither.
    pub fn reached_by(&self) -> Option<ReachedBy<'_>> {
        let feature = self.feature.as_deref().map(ReachedBy::Feature);
        feature.or_else(|| self.milestone.as_deref().map(ReachedBy::Milestone))
    }
}

impl SuccessPlan {
    /// Whether the plan is for an account of this segment.
    pub fn is_for(&self, segment: Option<&str>) -> bool {
        self.segments.is_empty() || segment.is_some_and(|segment| self.segments.iter().any(|known| known == segment))
    }

    /// Features whose first use the plan asks for.
    pub fn features(&self) -> impl Iterator<Item = &String> {
        let first = self.first_value.iter().filter_map(|first| first.feature.as_ref());
        first.chain(self.items.iter().filter_map(|item| item.feature.as_ref()))
    }

    fn fault(&self) -> Option<String> {
        let (plan, is_both) = (&self.name, |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some());
        if self.items.is_empty() {
            return Some(format!("success plan {plan}: it has no item"));
        }
        if let Some(first) = &self.first_value
            && (is_both(&first.feature, &first.milestone) || first.reached_by().is_none())
        {
            return Some(format!("success plan {plan}: first_value needs either a feature or a milestone"));
        }
        let names = self.items.iter().map(|item| &item.name);
        if let Some(name) = twice(names) {
            return Some(format!("success plan {plan}: the item {name:?} is empty or there twice"));
        }
        let item = self.items.iter().find(|item| is_both(&item.feature, &item.milestone))?;
        Some(format!("success plan {plan}: the item {} is done by a feature or by a milestone, not by both", item.name))
    }
}

/// Why these plans cannot be. None: they can.
pub(super) fn misfit(plans: &[SuccessPlan]) -> Option<String> {
    if let Some(name) = twice(plans.iter().map(|plan| &plan.name)) {
        return Some(format!("the success plan {name:?} is empty or there twice"));
    }
    let behind_all = plans.iter().position(|plan| plan.segments.is_empty()).filter(|at| at + 1 < plans.len());
    if let Some(plan) = behind_all.and_then(|at| plans.get(at)) {
        return Some(format!(
            "success plan {}: it is for all accounts, so no later one is ever used: put it last",
            plan.name
        ));
    }
    plans.iter().find_map(SuccessPlan::fault)
}

/// The first name that is empty or came before.
fn twice<'n>(names: impl Iterator<Item = &'n String>) -> Option<&'n String> {
    let mut known = std::collections::BTreeSet::new();
    names.into_iter().find(|name| name.is_empty() || !known.insert(*name))
}
