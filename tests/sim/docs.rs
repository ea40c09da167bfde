//! What the README and the other pages say is true: examples, options, variables, defaults, ports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use assert_cmd::Command;
use slackwater::operators::{DebounceConfig, NodeConfig};
use slackwater::sinks::SinkConfig;
use slackwater::sources::SourceConfig;
use slackwater::topology::NodeKind;
use slackwater::yaml::{Loaded, Mode, load};

const README: &str = include_str!("../../README.md");

fn slackwater(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_slackwater"))
        .args(args)
        .env("ACCOUNTS_API", "http://localhost")
        .env("SPANNER_DATABASE", "projects/p/instances/i/databases/d")
        .output()
        .expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("is text");
    (output.status.code().expect("no signal"), text(output.stdout) + &text(output.stderr))
}

/// Every YAML block of the README and the docs that is a whole topology (it has a `name`) is good, and its tests pass.
#[test]
fn examples_are_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = |dir: &str| {
        std::fs::read_dir(root.join(dir)).expect("is there").flatten().map(|e| e.path()).collect::<Vec<_>>()
    };
    let docs = [files("docs"), files("docs/reference")].concat().into_iter();
    let pages = docs.filter(|p| p.extension().is_some_and(|e| e == "md")).chain([root.join("README.md")]);
    let dir = tempfile::tempdir().expect("a folder");
    let mut count = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).expect("is text");
        for (block, _) in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split_once("```")) {
            if !block.lines().any(|line| line.starts_with("name:")) {
                continue;
            }
            count += 1;
            let path = dir.path().join(format!("{count}.yaml"));
            std::fs::write(&path, block).expect("is written");
            let path = path.display().to_string();
            let commands: &[&str] = if block.contains("\ntests:") { &["check", "test"] } else { &["check"] };
            for command in commands {
                let (code, said) = slackwater(&[command, &path]);
                assert_eq!(code, 0, "{}:\n{block}\n{said}", page.display());
            }
        }
    }
    assert!(count >= 2, "the README has examples");
}

