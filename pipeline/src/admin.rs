//! `/metrics`, `/livez` and `/readyz`: what orchestrators and Prometheus ask a process.
//!
//! GET only, on loopback unless told otherwise. Alive means that the loops go round, whatever the broker
//! does: a broker that is away must not restart the fleet. Ready means that partitions are assigned and
//! their state is restored and the broker answers; the answer says what is waited for.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tracing::{info, warn};

use crate::clock::{Clock, SystemClock};
use crate::metrics::{Metrics, StageMetrics};

/// A loop that has not gone round for this long hangs; the group has given its partitions to another by then.
const HANGS_AFTER: Duration = Duration::from_secs(300);

struct Shown {
    metrics: Metrics,
    stages: Vec<StageMetrics>,
    clock: SystemClock,
}

/// Serves until the process ends.
///
/// # Errors
/// When the address cannot be taken; the message says which.
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
        let served = runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await });
        if let Err(error) = served {
            warn!(%error, "http has stopped");
        }
    })?;
    info!(http = %address, "metrics, livez, readyz");
    Ok(address)
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
