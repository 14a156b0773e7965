//! Erasure of a user id: in the state of its account another name replaces it from then on.
//!
//! Measures count users but never name them. So no row changes, whatever the order in which the erasure and the user's
//! events arrive. The new name is a hash of account and id. It is kept as long as the person's history.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use keepwell_core::event::PersonAction;

use super::Account;
use super::history::History;
use super::people::PersonEvent;
use crate::settings::Settings;
use keepwell_core::interned::Name;
use siphasher::sip128::{Hasher128, SipHasher24};

/// Prefix of the names of erased users.
const ERASED: &str = "erased:";

/// The name that replaces a user id. Anyone with the key and a list of ids could find the id again, so the key is a
/// secret.
fn pseudonym(account_id: &str, user_id: &str, key: &[u8; 16]) -> String {
    use std::hash::Hasher;
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(account_id.as_bytes());
    // 0xff never occurs in UTF-8 text: account "a" with id "bc" differs from "ab" with "c".
    hasher.write_u8(0xff);
    hasher.write(user_id.as_bytes());
    let hash = hasher.finish128();
    format!("{ERASED}{:016x}{:016x}", hash.h1, hash.h2)
}

impl Account {
    /// The name of a user in this account: the id, or the name that replaces it.
    pub(crate) fn name_of<'u>(&self, account_id: &str, user_id: &'u str, settings: &Settings) -> Cow<'u, str> {
        // Few accounts have erased a user, and most know no people at all. So most ids need no hash.
        if self.histories.people.is_empty() {
            return Cow::Borrowed(user_id);
        }
        let from_there = (Bound::Included(ERASED), Bound::Unbounded);
        let has_erased =
            self.histories.people.range::<str, _>(from_there).next().is_some_and(|(name, _)| name.starts_with(ERASED));
        let erased = has_erased.then(|| pseudonym(account_id, user_id, &settings.erasure_key));
        erased
            .filter(|name| self.histories.people.contains_key(name.as_str()))
            .map_or(Cow::Borrowed(user_id), Cow::Owned)
    }

    /// Replaces a user id everywhere in the account, and returns the new name.
    pub(super) fn forget_user(&mut self, account_id: &str, user_id: &str, settings: &Settings) -> Name {
        let name = Name::from(pseudonym(account_id, user_id, &settings.erasure_key).as_str());
        self.adoption.rename(user_id, &name);
        self.groups.rename(user_id, &name);
        self.cells.rename(user_id, &name);
        self.histories.change(|all| {
            if let Some(history) = all.people.remove(user_id) {
                all.people.entry(name.clone()).or_default().absorb(history);
            }
        });
        name
    }
}

