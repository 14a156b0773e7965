//! The configuration of score.

use std::sync::Arc;

use keepwell_core::schema::window::Layout;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::suspect::Bounds;

use crate::compile::Compiled;
use crate::model::{self, ModelError};

/// The settings of score.
#[derive(Debug)]
pub struct Settings {
    /// Epoch of the log.
    pub epoch: u32,
    /// Partition count of Keepwell's topics.
    pub partitions: i32,
    /// When a pane is suspect for its drops.
    pub bounds: Bounds,
    /// Topic of health rows.
    pub health: Arc<str>,
    /// Size of the largest record to write, in bytes.
    pub max_record_bytes: usize,
    /// Topic of rejects.
    pub rejects: Arc<str>,
    /// The columns of a window row.
    pub layout: Arc<Layout>,
    /// Width of a pane in microseconds.
    pub pane_us: i64,
    /// The configured model file. A new partition begins with it.
    pub model: Arc<Compiled>,
}

impl Settings {
    /// The settings from a configuration.
    ///
    /// # Errors
    /// [`ModelError`] with file, line and column of the fault in the model file.
    pub fn new(config: &Config) -> Result<Self, ModelError> {
        let layout = Arc::new(config.aggregate.layout());
        let model = match &config.score.model {
            Some(path) => Compiled::parse(&path.display().to_string(), &model::read(path)?, &layout)?,
            None => Compiled::parse("the default model", model::DEFAULT, &layout)?,
        };
        Ok(Self {
            epoch: config.epoch,
            partitions: config.partitions,
            bounds: config.suspect.bounds(&config.aggregate),
            health: config.topics.health.as_str().into(),
            rejects: config.topics.rejects.as_str().into(),
            max_record_bytes: config.kafka.max_record_bytes,
            layout,
            pane_us: config.time.pane.as_micros(),
            model: Arc::new(model),
        })
    }

    /// Compiles a model file. The configured one is compiled only once.
    ///
    /// # Errors
    /// [`ModelError`] with line and column of the fault. `name` is the name of the file in the message.
    pub fn compiled(&self, name: &str, text: &str) -> Result<Arc<Compiled>, ModelError> {
        if text == self.model.text {
            return Ok(Arc::clone(&self.model));
        }
        Ok(Arc::new(Compiled::parse(name, text, &self.layout)?))
    }
}
