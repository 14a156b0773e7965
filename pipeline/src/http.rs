//! `/metrics`, `/livez` and `/readyz`, for Prometheus and orchestrators.
//!
//! It answers GET only, by default on loopback. Alive means that the loops run, whatever the broker does: an absent
//! broker must not restart all processes. Ready means that partitions are assigned, their state is restored and the
//! broker answers. Otherwise the answer names what the stage waits for. A silent connection is closed. Connections are
//! few and short, and each gets one answer.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

use crate::clock::{Clock, SystemClock};
use crate::metrics::{Metrics, StageMetrics};

/// A loop that has not run for this long is hanging. By then the group has reassigned its partitions.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// Maximum number of connections at a time.
const MAX_CONNECTIONS: usize = 64;
/// Time limit for receiving the headers of a request.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// Time limit of a connection, whether its answer was read or not.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// Pause after the operating system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

struct Shown {
    metrics: Metrics,
    stages: Vec<StageMetrics>,
    clock: SystemClock,
}

/// Starts the server. It runs until the process ends.
///
/// # Errors
/// When the address cannot be bound. The message names the address.
pub fn serve(
    address: SocketAddr,
    metrics: Metrics,
    stages: Vec<StageMetrics>,
    clock: SystemClock,
) -> anyhow::Result<SocketAddr> {
    let taken = |error: std::io::Error| {
        anyhow::anyhow!("http {address}: {error}; name another with --http HOST:PORT, or none with --http off")
    };
    let listener = TcpListener::bind(address).map_err(taken)?;
    listener.set_nonblocking(true).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let app = router(Shown { metrics, stages, clock });
    std::thread::Builder::new().name("http".to_owned()).spawn(move || {
        if let Err(error) = runtime.block_on(answer_all(listener, app)) {
            warn!(%error, "http has stopped");
        }
    })?;
    info!(http = %address, "metrics, livez, readyz");
    Ok(address)
}

/// Serves each connection in one task. Above the limit, new connections wait in the system's queue.
async fn answer_all(listener: TcpListener, app: Router) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // For example too many open files. Open connections end soon.
            Err(error) => {
                debug!(%error, "http cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let app = app.clone();
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_WITHIN)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
            match tokio::time::timeout(ENDS_WITHIN, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "an http connection broke off"),
                Err(_) => debug!("an http connection took too long"),
            }
            drop(place);
        });
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(Arc::new(shown))
}

async fn metrics(State(shown): State<Arc<Shown>>) -> (StatusCode, String) {
    match shown.metrics.text() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn livez(State(shown): State<Arc<Shown>>) -> (StatusCode, String) {
    let now = shown.clock.monotonic();
    let still = |stage: &StageMetrics| {
        let still_for = stage.still_for(now);
        (still_for >= HANGS_AFTER).then(|| format!("{} has stood still for {} s", stage.name(), still_for.as_secs()))
    };
    answer("alive", shown.stages.iter().filter_map(still).collect())
}

async fn readyz(State(shown): State<Arc<Shown>>) -> (StatusCode, String) {
    let waits = |stage: &StageMetrics| {
        let waiting = stage.waiting();
        waiting.name().is_some().then(|| format!("{} waits for {waiting}", stage.name()))
    };
    answer("ready", shown.stages.iter().filter_map(waits).collect())
}

fn answer(good: &str, faults: Vec<String>) -> (StatusCode, String) {
    if faults.is_empty() {
        (StatusCode::OK, format!("{good}\n"))
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, faults.join("\n") + "\n")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn ask(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Without the limit, 352 half requests took all descriptors of a process with 256, for as long as they liked.
    #[test]
    fn more_silent_connections_than_there_are_places_keep_nobody_from_an_answer() {
        let clock = SystemClock::start();
        let address = serve(SocketAddr::from(([127, 0, 0, 1], 0)), Metrics::new().unwrap(), Vec::new(), clock).unwrap();
        let mut silent: Vec<TcpStream> =
            (0..MAX_CONNECTIONS * 2).map(|_| TcpStream::connect(address).unwrap()).collect();
        silent.iter_mut().for_each(|stream| stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n").unwrap());
        let answer = ask(address, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("alive\n"), "{answer}");
        for mut stream in silent {
            let mut answer = Vec::new();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            // The connection ends, with an answer that it was too slow or without an answer.
            assert!(stream.read_to_end(&mut answer).is_ok_and(|_| !answer.starts_with(b"HTTP/1.1 200")));
        }
    }
}
