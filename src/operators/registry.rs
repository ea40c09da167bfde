//! The kinds of operators: the one list from which everything follows that goes by a kind's name.

use super::{
    AggregateConfig, BranchConfig, ByIdConfig, DebounceConfig, DedupeConfig, EnrichConfig, FilterConfig,
    FlatMapConfig, GateConfig, JoinConfig, KeyByConfig, MapConfig, MergeConfig, NodePlan, OperatorSettings,
    PeekConfig, Reads, RegroupConfig, RightHalfConfig, SuppressConfig, TableConfig, WindowsAbove,
};
use crate::model::Problem;
use crate::model::kinds::{field_of, kinds, placed};

kinds! {
    /// An operator's settings; its kind is the key that holds them in YAML.
    #[expect(clippy::large_enum_variant, reason = "a node keeps it in a box")]
    NodeConfig: OperatorSettings, OwnOperator {
        /// Lets a record pass where the condition is true.
        "filter": Filter(FilterConfig),
        /// Computes a new value.
        "map": Map(MapConfig),
        /// Computes a list; each element becomes a record.
        "flat_map": FlatMap(FlatMapConfig),
        /// Gives records another key.
        "key_by": KeyBy(KeyByConfig),
        /// Sends a record to the first output whose condition is true.
        "branch": Branch(BranchConfig),
        /// Reads several nodes as one.
        "merge": Merge(MergeConfig),
        /// Shows records in the log and lets them pass.
        "peek": Peek(PeekConfig),
        /// Waits until a key has gone quiet, then sends on what it gathered.
        "debounce": Debounce(DebounceConfig),
        /// Calls an API for each record and puts the answer into it.
        "enrich": Enrich(EnrichConfig),
        /// Lets a record pass only when other consumer groups have committed past it.
        "gate": Gate(GateConfig),
        /// One result per key, or per key and window.
        "aggregate": Aggregate(AggregateConfig),
        /// Holds results back until their window is closed, or for a time.
        "suppress": Suppress(SuppressConfig),
        /// Lets the first record of an id pass and drops the others.
        "dedupe": Dedupe(DedupeConfig),
        /// Reads a stream as a table: the newest value of each key.
        "table": Table(TableConfig),
        /// Joins the node's records with those of another node.
        "join": Join(JoinConfig),
        /// Lets every n-th record pass: shows what a new kind needs.
        #[cfg(test)]
        "toy": Toy(super::toy::ToyConfig),
    }
    never in a file {
        /// Sends a table's changes to the groups that its rows belong to. Put in by the topology.
        "regroup": Regroup(RegroupConfig),
        /// Sends records to their ids, in front of a dedupe. Put in by the topology.
        "by_id": ById(ByIdConfig),
        /// The right half of a foreign-key join. Put in by the topology.
        "right half of a join": RightHalf(RightHalfConfig),
    }
}

impl NodeConfig {
    /// Does it keep state?
    #[must_use]
    pub fn is_stateful(&self, plan: &NodePlan) -> bool {
        self.state_kind(plan).is_some()
    }

    /// What its state is made of; `None` where it keeps none. State of another kind cannot be read.
    #[must_use]
    pub fn state_kind(&self, plan: &NodePlan) -> Option<&'static str> {
        (**self).state_kind(self.kind_name(), plan)
    }

    /// What the rows of its state depend on, for the comparison at a start; `None` where it keeps none. See
    /// `docs/changing-a-topology.md`.
    #[must_use]
    pub fn state_shape(&self, plan: &NodePlan) -> Option<String> {
        (**self).state_shape(plan).or_else(|| self.state_kind(plan).map(String::from))
    }

    /// Why its state cannot be rebuilt by reading the input again from the low watermark, and what to write instead.
    #[must_use]
    pub fn unbounded(&self) -> Option<&'static str> {
        self.state_kind(&NodePlan::default()).and_then(|_| (**self).unbounded())
    }

    /// What is wrong with its settings, with fields counted from the node: `aggregate.window`.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        placed(self.kind_name(), (**self).check())
    }

    /// What is wrong with the nodes that it reads, in the same way; `from` stands beside the kind.
    #[must_use]
    pub fn check_reads(&self, reads: &Reads<'_>) -> Vec<Problem> {
        let (from, own): (Vec<_>, _) =
            (**self).check_reads(reads).into_iter().partition(|problem| problem.field == "from");
        placed(self.kind_name(), own).into_iter().chain(from).collect()
    }

    /// What is wrong with the windows above it, in the same way.
    #[must_use]
    pub fn check_windows(&self, above: &WindowsAbove) -> Vec<Problem> {
        placed(self.kind_name(), (**self).check_windows(above))
    }

    /// The field where what it reads comes together: the one that names the other node of a join, else `from`.
    #[must_use]
    pub fn meeting_field(&self) -> String {
        self.with().map_or_else(|| "from".to_owned(), |_| field_of(self.kind_name(), "with"))
    }

    /// For graphs: `debounce 30s`.
    #[must_use]
    pub fn label(&self) -> String {
        (**self).label(self.kind_name())
    }
}
