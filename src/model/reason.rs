//! Why a record was not processed. A closed list, since it is a metric label and is written into dead letters.

/// Why a record was not processed, or something was dropped. Part of the documentation and of metric labels, so
/// changing a name breaks users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The node needs a key and the record has none.
    NullKey,
    /// The node needs a value and the record is a tombstone.
    NullValue,
    /// The value is not JSON, and a field was asked for.
    NotJson,
    /// The bytes of the key or the value are not in the source's format, or their schema cannot be found; or they do
    /// not fit the format or the schema of the sink.
    BadFormat,
    /// The value does not fit the source's `schema`.
    Schema,
    /// An expression failed on this record.
    Expression,
    /// The record came after its window (and grace) had closed.
    Late,
    /// The same key was seen within the time of `dedupe`.
    Duplicate,
    /// The called API refused the record (4xx).
    Refused,
    /// The call was tried as often as configured.
    Exhausted,
    /// The sink refused the row.
    SinkRefused,
    /// The gate's timeout passed.
    GateTimeout,
    /// The record's timestamp is unusable.
    BadTimestamp,
    /// A bounded collection or buffer is full.
    Full,
    /// An operator of the user's own refused the record.
    Custom,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 15] = [
        Reason::NullKey,
        Reason::NullValue,
        Reason::NotJson,
        Reason::BadFormat,
        Reason::Schema,
        Reason::Expression,
        Reason::Late,
        Reason::Duplicate,
        Reason::Refused,
        Reason::Exhausted,
        Reason::SinkRefused,
        Reason::GateTimeout,
        Reason::BadTimestamp,
        Reason::Full,
        Reason::Custom,
    ];

    /// The reason of that label.
    #[must_use]
    pub fn named(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }

    /// The label, snake case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::NullKey => "null_key",
            Reason::NullValue => "null_value",
            Reason::NotJson => "not_json",
            Reason::BadFormat => "bad_format",
            Reason::Schema => "schema",
            Reason::Expression => "expression",
            Reason::Late => "late",
            Reason::Duplicate => "duplicate",
            Reason::Refused => "refused",
            Reason::Exhausted => "exhausted",
            Reason::SinkRefused => "sink_refused",
            Reason::GateTimeout => "gate_timeout",
            Reason::BadTimestamp => "bad_timestamp",
            Reason::Full => "full",
            Reason::Custom => "custom",
        }
    }
}