/// Forgets events of people at or before `floor_us`, except erasures.
pub(super) fn erase_people(people: &mut BTreeMap<Name, History<PersonEvent>>, floor_us: i64) {
    people.retain(|_, history| {
        history.erase_unless(floor_us, |event| event.action == PersonAction::Erased);
        !history.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use keepwell_core::event::{Body, Change, Event, Survey};
    use keepwell_core::pane::DAY_US;
    use keepwell_pipeline::config::Config;
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Settings;
    use keepwell_core::interned::Names;

    const CONFIG: &str = "epoch: 1\npartitions: 1\nkafka: {bootstrap_servers: 'unused:9092'}\nsources: [{topic: raw, kind: usage}]\nsnapshots: {url: 'memory:///'}\n";

    /// Without the key, a list of addresses does not tell who was erased.
    #[test]
    fn the_name_of_an_erased_user_depends_on_the_key_and_on_the_account() {
        let name = |account: &str, key: u8| pseudonym(account, "eve@example.com", &[key; 16]);
        assert_eq!(name("acme", 1), name("acme", 1));
        assert_ne!(name("acme", 1), name("acme", 2));
        assert_ne!(name("acme", 1), name("beta", 1));
        assert!(!name("acme", 1).contains("eve"));
    }

    /// Events that may happen to a person, one of each.
    fn events() -> Vec<Event<'static>> {
        let usage = |feature| Body::Usage {
            user_id: Some("eve".into()),
            feature: Cow::Borrowed(feature),
            count: 1,
            duration_ms: None,
            errors: None,
        };
        let person = |action| Body::Person { action, user_id: "eve".into(), role: Change::Set("champion".into()) };
        let bodies = [
            usage("export"),
            usage("import"),
            person(PersonAction::Added),
            person(PersonAction::Erased),
            person(PersonAction::Removed),
            Body::Survey { survey: Survey::Nps, score: 3, scale_max: 10, user_id: Some("eve".into()) },
            Body::Deleted,
            usage("export"),
            Body::Survey { survey: Survey::Nps, score: 9, scale_max: 10, user_id: Some("eve".into()) },
        ];
        let event = |(n, body): (usize, Body<'static>)| Event {
            account_id: "acme".into(),
            event_id: format!("e{n}").into(),
            occurred_us: 19_800 * DAY_US + n as i64 * DAY_US / 3,
            body,
        };
        bodies.into_iter().enumerate().map(event).collect()
    }

    proptest! {
        #[test]
        fn an_erased_id_stands_nowhere_and_order_leaves_no_trace(order in Just(events()).prop_shuffle(), pruned in 0..3_i32) {
            let settings = Settings::new(&Config::parse("erasure", CONFIG, &[]).unwrap());
            let fold = |events: &[Event<'_>]| {
                let mut account = Account::default();
                events.iter().for_each(|event| account.apply(event, None, &settings, &mut Names::default()));
                account.prune(settings.panes.pane((19_800 + i64::from(pruned)) * DAY_US), &settings);
                account
            };
            let account = fold(&order);
            let text = format!("{account:?}");
            prop_assert!(!text.contains("\"eve\""));
            prop_assert_eq!(account, fold(&events()));
        }
    }

    #[test]
    fn one_who_was_called_what_an_erased_user_is_called_is_counted_with_them() {
        let settings = Settings::new(&Config::parse("erasure", CONFIG, &[]).unwrap());
        let mut account = Account::default();
        let mut names = Names::default();
        let used = |name: &str, feature: &'static str, n: i64| Event {
            account_id: "acme".into(),
            event_id: format!("u{n}").into(),
            occurred_us: 19_800 * DAY_US + n,
            body: Body::Usage {
                user_id: Some(name.to_owned().into()),
                feature: feature.into(),
                count: 1,
                duration_ms: None,
                errors: None,
            },
        };
        let stands_for_eve = pseudonym("acme", "eve", &settings.erasure_key);
        let uses = [("ann", "export"), ("eve", "export"), (&stands_for_eve, "import"), ("zoe", "export")];
        for ((name, feature), n) in uses.into_iter().zip(0..) {
            account.apply(&used(name, feature, n), None, &settings, &mut names);
        }
        account.apply(&events()[3], None, &settings, &mut names);
        let pane = settings.panes.pane(19_800 * DAY_US);
        let num_users = account
            .adoption
            .by_feature(pane, None, usize::MAX)
            .iter()
            .map(|(_, _, num_users)| *num_users)
            .collect::<Vec<_>>();
        assert_eq!((account.adoption.users().count(), num_users), (3, vec![3, 1]));
        assert!(account.adoption.user(&"zoe".into()).is_some() && account.adoption.user(&"eve".into()).is_none());
    }

    #[test]
    fn whoever_is_erased_counts_once_whatever_comes_later() {
        let settings = Settings::new(&Config::parse("erasure", CONFIG, &[]).unwrap());
        let mut account = Account::default();
        events()
            .iter()
            .filter(|event| !matches!(event.body, Body::Deleted))
            .for_each(|event| account.apply(event, None, &settings, &mut Names::default()));
        let view = account.view(settings.panes.pane(19_803 * DAY_US), &settings);
        assert_eq!(
            (
                account.adoption.users().count(),
                account.histories.people.len(),
                view.headcount(&["champion".into()]).people
            ),
            (1, 1, 0)
        );
    }
}
