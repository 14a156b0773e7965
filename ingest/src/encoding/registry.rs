//! Asks a schema registry, in a thread of its own: each id once, and again while the registry does not answer.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::config::{self, Secret};
use keepwell_pipeline::redact;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

use super::avro::AvroSchema;
use super::protobuf::ProtobufSchema;
use super::{Binary, Lookup, Schema, SchemaId, Schemas};

/// Wait before the next request to a registry that did not answer.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Number of ids at which those are forgotten that have been unknown for long.
const MAX_SCHEMAS: usize = 10_000;
/// Most requests at a time.
const MAX_REQUESTS: usize = 8;
/// Largest answer of a registry, in bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Most bytes of a schema, with those that it refers to.
const MAX_SCHEMA_BYTES: usize = 1 << 20;
/// Stack of the thread that reads a schema. Only what is used takes memory.
const STACK_BYTES: usize = 256 << 20;
/// The most schemas that one refers to, with those that these refer to.
const MAX_REFERENCES: usize = 100;
/// How long an id stays unknown. A replica of a registry may learn it later.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// Schemas of a registry with Confluent's API.
#[derive(Debug)]
pub struct Registry {
    known: Arc<Mutex<Known>>,
    asks: mpsc::UnboundedSender<SchemaId>,
}

#[derive(Debug, Default)]
struct Known {
    schemas: HashMap<SchemaId, Entry>,
    /// Partitions that wait, and for which schema.
    waiting: BTreeMap<TopicPartition, SchemaId>,
}

impl Known {
    /// Forgets ids that are to be asked for again. A topic of strange bytes names new ids without end.
    fn forget_unknown(&mut self) {
        if self.schemas.len() >= MAX_SCHEMAS {
            self.schemas
                .retain(|_, entry| !matches!(entry, Entry::Unknown(_, since) if since.elapsed() >= UNKNOWN_FOR));
        }
    }
}

#[derive(Debug)]
enum Entry {
    Asked,
    Found(Arc<Schema>),
    Unknown(String, Instant),
}

/// What a registry told: a value, or why it knows none. The outer error says why it gave no answer that counts.
type Told<T> = Result<Result<T, String>, String>;

/// A client of one registry.
struct Asker {
    client: Client,
    url: String,
    user: Option<(String, Option<String>)>,
}

/// What a registry says about an id.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    schema: String,
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

/// Another schema that a schema uses: by the name of its type, or of the file that is imported.
#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i64,
}

/// What a registry says when it does not know an id.
#[derive(Deserialize)]
struct Problem {
    error_code: i64,
    #[serde(default)]
    message: String,
}

