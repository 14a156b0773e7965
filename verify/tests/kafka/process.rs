//! Processes under test. Each must end within a time limit; otherwise the test fails and shows the output.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use wait_timeout::ChildExt;

/// Time limit for a process of a test, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs a command to its end. Its output goes through files in `folder`.
pub fn output(command: &mut Command, folder: &Path) -> Output {
    let file = |name: &str| tempfile::Builder::new().prefix(name).tempfile_in(folder).unwrap();
    let (stdout, stderr) = (file("stdout"), file("stderr"));
    let mut child = command.stdout(stdout.reopen().unwrap()).stderr(stderr.reopen().unwrap()).spawn().unwrap();
    let read = |path: &Path| {
        let mut said = Vec::new();
        File::open(path).unwrap().read_to_end(&mut said).unwrap();
        said
    };
    let status = child.wait_timeout(LIMIT).unwrap();
    if status.is_none() {
        child.kill().unwrap();
    }
    let (stdout, stderr) = (read(stdout.path()), read(stderr.path()));
    let status = status.unwrap_or_else(|| panic!("{command:?} goes on:\n{}", String::from_utf8_lossy(&stderr)));
    Output { status, stdout, stderr }
}

/// A stage that runs until it is stopped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command. Its log goes to a file in `folder`.
    pub fn start(command: &mut Command, folder: &Path, name: &str) -> Self {
        let log = folder.join(format!("{name}.log"));
        let child = command.stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        let status = self.child.wait_timeout(LIMIT).unwrap();
        assert!(status.is_some(), "{} goes on after SIGTERM", self.log.display());
        status.unwrap().code()
    }

    /// Sends a signal, given by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion no process may remain. After `stop` there is nothing to kill.
        if let Err(error) = self.child.kill() {
            eprintln!("kill: {error}");
        }
        if std::thread::panicking() {
            let said = std::fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
            eprintln!("{}:\n{said}", self.log.display());
        }
    }
}
