//! Keeps the floors of the house: a module uses lower floors only, one foreign crate has one home, and a kind of operators,
//! sinks or sources is named in its room alone.

use std::path::{Path, PathBuf};

const FLOORS: &[(&str, u8)] = &[
    ("model", 0),
    ("clients", 1),
    ("expressions", 1),
    ("formats", 1),
    ("state", 1),
    ("kafka", 1),
    ("endpoints", 2),
    ("operators", 2),
    ("sinks", 2),
    ("sources", 2),
    ("topology", 3),
    ("yaml", 4),
    ("runtime", 4),
    ("gateway", 5),
    ("testing", 6),
    ("dev", 7),
    ("cli", 8),
];

/// Neighbours that may be used all the same: by whom, what, why.
const NEIGHBOURS: &[(&str, &str, &str)] = &[
    ("formats", "clients::http", "the schema registry speaks HTTP, and is asked as every server is"),
    ("kafka", "state::Row", "a changelog's records are state's rows; a plain pair of bytes"),
];

/// Foreign crates and where they may be named; a place that ends with `/` is a folder.
const HOMES: &[(&str, &[&str])] = &[
    // calls/tests.rs: an API to be called
    ("apache_avro", &["formats/avro/"]),
    ("axum", &["gateway/", "dev/", "runtime/calls/tests.rs"]),
    ("bincode", &["state/codec.rs"]),
    ("clap", &["cli/"]),
    ("deadpool_postgres", &["clients/postgres.rs"]),
    ("gcloud_gax", &["sinks/spanner/"]),
    ("gcloud_googleapis", &["sinks/spanner/"]),
    ("gcloud_spanner", &["sinks/spanner/"]),
    ("governor", &["runtime/calls/pacer.rs"]),
    ("httpdate", &["clients/http.rs"]),
    ("indicatif", &["dev/view.rs"]),
    ("lettre", &["clients/smtp.rs"]),
    ("hyper_util", &["gateway/server.rs"]),
    ("matchit", &["endpoints/route.rs"]),
    ("miette", &["yaml/problem.rs"]),
    // route.rs: a path of a request, decoded once
    ("percent_encoding", &["clients/http.rs", "endpoints/route.rs"]),
    ("pollster", &["kafka/admin.rs"]),
    ("prometheus", &["runtime/metrics.rs", "runtime/metrics/"]),
    ("prost_types", &["sinks/spanner/"]),
    ("prost_reflect", &["formats/protobuf.rs"]),
    ("protox_parse", &["formats/protobuf.rs"]),
    ("rdkafka", &["kafka/"]),
    ("redis", &["clients/redis.rs"]),
    ("rustix", &["cli/run.rs"]),
    // registry.rs: the schema registry
    ("reqwest", &["clients/http.rs", "formats/registry.rs"]),
    ("rocksdb", &["state/rocks.rs"]),
    // cli/mod.rs: the provider that all share
    ("rustls", &["clients/tls.rs", "cli/mod.rs", "gateway/tls.rs"]),
    ("rustls_native_certs", &["clients/tls.rs"]),
    ("serde_saphyr", &["yaml/tree.rs"]),
    // lane.rs, smtp.rs: names of what is sent, the same when it is sent again; etag.rs: a tag of an answer
    ("sha2", &["cli/dlq/", "expressions/text.rs", "gateway/", "sinks/http/", "sinks/smtp.rs"]),
    ("slug", &["expressions/text.rs"]),
    ("strsim", &["model/words.rs"]),
    ("subtle", &["gateway/auth.rs"]),
    ("tokio_postgres", &["clients/postgres.rs"]),
    ("tokio_rustls", &["gateway/tls.rs", "gateway/server.rs"]),
    ("tokio_postgres_rustls", &["clients/postgres.rs"]),
    // body.rs: forms
    ("tower_http", &["gateway/server.rs"]),
    ("url", &["clients/http.rs", "clients/redis.rs", "clients/smtp.rs", "gateway/body.rs"]),
    ("uuid", &["gateway/identity.rs"]),
    ("vrl", &["expressions/"]),
];

