//! A broker with TLS, SASL and ACLs. Clients of its secured listener may do only what the ACLs allow.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::kafka::{Kafka, free_port};

/// A broker that stops when this value is dropped.
#[derive(Debug)]
pub struct Secured {
    /// Access through the listener that allows everything.
    pub open: Kafka,
    /// `host:port` of the secured listener.
    pub address: String,
    /// The certificate that clients must trust.
    pub certificate: PathBuf,
    folder: PathBuf,
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kafka/kafka"))
}

impl Secured {
    /// Starts a broker in a folder, with these users and passwords.
    ///
    /// # Errors
    /// When the broker does not start; its log is shown.
    pub fn start(folder: &Path, users: &[(String, &str)]) -> Result<Self> {
        let [port, controller, secured] = [free_port()?, free_port()?, free_port()?];
        let users: Vec<String> = users.iter().map(|(name, password)| format!("{name}={password}")).collect();
        let status = script()
            .args(["start", &port.to_string(), &controller.to_string()])
            .env("KEEPWELL_KAFKA_DATA", folder)
            .env("KEEPWELL_KAFKA_SECURED", secured.to_string())
            .env("KEEPWELL_KAFKA_USERS", users.join(" "))
            .stdout(Stdio::null())
            .status()
            .context("deploy/kafka/kafka")?;
        ensure!(status.success(), "the broker did not start");
        Ok(Self {
            open: Kafka::at(&format!("127.0.0.1:{port}")),
            address: format!("127.0.0.1:{secured}"),
            certificate: folder.join("broker.pem"),
            folder: folder.to_owned(),
        })
    }

    /// Runs `kafka-acls.sh` with these arguments, through the listener that allows everything.
    ///
    /// # Errors
    /// When the tool fails; the error contains its output.
    pub fn acls(&self, args: &str) -> Result<()> {
        let args = ["acls", "--bootstrap-server", &self.open.address].into_iter().chain(args.split_whitespace());
        let Output { status, stdout, stderr } = script().args(args).output()?;
        let output = [stdout, stderr].concat();
        ensure!(status.success(), "{}", String::from_utf8_lossy(&output));
        Ok(())
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let ended = script().arg("stop").env("KEEPWELL_KAFKA_DATA", &self.folder).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("the broker in {} may still run", self.folder.display());
        }
    }
}
