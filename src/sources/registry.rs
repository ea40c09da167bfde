//! The kinds of sources: the one list from which everything follows that goes by a kind's name.

use super::{FileSource, GenerateSource, KafkaSource, OpenError, Reader, SourceSettings, StdinSource};
use crate::model::kinds::{field_of, kinds, placed};
use crate::model::{Expr, Problem, Timestamp, Types};

kinds! {
    /// A source's settings; its kind is the key that holds them in YAML.
    SourceConfig: SourceSettings, OwnSource {
        /// A Kafka topic, read as a member of the topology's consumer group.
        "kafka": Kafka(KafkaSource),
        /// Made-up records, for tries and load tests.
        "generate": Generate(GenerateSource),
        /// Lines of a file, one record each.
        "file": File(FileSource),
        /// Lines of standard input, one record each.
        "stdin": Stdin(StdinSource),
        /// A number of records, all alike: shows what a new kind needs.
        #[cfg(test)]
        "toy": Toy(super::toy::ToySource),
    }
    never in a file {}
}

impl SourceConfig {
    /// For graphs: `kafka user-changes`.
    #[must_use]
    pub fn label(&self) -> String {
        let what = (**self).label();
        let gap = if what.is_empty() { "" } else { " " };
        format!("{}{gap}{what}", self.kind_name())
    }

    /// What is wrong with its settings, with fields counted from the node: `file.path`.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = (**self).check();
        if let Some((timestamp, _)) = self.timestamp()
            && !timestamp.yields().may_be(Types::NUMBER.or(Types::STRING))
        {
            let message = format!(
                "a timestamp is a number or text, and this is always {}",
                timestamp.yields().in_words()
            );
            let help = "write where it stands, for example `.created_at`: milliseconds, or RFC 3339 text";
            problems.push(Problem::setting("timestamp", message, help));
        }
        if self.key().is_some_and(Expr::is_always_null) {
            let message = "an expression that yields nothing for a key";
            let help = "write what the key is made of, for example `.customer`, or leave it out";
            problems.push(Problem::setting("key", message, help));
        }
        placed(self.kind_name(), problems)
    }

    /// Begins to read a source that is not a Kafka topic.
    ///
    /// # Errors
    /// The field of the node, and what is wrong.
    pub fn open(&self, now: Timestamp) -> Result<Option<Box<dyn Reader>>, (String, String)> {
        (**self).open(now).map_err(|OpenError { field, message }| {
            (field_of(self.kind_name(), field), format!("cannot read {}: {message}", self.label()))
        })
    }
}
