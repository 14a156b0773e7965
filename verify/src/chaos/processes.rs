//! The stages as processes. Like an orchestrator, it keeps them running.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keepwell_pipeline::crash_points::{CrashPoint, PLACES, VARIABLE};

use crate::kafka::free_port;

/// The stages, in the order of the pipeline.
pub const STAGES: [&str; 4] = ["ingest", "aggregate", "score", "sink"];
/// Names of the processes of each stage. Normally two run; others join only for a while.
pub const INSTANCES: [&str; 4] = ["a", "b", "c", "d"];

/// Where the programs of the stages are.
#[derive(Debug, Clone)]
pub enum Programs {
    /// One program for each stage, in a folder.
    In(PathBuf),
    /// One program for all stages, with subcommands.
    One(PathBuf),
}

impl Programs {
    fn command(&self, stage: &str) -> Result<Command> {
        let (program, subcommand) = match self {
            Self::In(folder) => (folder.join(format!("keepwell-{stage}")), None),
            Self::One(program) => (program.clone(), Some(stage)),
        };
        ensure!(program.exists(), "{}: `cargo build --workspace` makes it", program.display());
        let mut command = Command::new(program);
        command.args(subcommand);
        Ok(command)
    }
}

/// The answer of a process, status line first; or the reason why there is no answer.
pub(super) fn ask(port: u16, path: &str) -> String {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    asked().unwrap_or_else(|error| error.to_string())
}

/// One process, or the slot for one.
#[derive(Debug)]
pub struct Slot {
    /// Name of its stage.
    pub stage: &'static str,
    /// Its name among the processes of the stage.
    pub instance: &'static str,
    /// Port of its HTTP server.
    pub http: u16,
    /// Whether it should run.
    pub is_wanted: bool,
    /// Whether it runs the next version.
    pub is_next: bool,
    child: Option<Child>,
}

/// All processes of a deployment.
#[derive(Debug)]
pub struct Processes {
    /// One slot for each stage and instance.
    pub slots: Vec<Slot>,
    programs: Programs,
    /// The programs of the next version.
    pub next: Option<Programs>,
    folder: PathBuf,
    options: Vec<(String, String)>,
    /// Processes that ended without a reason from this test, with the last line of their logs.
    pub surprises: Vec<String>,
}

impl Processes {
    /// Prepares the slots; no process runs yet. `folder` contains the configuration and the logs. `options` go into the
    /// environment of the processes.
    ///
    /// # Errors
    /// When no free ports are left.
    pub fn new(programs: Programs, folder: &Path, options: Vec<(String, String)>) -> Result<Self> {
        let names = STAGES.iter().flat_map(|stage| INSTANCES.iter().map(move |instance| (*stage, *instance)));
        let slot = |(stage, instance)| {
            Ok(Slot { stage, instance, http: free_port()?, is_wanted: false, is_next: false, child: None })
        };
        let slots = names.map(slot).collect::<Result<_>>()?;
        Ok(Self { slots, programs, next: None, folder: folder.to_owned(), options, surprises: Vec::new() })
    }

    /// Index of the slot of an instance of a stage.
    pub fn slot(&self, stage: &str, instance: usize) -> usize {
        let stage = STAGES.iter().position(|known| *known == stage).unwrap_or_default();
        stage * INSTANCES.len() + instance
    }

    fn log(&self, n: usize) -> PathBuf {
        self.folder.join(format!("{}-{}.log", self.slots[n].stage, self.slots[n].instance))
    }

