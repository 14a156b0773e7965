//! The server: bounded in connections, in bytes and in time. It answers a request when the broker has its records.

use std::future::{Future, poll_fn};
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::config::Collect;
use keepwell_pipeline::log::kafka::delivery::{Delivery, Undelivered};
use keepwell_pipeline::metrics::StageMetrics;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::{debug, info, warn};

use crate::doors::{Door, Doors};
use crate::refusal::Refusal;
use crate::request::Request;

/// Time limit for the head of a request, and for an idle connection.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// Largest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Time limit for the body of a request.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Time limit for the broker. The client gives up before.
const DELIVERED_WITHIN: Duration = Duration::from_secs(30);
/// How often the server looks whether it must stop.
const LOOK: Duration = Duration::from_millis(100);
/// Time limit for requests that are being answered when the server must stop.
const ENDS_WITHIN: Duration = Duration::from_secs(40);
/// Bodies are counted in units of this size.
const UNIT_BYTES: usize = 1024;

/// Everything that a request needs.
pub struct Server {
    /// What becomes of a request.
    pub doors: Doors,
    /// The way into Kafka.
    pub delivery: Delivery,
    /// Shows what was answered.
    pub metrics: StageMetrics,
    /// Tells when a request was received.
    pub clock: SystemClock,
    /// Whether the broker does not answer. Then requests are refused at once.
    pub is_broker_away: AtomicBool,
    /// Room for bodies and records, in units.
    room: Semaphore,
    num_units: usize,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("doors", &self.doors).finish_non_exhaustive()
    }
}

impl Server {
    /// A server for the doors of a configuration.
    pub fn new(collect: &Collect, doors: Doors, delivery: Delivery, metrics: StageMetrics, clock: SystemClock) -> Self {
        let num_units = collect.max_pending_bytes / UNIT_BYTES;
        let (is_broker_away, room) = (AtomicBool::new(false), Semaphore::new(num_units));
        Self { doors, delivery, metrics, clock, is_broker_away, room, num_units }
    }

    async fn answer(&self, parts: Parts, body: Body) -> Response {
        let started = self.clock.monotonic();
        let (is_open, name) = match self.doors.door(parts.uri.path()) {
            Ok(Door::Segment(_)) => (true, "segment".to_owned()),
            Ok(Door::Webhook(name)) => (false, name.to_owned()),
            Err(_) => (false, String::new()),
        };
        // Browsers ask first whether they may send from a page of another host.
        if is_open && parts.method == Method::OPTIONS {
            let mut headers = for_browsers(HeaderMap::new());
            if let Some(asked) = parts.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
            }
            return (StatusCode::NO_CONTENT, headers).into_response();
        }
        let outcome = self.taken(parts, body).await;
        let took = self.clock.monotonic().saturating_sub(started);
        let (status, reason) =
            outcome.as_ref().map_or_else(|refusal| (refusal.status(), refusal.name()), |_| (200, ""));
        self.metrics.answered((&name, status, reason), outcome.as_ref().copied().unwrap_or_default(), took);
        if let Err(refusal) = &outcome {
            debug!(door = name, status, %refusal, "refused");
        }
        let headers = if is_open { for_browsers(HeaderMap::new()) } else { HeaderMap::new() };
        response(outcome, headers)
    }

    /// Room for bytes that wait for the broker. More than there is at all takes all of it.
    fn room_for(&self, num_bytes: usize) -> Result<SemaphorePermit<'_>, Refusal> {
        let units = (num_bytes / UNIT_BYTES + 1).min(self.num_units);
        let full = |_| Refusal::Unavailable("too many bytes are on their way to the broker".to_owned());
        self.room.try_acquire_many(units.try_into().unwrap_or(u32::MAX)).map_err(full)
    }

    /// Reads a body. Room is taken as its bytes come, and held with them.
    async fn read(&self, mut body: Body, max_bytes: usize) -> Result<(Bytes, SemaphorePermit<'_>), Refusal> {
        let whole = async {
            let (mut bytes, mut room) = (Vec::new(), self.room_for(0)?);
            while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                let frame = frame.map_err(|_| Refusal::Malformed("the body broke off".to_owned()))?;
                let Ok(data) = frame.into_data() else { continue };
                bytes.extend_from_slice(&data);
                if bytes.len() > max_bytes {
                    return Err(Refusal::TooLarge(format!("the body has more than {max_bytes} bytes")));
                }
                let missing = (bytes.len() / UNIT_BYTES + 1).saturating_sub(room.num_permits());
                if missing > 0 {
                    room.merge(self.room_for((missing - 1) * UNIT_BYTES)?);
                }
            }
            Ok((Bytes::from(bytes), room))
        };
        tokio::time::timeout(BODY_WITHIN, whole).await.map_err(|_| Refusal::Slow)?
    }

    /// The number of records that the broker has.
    async fn taken(&self, parts: Parts, body: Body) -> Result<usize, Refusal> {
        let path = parts.uri.path().to_owned();
        let door = self.doors.door(&path)?;
        if parts.method != Method::POST {
            return Err(Refusal::Method);
        }
        let max_bytes = self.doors.max_bytes(door);
        let told = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if told.is_some_and(|bytes: usize| bytes > max_bytes) {
            return Err(Refusal::TooLarge(format!("the body has more than {max_bytes} bytes")));
        }
        if self.is_broker_away.load(Ordering::Relaxed) {
            return Err(Refusal::Unavailable("the broker does not answer".to_owned()));
        }
        let (body, of_body) = self.read(body, max_bytes).await?;
        let request = Request {
            method: parts.method.to_string(),
            path: path.clone(),
            headers: named(&parts.headers),
            body,
            received_us: self.clock.wall_us(),
        };
        let taken = self.doors.take(door, &request)?;
        let num_bytes = taken.records.iter().map(|record| record.value.len()).sum();
        let room = self.room_for(num_bytes)?;
        let received_ms = request.received_us / 1000;
        // From here on the records are what waits.
        drop((request, of_body));
        let outcome = self.delivery.send(&taken.topic, received_ms, &taken.records).map_err(refused)?;
        let not_told = || Refusal::Unavailable("the broker has not confirmed the records".to_owned());
        let told = tokio::time::timeout(DELIVERED_WITHIN, outcome).await.map_err(|_| not_told())?;
        told.map_err(|_| not_told())?.map_err(refused)?;
        drop(room);
        Ok(taken.records.len())
    }
}

