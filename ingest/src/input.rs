//! JSON values as the contents of fields. A value of the wrong type is an error only when its field is needed, because
//! an object from a stranger may use any name for anything.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use keepwell_core::event::Change;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::reason::{Code, Reason};
use crate::time_of::When;

/// Longest identifier or name that is accepted, in bytes. Names are kept in state.
pub const MAX_NAME_BYTES: usize = 512;

/// The content of a field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Given<T> {
    /// The field is missing.
    #[default]
    Absent,
    /// A null, or an empty text, which names nothing.
    Null,
    /// A valid value.
    Is(T),
    /// Anything else, with the reason why it is not valid.
    Wrong(Reason),
}

impl<T> Given<T> {
    fn wrong(code: Code, what: impl Into<String>) -> Self {
        Self::Wrong(Reason::new(code, what))
    }

    /// Whether the field contains anything except a null.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::Is(_) | Self::Wrong(_))
    }

    /// The value, or none if the field is missing or null.
    ///
    /// # Errors
    /// When the content of the field is not valid. The reason names the field.
    pub fn optional(self, field: &str) -> Result<Option<T>, Reason> {
        Ok(self.change(field)?.value())
    }

    /// The value of a field that is needed.
    ///
    /// # Errors
    /// [`Code::MissingField`] when there is no value, or the reason why the content is not valid.
    pub fn required(self, field: &str) -> Result<T, Reason> {
        self.optional(field)?.ok_or_else(|| Reason::new(Code::MissingField, field))
    }

    /// The change that the field makes to a remembered value: a null clears it, a missing field keeps it.
    ///
    /// # Errors
    /// See [`Given::optional`].
    pub fn change(self, field: &str) -> Result<Change<T>, Reason> {
        match self {
            Self::Absent => Ok(Change::Kept),
            Self::Null => Ok(Change::Cleared),
            Self::Is(value) => Ok(Change::Set(value)),
            Self::Wrong(Reason { code, detail }) => Err(Reason { code, detail: format!("{field}: {detail}") }),
        }
    }
}

/// A type of field: it decides which JSON values are accepted.
pub trait Accept<'de>: Sized {
    /// What is expected, for error messages.
    const EXPECTED: &'static str;

    /// Converts a text that is not empty.
    fn text(_text: Cow<'de, str>) -> Given<Self> {
        not::<Self>("a text")
    }

    /// Converts a whole number.
    fn whole(_number: i128) -> Given<Self> {
        not::<Self>("a number")
    }

    /// Converts a number with a fraction or an exponent, or with more than 64 bits.
    fn fraction(_number: f64) -> Given<Self> {
        not::<Self>("a number with a fraction or of more than 64 bits")
    }

    /// Converts an empty list.
    fn empty_list() -> Given<Self> {
        not::<Self>("a list")
    }

    /// Converts an object.
    ///
    /// # Errors
    /// When the object is not JSON, or a field occurs twice in it.
    fn object<A: MapAccess<'de>>(mut map: A) -> Result<Given<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(not::<Self>("an object"))
    }
}

fn not<'de, T: Accept<'de>>(found: &str) -> Given<T> {
    Given::wrong(Code::WrongType, format!("{found}, expected {}", T::EXPECTED))
}