/// Pages and comments name what they mean: a reader need not guess who "somebody" is, nor search for "the module".
#[test]
fn pages_and_comments_name_what_they_mean() {
    fn walk(path: &Path, found: &mut Vec<String>) {
        if path.is_dir() {
            let inside = std::fs::read_dir(path).expect("a folder").flatten();
            return inside.for_each(|entry| walk(&entry.path(), found));
        }
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if !matches!(kind, "md" | "rs") {
            return;
        }
        let text = std::fs::read_to_string(path).expect("is text");
        let lines = text.lines().enumerate();
        for (n, line) in lines.filter(|(_, line)| kind == "md" || line.trim_start().starts_with("//")) {
            let line = line.to_lowercase();
            let riddles = ["see the module", "nobody", "somebody", "whoever"];
            found.extend(
                riddles
                    .iter()
                    .filter(|r| line.contains(*r))
                    .map(|r| format!("{}:{}: {r}", path.display(), n + 1)),
            );
        }
    }
    let mut found = Vec::new();
    for place in ["src", "docs", "README.md", "benches/README.md"] {
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(place), &mut found);
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// What the Kafka Streams DSL calls its things; the guide says of each what it is here, or why there is none.
#[test]
fn the_guide_names_every_method() {
    let guide = include_str!("../../docs/coming-from-kafka-streams.md");
    let names = "stream table globalTable addGlobalStore addStateStore addReadOnlyStateStore KStream KTable GlobalKTable \
        KGroupedStream KGroupedTable CogroupedKStream TimeWindowedKStream SessionWindowedKStream filter filterNot map mapValues \
        flatMap flatMapValues selectKey split branch defaultBranch noDefaultBranch Branched withFunction withConsumer merge \
        peek print foreach repartition numberOfPartitions withStreamPartitioner process processValues transformValues toTable \
        toStream to TopicNameExtractor groupBy groupByKey count reduce aggregate cogroup windowedBy TimeWindows advanceBy \
        ofSizeAndGrace ofSizeWithNoGrace SlidingWindows ofTimeDifferenceAndGrace SessionWindows ofInactivityGapAndGrace \
        ofInactivityGapWithNoGrace UnlimitedWindows EmitStrategy onWindowUpdate onWindowClose suppress untilWindowCloses \
        untilTimeLimit BufferConfig maxRecords maxBytes unbounded withNoBound emitEarlyWhenFull shutDownWhenFull Materialized \
        queryableStoreName withRetention withLoggingDisabled withCachingDisabled withStoreType join leftJoin outerJoin \
        JoinWindows ofTimeDifferenceWithNoGrace ValueJoiner Joined StreamJoined TableJoined withGracePeriod Grouped Named \
        Consumed Produced Repartitioned withTimestampExtractor withOffsetResetPolicy addSource addProcessor addSink schedule \
        PunctuationType forward commit";
    let words: BTreeSet<&str> = guide.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let missing: Vec<&str> = names.split_whitespace().filter(|name| !words.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The account-sync of the README is the one that is shipped, but for comments and tests.
#[test]
fn the_example_is_the_shipped_topology() {
    let plain = |text: &str| -> Vec<String> {
        let text = text.split("\ntests:").next().unwrap_or_default();
        let lines = text.lines().map(|l| l.split(" #").next().unwrap_or_default().trim_end().to_owned());
        lines.filter(|l| !l.is_empty() && !l.starts_with('#')).collect()
    };
    let block = README.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(plain(block.expect("a block")), plain(include_str!("../../topology/account-sync.yaml")));
}

/// `--option`, its variable and its default, as `--help` has them.
fn options(help: &str) -> BTreeMap<String, (Option<String>, Option<String>)> {
    let mut out = BTreeMap::new();
    let mut option = String::new();
    let between = |line: &str, from: &str| {
        let rest = line.split_once(from)?.1;
        Some(rest.split([']', '=']).next().unwrap_or_default().to_owned())
    };
    for line in help.lines() {
        if let Some(at) = line.find("--").filter(|_| line.trim_start().starts_with('-')) {
            let name = line[at..].split([' ', '=']).next().unwrap_or_default();
            option = name.to_owned();
            out.entry(option.clone()).or_insert((None, None));
        }
        if let Some((variable, default)) = out.get_mut(&option) {
            *variable = between(line, "[env: ").or(variable.take());
            *default = between(line, "[default: ").or(default.take());
        }
    }
    out
}

/// Every command and option of the program stands in the README's tables, with its variable and its default.
#[test]
fn every_command_and_option_is_in_the_readme() {
    let (_, help) = slackwater(&["--help"]);
    let commands = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    let commands: Vec<&str> = commands
        .expect("a list")
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"run"), "{help}");
    let mut missing = Vec::new();
    for command in commands {
        if !README.contains(&format!("\n| `slackwater {command}")) {
            missing.push(format!("`slackwater {command}`"));
        }
        let (_, help) = slackwater(&[command, "--help"]);
        for (option, (variable, default)) in options(&help) {
            if option == "--help" {
                continue;
            }
            let row = README.lines().find(|line| {
                let names = |prefix: &str| line.starts_with(prefix) && line.contains(&option);
                names(&format!("| `{command} --")) || names("| `--log-format")
            });
            match row {
                None => missing.push(format!("`{command} {option}`")),
                Some(row) => missing.extend(
                    [variable, default.filter(|_| row.matches("--").count() == 1)]
                        .into_iter()
                        .flatten()
                        .filter(|text| !row.contains(&format!("`{text}`")))
                        .map(|text| format!("`{text}` of `{command} {option}`")),
                ),
            }
        }
    }
    assert!(missing.is_empty(), "not in the README: {}", missing.join(", "));
}

/// Environment variables named in the pages, the image and the compose file are read by the program.
#[test]
fn variables_are_those_that_are_read() {
    let help = slackwater(&["run", "--help"]).1;
    let scripts = include_str!("../../test").to_owned() + include_str!("../../scripts/kafka.sh");
    let read = slackwater(&["--help"]).1 + &help + &scripts;
    let image = include_str!("../../Dockerfile");
    let compose = include_str!("../../docs/compose.yaml");
    for page in [README, image, compose] {
        let words = page.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
        for word in words.filter(|w| w.starts_with("SLACKWATER_")) {
            assert!(read.contains(word), "nobody reads {word}");
        }
    }
    let topology = include_str!("../../topology/account-sync.yaml");
    let named = topology.split("${").skip(1).filter_map(|rest| rest.split(['}', ':']).next());
    for name in named.collect::<BTreeSet<_>>() {
        assert!(compose.contains(&format!("      {name}: ")), "compose.yaml does not set {name}");
    }
    let port = help.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(']').next()).expect("a port");
    assert!(
        image.contains(&format!("SLACKWATER_ADMIN=0.0.0.0:{port}"))
            && image.contains(&format!("EXPOSE {port}"))
    );
    assert!(compose.contains(&format!(":{port}\"]")), "compose.yaml publishes {port}");
    assert!(include_str!("../../docs/prometheus.yml").contains(&format!("port: {port}")));
}