fn refused(undelivered: Undelivered) -> Refusal {
    match undelivered {
        Undelivered::TooLarge(_) => Refusal::TooLarge(undelivered.to_string()),
        Undelivered::Full | Undelivered::Unknown { .. } => Refusal::Unavailable(undelivered.to_string()),
    }
}

/// Headers with a text as value.
fn named(headers: &HeaderMap) -> Vec<(String, String)> {
    let texts =
        headers.iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    texts.collect()
}

/// A page of any host may send events: a write key is no secret there.
fn for_browsers(mut headers: HeaderMap) -> HeaderMap {
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

fn response(outcome: Result<usize, Refusal>, mut headers: HeaderMap) -> Response {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match outcome {
        Ok(_) => (StatusCode::OK, headers, "{\"success\":true}\n".to_owned()).into_response(),
        Err(refusal) => {
            if let Some(after) = refusal.retry_after() {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
            }
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = serde_json::json!({"success": false, "message": refusal.to_string()});
            (status, headers, format!("{body}\n")).into_response()
        }
    }
}

/// Binds the address.
///
/// # Errors
/// When it is taken. The message names it and the key to change.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let taken = |error: std::io::Error| anyhow::anyhow!("collect {address}: {error}; name another with collect.listen");
    let listener = TcpListener::bind(address).map_err(taken)?;
    listener.set_nonblocking(true).map_err(taken)?;
    Ok(listener)
}

/// Answers requests until `shutdown` is set. Then it takes no new connection and ends those that there are, each after
/// its present request.
///
/// # Errors
/// When the runtime cannot use the listener.
pub async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    max_connections: usize,
    shutdown: &AtomicBool,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(max_connections));
    let (stop, stopping) = watch::channel(false);
    let app = Router::new().fallback(asked).with_state(Arc::clone(&server));
    while !shutdown.load(Ordering::Relaxed) {
        let Ok(Ok(place)) = tokio::time::timeout(LOOK, Arc::clone(&places).acquire_owned()).await else { continue };
        match tokio::time::timeout(LOOK, listener.accept()).await {
            Ok(Ok((stream, _))) => {
                let (app, stopping) = (app.clone(), stopping.clone());
                tokio::spawn(async move {
                    connection(stream, app, stopping).await;
                    drop(place);
                });
            }
            // For example too many open files. Open connections end.
            Ok(Err(error)) => {
                warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(LOOK).await;
            }
            Err(_) => {}
        }
    }
    stop.send_replace(true);
    let all = u32::try_from(max_connections).unwrap_or(u32::MAX);
    match tokio::time::timeout(ENDS_WITHIN, places.acquire_many(all)).await {
        Ok(_) => info!("all requests are answered"),
        Err(_) => warn!("connections are closed before their requests are answered"),
    }
    Ok(())
}

async fn asked(State(server): State<Arc<Server>>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    server.answer(parts, body).await
}

/// Serves one connection to its end. Once the server stops, the present request is the last one.
async fn connection(stream: TcpStream, app: Router, mut stopping: watch::Receiver<bool>) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "the connection waits for full packets");
    }
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let (mut served, mut stop) = (pin!(served), pin!(stopping.wait_for(|is_stopping| *is_stopping)));
    let mut is_stopping = false;
    let ended = poll_fn(|context| {
        if !is_stopping && stop.as_mut().poll(context).is_ready() {
            is_stopping = true;
            served.as_mut().graceful_shutdown();
        }
        match served.as_mut().poll(context) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => Poll::Pending,
        }
    });
    if let Err(error) = ended.await {
        debug!(%error, "a connection broke off");
    }
}
