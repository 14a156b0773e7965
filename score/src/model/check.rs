//! Checks of a model file. Every fault is reported with line and column.

use std::fmt::Display;
use std::ops::Deref;

use keepwell_core::interned::Name;
use keepwell_core::schema::window::customer::Status;
use serde_saphyr::Spanned;

use super::{Band, Factor, Model, ModelError, ModelFile, Reduce, UNKNOWN, Weights};
use keepwell_core::points::Points;

/// The greatest sum of weights. Up to this, arithmetic is exact in 64-bit integers, also in plain SQL.
const MOST_WEIGHT: f64 = 90_000.0;

/// Reads and checks a model file. `periods` are the configured windows.
///
/// # Errors
/// [`ModelError`] with file, line and column.
pub fn parse(file: &str, text: &str, periods: &[String]) -> Result<ModelFile, ModelError> {
    let models: ModelFile = serde_saphyr::from_str(text).map_err(|error| ModelError::of(file, error))?;
    let check = Check { file };
    let Some((last, others)) = models.models.split_last() else {
        return Err(ModelError::of(file, "models: at least one is needed"));
    };
    if !last.only_for.is_for_all() {
        return check.at(&last.name, "the last model must be for all accounts: no `only_for`");
    }
    if let Some(model) = others.iter().find(|model| model.only_for.is_for_all()) {
        let why = format!("model {} is for all accounts, so no later one is ever used: put it last", model.name.value);
        return check.at(&model.name, why);
    }
    let segments: Vec<&str> = models.segments.iter().map(|name| name.value.as_str()).collect();
    let listed = models.lifecycle.iter().map(|name| name.value.as_str());
    let stages: Vec<&str> = listed.chain(models.stages.iter().map(|stage| stage.name.value.as_str())).collect();
    for (what, named, known) in [
        ("segment", others.iter().flat_map(|m| &m.only_for.segments).collect::<Vec<_>>(), segments),
        ("stage", others.iter().flat_map(|m| &m.only_for.stages).collect(), stages),
    ] {
        let foreign = named.into_iter().find(|name| !known.is_empty() && !known.contains(&name.value.as_str()));
        if let Some(name) = foreign {
            return check.at(name, format!("{what} {} is not among: {}", name.value, known.join(", ")));
        }
    }
    check.stages(&models, periods)?;
    check.unique(models.models.iter().map(|model| &model.name))?;
    check.unique(models.segments.iter())?;
    check.unique(models.lifecycle.iter())?;
    models.models.iter().try_for_each(|model| check.model(model, periods))?;
    Ok(models)
}

struct Check<'f> {
    file: &'f str,
}

type Checked<T = ()> = Result<T, ModelError>;

