//! The stages as processes, kept running as an orchestrator does.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use keepwell_pipeline::crash_points::{CrashPoint, PLACES, VARIABLE};

use crate::kafka::free_port;

/// The programs, in the order of the pipeline.
pub const STAGES: [&str; 4] = ["ingest", "aggregate", "score", "sink"];
/// Names of the processes of each stage; more than two join for a while only.
pub const INSTANCES: [&str; 4] = ["a", "b", "c", "d"];

/// Where the stages' programs are.
#[derive(Debug, Clone)]
pub enum Programs {
    /// One for each stage, in a folder.
    In(PathBuf),
    /// One for all of them, as subcommands.
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

/// The answer of a process, status line first; why there is none, where there is none.
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

/// One process, or the place of one.
#[derive(Debug)]
pub struct Slot {
    /// Its program.
    pub stage: &'static str,
    /// Its name among those of its stage.
    pub instance: &'static str,
    /// Where it answers.
    pub http: u16,
    /// Whether it is meant to run.
    pub is_wanted: bool,
    /// Whether it is of the next version.
    pub is_next: bool,
    child: Option<Child>,
}

/// All processes.
#[derive(Debug)]
pub struct Processes {
    /// One for each stage and instance.
    pub slots: Vec<Slot>,
    programs: Programs,
    /// The next version of them.
    pub next: Option<Programs>,
    folder: PathBuf,
    options: Vec<(String, String)>,
    /// Processes that ended although nothing was done to them, with the last line of their log.
    pub surprises: Vec<String>,
}

impl Processes {
    /// No process yet; configuration and logs are in `folder`, `options` in their environment.
    ///
    /// # Errors
    /// When there is no port to be had for each.
    pub fn new(programs: Programs, folder: &Path, options: Vec<(String, String)>) -> Result<Self> {
        let names = STAGES.iter().flat_map(|stage| INSTANCES.iter().map(move |instance| (*stage, *instance)));
        let slot = |(stage, instance)| {
            Ok(Slot { stage, instance, http: free_port()?, is_wanted: false, is_next: false, child: None })
        };
        let slots = names.map(slot).collect::<Result<_>>()?;
        Ok(Self { slots, programs, next: None, folder: folder.to_owned(), options, surprises: Vec::new() })
    }

    /// The slot of an instance of a stage.
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

    /// Starts a process, which ends by itself at the `times`-th coming to a place, where one is named.
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

    /// Reads everything there is with both processes of a stage, one after another: static members keep their
    /// partitions for a session after they have ended.
    ///
    /// # Errors
    /// When it fails; its log is named.
    pub fn drain(&mut self, stage: &str, more: &[&str]) -> Result<()> {
        for n in [self.slot(stage, 0), self.slot(stage, 1)] {
            let status = self.command(n)?.arg("--drain").args(more).status()?;
            ensure!(status.success(), "{stage} --drain failed: {}", self.log(n).display());
        }
        Ok(())
    }

    /// SIGKILL, and nobody starts it again until asked to.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self, n: usize) -> Result<()> {
        let slot = &mut self.slots[n];
        slot.is_wanted = false;
        if let Some(mut child) = slot.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a signal by its name.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn signal(&self, n: usize, name: &str) -> Result<()> {
        let child = self.slots[n].child.as_ref().context("no process")?;
        let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status()?;
        ensure!(status.success(), "kill -s {name}");
        Ok(())
    }

    /// Waits until a process has ended by itself; false when it has not within the limit.
    ///
    /// # Errors
    /// When it cannot be waited for.
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

    /// Starts again what has ended and is wanted.
    ///
    /// # Errors
    /// When a process cannot be asked or started.
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

    /// SIGTERM; it must end well.
    ///
    /// # Errors
    /// When it does not end within a minute, or otherwise than asked.
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

    /// SIGTERM to all, one after another.
    ///
    /// # Errors
    /// See [`Processes::stop`].
    pub fn stop_all(&mut self) -> Result<()> {
        (0..self.slots.len()).try_for_each(|n| self.stop(n))
    }

    /// What each process that is wanted says of its readiness.
    pub fn readiness(&self) -> Vec<String> {
        let wanted = self.slots.iter().filter(|slot| slot.is_wanted);
        let said = |slot: &Slot| {
            let answer = ask(slot.http, "/readyz");
            format!("{}-{}: {}", slot.stage, slot.instance, answer.lines().last().unwrap_or_default())
        };
        wanted.map(said).collect()
    }

    /// Resident memory of each process that runs, in kilobytes.
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
