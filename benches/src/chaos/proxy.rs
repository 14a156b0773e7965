//! A TCP proxy before the broker: it delays, cuts and half-closes connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;

type Pairs = Arc<Mutex<Vec<(TcpStream, TcpStream)>>>;

/// The proxy; its threads end with the process.
#[derive(Debug)]
pub struct Proxy {
    /// Where clients talk to.
    pub port: u16,
    pairs: Pairs,
    delay_ms: Arc<AtomicU64>,
}

fn lock(pairs: &Pairs) -> MutexGuard<'_, Vec<(TcpStream, TcpStream)>> {
    pairs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// A proxy before a port of this machine.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub fn before(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let proxy = Self { port: listener.local_addr()?.port(), pairs: Pairs::default(), delay_ms: Arc::default() };
        let (pairs, delay_ms) = (Arc::clone(&proxy.pairs), Arc::clone(&proxy.delay_ms));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // While the broker is away, its clients are turned away.
                if let Err(error) = join(client, target, &pairs, &delay_ms) {
                    tracing::debug!(%error, "a connection was not made");
                }
            }
        });
        Ok(proxy)
    }

    /// All that passes waits for so long.
    pub fn delay(&self, by: Duration) {
        self.delay_ms.store(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.end(Shutdown::Both);
    }

    /// Clients hear no more on every connection, and may go on speaking.
    pub fn half_close(&self) {
        self.end(Shutdown::Write);
    }

    fn end(&self, how: Shutdown) {
        for (client, broker) in lock(&self.pairs).drain(..) {
            for stream in [&client].into_iter().chain((how == Shutdown::Both).then_some(&broker)) {
                // One that is closed already cannot be closed again.
                if let Err(error) = stream.shutdown(how) {
                    tracing::debug!(%error, "a connection had ended");
                }
            }
        }
    }
}

fn join(client: TcpStream, target: u16, pairs: &Pairs, delay_ms: &Arc<AtomicU64>) -> std::io::Result<()> {
    let broker = TcpStream::connect(("127.0.0.1", target))?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
    }
    lock(pairs).push((client.try_clone()?, broker.try_clone()?));
    for (from, to) in [(client.try_clone()?, broker.try_clone()?), (broker, client)] {
        let delay_ms = Arc::clone(delay_ms);
        std::thread::spawn(move || {
            let ended = pass(&from, &to, &delay_ms);
            // One that broke is of no use to either side.
            if ended.is_err() {
                for stream in [&from, &to] {
                    if let Err(error) = stream.shutdown(Shutdown::Both) {
                        tracing::debug!(%error, "a connection had ended");
                    }
                }
            }
        });
    }
    Ok(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, delay_ms: &AtomicU64) -> std::io::Result<()> {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut bytes)?;
        if count == 0 {
            return to.shutdown(Shutdown::Write);
        }
        let delay = Duration::from_millis(delay_ms.load(Ordering::Relaxed));
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        to.write_all(&bytes[..count])?;
    }
}