/// A topology in which everything that has a default is left out.
const BARE: &str = r#"
name: t
kafka: { brokers: localhost:9092 }
rate_limits: { r: { limit: 1/s } }
sources:
  in: { kafka: { topic: in } }
  made: { generate: {} }
operators:
  settled: { from: in, debounce: { quiet: 1s } }
  account: { from: settled, enrich: { http: { get: "http://localhost" }, into: .x } }
sinks:
  rows: { from: account, spanner: { database: d, table: T, columns: { Id: key } } }
  none: { from: made, blackhole: {} }
"#;

fn bare() -> Loaded {
    load("t.yaml", BARE, Mode::Required, &|_| None).expect("is good")
}

/// The name of an enum's variant as YAML writes it.
fn word(value: &impl std::fmt::Debug) -> String {
    let name = format!("{value:?}");
    let mut out = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

#[test]
fn the_defaults_in_the_readme_are_the_defaults() {
    let topology = bare().topology;
    let settings = &topology.settings;
    let kafka = settings.kafka.as_ref().expect("is there");
    let mut rows: Vec<(&str, Vec<String>)> = vec![
        ("kafka.session_timeout", vec![kafka.session_timeout.to_string()]),
        ("kafka.transaction_timeout", vec![kafka.transaction_timeout.to_string()]),
        ("rate_limits.NAME.scope", vec![word(&settings.rate_limits["r"].scope)]),
        ("state.checkpoint", vec![settings.state.checkpoint.to_string()]),
        ("state.cache", vec![settings.state.cache.to_string()]),
        ("state.changelog", vec![word(&settings.state.changelog)]),
        ("guarantee", vec![word(&settings.guarantee)]),
        ("time.clock", vec![word(&settings.time.clock)]),
        ("time.max_skew", vec![settings.time.max_skew.to_string()]),
        ("time.idle", vec![settings.time.idle.to_string()]),
        ("errors.on_failure", vec![word(&settings.errors.policy())]),
        ("debounce.max_items", vec![DebounceConfig::MAX_ITEMS.to_string()]),
    ];
    for node in &topology.nodes {
        match &node.kind {
            NodeKind::Source(SourceConfig::Kafka(c)) => {
                rows.push(("kafka source `format", vec![word(&c.format)]))
            }
            NodeKind::Source(SourceConfig::Generate(c)) => {
                rows.push(("generate `rate", vec![c.rate.to_string(), c.keys.to_string()]));
            }
            NodeKind::Operator(config) => match &**config {
                NodeConfig::Debounce(c) => rows.extend([
                    ("debounce.keep", vec![word(&c.keep)]),
                    ("debounce.trailing", vec![c.trailing.to_string()]),
                ]),
                NodeConfig::Enrich(c) => rows.extend([
                    ("enrich.http.timeout", vec![c.http.timeout.to_string()]),
                    ("enrich.http.connections", vec![c.http.connections.to_string()]),
                    ("enrich.http.max_body", vec![c.http.max_body.to_string()]),
                    ("enrich.retry.base", vec![c.retry.base.to_string(), c.retry.max.to_string()]),
                    ("enrich.retry.retry_after_max", vec![c.retry.retry_after_max.to_string()]),
                    ("enrich.calls_in_flight_max", vec![c.calls_in_flight_max.to_string()]),
                    ("enrich.calls_pending_max", vec![c.calls_pending_max.to_string()]),
                ]),
                other => panic!("{other:?}"),
            },
            NodeKind::Sink(config) => {
                if let SinkConfig::Spanner(c) = &**config {
                    let batch = &c.batch;
                    let bounds = vec![
                        batch.max_rows.to_string(),
                        batch.max_bytes.to_string(),
                        batch.linger.to_string(),
                    ];
                    rows.extend([
                        ("spanner.operation", vec![word(&c.operation)]),
                        ("spanner.max_in_flight", vec![c.max_in_flight.to_string()]),
                        ("spanner.max_cells", vec![c.max_cells.to_string()]),
                        ("batch.max_rows", bounds),
                    ]);
                }
            }
            NodeKind::Source(_) => {}
        }
    }
    for (setting, defaults) in rows {
        let starts = [format!("| `{setting}`"), format!("| {setting}`")];
        let row = README.lines().find(|line| starts.iter().any(|s| line.starts_with(s)));
        let cell = row.and_then(|line| line.split(" | ").nth(1)).unwrap_or_default();
        let want: Vec<String> = defaults.iter().map(|d| format!("`{d}`")).collect();
        assert_eq!(cell, want.join(", "), "the README's default of {setting}");
    }
}
