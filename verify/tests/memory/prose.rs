//! Documents and comments are written for readers: short sentences, paragraphs and cells.

use std::path::Path;

use crate::documents::{documents, read, root};

/// Words of a sentence, at most.
const MAX_SENTENCE_WORDS: usize = 35;
/// Words of a paragraph, at most.
const MAX_PARAGRAPH_WORDS: usize = 90;
/// Characters of a table's cell, at most.
const MAX_CELL_CHARS: usize = 200;
/// Words of README, at most.
const MAX_README_WORDS: usize = 800;

fn num_words(text: &str) -> usize {
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count()
}

/// Paragraphs and points of a Markdown text, without code, tables and headings.
fn paragraphs(text: &str) -> Vec<String> {
    let (mut found, mut is_code) = (vec![String::new()], false);
    for line in text.lines() {
        let trimmed = line.trim_start();
        let is_item =
            trimmed.starts_with("- ") || trimmed.split_once(". ").is_some_and(|(n, _)| n.parse::<u8>().is_ok());
        if trimmed.starts_with("```") {
            is_code = !is_code;
        }
        let is_other =
            is_code || trimmed.is_empty() || trimmed.starts_with(['|', '#', '`']) || line.starts_with("    ");
        if is_other || is_item {
            found.push(String::new());
        }
        if (!is_other || (trimmed.starts_with('`') && !trimmed.starts_with("```") && !is_code))
            && let Some(last) = found.last_mut()
        {
            last.push_str(trimmed);
            last.push(' ');
        }
    }
    found.retain(|paragraph| num_words(paragraph) > 0);
    found
}

/// Sentences of a paragraph. What stands in quotes or code does not end one.
fn sentences(paragraph: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut words = paragraph.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if let Some(last) = found.last_mut() {
            last.push_str(word);
            last.push(' ');
        }
        let ends = word.trim_end_matches([')', '"', '*', '_', '`']).ends_with(['.', '!', '?', ':', ';']);
        let begins = words.peek().is_some_and(|next| next.starts_with(|c: char| !c.is_lowercase()));
        if ends && (begins || word.ends_with([':', ';'])) {
            found.push(String::new());
        }
    }
    found
}

/// What is too long in a text.
fn too_long(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for paragraph in paragraphs(text) {
        let words = num_words(&paragraph);
        if words > MAX_PARAGRAPH_WORDS {
            found.push(format!("a paragraph of {words} words: {}", &paragraph[..paragraph.floor_char_boundary(60)]));
        }
        let long = sentences(&paragraph).into_iter().map(|sentence| (num_words(&sentence), sentence));
        found.extend(
            long.filter(|(words, _)| *words > MAX_SENTENCE_WORDS)
                .map(|(words, sentence)| format!("a sentence of {words} words: {sentence}")),
        );
    }
    found
}

/// Cells of the tables in a Markdown text.
fn cells(text: &str) -> impl Iterator<Item = &str> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    rows.flat_map(|line| line.trim_matches('|').split(" | ")).map(str::trim)
}

#[test]
fn documents_have_short_sentences_paragraphs_and_cells() {
    let mut wrong = Vec::new();
    for document in documents() {
        let text = read(&document);
        wrong.extend(too_long(&text).into_iter().map(|what| format!("{document}: {what}")));
        let long = cells(&text).filter(|cell| cell.chars().count() > MAX_CELL_CHARS);
        wrong.extend(long.map(|cell| format!("{document}: a cell of {} characters: {cell}", cell.chars().count())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(num_words(&read("README.md")) <= MAX_README_WORDS);
    assert!(read("benches/RESULTS.md").lines().count() <= 120);
}

#[test]
fn docs_of_items_have_short_sentences_and_paragraphs() {
    let mut wrong = Vec::new();
    for package in ["core", "pipeline", "ingest", "aggregate", "score", "sink", "keepwell", "verify", "benches"] {
        check_docs(&root().join(package), &mut wrong);
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
}

fn check_docs(folder: &Path, wrong: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check_docs(&path, wrong);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut docs = String::new();
            for line in text.lines().map(str::trim) {
                match line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) {
                    Some(doc) => docs.push_str(doc.strip_prefix(' ').unwrap_or(doc)),
                    None => docs.push('\n'),
                }
                docs.push('\n');
            }
            wrong.extend(too_long(&docs).into_iter().map(|what| format!("{}: {what}", path.display())));
        }
    }
}

#[test]
fn what_is_too_long_is_found() {
    let long = vec!["word"; 36].join(" ");
    assert_eq!(too_long(&format!("Short. {long}. Short.")).len(), 1);
    assert_eq!(too_long(&vec!["Word and word."; 31].join(" ")).len(), 1);
    assert!(too_long(&format!("```\n{long}\n```\n\n| {long} |")).is_empty());
}
