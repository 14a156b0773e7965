//! Half-written objects that a killed process leaves in a folder. No reader reads them and no claim names them, but
//! they contain rows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

/// No write takes longer than this. An older half-written object has no writer any more.
const WRITTEN_WITHIN: Duration = Duration::from_secs(300);
/// At most this many files are named.
const MOST_NAMED: usize = 5;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Number of half-written objects that were removed.
    pub num_removed: usize,
    /// Half-written objects that may still have a writer.
    pub young: Vec<PathBuf>,
    /// Files that Keepwell does not write.
    pub foreign: Vec<PathBuf>,
    /// The URL is not a folder of this machine. An object store does not list half-written objects.
    pub is_elsewhere: bool,
}

impl Leftovers {
    /// Lines for people; empty when nothing was found.
    pub fn describe(&self, what: &str) -> String {
        let mut out = String::new();
        let named = |paths: &[PathBuf]| {
            let names: Vec<String> = paths.iter().take(MOST_NAMED).map(|path| path.display().to_string()).collect();
            names.join(", ")
        };
        if self.num_removed > 0 {
            out += &format!(
                "{} half-written files of {what} removed, which a killed process had left\n",
                self.num_removed
            );
        }
        if !self.young.is_empty() {
            let (count, names) = (self.young.len(), named(&self.young));
            out += &format!("{count} files of {what} may be being written: run it again in five minutes: {names}\n");
        }
        if !self.foreign.is_empty() {
            let (count, names) = (self.foreign.len(), named(&self.foreign));
            out += &format!(
                "{count} files in the place of {what} are not Keepwell's, and were not looked into: {names}\n"
            );
        }
        if self.is_elsewhere {
            out += &format!("{what} are in an object store: let it abort incomplete uploads (a lifecycle rule)\n");
        }
        out
    }
}

/// Removes what killed processes left below the folder of a `file` URL.
///
/// # Errors
/// When the folder cannot be read or a file cannot be removed. The message names it.
pub fn remove(url: &str, now: SystemTime) -> Result<Leftovers> {
    let mut left = Leftovers::default();
    let parsed = url::Url::parse(url).ok().filter(|url| url.scheme() == "file");
    match parsed.and_then(|url| url.to_file_path().ok()) {
        Some(folder) if folder.is_dir() => look(&folder, now, &mut left)?,
        Some(_) => {}
        None => left.is_elsewhere = !url.starts_with("memory:"),
    }
    left.young.sort();
    left.foreign.sort();
    Ok(left)
}

fn look(folder: &Path, now: SystemTime, left: &mut Leftovers) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry.with_context(|| folder.display().to_string())?;
        let path = entry.path();
        let metadata = entry.metadata().with_context(|| path.display().to_string())?;
        if metadata.is_dir() {
            look(&path, now, left)?;
            continue;
        }
        match kind_of(&entry.file_name().to_string_lossy()) {
            Kind::Object => {}
            Kind::Foreign => left.foreign.push(path),
            Kind::HalfWritten => {
                let age = metadata.modified().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
                if age < WRITTEN_WITHIN {
                    left.young.push(path);
                } else {
                    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
                    left.num_removed += 1;
                }
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Object,
    /// How the client of the object store names a file until it is whole: its name, `#` and a number.
    HalfWritten,
    Foreign,
}

fn kind_of(name: &str) -> Kind {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = |name: &str| {
        let endings = [".parquet", ".snapshot", ".part", ".piece"];
        endings.iter().any(|ending| name.ends_with(ending)) || is_number(name)
    };
    match name.rsplit_once('#') {
        Some((object, number)) if is_ours(object) && is_number(number) => Kind::HalfWritten,
        _ if is_ours(name) => Kind::Object,
        _ => Kind::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_written_files_go_once_nobody_can_be_writing_them_and_strange_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let month = folder.path().join("windows/month=2026-03");
        fs::create_dir_all(&month).unwrap();
        let whole = "1-00000-00000000000000000000-00000000000000000007.parquet";
        let part = "00000000000000000007-3.part";
        for name in
            [whole.to_owned(), format!("{whole}#1"), format!("{part}#12"), part.to_owned(), "copy.csv".to_owned()]
        {
            fs::write(month.join(name), "eve").unwrap();
        }
        let url = format!("file://{}", folder.path().display());
        let now = fs::metadata(month.join("copy.csv")).unwrap().modified().unwrap();
        let left = remove(&url, now).unwrap();
        assert_eq!((left.num_removed, left.young.len(), left.foreign.len()), (0, 2, 1));
        let later = remove(&url, now + WRITTEN_WITHIN + Duration::from_secs(60)).unwrap();
        assert_eq!((later.num_removed, later.young.len()), (2, 0));
        assert!(later.describe("tables").contains("2 half-written") && later.describe("tables").contains("copy.csv"));
        let names: Vec<_> = fs::read_dir(&month).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
    }

    #[test]
    fn another_store_is_said_to_be_one_and_a_folder_that_is_not_there_holds_nothing() {
        assert!(remove("s3://bucket/tables", SystemTime::UNIX_EPOCH).unwrap().is_elsewhere);
        assert_eq!(remove("file:///no/such/folder", SystemTime::UNIX_EPOCH).unwrap(), Leftovers::default());
        assert_eq!(remove("memory:///", SystemTime::UNIX_EPOCH).unwrap(), Leftovers::default());
    }
}
