//! A rule that is a program in jq's language, for what paths cannot say. The feature `jq` has it.
//!
//! Programs come from the configuration, never from a record: there is no limit on how long one runs.

use super::{MAX_EVENTS, MAX_EVENTS_BYTES};
use crate::reason::{Code, Reason};

/// The deepest nesting of a record that a program gets. Its reader goes down with each bracket.
const MAX_DEPTH: usize = 128;

/// The deepest nesting of brackets in a JSON text.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Whether a record may be given to a program.
fn checked(json: &str) -> Result<(), Reason> {
    match depth(json) {
        deep if deep > MAX_DEPTH => Err(Reason::new(
            Code::OutOfRange,
            format!("jq: {deep} brackets within each other, allowed are {MAX_DEPTH}"),
        )),
        _ => Ok(()),
    }
}

fn too_many() -> Reason {
    let most = format!("at most {MAX_EVENTS} events with {MAX_EVENTS_BYTES} bytes");
    Reason::new(Code::OutOfRange, format!("jq: a record becomes {most}"))
}

#[cfg(feature = "jq")]
mod program {
    use std::fmt;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use jaq_core::load::{Arena, File, Loader};
    use jaq_core::{Compiler, Ctx, Filter, Vars, data, unwrap_valr};
    use jaq_json::{Val, read};

    use super::{MAX_EVENTS, MAX_EVENTS_BYTES, checked, too_many};
    use crate::reason::{Code, Reason};

    /// A compiled program.
    pub struct Program(Filter<data::JustLut<Val>>);

    impl fmt::Debug for Program {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Program")
        }
    }

    impl Program {
        /// Compiles a program.
        ///
        /// # Errors
        /// What is wrong with it.
        pub fn compile(code: &str) -> Result<Self, String> {
            let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
            let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
            let arena = Arena::default();
            let loaded = Loader::new(definitions).load(&arena, File { code, path: () });
            let modules = loaded.map_err(|errors| {
                let errors = errors.into_iter().map(|(_, error)| format!("{error:?}"));
                format!("jq: not a program: {}", errors.collect::<Vec<_>>().join("; "))
            })?;
            let compiled = Compiler::default().with_funs(functions).compile(modules);
            compiled.map(Self).map_err(|errors| {
                let errors = errors.into_iter().flat_map(|(_, errors)| errors);
                let unknown: Vec<String> = errors.map(|(name, what)| format!("{} {name:?}", what.as_str())).collect();
                format!("jq: there is no {}", unknown.join(", "))
            })
        }

        /// The outputs for a record, as JSON texts.
        ///
        /// # Errors
        /// The [`Reason`] for which the record is rejected.
        pub fn run(&self, json: &str) -> Result<Vec<String>, Reason> {
            checked(json)?;
            let failed = |what: String| Reason::new(Code::WrongType, format!("jq: {what}"));
            let run = || {
                let input = read::parse_single(json.as_bytes()).map_err(|error| failed(error.to_string()))?;
                let context = Ctx::<data::JustLut<Val>>::new(&self.0.lut, Vars::new([]));
                let (mut outputs, mut num_bytes) = (Vec::new(), 0);
                for output in self.0.id.run((context, input)).map(unwrap_valr) {
                    let output = output.map_err(|error| failed(error.to_string()))?.to_string();
                    num_bytes += output.len();
                    outputs.push(output);
                    if outputs.len() > MAX_EVENTS || num_bytes > MAX_EVENTS_BYTES {
                        return Err(too_many());
                    }
                }
                Ok(outputs)
            };
            catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(failed("the program panics".into())))
        }
    }
}

#[cfg(not(feature = "jq"))]
mod program {
    use super::{checked, too_many};
    use crate::reason::Reason;

    /// A program that this build cannot run.
    #[derive(Debug)]
    pub struct Program;

    impl Program {
        /// Refuses the program.
        ///
        /// # Errors
        /// Always: this build has no jq.
        pub fn compile(_code: &str) -> Result<Self, String> {
            Err("this build has no jq; build it with `--features jq`".into())
        }

        /// Not reached: no program is compiled.
        ///
        /// # Errors
        /// Always.
        pub fn run(&self, json: &str) -> Result<Vec<String>, Reason> {
            checked(json)?;
            Err(too_many())
        }
    }
}

pub use program::Program;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_count_where_they_are_not_in_a_text() {
        let cases = [("", 0), ("3", 0), ("[]", 1), (r#"{"a": [[1], {}]}"#, 3), (r#"["[[[\"[["]"#, 1), ("]]][", 1)];
        for (json, deep) in cases {
            assert_eq!(depth(json), deep, "{json}");
        }
    }

    #[cfg(feature = "jq")]
    #[test]
    fn a_program_makes_events_of_a_record_or_says_why_not() {
        let program = Program::compile(".items[] | {event_id: \"\\(.id)-x\", total: (.n * 2)}").unwrap();
        let outputs = program.run(r#"{"items": [{"id": 7, "n": 1}, {"id": "b", "n": 2.5}]}"#).unwrap();
        let outputs: Vec<serde_json::Value> = outputs.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        let expected =
            [serde_json::json!({"event_id": "7-x", "total": 2}), serde_json::json!({"event_id": "b-x", "total": 5.0})];
        assert_eq!(outputs, expected);
        assert!(program.run(r#"{"items": 3}"#).unwrap_err().to_string().contains("jq: "));
        let deep = format!("{{\"items\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(program.run(&deep).unwrap_err().to_string().contains("brackets"));
        let endless = Program::compile("repeat({})").unwrap();
        assert!(endless.run("{}").unwrap_err().to_string().contains("1000 events"));
        for wrong in ["{", "nothing_of_this_name", ".a | | .b"] {
            assert!(Program::compile(wrong).unwrap_err().starts_with("jq: "), "{wrong}");
        }
    }
}