impl<'de, T: Accept<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Accept<'de>> Visitor<'de> for Any<T> {
            type Value = Given<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_unit<E: Error>(self) -> Result<Given<T>, E> {
                Ok(Given::Null)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Given<T>, E> {
                Ok(not("true or false"))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Given<T>, E> {
                Ok(T::whole(i128::from(number)))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Given<T>, E> {
                Ok(T::whole(i128::from(number)))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Given<T>, E> {
                Ok(T::fraction(number))
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Given<T>, E> {
                Ok(if text.is_empty() { Given::Null } else { T::text(Cow::Borrowed(text)) })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Given<T>, E> {
                Ok(if text.is_empty() { Given::Null } else { T::text(Cow::Owned(text.to_owned())) })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Given<T>, A::Error> {
                if list.next_element::<IgnoredAny>()?.is_none() {
                    return Ok(T::empty_list());
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(not("a list"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Given<T>, A::Error> {
                T::object(map)
            }
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

/// A JSON object. An empty list counts as an object without fields, because PHP writes one for the other.
#[derive(Debug, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de> + Default> Accept<'de> for Object<T> {
    const EXPECTED: &'static str = "an object";

    fn empty_list() -> Given<Self> {
        Given::Is(Self::default())
    }

    fn object<A: MapAccess<'de>>(map: A) -> Result<Given<Self>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(|fields| Given::Is(Self(fields)))
    }
}

/// An identifier or name of at most [`MAX_NAME_BYTES`]. A whole number is accepted as its digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Accept<'de> for Name<'a> {
    const EXPECTED: &'static str = "a text or a whole number";

    fn text(text: Cow<'de, str>) -> Given<Self> {
        match too_long(&text, MAX_NAME_BYTES) {
            Some(reason) => Given::Wrong(reason),
            None => Given::Is(Self(text)),
        }
    }

    fn whole(number: i128) -> Given<Self> {
        Given::Is(Self(Cow::Owned(number.to_string())))
    }
}

/// Why a name is refused: it is empty or longer than `max_bytes`.
pub fn too_long(name: &str, max_bytes: usize) -> Option<Reason> {
    let detail = || format!("a name of {} bytes, allowed are 1 to {max_bytes}", name.len());
    (name.is_empty() || name.len() > max_bytes).then(|| Reason::new(Code::OutOfRange, detail()))
}

/// The id of an alert. It consists of an account, a trigger and a time, so it may be three names long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertId<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Accept<'de> for AlertId<'a> {
    const EXPECTED: &'static str = "a text";

    fn text(text: Cow<'de, str>) -> Given<Self> {
        match too_long(&text, 3 * MAX_NAME_BYTES) {
            Some(reason) => Given::Wrong(reason),
            None => Given::Is(Self(text)),
        }
    }
}

/// A field that takes one of a few words.
pub trait Word: Copy + 'static {
    /// What the words name, for error messages.
    const WHAT: &'static str;
    /// The words and their values.
    const WORDS: &'static [(&'static str, Self)];
}

/// The value of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneOf<W>(pub W);

impl<W: Word> Accept<'_> for OneOf<W> {
    const EXPECTED: &'static str = "a text";

    fn text(text: Cow<'_, str>) -> Given<Self> {
        match W::WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Given::Is(Self(*value)),
            None => {
                let words: Vec<&str> = W::WORDS.iter().map(|(word, _)| *word).collect();
                let what = format!("{:?} is no {}: {}", excerpt(&text), W::WHAT, words.join(", "));
                Given::wrong(Code::UnknownValue, what)
            }
        }
    }
}

/// The beginning of a text, at most 80 bytes, for messages.
pub fn excerpt(text: &str) -> &str {
    text.get(..text.floor_char_boundary(80)).unwrap_or_default()
}

/// 2^53: up to this value a floating-point number holds every whole number exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A whole number. `3.0` is accepted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integer(pub i64);

impl Accept<'_> for Integer {
    const EXPECTED: &'static str = "a whole number";

    fn whole(number: i128) -> Given<Self> {
        // A number of more than 64 bits becomes the nearest 64-bit number, which is out of every range.
        Given::Is(Self(i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })))
    }

    fn fraction(number: f64) -> Given<Self> {
        let is_whole = number.fract().abs() < f64::MIN_POSITIVE && number.abs() <= EXACT;
        if is_whole { Given::Is(Self(number as i64)) } else { not::<Self>("a number with a fraction") }
    }
}

/// A duration in milliseconds, rounded to a whole number, because clocks of browsers give fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub i64);

impl Accept<'_> for Milliseconds {
    const EXPECTED: &'static str = "a number of milliseconds";

    fn whole(number: i128) -> Given<Self> {
        Given::Is(Self(i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })))
    }

    fn fraction(number: f64) -> Given<Self> {
        Given::Is(Self(number.round() as i64))
    }
}

/// Facts as given, in their order. No name occurs twice.
#[derive(Debug, Default)]
pub struct GivenFacts<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

/// Up to this number of names is compared one by one. More names are looked up in a set.
const FEW: usize = 16;

impl<'de: 'a, 'a> Accept<'de> for GivenFacts<'a> {
    const EXPECTED: &'static str = "an object of facts";

    fn empty_list() -> Given<Self> {
        Given::Is(Self::default())
    }

    fn object<A: MapAccess<'de>>(mut map: A) -> Result<Given<Self>, A::Error> {
        let mut facts: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        let mut names: HashSet<Cow<'de, str>> = HashSet::new();
        let mut wrong = None;
        while let Some((Key(name), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
            let is_known = match facts.len() {
                0..=FEW => facts.iter().any(|(known, _)| *known == name),
                _ => names.contains(&name),
            };
            if is_known && wrong.is_none() {
                wrong = Some(Reason::new(Code::DuplicateKey, format!("fact {:?} is there twice", excerpt(&name))));
            }
            if facts.len() == FEW {
                names.extend(facts.iter().map(|(name, _)| name.clone()));
            }
            if facts.len() >= FEW {
                names.insert(name.clone());
            }
            facts.push((name, value));
        }
        Ok(wrong.map_or(Given::Is(Self(facts)), Given::Wrong))
    }
}

/// A key of an object, borrowed if it has no escapes.
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsKey;
        impl<'de> Visitor<'de> for AsKey {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(AsKey)
    }
}

impl<'de> Accept<'de> for When {
    const EXPECTED: &'static str = "a time, RFC 3339 or epoch milliseconds";

    fn text(text: Cow<'de, str>) -> Given<Self> {
        match Self::of_text(&text) {
            Ok(time) => Given::Is(time),
            Err(why) => Given::wrong(Code::BadTime, format!("{:?}: {why}", excerpt(&text))),
        }
    }

    fn whole(number: i128) -> Given<Self> {
        let time = i64::try_from(number).ok().and_then(Self::of_ms);
        time.map_or_else(|| Given::wrong(Code::BadTime, format!("{number} ms is in no year from 1 to 9999")), Given::Is)
    }

    fn fraction(number: f64) -> Given<Self> {
        if number.is_finite() && number.abs() <= EXACT {
            return Self::whole(number.round() as i128);
        }
        Given::wrong(Code::BadTime, format!("{number} ms is in no year from 1 to 9999"))
    }
}