/// Rows of state are derived beside the operator that keeps them; how they are written is the codec's.
const DERIVES: &str = "use bincode::{Decode, Encode};";

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// What is wrong with one file (its path below `src/`).
fn check(path: &str, text: &str) -> Vec<String> {
    let module = path.split(['/', '.']).next().unwrap_or_default();
    if matches!(path, "lib.rs" | "main.rs") {
        return homes(path, text);
    }
    let Some(own) = floor(module) else { return vec![format!("src/{path}: no floor for `{module}`")] };
    let code: String =
        text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| l.to_owned() + "\n").collect();
    let mut wrong = homes(path, text);
    for used in used_paths(&code) {
        let other = used.split("::").next().unwrap_or_default();
        let allowed = NEIGHBOURS
            .iter()
            .any(|(by, what, _)| *by == module && (used == *what || used.starts_with(&format!("{what}::"))));
        match floor(other) {
            _ if other == module || allowed => {}
            Some(floor) if floor < own => {}
            Some(floor) => wrong.push(format!("src/{path} (floor {own}) uses {used} (floor {floor})")),
            None => wrong.push(format!("src/{path}: no floor for `crate::{used}`")),
        }
    }
    // The check above does not see a `super` that leads out of the module.
    let depth = path.split('/').count() - usize::from(path.ends_with("/mod.rs"));
    for line in code.lines().filter(|l| l.starts_with("use super::") || l.starts_with("pub use super::")) {
        if line.matches("super::").count() >= depth {
            wrong.push(format!("src/{path}: write `crate::` instead of `{line}`"));
        }
    }
    wrong
}

/// `a::b` for every `crate::a::b` and every element of `crate::{a::b, c}`.
fn used_paths(code: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            out.push(path_of(rest));
            continue;
        };
        let (mut depth, mut first) = (0, true);
        for (at, c) in group.char_indices() {
            if depth == 0 && (first || c == ',') {
                let element = group[at..].trim_start_matches([',', ' ', '\n']);
                out.extend(Some(path_of(element)).filter(|p| !p.is_empty()));
            }
            first = false;
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    out
}

fn path_of(text: &str) -> String {
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(text.len());
    text[..end].trim_end_matches(':').to_owned()
}

/// Foreign crates named outside their home.
fn homes(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.starts_with("//") && *l != DERIVES) {
        for (name, homes) in HOMES.iter().filter(|(name, _)| names_crate(line, name)) {
            let home = |h: &&str| if h.ends_with(".rs") { path == *h } else { path.starts_with(*h) };
            if !homes.iter().any(home) {
                wrong.push(format!("src/{path} uses `{name}`, whose home is {}: {line}", homes.join(", ")));
            }
        }
    }
    wrong
}

