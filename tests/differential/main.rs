//! Differential test: random topologies and inputs on the real Apache Kafka Streams and on slackwater, compared record by
//! record.
//!
//! Each case is one file of ours. The peer (`benches/peers/kafka-streams`, started once by `scripts/kafka-streams.sh`)
//! reads the same file and runs it on Kafka Streams' `TopologyTestDriver`; here it runs through the code behind
//! `slackwater simulate`, with a checkpoint every few lines or a restart after each. Compared are, in each
//! sink's order: the input line that caused a record, key, value, timestamp and window; how many records each line dropped; and where a
//! task stopped. What may differ is listed in `rules.rs`.
//!
//! ```text
//! cargo test --test differential                               1,000 cases of each operator, and of chains of them
//! DIFFERENTIAL_CASES=100000 DIFFERENTIAL_SEED=7 cargo test --test differential session -- --nocapture
//! DIFFERENTIAL_CASE=41 cargo test --test differential session  that case alone
//! DIFFERENTIAL_FRESH_SEED=8 DIFFERENTIAL_FRESH=200 ..          so many more, of that seed
//! ```

mod case;
mod chain;
mod chains;
mod families;
mod rules;
mod run;

use std::collections::BTreeMap;
use std::ops::Range;

use case::Case;
use families::{Draw, FAMILIES};
use rules::{RULES, Rule};
use run::{Outcome, ours, theirs};

/// Cases per family of a plain `cargo test`.
const CASES: u64 = 1_000;
/// The seed of a plain `cargo test`.
const SEED: u64 = 1;
/// Cases per family of the second seed, where one is given.
const FRESH: u64 = 200;

/// Reasons that Kafka Streams has no count for: a bounded list that is full, an expression that fails (a `flat_map` of
/// something that is no list).
const OURS_ALONE: [&str; 2] = ["full", "expression"];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What both made of a case, after the rules, and how much each changed.
struct Verdict {
    ours: Outcome,
    theirs: Outcome,
    rules: Vec<(&'static str, usize)>,
}

impl Verdict {
    /// Rules are asked only where they are needed.
    fn of(case: &Case) -> Verdict {
        let plain = Verdict { ours: ours(case), theirs: theirs(case, false), rules: Vec::new() };
        if plain.difference().is_none() {
            return plain;
        }
        plain.ruled(case)
    }

    fn ruled(mut self, case: &Case) -> Verdict {
        for rule in RULES {
            if self.difference().is_some() {
                let changed = (rule.apply)(case, &mut self.ours, &mut self.theirs);
                self.rules.extend((changed > 0).then_some((rule.name, changed)));
            }
        }
        self
    }

    /// How many of each step.
    fn drops(outcome: &Outcome) -> BTreeMap<u64, usize> {
        let mut steps = BTreeMap::new();
        outcome
            .drops
            .iter()
            .filter(|(_, reason)| !OURS_ALONE.contains(&&**reason))
            .for_each(|(step, _)| *steps.entry(*step).or_default() += 1);
        steps
    }

