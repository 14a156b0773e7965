//! Which features belong to which configured groups.

/// A set of groups, one bit for each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupSet(u32);

impl GroupSet {
    /// The indices of the groups.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..u32::BITS as usize).filter(move |index| self.0 & (1 << index) != 0)
    }
}

/// The patterns of each group.
#[derive(Debug, Clone, Default)]
pub struct FeatureGroups(Vec<Vec<Pattern>>);

/// A name in which `*` stands for any text: its parts between the stars.
#[derive(Debug, Clone)]
struct Pattern(Vec<String>);

impl FeatureGroups {
    /// The groups with these patterns, at most 32.
    pub fn new<'p>(groups: impl Iterator<Item = &'p Vec<String>>) -> Self {
        let pattern = |text: &String| Pattern(text.split('*').map(str::to_owned).collect());
        Self(groups.map(|patterns| patterns.iter().map(pattern).collect()).collect())
    }

    /// The groups that a feature belongs to.
    pub fn of(&self, feature: &str) -> GroupSet {
        let belongs = |(index, patterns): (usize, &Vec<Pattern>)| {
            u32::from(patterns.iter().any(|pattern| pattern.fits(feature))) << index
        };
        GroupSet(self.0.iter().take(u32::BITS as usize).enumerate().map(belongs).sum())
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        let [first, middle @ .., last] = self.0.as_slice() else {
            return self.0.first().is_some_and(|whole| whole == name);
        };
        let rest = name.strip_prefix(first.as_str()).and_then(|rest| rest.strip_suffix(last.as_str()));
        // The leftmost place is always good: it leaves the most for the parts behind.
        let found = middle.iter().try_fold(rest, |rest, part| {
            let rest: &str = rest?;
            Some(rest.find(part.as_str()).and_then(|at| rest.get(at + part.len()..)))
        });
        found.flatten().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        // pattern, what fits, what does not
        let cases: [(&str, &[&str], &[&str]); 6] = [
            ("export", &["export"], &["Export", "exports", ""]),
            ("insight *", &["insight saved", "insight "], &["insight", "an insight saved"]),
            ("*", &["", "anything"], &[]),
            ("*/export", &["/export", "a/b/export"], &["export", "/export/"]),
            ("a*b*a", &["aba", "a-b-a", "abba", "aabaa"], &["ab", "aa", "aab"]),
            ("a*a", &["aa", "aba"], &["a"]),
        ];
        for (pattern, fits, others) in cases {
            let groups = FeatureGroups::new([vec!["never".to_owned(), pattern.to_owned()]].iter());
            for name in fits.iter().chain(others) {
                assert_eq!(groups.of(name).iter().count(), usize::from(fits.contains(name)), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_feature_may_belong_to_several_groups() {
        let groups = FeatureGroups::new([vec!["a*".to_owned()], vec!["b".to_owned()], vec!["*b".to_owned()]].iter());
        assert_eq!(groups.of("ab").iter().collect::<Vec<_>>(), [0, 2]);
        assert_eq!(groups.of("b").iter().collect::<Vec<_>>(), [1, 2]);
    }
}
