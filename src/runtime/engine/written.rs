//! Watches the topics that sinks and endpoints write: at the start, and while everything runs.
//!
//! A sink whose topic is missing would retry for ever, so the start is refused if the broker reports several times that
//! it is missing. If a topic goes missing later, `/ready` is false until it is back, and its records wait. If the file
//! asks the broker to create topics on the first write ([`KafkaConfig::makes_topics`]), nothing is watched.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::plan::Plan;
use super::topics::{make_topics, open_admin};
use super::wait::{blocking, pause, unless_stopped};
use super::{EngineError, Shared};
use crate::kafka::{Admin, AdminError, KafkaConfig};
use crate::runtime::every::every;
use crate::topology::{Topology, WrittenTopic};

/// How often the broker must report, a second apart, that a topic is missing: a topic that was just created is not
/// known to every broker yet.
const LOOKS: usize = 3;
/// Time between two looks while everything runs.
const EVERY: Duration = Duration::from_secs(5);

/// Who says what is missing.
const LOOK: &str = "the topics that are written";

/// Topics of sinks that do not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("missing topics: {}", .0.iter().map(|t| format!("`{}`", t.topic)).collect::<Vec<_>>().join(", "))]
pub struct MissingTopics(pub Vec<WrittenTopic>);

/// Looks for topics while everything runs.
pub(super) struct Watch {
    admin: Arc<Admin>,
    topics: Vec<String>,
}

/// Waits until the broker answers, and refuses a topology with sinks whose topics are missing. `None`: there is nothing
/// to watch later.
pub(super) async fn find(
    topology: &Topology,
    config: &KafkaConfig,
    admin: Option<&Arc<Admin>>,
    shared: &Shared,
    stop: &CancellationToken,
) -> Result<Option<Watch>, EngineError> {
    let written = topology.written_topics();
    let dead_letter = topology.dead_letter_topic().map(str::to_owned);
    if config.makes_topics() || written.is_empty() && dead_letter.is_none() {
        return Ok(None);
    }
    let admin = match admin {
        Some(admin) => Arc::clone(admin),
        None => {
            // No source reads a topic, so the dead letter has not been created yet.
            let admin = open_admin(config).await?;
            make_topics(&admin, topology, &Plan::local(topology), shared, stop, false).await?;
            admin
        }
    };
    let names: Vec<String> = written.iter().map(|t| t.topic.clone()).collect();
    let mut looks = 0;
    loop {
        let asked = (Arc::clone(&admin), names.clone());
        let look = blocking(move || missing(&asked.0, &asked.1));
        match unless_stopped(stop, look).await? {
            Ok(missing) if missing.is_empty() => break,
            Ok(missing) => {
                looks += 1;
                if looks == LOOKS {
                    let gone = written.into_iter().filter(|t| missing.contains(&t.topic)).collect();
                    return Err(EngineError::Missing(MissingTopics(gone)));
                }
                shared.wait_for(&does_not_exist(&missing));
            }
            Err(message) => shared.wait_for(&message),
        }
        pause(stop, shared).await?;
    }
    shared.go_on();
    Ok(Some(Watch { admin, topics: names.into_iter().chain(dead_letter).collect() }))
}

impl Watch {
    /// Looks periodically until `stop`. While the broker does not answer, its last answer holds.
    pub(super) async fn run(self, shared: Arc<Shared>, stop: CancellationToken) {
        every(EVERY, LOOK, stop, move || {
            if let Ok(missing) = missing(&self.admin, &self.topics) {
                shared.miss(LOOK, (!missing.is_empty()).then(|| does_not_exist(&missing)));
            }
        })
        .await;
    }
}

fn missing(admin: &Admin, names: &[String]) -> Result<Vec<String>, AdminError> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let found = admin.topics(&names)?;
    Ok(found.into_iter().filter(|(_, count)| count.is_none()).map(|(name, _)| name).collect())
}

fn does_not_exist(missing: &[String]) -> String {
    format!(
        "the topic `{}` does not exist: create it, or correct its name in the topology",
        missing.join("`, `")
    )
}