impl Registry {
    /// The registry of a configuration. It is asked only when a schema is needed.
    ///
    /// # Errors
    /// When the password cannot be read, or the client cannot be made.
    pub fn open(config: &config::Registry) -> anyhow::Result<Self> {
        let password = config.password.as_ref().map(Secret::reveal).transpose();
        let password = password.map_err(|why| anyhow::anyhow!("schema_registry.password: {why}"))?;
        let client = Client::builder().timeout(config.timeout.as_duration()).build()?;
        let user = config.user.clone().map(|user| (user, password));
        let asker = Asker { client, url: config.url.trim_end_matches('/').to_owned(), user };
        let (asks, asked) = mpsc::unbounded_channel();
        let known = Arc::new(Mutex::new(Known::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let found = Arc::clone(&known);
        let thread = std::thread::Builder::new().name("schemas".to_owned());
        thread.spawn(move || runtime.block_on(answer_all(Arc::new(asker), asked, found)))?;
        Ok(Self { known, asks })
    }
}

impl Schemas for Registry {
    fn lookup(&self, id: SchemaId, partition: &TopicPartition) -> Lookup {
        let mut known = lock(&self.known);
        let found = match known.schemas.get(&id) {
            Some(Entry::Found(schema)) => Lookup::Known(Arc::clone(schema)),
            Some(Entry::Unknown(why, since)) if since.elapsed() < UNKNOWN_FOR => Lookup::Unknown(why.clone()),
            Some(Entry::Asked) => Lookup::Awaited,
            // A registry counts from 1 to the largest `int` of Java.
            None if matches!(id, SchemaId::Number(number) if i32::try_from(number).is_err()) => {
                Lookup::Unknown("no registry has such an id".to_owned())
            }
            Some(Entry::Unknown(..)) | None => {
                known.forget_unknown();
                known.schemas.insert(id, Entry::Asked);
                if self.asks.send(id).is_err() {
                    warn!("nobody asks the registry any more: restart ingest");
                }
                Lookup::Awaited
            }
        };
        match found {
            Lookup::Awaited => known.waiting.insert(partition.clone(), id),
            Lookup::Known(_) | Lookup::Unknown(_) => known.waiting.remove(partition),
        };
        found
    }

    fn waiting(&self) -> BTreeSet<TopicPartition> {
        let known = lock(&self.known);
        let is_asked = |id: &SchemaId| matches!(known.schemas.get(id), Some(Entry::Asked));
        known.waiting.iter().filter(|(_, id)| is_asked(id)).map(|(partition, _)| partition.clone()).collect()
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers ids, each in a task of its own: one that gets no answer keeps no other waiting. It ends when nobody can ask any
/// more. A partition waits for one id at a time, so there are at most as many tasks as partitions.
async fn answer_all(asker: Arc<Asker>, mut asked: mpsc::UnboundedReceiver<SchemaId>, known: Arc<Mutex<Known>>) {
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    while let Some(id) = asked.recv().await {
        let (asker, known, places) = (Arc::clone(&asker), Arc::clone(&known), Arc::clone(&places));
        tokio::spawn(async move { answer(&asker, id, &known, &places).await });
    }
}

/// Asks for one id until there is an answer.
async fn answer(asker: &Asker, id: SchemaId, known: &Mutex<Known>, places: &Semaphore) {
    let mut is_told = false;
    let entry = loop {
        let place = places.acquire().await;
        let asked = asker.ask(id).await;
        drop(place);
        match asked {
            Ok(entry) => break entry,
            Err(why) if !is_told => {
                let (url, partitions) = (redact::url(&asker.url), waiting(known, id));
                warn!(%url, %id, why, partitions, "no schema from the registry: these partitions wait");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY_WAIT).await;
    };
    if is_told {
        info!(%id, "the schema registry answers again");
    }
    lock(known).schemas.insert(id, entry);
}

fn waiting(known: &Mutex<Known>, id: SchemaId) -> String {
    let known = lock(known);
    let names = known.waiting.iter().filter(|(_, of)| **of == id).map(|(partition, _)| partition.to_string());
    names.collect::<Vec<_>>().join(", ")
}

impl Asker {
    /// Asks for one schema, and for those that it refers to.
    ///
    /// # Errors
    /// Why the registry gave no answer that counts.
    async fn ask(&self, id: SchemaId) -> Result<Entry, String> {
        let path = match id {
            SchemaId::Number(number) => format!("schemas/ids/{number}"),
            SchemaId::Guid(_) => format!("schemas/guids/{id}"),
        };
        let unknown = |why: String| Entry::Unknown(why.chars().take(200).collect(), Instant::now());
        match self.get(&path).await? {
            Err(why) => Ok(unknown(why)),
            // JSON is read without its schema.
            Ok(answer) if answer.schema_type.as_deref() == Some("JSON") => Ok(Entry::Found(Arc::new(Schema::Json))),
            Ok(answer) => match self.referred(&answer.references).await? {
                Err(why) => Ok(unknown(why)),
                Ok(references) => Ok(Entry::Found(Arc::new(read(answer, references).await))),
            },
        }
    }

    /// The names and texts of the schemas that are referred to, and of those that these refer to.
    async fn referred(&self, references: &[Reference]) -> Told<Vec<(String, String)>> {
        // Depth-first, and the first of a name counts: as in Confluent's clients.
        let mut rest: Vec<(String, String)> = references.iter().rev().map(Reference::place).collect();
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        while let Some((name, path)) = rest.pop() {
            if texts.contains_key(&name) {
                continue;
            }
            if texts.len() == MAX_REFERENCES {
                return Ok(Err(format!("it refers to more than {MAX_REFERENCES} schemas")));
            }
            match self.get(&path).await? {
                Err(why) => return Ok(Err(format!("it refers to {name}, {path}: {why}"))),
                Ok(answer) => {
                    rest.extend(answer.references.iter().rev().map(Reference::place));
                    texts.insert(name, answer.schema);
                }
            }
        }
        Ok(Ok(texts.into_iter().collect()))
    }

    /// What the registry has at a path, or why it knows nothing there.
    ///
    /// # Errors
    /// Why it gave no answer that counts.
    async fn get(&self, path: &str) -> Told<Answer> {
        let mut request = self.client.get(format!("{}/{path}", self.url));
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, password.as_ref());
        }
        let mut answer = request.send().await.map_err(|error| innermost(&error))?;
        let (status, mut text) = (answer.status(), Vec::new());
        while let Some(piece) = answer.chunk().await.map_err(|error| innermost(&error))? {
            text.extend_from_slice(&piece);
            if text.len() > MAX_ANSWER_BYTES {
                let why = format!("its answer has more than {MAX_ANSWER_BYTES} bytes");
                return if status == StatusCode::OK { Ok(Err(why)) } else { Err(why) };
            }
        }
        match status {
            StatusCode::OK => serde_json::from_slice(&text).map(Ok).map_err(|error| format!("its answer: {error}")),
            // Any server has a 404. That of a registry says which.
            StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => {
                if path.starts_with("schemas/guids/") && serde_json::from_slice::<Problem>(&text).is_err() {
                    return Ok(Err("the registry knows no GUIDs".to_owned()));
                }
                let error = serde_json::from_slice::<Problem>(&text).ok();
                let error = error.filter(|error| (40_400..=40_499).contains(&error.error_code));
                let error = error.ok_or_else(|| {
                    format!("it answers {status} and knows no schemas there: is the path of the url right?")
                })?;
                Ok(Err(format!("the registry does not know it: {} {}", error.error_code, error.message)))
            }
            status => Err(format!("it answers {status}")),
        }
    }
}

/// The message of an error without the URL, which may hold a password.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() }
}

impl Reference {
    /// Its name, and the path of its schema.
    fn place(&self) -> (String, String) {
        let subject = percent_encoded(&self.subject);
        (self.name.clone(), format!("subjects/{subject}/versions/{}?deleted=true", self.version))
    }
}

/// A text as a segment of a path.
fn percent_encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Reads a schema in a thread of its own: with a stack for what is nested, and so that a library that panics ends no other.
async fn read(answer: Answer, references: Vec<(String, String)>) -> Schema {
    let failed = || Schema::Unreadable("it cannot be read: the reader failed".to_owned());
    let reading = move || {
        let thread = std::thread::Builder::new().name("schema".to_owned()).stack_size(STACK_BYTES);
        thread.spawn(move || schema(&answer, &references)).ok().and_then(|thread| thread.join().ok())
    };
    tokio::task::spawn_blocking(reading).await.ok().flatten().unwrap_or_else(failed)
}

fn schema(answer: &Answer, references: &[(String, String)]) -> Schema {
    let binary = |schema: Result<Box<dyn Binary>, String>| match schema {
        Ok(schema) => Schema::Binary(schema),
        Err(why) => Schema::Unreadable(format!("it cannot be read: {why}").chars().take(300).collect()),
    };
    let text = &answer.schema;
    let num_bytes = references.iter().map(|(_, text)| text.len()).sum::<usize>() + text.len();
    if num_bytes > MAX_SCHEMA_BYTES {
        return Schema::Unreadable(format!(
            "it has {num_bytes} bytes with those that it refers to; {MAX_SCHEMA_BYTES} are taken"
        ));
    }
    match answer.schema_type.as_deref().unwrap_or("AVRO") {
        "AVRO" => binary(AvroSchema::new(text, references).map(|schema| Box::new(schema) as _)),
        "PROTOBUF" => binary(ProtobufSchema::new(text, references).map(|schema| Box::new(schema) as _)),
        other => Schema::Unreadable(format!("{other} is not supported; AVRO, PROTOBUF and JSON are")),
    }
}
