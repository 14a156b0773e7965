//! Use in the first days of a customer: windows that begin with its start and stay as they are once they have passed.

use keepwell_core::pane::{DAY_US, Pane};
use keepwell_core::schema::window::first_days;

use crate::account::View;
use crate::settings::Settings;

/// Lengths of these windows in days, shortest first.
const DAYS: [i64; 3] = [14, 60, 90];

/// Use within a number of panes from the start.
#[derive(Debug, Default, Clone, Copy)]
struct Use {
    users: i64,
    uses: i64,
    features: i64,
}

/// The first days of an account. None: it has not started, or some of their panes may be forgotten.
pub(super) fn first_days_of<'r>(
    view: &View<'_>,
    started_us: Option<i64>,
    settings: &Settings,
) -> Option<first_days::Row<'r>> {
    let start = settings.panes.pane(started_us.filter(|started_us| *started_us < view.end_us)?);
    let kept_from = view.last.back(2 * settings.longest() - 1);
    if start < kept_from {
        return None;
    }
    let of = DAYS.map(|days| {
        let num_panes = (days * DAY_US / settings.panes.width_us) as i32;
        let end = Pane(start.0.saturating_add(num_panes)).min(view.last.next());
        let mut sums = Use::default();
        let visible = start.max(view.first);
        for (_, cell) in view.account.cells.between(visible, end) {
            sums.uses += cell.usage.sums().uses;
        }
        let adoption = &view.account.adoption;
        sums.users = adoption.users().filter(|user| user.intersects(visible, end)).count() as i64;
        sums.features = adoption.features().filter(|(_, panes)| panes.intersects(visible, end)).count() as i64;
        sums
    });
    let [of_14, of_60, of_90] = of;
    Some(first_days::Row {
        first_14d_active_users: Some(of_14.users),
        first_14d_uses: Some(of_14.uses),
        first_14d_features_used: Some(of_14.features),
        first_60d_active_users: Some(of_60.users),
        first_60d_uses: Some(of_60.uses),
        first_60d_features_used: Some(of_60.features),
        first_90d_active_users: Some(of_90.users),
        first_90d_uses: Some(of_90.uses),
        first_90d_features_used: Some(of_90.features),
    })
}
