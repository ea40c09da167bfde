//! Faults put in on purpose: each breaks one rule of the protocol in the driver, and the model must see it.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A delivery counts as durable when it is handed over.
    CommitWithoutWaiting,
    /// Offsets are committed after the transaction, by themselves.
    OffsetsInSecondWrite,
    /// The transaction has no offsets.
    RowsWithoutOffsets,
    /// The transaction has no rows.
    OffsetsWithoutRows,
    /// The offsets are where the reader is, not where the epoch ended.
    OffsetsOfTheReader,
    /// What comes back for an earlier assignment counts for this one.
    StaleAckAccepted,
    /// A member that missed a rebalance may commit.
    StaleGenerationAccepted,
    /// A checkpoint of a partition that was taken away in the meantime is committed.
    StaleCommitAccepted,
    /// The backend is written before the transaction is committed.
    ApplyBeforeCommit,
    /// Local state says how far it is before it is.
    PositionBeforeRows,
    /// Rows of the open epoch are in the sealed one.
    OpenEpochLeaked,
    /// A pending call's row goes when the call is made, not when it is answered.
    CallForgottenWhenMade,
    /// A debounce entry goes, and the row of the call that it became is not there.
    EntryGoneWithoutItsCall,
    /// The node clocks are not read back.
    ClocksNotRestored,
    /// A refused row counts as written.
    RefusedCountedAsAcked,
    /// The gap between local state and the changelog's end is not replayed.
    GapNotReplayed,
    /// The restore ends in front of open transactions instead of waiting for them.
    RestoreToStableEnd,
    /// Offsets in open transactions are not waited for.
    PendingOffsetsIgnored,
    /// After an aborted checkpoint the readers stay where they are.
    ReadersNotRewound,
    /// After an aborted checkpoint the task goes on as if it were committed.
    AbortTakenForCommit,
    /// Deletions are not written to the changelog.
    DeletionsLost,
    /// Records that belong into the transaction are written when it begins.
    OutputsBeforeCommit,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 22] = [
        Mutation::CommitWithoutWaiting,
        Mutation::OffsetsInSecondWrite,
        Mutation::RowsWithoutOffsets,
        Mutation::OffsetsWithoutRows,
        Mutation::OffsetsOfTheReader,
        Mutation::StaleAckAccepted,
        Mutation::StaleGenerationAccepted,
        Mutation::StaleCommitAccepted,
        Mutation::ApplyBeforeCommit,
        Mutation::PositionBeforeRows,
        Mutation::OpenEpochLeaked,
        Mutation::CallForgottenWhenMade,
        Mutation::EntryGoneWithoutItsCall,
        Mutation::ClocksNotRestored,
        Mutation::RefusedCountedAsAcked,
        Mutation::GapNotReplayed,
        Mutation::RestoreToStableEnd,
        Mutation::PendingOffsetsIgnored,
        Mutation::ReadersNotRewound,
        Mutation::AbortTakenForCommit,
        Mutation::DeletionsLost,
        Mutation::OutputsBeforeCommit,
    ];
}
