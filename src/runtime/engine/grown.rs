//! The partitions of the topics that sources read: looked at while everything runs.
//!
//! State belongs to a partition, and a repartition topic has as many as what is above it. When such a topic grows, its
//! producers send keys elsewhere than before, away from their state. No instance can mend that, so it is said at once: in
//! the log, and by `/ready` until the topology is started anew. The new partitions are not read here ([`Plan::task`]); the
//! others go on.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::plan::Plan;
use crate::kafka::Admin;
use crate::runtime::every::every;
use crate::topology::Topology;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(3);
/// Who says it.
const LOOK: &str = "the partitions of sources";

/// Looks at the topics with a fixed number of partitions.
pub(super) struct Watch {
    admin: Arc<Admin>,
    /// Topics, with the partitions that they had.
    topics: Vec<(String, i32)>,
}

impl Watch {
    /// `None`: there is no such topic.
    pub(super) fn new(admin: &Arc<Admin>, topology: &Topology, plan: &Plan) -> Option<Watch> {
        let fixed = topology.external_topics().into_iter().filter_map(|topic| {
            let (sub, _) = plan.places.get(&topic)?;
            let count = *plan.counts.get(&topic)?;
            plan.fixed[*sub].then_some((topic, count))
        });
        let topics: Vec<(String, i32)> = fixed.collect();
        (!topics.is_empty()).then(|| Watch { admin: Arc::clone(admin), topics })
    }

    /// Looks again and again, until `stop`. Where the broker does not answer, what it said last holds.
    pub(super) async fn run(self, shared: Arc<Shared>, stop: CancellationToken) {
        every(EVERY, LOOK, stop, move || {
            let names: Vec<&str> = self.topics.iter().map(|(topic, _)| topic.as_str()).collect();
            let Ok(found) = self.admin.topics(&names) else { return };
            let grown: Vec<String> = self
                .topics
                .iter()
                .zip(found)
                .filter_map(|((topic, had), (_, has))| {
                    let has = has.filter(|has| has > had)?;
                    Some(format!("`{topic}` has {has} partitions, and had {had}"))
                })
                .collect();
            shared.miss(LOOK, (!grown.is_empty()).then(|| said(&grown.join("; "))));
        })
        .await;
    }
}

fn said(grown: &str) -> String {
    format!(
        "{grown}: state belongs to a partition, and its keys are in others now; the new partitions are not read. Start under a \
         new `name`, or from the beginning after `slackwater reset` (docs/changing-a-topology.md)"
    )
}
