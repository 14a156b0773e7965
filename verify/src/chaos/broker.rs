//! A broker that can be stopped, killed and started again on its data.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kafka::free_port;

/// A broker with its data in a folder.
#[derive(Debug)]
pub struct Broker {
    folder: PathBuf,
    port: u16,
    controller: u16,
    /// Port of the listener behind a proxy, and port of the proxy.
    proxied: (u16, u16),
}

impl Broker {
    /// Starts a broker on `port`. A second listener tells its clients to connect to the port of a proxy.
    ///
    /// # Errors
    /// When the broker does not start; its log is shown.
    pub fn start(folder: &Path, port: u16, proxied: (u16, u16)) -> Result<Self> {
        let broker = Self { folder: folder.to_owned(), port, controller: free_port()?, proxied };
        broker.again()?;
        Ok(broker)
    }

    fn script(&self, args: &[&str]) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka/kafka");
        let status = Command::new(&script)
            .args(args)
            .env("KEEPWELL_KAFKA_DATA", &self.folder)
            .env("KEEPWELL_KAFKA_PROXIED", format!("{}:{}", self.proxied.0, self.proxied.1))
            .stdout(Stdio::null())
            .status()
            .with_context(|| script.display().to_string())?;
        ensure!(status.success(), "{} {args:?} failed", script.display());
        Ok(())
    }

    /// Starts the broker on its existing data and waits until it has started.
    ///
    /// # Errors
    /// See [`Broker::start`].
    pub fn again(&self) -> Result<()> {
        self.script(&["start", &self.port.to_string(), &self.controller.to_string()])
    }

    /// Stops the broker as an operator does.
    ///
    /// # Errors
    /// When the broker does not run.
    pub fn stop(&self) -> Result<()> {
        self.script(&["stop"])
    }

    /// Ends the broker with SIGKILL.
    ///
    /// # Errors
    /// When the broker does not run.
    pub fn kill(&self) -> Result<()> {
        let pid = std::fs::read_to_string(self.folder.join("pid"))?;
        let status = Command::new("kill").args(["-9", pid.trim()]).status()?;
        ensure!(status.success(), "the broker does not run");
        while Path::new("/proc").join(pid.trim()).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("ending the broker: {error:#}");
        }
    }
}
