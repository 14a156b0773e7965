//! Contributions of the factors of one row, as score remembers them.

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use keepwell_core::points::Points;

/// Contributions in the order of the factors. Four bytes each, where all of them are below 2,147 points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contributions(Stored);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    /// Millionths. [`UNKNOWN`] is a factor without a contribution.
    Small(Box<[i32]>),
    /// Any contributions. A factor with a huge weight has such.
    Wide(Box<[Option<Points>]>),
}

const UNKNOWN: i32 = i32::MIN;

impl From<&[Option<Points>]> for Contributions {
    fn from(contributions: &[Option<Points>]) -> Self {
        let small = contributions.iter().map(|contribution| match contribution {
            None => Some(UNKNOWN),
            Some(points) => i32::try_from(points.millionths()).ok().filter(|millionths| *millionths != UNKNOWN),
        });
        Self(small.collect::<Option<Box<[i32]>>>().map_or_else(|| Stored::Wide(contributions.into()), Stored::Small))
    }
}

impl Contributions {
    /// Number of factors.
    fn len(&self) -> usize {
        match &self.0 {
            Stored::Small(millionths) => millionths.len(),
            Stored::Wide(contributions) => contributions.len(),
        }
    }

    /// The contribution of a factor. None if it has none, or there is no such factor.
    pub fn of(&self, factor: usize) -> Option<Points> {
        match &self.0 {
            Stored::Small(millionths) => {
                let millionths = millionths.get(factor).filter(|millionths| **millionths != UNKNOWN)?;
                Some(Points::from_millionths(i64::from(*millionths)))
            }
            Stored::Wide(contributions) => *contributions.get(factor)?,
        }
    }

    /// All contributions.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<Points>> {
        (0..self.len()).map(|factor| self.of(factor))
    }
}

impl Serialize for Contributions {
    /// Written as a list.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Contributions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Contributions;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of contributions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Contributions, A::Error> {
                let mut contributions: Vec<Option<Points>> = Vec::new();
                while let Some(contribution) = list.next_element()? {
                    contributions.push(contribution);
                }
                Ok(Contributions::from(contributions.as_slice()))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Also at the ends of what four bytes hold.
        #[test]
        fn contributions_are_those_that_were_given_and_are_stored_as_a_list(
            millionths in prop::collection::vec(
                prop::option::of(prop_oneof![-120_000_000..120_000_000_i64, -2_147_483_650..-2_147_483_645_i64, 2_147_483_645..2_147_483_650_i64]),
                0..12,
            ),
        ) {
            let given: Vec<Option<Points>> = millionths.into_iter().map(|of| of.map(Points::from_millionths)).collect();
            let contributions = Contributions::from(given.as_slice());
            prop_assert_eq!(contributions.iter().collect::<Vec<_>>(), given.clone());
            prop_assert_eq!(contributions.of(given.len()), None);
            let bytes = postcard::to_stdvec(&contributions).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&given).unwrap());
            prop_assert_eq!(postcard::from_bytes::<Contributions>(&bytes).unwrap(), contributions);
        }
    }
}