impl Check<'_> {
    fn at<P, T>(&self, place: &Spanned<P>, why: impl Display) -> Checked<T> {
        Err(ModelError::at(self.file, place.referenced, why))
    }

    fn model(&self, model: &Model, periods: &[String]) -> Checked {
        let factors = model.factors.iter().map(|factor| &factor.period);
        let others =
            model.triggers.iter().map(|trigger| &trigger.period).chain(model.remember.iter().map(|r| &r.period));
        factors.chain(others).flatten().chain([&model.period]).try_for_each(|period| self.period(period, periods))?;
        self.unique(model.factors.iter().map(|factor| &factor.name))?;
        self.unique(model.groups.iter().map(|group| &group.name))?;
        self.unique(model.bands.iter().map(|band| &band.name))?;
        self.unique(model.triggers.iter().map(|trigger| &trigger.name))?;
        self.unique(model.remember.iter().map(|remember| &remember.name))?;
        self.weights(model)?;
        model.factors.iter().try_for_each(|factor| self.factor(model, factor))?;
        if !(0.0..=100.0).contains(&model.minimum_coverage) {
            return self.at(&model.name, "minimum_coverage must lie in 0-100 percent");
        }
        if !(0.0..=100.0).contains(&model.start) || model.start > 0.0 && model.weights != Weights::Additive {
            return self.at(&model.name, "start must lie in 0-100, and is for `weights: additive` only");
        }
        if ![100, 10, 5, 1].contains(&model.display.out_of) || model.display.decimals > 4 {
            return self.at(&model.name, "display: `out_of` must be 100, 10, 5 or 1, `decimals` at most 4");
        }
        if !(0.0..=36_500.0).contains(&model.baseline_day) {
            return self.at(&model.name, "baseline_day must lie in 0-36500");
        }
        self.bands(model)
    }

    /// Checks the stages that have rules: the first has none, each other has one.
    fn stages(&self, file: &ModelFile, periods: &[String]) -> Checked {
        let Some((first, others)) = file.stages.split_first() else { return Ok(()) };
        if let Some(name) = file.lifecycle.first() {
            return self.at(name, "either `lifecycle` or `stages`: the names of `stages` are the lifecycle");
        }
        self.unique(file.stages.iter().map(|stage| &stage.name))?;
        if let Some(stage) = file.stages.iter().find(|stage| stage.name.value.contains([';', '='])) {
            return self.at(&stage.name, "the name of a stage has neither `;` nor `=`");
        }
        if let Some(when) = &first.when {
            return self.at(when, "the first stage is where an account is that belongs in no other: it has no `when`");
        }
        if let Some(stage) = others.iter().find(|stage| stage.when.is_none()) {
            let why = format!("the stage {} needs a `when`: only the first has none", stage.name.value);
            return self.at(&stage.name, why);
        }
        file.stages.iter().filter_map(|stage| stage.period.as_ref()).try_for_each(|period| self.period(period, periods))
    }

    fn period(&self, period: &Spanned<String>, periods: &[String]) -> Checked {
        if periods.contains(&period.value) {
            return Ok(());
        }
        let periods = periods.join(", ");
        self.at(period, format!("period {} is not among aggregate.windows: {periods}", period.value))
    }

    fn factor(&self, model: &Model, factor: &Factor) -> Checked {
        let name = &factor.name.value;
        if name.starts_with('(') {
            return self.at(&factor.name, format!("factor {name}: names in parentheses are the program's own"));
        }
        let least = if model.weights == Weights::Additive { -100.0 } else { 0.0 };
        match factor.normalise.fault(least) {
            Some(fault) => self.at(&factor.name, format!("factor {name}: {fault}")),
            None => Ok(()),
        }
    }

    /// Checks that every needed weight is there, and that weights sum to 100 if they are percentages.
    fn weights(&self, model: &Model) -> Checked {
        if model.factors.is_empty() {
            return self.at(&model.name, "factors: at least one is needed");
        }
        let (is_percent, is_additive) = (model.weights == Weights::Percent, model.weights == Weights::Additive);
        if is_additive && !model.groups.is_empty() {
            return self.at(&model.name, "groups cannot be added: leave them out, or the `weights: additive`");
        }
        let sum = |place: &Spanned<Name>, what: String, weights: Vec<Points>| {
            let sum: Points = weights.into_iter().sum();
            let most = Points::round(MOST_WEIGHT).unwrap_or_default();
            match sum {
                sum if is_percent && sum != Points::HUNDRED => {
                    self.at(place, format!("the weights of {what} sum to {sum}, not to 100; or say `weights: raw`"))
                }
                sum if sum > most => self.at(place, format!("the weights of {what} sum to more than {most}")),
                _ => Ok(()),
            }
        };
        let of = |members: Vec<&Factor>| members.iter().map(|f| f.weight(Points::ZERO)).collect::<Vec<_>>();
        for factor in &model.factors {
            let group = self.group_of(model, factor)?;
            let weighs = group.is_none_or(|reduce| reduce == Reduce::Weighted);
            let is_good = |weight: f64| weight <= MOST_WEIGHT && factor.weight(Points::ZERO) > Points::ZERO;
            let name = &factor.name.value;
            match factor.weight {
                Some(_) if !weighs => {
                    return self
                        .at(&factor.name, format!("factor {name}: its group does not weigh, so it has no weight"));
                }
                None if weighs && !is_additive => return self.at(&factor.name, format!("factor {name} has no weight")),
                Some(weight) if !is_good(weight) => {
                    return self
                        .at(&factor.name, format!("factor {name}: weight must be from 0.000001 to {MOST_WEIGHT}"));
                }
                _ => {}
            }
        }
        if is_additive {
            return Ok(());
        }
        if model.groups.is_empty() {
            return sum(&model.name, format!("model {}", model.name.value), of(model.factors.iter().collect()));
        }
        for group in &model.groups {
            let is_member = |f: &&Factor| f.group.as_ref().is_some_and(|name| name.value == group.name.value);
            let members: Vec<&Factor> = model.factors.iter().filter(is_member).collect();
            let name = &group.name.value;
            if members.is_empty() || group.weight() <= Points::ZERO || group.weight > MOST_WEIGHT {
                return self.at(
                    &group.name,
                    format!("group {name} needs a factor and a weight from 0.000001 to {MOST_WEIGHT}"),
                );
            }
            if group.by == Reduce::Weighted {
                sum(&group.name, format!("group {name}"), of(members))?;
            }
        }
        let groups = model.groups.iter().map(super::Group::weight).collect();
        sum(&model.name, format!("the groups of model {}", model.name.value), groups)
    }

    /// How the group of a factor becomes one value. None in a model without groups.
    fn group_of(&self, model: &Model, factor: &Factor) -> Result<Option<Reduce>, ModelError> {
        let name = &factor.name.value;
        match &factor.group {
            None if model.groups.is_empty() => Ok(None),
            None => self.at(&factor.name, format!("factor {name} belongs to no group")),
            Some(group) => match model.groups.iter().find(|known| known.name.value == group.value) {
                Some(known) => Ok(Some(known.by)),
                None => self.at(group, format!("factor {name}: there is no group {}", group.value)),
            },
        }
    }

    fn bands(&self, model: &Model) -> Checked {
        if let Some(band) = model.bands.iter().find(|band| band.name.value == UNKNOWN) {
            return self.at(&band.name, format!("the band {UNKNOWN} means too little coverage: choose another name"));
        }
        if let Some(band) = model.bands.iter().find(|band| Status::has_left(&band.name.value)) {
            let name = &band.name.value;
            return self.at(&band.name, format!("the band {name} means a customer that has left: choose another name"));
        }
        for band in &model.bands {
            let (name, start) = (&band.name.value, band.start());
            if band.from.is_some() == band.above.is_some() {
                return self.at(&band.name, format!("band {name}: either `from` or `above`"));
            }
            if band.leave_below.is_some_and(|least| Points::round(least).is_none_or(|least| least > start)) {
                return self.at(&band.name, format!("band {name}: leave_below must not be above {start}"));
            }
        }
        let starts: Vec<Points> = model.bands.iter().map(Band::start).collect();
        let starts_at_zero =
            model.bands.first().is_some_and(|first| first.from.is_some() && first.start() == Points::ZERO);
        if !starts_at_zero
            || !starts.is_sorted_by(|a, b| a < b)
            || starts.last().is_some_and(|last| *last > Points::HUNDRED)
        {
            let starts: Vec<String> = starts.iter().map(ToString::to_string).collect();
            let why = format!(
                "the bands of model {} must rise from 0 to at most 100: {}",
                model.name.value,
                starts.join(", ")
            );
            return self.at(&model.name, why);
        }
        Ok(())
    }

    fn unique<'n, N: Deref<Target = str> + 'n>(&self, names: impl Iterator<Item = &'n Spanned<N>>) -> Checked {
        let mut known = std::collections::BTreeSet::new();
        for name in names {
            if name.value.is_empty() || !known.insert(&*name.value) {
                return self.at(name, format!("the name {:?} is empty or used twice", &*name.value));
            }
        }
        Ok(())
    }
}
