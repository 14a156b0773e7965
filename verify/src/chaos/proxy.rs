//! A TCP proxy before the broker. It delays, cuts and half-closes connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;

/// Time limit for a connection to the broker. A starting broker that does not accept yet would block the client.
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

/// Streams to the client and to the broker for each open connection, by connection number.
type Pairs = Arc<Mutex<BTreeMap<u64, (TcpStream, TcpStream)>>>;

/// The proxy. Its threads end with the process.
#[derive(Debug)]
pub struct Proxy {
    /// Port to which clients connect.
    pub port: u16,
    pairs: Pairs,
    delay_ms: Arc<AtomicU64>,
}

fn lock(pairs: &Pairs) -> MutexGuard<'_, BTreeMap<u64, (TcpStream, TcpStream)>> {
    pairs.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Starts a proxy before a port of this machine.
    ///
    /// # Errors
    /// When no port is free.
    pub fn before(target: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let proxy = Self { port: listener.local_addr()?.port(), pairs: Pairs::default(), delay_ms: Arc::default() };
        let (pairs, delay_ms) = (Arc::clone(&proxy.pairs), Arc::clone(&proxy.delay_ms));
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
        std::thread::spawn(move || {
            for (number, client) in (0..).zip(listener.incoming()) {
                let (pairs, delay_ms) = (Arc::clone(&pairs), Arc::clone(&delay_ms));
                // While the broker is away, the proxy refuses its clients. Each connection has its own thread, so none
                // waits for another.
                let joined = client.and_then(|client| {
                    let join = move || {
                        if let Err(error) = join(number, client, target, &pairs, &delay_ms) {
                            tracing::debug!(%error, "a connection was not made, or broke");
                        }
                        lock(&pairs).remove(&number);
                    };
                    std::thread::Builder::new().spawn(join)
                });
                if let Err(error) = joined {
                    eprintln!("the proxy cannot take a connection: {error}");
                }
            }
        });
        Ok(proxy)
    }

    /// Delays all data by this time.
    pub fn delay(&self, by: Duration) {
        self.delay_ms.store(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        self.end(Shutdown::Both);
    }

    /// Ends the direction to the client on every connection. Clients can still send.
    pub fn half_close(&self) {
        self.end(Shutdown::Write);
    }

    fn end(&self, how: Shutdown) {
        for (client, broker) in lock(&self.pairs).values() {
            for stream in [client].into_iter().chain((how == Shutdown::Both).then_some(broker)) {
                // A stream that is already closed cannot be closed again.
                if let Err(error) = stream.shutdown(how) {
                    tracing::debug!(%error, "a connection had ended");
                }
            }
        }
    }
}

/// Connects a client to the broker and forwards data both ways, until both sides have ended.
fn join(
    number: u64,
    client: TcpStream,
    target: SocketAddr,
    pairs: &Pairs,
    delay_ms: &Arc<AtomicU64>,
) -> std::io::Result<()> {
    let broker = TcpStream::connect_timeout(&target, CONNECTS_WITHIN)?;
    for stream in [&client, &broker] {
        stream.set_nodelay(true)?;
    }
    lock(pairs).insert(number, (client.try_clone()?, broker.try_clone()?));
    std::thread::scope(|scope| {
        let back = std::thread::Builder::new().spawn_scoped(scope, || pass_on(&broker, &client, delay_ms))?;
        pass_on(&client, &broker, delay_ms);
        back.join().map_err(|_| std::io::Error::other("passing on panicked"))
    })
}

/// Forwards the data of one side until it ends. If the connection broke, both sides are closed.
fn pass_on(from: &TcpStream, to: &TcpStream, delay_ms: &AtomicU64) {
    if pass(from, to, delay_ms).is_err() {
        for stream in [from, to] {
            if let Err(error) = stream.shutdown(Shutdown::Both) {
                tracing::debug!(%error, "a connection had ended");
            }
        }
    }
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