    /// What differs first.
    fn difference(&self) -> Option<String> {
        let (a, b) = (&self.ours, &self.theirs);
        let (stop_a, stop_b) = (a.stopped.as_ref().map(|s| s.0), b.stopped.as_ref().map(|s| s.0));
        if stop_a != stop_b {
            return Some(format!("stopped: {:?}, Kafka Streams {:?}", a.stopped, b.stopped));
        }
        if a.out != b.out {
            let at =
                a.out.iter().zip(&b.out).position(|(a, b)| a != b).unwrap_or(a.out.len().min(b.out.len()));
            let show = |out: &Outcome| out.out.get(at).map_or("nothing".into(), ToString::to_string);
            return Some(format!("output {at}: {}\n   Kafka Streams {}", show(a), show(b)));
        }
        let (drops_a, drops_b) = (Verdict::drops(a), Verdict::drops(b));
        (drops_a != drops_b).then(|| {
            let reasons: Vec<_> = a.drops.iter().map(|(step, reason)| format!("{step} {reason}")).collect();
            format!("drops: {}\n   Kafka Streams {drops_b:?} (step: how many)", reasons.join(", "))
        })
    }
}

/// Takes lines away for as long as it still differs.
fn shrink(mut case: Case) -> Case {
    let mut at = case.lines.len();
    while at > 0 {
        at -= 1;
        let mut less = case.clone();
        less.lines.remove(at);
        if Verdict::of(&less).difference().is_some() {
            case = less;
            at = at.min(case.lines.len());
        }
    }
    case
}

fn report(family: &str, seed: u64, number: u64, case: Case) -> String {
    let case = shrink(case);
    let verdict = Verdict::of(&case);
    let lines: Vec<String> = case.lines.iter().map(|l| l.json().to_string()).collect();
    let show = |outcome: &Outcome| outcome.out.iter().map(|o| format!("{o}\n")).collect::<String>();
    format!(
        "{family}: seed {seed}, case {number} differs (lines taken away while it did)\n\n{}\n{}\n\nslackwater (checkpoint \
         every {} lines)\n{}\nKafka Streams ({}), after the rules {:?}\n{}\n{}\n",
        case.yaml(),
        lines.join("\n"),
        case.every,
        show(&verdict.ours),
        case.store,
        verdict.rules,
        show(&verdict.theirs),
        verdict.difference().unwrap_or_default()
    )
}

/// Runs a family; a difference that no rule expects ends it.
fn check(family: &str) {
    let draw: Draw = FAMILIES.iter().find(|(name, _)| *name == family).expect("a family").1;
    let seed = self::number("DIFFERENTIAL_SEED").unwrap_or(SEED);
    let cases = match self::number("DIFFERENTIAL_CASE") {
        Some(one) => one..one + 1,
        None => 0..self::number("DIFFERENTIAL_CASES").unwrap_or(CASES),
    };
    let fresh = self::number("DIFFERENTIAL_FRESH_SEED")
        .map(|seed| (seed, 0..self::number("DIFFERENTIAL_FRESH").unwrap_or(FRESH)));
    let runs: Vec<(u64, Range<u64>)> = std::iter::once((seed, cases)).chain(fresh).collect();
    let seeds: Vec<String> = runs.iter().map(|(seed, _)| seed.to_string()).collect();
    let count: u64 = runs.iter().map(|(_, cases)| cases.end - cases.start).sum();
    let mut touched: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    let (mut records, mut drops) = (0, 0);
    for (seed, number) in runs.into_iter().flat_map(|(seed, cases)| cases.map(move |number| (seed, number))) {
        let case = draw(&mut case::rng(seed, family, number));
        let verdict = Verdict::of(&case);
        if verdict.difference().is_some() {
            panic!("{}", report(family, seed, number, case));
        }
        records += verdict.ours.out.len();
        drops += verdict.ours.drops.len();
        for (rule, changed) in verdict.rules {
            let so_far = touched.entry(rule).or_default();
            *so_far = (so_far.0 + 1, so_far.1 + changed);
        }
    }
    let by_rules: Vec<_> = touched
        .iter()
        .map(|(rule, (cases, changed))| format!("{rule}: {cases} cases, {changed} records"))
        .collect();
    println!(
        "{family}: seed {}, {count} cases, {records} records and {drops} drops the same; {}",
        seeds.join(" and "),
        if by_rules.is_empty() { "no rule needed".into() } else { by_rules.join("; ") }
    );
    // A share of few cases says little.
    if count < CASES {
        return;
    }
    for Rule { name, source, at_most: most, .. } in RULES {
        let (cases, changed) = touched.get(name).copied().unwrap_or_default();
        let shares = (cases as f64 / count as f64, changed as f64 / (records + drops).max(1) as f64);
        assert!(
            shares.0 <= most.0 && shares.1 <= most.1,
            "{family}: `{name}` ({source}) touches {:.1} % of the cases and {:.1} % of the records, more than {:.0} and {:.0} %",
            shares.0 * 100.0,
            shares.1 * 100.0,
            most.0 * 100.0,
            most.1 * 100.0
        );
    }
}

macro_rules! families {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name));
        })*

        #[test]
        fn every_family_has_a_test() {
            let names: Vec<_> = FAMILIES.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

families! {
    aggregate tumbling hopping sliding session suppress stream_stream stream_table versioned_table table_table foreign_key
    global_table stateless repartition table_aggregate chains sources
}