    fn command(&self, n: usize) -> Result<Command> {
        let Slot { stage, instance, http, is_next, .. } = &self.slots[n];
        let log = OpenOptions::new().create(true).append(true).open(self.log(n))?;
        let programs = if *is_next { self.next.as_ref().context("no next version")? } else { &self.programs };
        let mut command = programs.command(stage)?;
        command
            .args(["--instance", instance, "--http", &format!("127.0.0.1:{http}")])
            .env("KEEPWELL_CONFIG", self.folder.join("keepwell.yaml"))
            .envs(self.options.iter().map(|(name, value)| (name.to_ascii_uppercase(), value.clone())))
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    /// Starts a process. With `crash`, the process ends by itself when it reaches that crash point for the n-th time.
    ///
    /// # Errors
    /// When the program is not built.
    pub fn start(&mut self, n: usize, crash: Option<(CrashPoint, u64)>) -> Result<()> {
        let mut command = self.command(n)?;
        let named = crash.and_then(|(place, times)| {
            let (_, name) = PLACES.into_iter().find(|(known, _)| *known == place)?;
            Some(format!("{name}:{times}"))
        });
        if let Some(named) = named {
            command.env(VARIABLE, named);
        }
        self.slots[n].child = Some(command.spawn().context("starting a stage")?);
        self.slots[n].is_wanted = true;
        Ok(())
    }

    /// Drains a stage with both of its processes, one after another. Static members keep their partitions for a session
    /// timeout after they have ended, so one process cannot get all of them at once.
    ///
    /// # Errors
    /// When a process fails; the error names its log.
    pub fn drain(&mut self, stage: &str, more: &[&str]) -> Result<()> {
        for n in [self.slot(stage, 0), self.slot(stage, 1)] {
            let status = self.command(n)?.arg("--drain").args(more).status()?;
            ensure!(status.success(), "{stage} --drain failed: {}", self.log(n).display());
        }
        Ok(())
    }

    /// Ends a process with SIGKILL. It does not start again until [`Processes::start`].
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        let slot = &mut self.slots[n];
        slot.is_wanted = false;
        if let Some(mut child) = slot.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal, given by its name.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn signal(&self, n: usize, name: &str) -> Result<()> {
        let child = self.slots[n].child.as_ref().context("no process")?;
        let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status()?;
        ensure!(status.success(), "kill -s {name}");
        Ok(())
    }

    /// Waits until a process has ended by itself. Returns false if it still runs after `limit`.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn has_ended(&mut self, n: usize, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let Some(child) = &mut self.slots[n].child else { return Ok(true) };
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.slots[n].child = None;
        Ok(true)
    }

    /// Restarts processes that have ended but should run.
    ///
    /// # Errors
    /// When a process cannot be checked or started.
    pub fn keep(&mut self) -> Result<()> {
        for n in 0..self.slots.len() {
            let slot = &mut self.slots[n];
            let ended = slot.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended.filter(|_| slot.is_wanted) {
                let log = std::fs::read_to_string(self.log(n)).unwrap_or_default();
                let last = log.lines().next_back().unwrap_or_default().to_owned();
                self.surprises.push(format!("{}-{} {status}: {last}", self.slots[n].stage, self.slots[n].instance));
                self.start(n, None)?;
            }
        }
        Ok(())
    }

    /// Stops a process with SIGTERM. It must exit with success.
    ///
    /// # Errors
    /// When the process does not end within a minute, or exits with an error.
    pub fn stop(&mut self, n: usize) -> Result<()> {
        self.slots[n].is_wanted = false;
        let Some(mut child) = self.slots[n].child.take() else { return Ok(()) };
        ensure!(Command::new("kill").arg(child.id().to_string()).status()?.success(), "kill");
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "{} does not end on SIGTERM", self.slots[n].stage);
            std::thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "{}: {status} on SIGTERM, see {}", self.slots[n].stage, self.log(n).display());
        Ok(())
    }

    /// Stops all processes with SIGTERM, one after another.
    ///
    /// # Errors
    /// See [`Processes::stop`].
    pub fn stop_all(&mut self) -> Result<()> {
        (0..self.slots.len()).try_for_each(|n| self.stop(n))
    }

    /// The readiness message of each process that should run.
    pub fn readiness(&self) -> Vec<String> {
        let wanted = self.slots.iter().filter(|slot| slot.is_wanted);
        let last_lines = |slot: &Slot| {
            let answer = ask(slot.http, "/readyz");
            format!("{}-{}: {}", slot.stage, slot.instance, answer.lines().last().unwrap_or_default())
        };
        wanted.map(last_lines).collect()
    }

    /// Resident memory of each running process, in kilobytes.
    pub fn resident_kb(&self) -> Vec<(String, u64)> {
        let of = |slot: &Slot| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", slot.child.as_ref()?.id())).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            Some((
                format!("{}-{}", slot.stage, slot.instance),
                line.trim().trim_end_matches(" kB").trim().parse().ok()?,
            ))
        };
        self.slots.iter().filter_map(of).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for n in 0..self.slots.len() {
            if let Err(error) = self.kill(n) {
                eprintln!("ending a stage: {error:#}");
            }
        }
    }
}
