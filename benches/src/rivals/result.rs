//! A measurement as a line of JSON. Reports and plots are made from these lines.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// A file of measurements.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    /// The commit of the source tree when this program started.
    build: String,
}

impl Results {
    /// The file at a path; it is created when it does not exist.
    ///
    /// # Errors
    /// When git does not report the commit.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), build: build()? })
    }

    /// Appends a line with the measurement, the build, the time and the machine.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&self, measured: &Value) -> Result<()> {
        let mut line = Map::new();
        line.insert("build".into(), self.build.clone().into());
        line.insert("at".into(), jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
        line.insert("machine".into(), machine()?);
        line.extend(measured.as_object().context("no object")?.clone());
        let line = Value::Object(line);
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        writeln!(file, "{line}")?;
        println!("{line}");
        Ok(())
    }
}

/// The commit, and whether the tree has changes. Changes of the measurements themselves do not count.
fn build() -> Result<String> {
    let git = |args: &[&str]| Command::new("git").args(args).output().context("git");
    let commit = String::from_utf8(git(&["describe", "--always"])?.stdout)?.trim().to_owned();
    let but_results =
        ["diff", "--quiet", "HEAD", "--", ":/", ":!/benches/measured", ":!/benches/plots", ":!/benches/RESULTS.md"];
    let is_clean = git(&but_results)?.status.success();
    Ok(if is_clean { commit } else { commit + "-dirty" })
}

fn machine() -> Result<Value> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or_default();
    let cores = std::thread::available_parallelism()?.get();
    Ok(json!({"cpu": model.trim_start_matches([' ', '\t', ':']), "cores": cores, "load": load}))
}
