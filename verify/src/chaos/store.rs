//! An object store with the part of S3 that its clients need. It fails on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

/// Name of the only bucket.
pub const BUCKET: &str = "chaos";

/// How the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// It works correctly.
    Well,
    /// It answers with an error and does nothing.
    Fails,
    /// It does each write, but answers with an error.
    Lies,
    /// It takes a second for each answer.
    Slow,
    /// It has no room: writes fail.
    Full,
}

#[derive(Debug)]
struct Inside {
    objects: BTreeMap<String, Bytes>,
    behaviour: Behaviour,
}

/// The object store.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    /// Port of its HTTP server.
    pub port: u16,
    inside: Arc<Mutex<Inside>>,
}

impl ObjectStore {
    /// Starts a store in its own thread.
    ///
    /// # Errors
    /// When no port is free.
    pub fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let inside = Arc::new(Mutex::new(Inside { objects: BTreeMap::new(), behaviour: Behaviour::Well }));
        let store = Self { port, inside };
        let app = Router::new().fallback(answer).with_state(store.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            let served =
                runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener)?, app).await });
            if let Err(error) = served {
                tracing::warn!(%error, "the object store has stopped");
            }
        });
        Ok(store)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the behaviour from now on.
    pub fn set(&self, behaviour: Behaviour) {
        self.lock().behaviour = behaviour;
    }

    /// Damages the newest object below a prefix. Returns false when there is none.
    pub fn damage_newest(&self, prefix: &str) -> bool {
        let mut inside = self.lock();
        let newest =
            inside.objects.range_mut(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix)).last();
        newest.map(|(_, content)| *content = content.slice(..content.len() / 2)).is_some()
    }

    /// Writes the objects below a prefix into a folder. The paths do not contain the prefix.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn copy_to(&self, prefix: &str, folder: &Path) -> Result<()> {
        for (name, content) in self.lock().objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let path = folder.join(name[prefix.len()..].trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().context("an object without a folder")?)?;
            std::fs::write(path, content)?;
        }
        Ok(())
    }

    /// Settings with which clients connect to the store.
    pub fn options(&self) -> [(&'static str, String); 6] {
        [
            ("aws_endpoint", format!("http://127.0.0.1:{}", self.port)),
            ("aws_allow_http", "true".to_owned()),
            ("aws_access_key_id", "chaos".to_owned()),
            ("aws_secret_access_key", "chaos".to_owned()),
            ("aws_region", "nowhere".to_owned()),
            ("aws_conditional_put", "etag".to_owned()),
        ]
    }
}

async fn answer(
    State(store): State<ObjectStore>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let behaviour = store.lock().behaviour;
    let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let is_write = method == Method::PUT || method == Method::DELETE || method == Method::POST;
    let error = || (StatusCode::INTERNAL_SERVER_ERROR, "<Error><Code>InternalError</Code></Error>").into_response();
    match behaviour {
        Behaviour::Slow => tokio::time::sleep(Duration::from_secs(1)).await,
        Behaviour::Fails => return error(),
        Behaviour::Full if is_write => return error(),
        _ => {}
    }
    let answer = store.done(&query, &method, uri.path(), &headers, body);
    if behaviour == Behaviour::Lies && is_write { error() } else { answer }
}

impl ObjectStore {
    fn done(
        &self,
        query: &BTreeMap<String, String>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Response {
        let name = path.trim_start_matches('/').trim_start_matches(BUCKET).trim_start_matches('/');
        let name = decoded(name);
        let mut inside = self.lock();
        let tag = ("etag", "\"chaos\"");
        match method.as_str() {
            "PUT" if headers.contains_key("if-none-match") && inside.objects.contains_key(&name) => {
                (StatusCode::PRECONDITION_FAILED, "<Error><Code>PreconditionFailed</Code></Error>").into_response()
            }
            "PUT" => {
                inside.objects.insert(name, body);
                (StatusCode::OK, [tag]).into_response()
            }
            "DELETE" => {
                inside.objects.remove(&name);
                StatusCode::NO_CONTENT.into_response()
            }
            "POST" => {
                let text = String::from_utf8_lossy(&body).into_owned();
                let mut deleted = String::new();
                for key in text.split("<Key>").skip(1).filter_map(|part| part.split("</Key>").next()) {
                    inside.objects.remove(key);
                    deleted += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
                (StatusCode::OK, format!("<DeleteResult>{deleted}</DeleteResult>")).into_response()
            }
            "GET" if query.contains_key("list-type") => {
                (StatusCode::OK, listing(&inside.objects, query)).into_response()
            }
            _ => match inside.objects.get(&name) {
                None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
                Some(content) => {
                    let length = ("content-length", content.len().to_string());
                    let headers = [(tag.0, tag.1.to_owned()), ("last-modified", MODIFIED.to_owned()), length];
                    let content = if method == Method::HEAD { Bytes::new() } else { content.clone() };
                    (StatusCode::OK, headers, content).into_response()
                }
            },
        }
    }
}

const MODIFIED: &str = "Mon, 01 Jan 2024 00:00:00 GMT";

fn listing(objects: &BTreeMap<String, Bytes>, query: &BTreeMap<String, String>) -> String {
    let prefix = query.get("prefix").map(String::as_str).unwrap_or_default();
    let (mut contents, mut folders) = (String::new(), BTreeSet::new());
    for (name, content) in objects.iter().filter(|(name, _)| name.starts_with(prefix)) {
        match name[prefix.len()..].split_once('/').filter(|_| query.contains_key("delimiter")) {
            Some((folder, _)) => {
                folders.insert(format!("{prefix}{folder}/"));
            }
            None => {
                contents += &format!(
                    "<Contents><Key>{name}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>\"chaos\"</ETag><Size>{}</Size></Contents>",
                    content.len()
                );
            }
        }
    }
    let folders: String =
        folders.iter().map(|f| format!("<CommonPrefixes><Prefix>{f}</Prefix></CommonPrefixes>")).collect();
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>{contents}{folders}</ListBucketResult>"
    )
}

/// Decodes percent-encoded bytes.
fn decoded(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