/// `name::`, `::name::` or `use name`, but not `other::name::` nor text.
fn names_crate(line: &str, name: &str) -> bool {
    let import = line.trim_start_matches("pub ").starts_with("use ");
    line.match_indices(name).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let before = before.strip_suffix("::").unwrap_or(before).chars().last();
        let begins = before.is_none_or(|c| !c.is_alphanumeric() && !"_:.\"`-".contains(c));
        begins && (after.starts_with("::") || import && after.starts_with([';', ' ']))
    })
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a folder of the source").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn every_module_uses_lower_floors_and_every_crate_has_its_home() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    paths.sort();
    assert!(paths.len() > 80, "the source was found");
    let wrong: Vec<String> = paths
        .iter()
        .flat_map(|path| {
            let name = path.strip_prefix(&src).expect("is below src").display().to_string();
            check(&name, &std::fs::read_to_string(path).expect("is text"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The lists of kinds, and the rooms in which a kind may be named.
const KINDS: &[(&str, &str)] =
    &[("NodeConfig", "operators/"), ("SinkConfig", "sinks/"), ("SourceConfig", "sources/")];

/// Kinds that are named far from home: everywhere but in their room and in tests a kind is asked through the trait that its
/// settings implement, so that a new one is one file and one line.
fn kinds(path: &str, text: &str) -> Vec<String> {
    let file = path.rsplit('/').next().unwrap_or_default();
    if file.ends_with("tests.rs") || file.starts_with("toy_") {
        return Vec::new();
    }
    let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().map(str::trim).filter(|l| !l.starts_with("//"));
    let named = |line: &&str| {
        KINDS.iter().any(|(list, room)| {
            !path.starts_with(room)
                && line.match_indices(list).any(|(at, _)| {
                    // A kind is `CamelCase`; `KINDS` and functions are not.
                    let word = path_of(line[at + list.len()..].strip_prefix("::").unwrap_or_default());
                    let ours = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                    ours && word.starts_with(char::is_uppercase) && word.contains(char::is_lowercase)
                })
        })
    };
    lines.filter(named).map(|line| format!("src/{path} names a kind far from home: {line}")).collect()
}

#[test]
fn no_kind_is_named_far_from_home() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    paths.sort();
    let named = |path: &PathBuf| {
        let name = path.strip_prefix(&src).expect("is below src").display().to_string();
        kinds(&name, &std::fs::read_to_string(path).expect("is text"))
    };
    let named: Vec<String> = paths.iter().flat_map(named).collect();
    assert!(named.is_empty(), "\n{}", named.join("\n"));
    for (path, line, count) in [
        ("topology/joins.rs", "let NodeConfig::Join(join) = &**config else { continue };", 1),
        ("operators/dedupe.rs", "(NodeConfig::ById(ByIdConfig(by)), \"id\")", 0),
        ("operators/dedupe.rs", "SinkConfig::Kafka(_) => None,", 1),
        ("runtime/task/sink.rs", "match config { SinkConfig::Kafka(k) => 1, _ => 2 }", 1),
        ("yaml/file.rs", "NodeConfig::KINDS.iter().chain(SinkConfig::KINDS)", 0),
        ("topology/foreign.rs", "SinkConfig::repartition(topic)", 0),
        ("dev/adapt.rs", "use crate::sources::SourceConfig::Stdin;", 1),
        ("sinks/kafka.rs", "KafkaSinkConfig::Plain", 0),
        ("topology/mod.rs", "KafkaSinkConfig::Plain", 0),
        ("topology/mod.rs", "// SinkConfig::Kafka", 0),
        ("dev/adapt.rs", "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    SinkConfig::Kafka(k)", 0),
        ("yaml/types_tests.rs", "SinkConfig::Kafka(k)", 0),
    ] {
        let found = kinds(path, line);
        assert_eq!(found.len(), count, "{path}: {line}: {found:?}");
    }
}

#[test]
fn the_checker_finds_what_is_wrong() {
    for (path, line, count) in [
        ("state/store.rs", "use crate::model::Record;", 0),
        ("state/store.rs", "use crate::kafka::Writer;", 1),
        ("kafka/restore.rs", "use crate::state::Row;", 0),
        ("kafka/restore.rs", "use crate::state::Store;", 1),
        ("formats/registry.rs", "use crate::clients::http::client;", 0),
        ("formats/registry.rs", "use crate::clients::Caller;", 1),
        ("operators/map.rs", "use crate::sinks::Sink;", 1),
        ("sinks/file.rs", "use crate::model::{Payload, SinkRow};", 0),
        ("sinks/file.rs", "use crate::operators::Cx;", 1),
        ("sources/file.rs", "use crate::sinks::Sink;", 1),
        ("model/time.rs", "fn f(x: crate::runtime::Task) {}", 1),
        ("topology/mod.rs", "use crate::{model::{A, B}, runtime::Task, yaml::load};", 2),
        ("yaml/file.rs", "use crate::{\n    model::Json,\n    runtime::Task,\n};", 1),
        ("runtime/task/mod.rs", "use crate::yaml::load;", 1),
        ("gateway/mod.rs", "use crate::testing::simulate;", 1),
        ("cli/run.rs", "use crate::testing::simulate;", 0),
        ("cli/run.rs", "use crate::helpers::x;", 1),
        ("helpers/x.rs", "", 1),
        ("sinks/file.rs", "use super::super::topology::Topology;", 1),
        ("sinks/spanner/admin.rs", "use super::super::SinkError;", 0),
        ("runtime/engine/mod.rs", "// crate::yaml and rdkafka::x stand in a comment", 0),
        ("runtime/engine/mod.rs", "use rdkafka::ClientConfig;", 1),
        ("runtime/engine/mod.rs", "let x = ::rdkafka::f();", 1),
        ("runtime/engine/mod.rs", "let x = \"rdkafka::f\";", 0),
        ("runtime/engine/mod.rs", "use reqwest;", 1),
        ("clients/http.rs", "use reqwest::Client;", 0),
        ("sinks/mod.rs", "pub use gcloud_spanner as s;", 1),
        ("expressions/functions.rs", "use ::vrl::compiler::Function;", 0),
        ("yaml/tree.rs", "use ::vrl::value::Value;", 1),
        ("operators/enrich/row.rs", "use bincode::{Decode, Encode};", 0),
        ("operators/enrich/row.rs", "bincode::encode_to_vec(x)", 1),
        ("cli/run.rs", "use slackwater::cli;", 0),
    ] {
        let wrong = check(path, line);
        assert_eq!(wrong.len(), count, "{path}: {line}: {wrong:?}");
    }
}
