//! `check`: reports everything wrong with a file at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::connect::state_dir_of;
use super::together::circle_reports;
use super::{BAD_FILE, Exit, Format, UNAVAILABLE, read_text};
use crate::clients::{Class, Clients, Connections, Failure, Uses};
use crate::formats::{Formats, WriterError};
use crate::kafka::{Admin, AdminError};
use crate::model::Problem;
use crate::runtime::layout::{Places, examine};
use crate::sinks::{SinkError, Surroundings};
use crate::state::StateDir;
use crate::topology::{NodeKind, Uneven, WrittenTopic};
use crate::yaml::{Loaded, Mode, Registry, Report, load_with};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Topology files.
    #[arg(required = true)]
    topologies: Vec<PathBuf>,
    /// How problems are printed: as text on standard error, or as a JSON list on standard output.
    #[arg(long, default_value = "text")]
    format: Format,
    /// Try the brokers, databases and APIs too, and compare the topology with the state of an earlier run.
    #[arg(long)]
    connect: bool,
    /// Where state lives; it is looked into with --connect unless an instance runs on it. Default: ./state/NAME.
    #[arg(long, env = "SLACKWATER_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// How long one server may take to answer, and one sink to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) fn check(registry: &Registry, args: &CheckArgs) -> Result<(), Exit> {
    let mut all = Vec::new();
    let mut code = None;
    let mut files = Vec::new();
    for path in &args.topologies {
        let variable = |name: &str| std::env::var(name).ok();
        let loaded = read_text(path)?.and_then(|text| {
            load_with(registry, &path.display().to_string(), &text, Mode::Required, &variable)
        });
        let warnings = loaded.as_ref().ok().map(Loaded::warnings).filter(|report| !report.is_empty());
        let (report, bad) = match loaded {
            Err(report) => (Some(*report), BAD_FILE),
            Ok(loaded) if args.connect => {
                loaded.secrets.protect();
                let dir = state_dir_of(args.state_dir.as_deref(), &loaded.topology, args.topologies.len());
                let found = connect(&loaded, &dir)?;
                files.push(loaded);
                found
            }
            Ok(loaded) => {
                files.push(loaded);
                (None, BAD_FILE)
            }
        };
        for report in warnings.iter().chain(&report) {
            if args.format == Format::Text {
                eprintln!("{}", report.render(super::colours()).trim_end());
            }
            all.extend(report.to_json().as_array().cloned().unwrap_or_default());
        }
        match report {
            Some(_) => code = code.max(Some(bad)),
            None if args.format == Format::Text => println!("{}: ok", path.display()),
            None => {}
        }
    }
    for report in circle_reports(&files) {
        if args.format == Format::Text {
            eprintln!("{}", report.render(super::colours()).trim_end());
        }
        all.extend(report.to_json().as_array().cloned().unwrap_or_default());
        code = code.max(Some(BAD_FILE));
    }
    if args.format == Format::Json {
        super::print(&format!("{}\n", serde_json::Value::Array(all)));
    }
    code.map_or(Ok(()), |code| Err(Exit::quiet(code)))
}

/// Tries each server once.
fn connect(loaded: &Loaded, dir: &Path) -> Result<(Option<Report>, u8), Exit> {
    let topology = &loaded.topology;
    let places = loaded.places();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|e| Exit::failed(e.to_string()))?;
    let mut problems: Vec<(Report, u8)> = Vec::new();
    // An instance that runs on it has looked into it itself.
    let lock = StateDir::lock_existing(dir).ok().flatten();
    let dir = lock.as_ref().map(|_| dir);
    let mut compare = |places: &Places<'_>| match examine(places) {
        Ok(Ok(_)) => {}
        Ok(Err(found)) => problems.push((unfit_report(loaded, found), BAD_FILE)),
        Err(e) => {
            let report = loaded.places().report("connect::state", None, "name", &e, None);
            problems.push((report, UNAVAILABLE));
        }
    };
    if topology.external_topics().is_empty() {
        compare(&Places { topology, kafka: None, counts: &BTreeMap::new(), dir });
    }
    if let Some(kafka) = &topology.settings.kafka {
        let topics = topology.external_topics();
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let written = if kafka.makes_topics() { Vec::new() } else { topology.written_topics() };
        let looked = Admin::open(kafka, Duration::from_secs(5))
            .and_then(|admin| Ok((admin.topics(&names)?, unwritable(&admin, written)?, admin)));
        match looked {
            Ok((found, missing, admin)) => {
                let counts = found.iter().filter_map(|(topic, count)| Some((topic.clone(), (*count)?)));
                match topology.partition_counts(&counts.collect()) {
                    Ok(counts) if !names.is_empty() => {
                        compare(&Places { topology, kafka: Some((&admin, kafka)), counts: &counts, dir });
                    }
                    Ok(_) => {}
                    Err(uneven) => problems.push((uneven_report(loaded, &uneven), BAD_FILE)),
                }
                if !missing.is_empty() {
                    problems.push((missing_report(loaded, &missing), BAD_FILE));
                }
                for (topic, count) in found {
                    if count.is_none() {
                        let node = topology.nodes.iter().find(
                            |n| matches!(&n.kind, NodeKind::Source(s) if s.topics().contains(&topic.as_str())),
                        );
                        let node = node.map(|n| n.name.as_str());
                        problems.push((missing_topic(loaded, node, "kafka.topic", &topic), BAD_FILE));
                    }
                }
            }
            Err(e) => {
                let report = places.report("connect::kafka", None, "kafka.brokers", &e.to_string(), None);
                problems.push((report, UNAVAILABLE));
            }
        }
    }
    for wrong in runtime.block_on(Formats::live(&topology.named_schemas).check()).err().unwrap_or_default() {
        problems.push(match wrong {
            WriterError::Away(message) => {
                let report = places.report("connect::registry", None, "schema_registry.url", &message, None);
                (report, UNAVAILABLE)
            }
            WriterError::Config { node, field, message } => {
                (places.report("connect::schema", Some(&node), &field, &message, None), BAD_FILE)
            }
        });
    }
    let clients = Clients::new(&topology.settings.connections);
    let away = runtime.block_on(ping(&topology.settings.connections, &clients));
    for (place, failure) in &away {
        let report = places.report("connect::server", None, &format!("{place}.url"), &failure.message, None);
        problems.push((report, if failure.class == Class::Config { BAD_FILE } else { UNAVAILABLE }));
    }
    for node in &topology.nodes {
        match &node.kind {
            // Topics have been checked above.
            NodeKind::Sink(sink) if sink.topic().is_none() => {
                // Its server has been reported.
                let server = sink.connection().and_then(|uses| topology.settings.connections.place(uses));
                if server.is_some_and(|server| away.iter().any(|(place, _)| *place == server)) {
                    continue;
                }
                let env = |name: &str| std::env::var(name).ok();
                let attempt = async {
                    let around = Surroundings {
                        topology: &topology.name,
                        node: &node.name,
                        env: &env,
                        kafka: None,
                        clients: &clients,
                        limit: &|_| None,
                    };
                    let asked = async { sink.connect(around).await?.reach().await };
                    tokio::time::timeout(CONNECT_TIMEOUT, asked).await
                };
                let (message, field, code) = match runtime.block_on(attempt) {
                    Ok(Ok(())) => continue,
                    Ok(Err(SinkError::Config { message, column })) => {
                        (message, sink.field_of(column.as_deref()), BAD_FILE)
                    }
                    Ok(Err(e)) => (e.to_string(), sink.field_of(None), UNAVAILABLE),
                    Err(_) => ("no answer in 15 s".into(), sink.field_of(None), UNAVAILABLE),
                };
                problems
                    .push((places.report("connect::sink", Some(&node.name), &field, &message, None), code));
            }
            NodeKind::Operator(config) => {
                let Some(host) = config.calls().and_then(|calls| calls.http.host()) else { continue };
                if let Err(e) = runtime.block_on(reach(&host)) {
                    let message = format!("cannot reach {host}: {e}");
                    let field = format!("{}.http", config.kind_name());
                    let report = places.report("connect::api", Some(&node.name), &field, &message, None);
                    problems.push((report, UNAVAILABLE));
                }
            }
            NodeKind::Sink(_) | NodeKind::Source(_) => {}
        }
    }
    let code = problems.iter().map(|(_, code)| *code).max().unwrap_or(BAD_FILE);
    let list: Vec<_> = problems.iter().flat_map(|(report, _)| report.problems().to_vec()).collect();
    let report = (!list.is_empty()).then(|| places.reports(list).redacted(&loaded.secrets));
    Ok((report, code))
}

/// What an earlier run kept and the topology do not fit.
pub(super) fn unfit_report(loaded: &Loaded, found: Vec<Problem>) -> Report {
    let places = loaded.places();
    let placed = found.into_iter().map(|problem| {
        let span = places.of(problem.node.as_deref(), &problem.field);
        problem.at(span, "here")
    });
    places.reports(placed.collect())
}

/// Asks every server that the topology names, whether something uses it or not. Those that do not answer, each with its
/// place in the file.
async fn ping(connections: &Connections, clients: &Clients) -> Vec<(String, Failure)> {
    let mut away = Vec::new();
    for connection in connections.all() {
        let asked = clients.ping(Uses { server: connection.server, name: connection.name });
        let answer = tokio::time::timeout(CONNECT_TIMEOUT, Box::pin(asked)).await;
        let answer = answer.unwrap_or_else(|_| {
            let message =
                format!("{}: no answer in {} s", connection.server.title(), CONNECT_TIMEOUT.as_secs());
            Err(Failure::new(Class::Transient, message))
        });
        away.extend(answer.err().map(|failure| (connection.place(), failure)));
    }
    away
}

/// Reports topics that are read together and have different numbers of partitions, at the join that needs them to be
/// equal.
pub(super) fn uneven_report(loaded: &Loaded, uneven: &Uneven) -> Report {
    loaded.places().report(
        "connect::partitions",
        Some(&uneven.node),
        &uneven.field,
        &uneven.message,
        Some(&uneven.help),
    )
}

/// Topics of sinks and endpoints that do not exist, unless the first write would make them.
fn unwritable(admin: &Admin, written: Vec<WrittenTopic>) -> Result<Vec<WrittenTopic>, AdminError> {
    let names: Vec<&str> = written.iter().map(|t| t.topic.as_str()).collect();
    let found = admin.topics(&names)?;
    let missing = written.into_iter().zip(found).filter(|(_, (_, count))| count.is_none());
    Ok(missing.map(|(topic, _)| topic).collect())
}

/// Reports topics of sinks and endpoints that do not exist, each where it is named.
pub(super) fn missing_report(loaded: &Loaded, missing: &[WrittenTopic]) -> Report {
    let reports = missing.iter().map(|t| missing_topic(loaded, t.node.as_deref(), &t.field, &t.topic));
    loaded.places().reports(reports.flat_map(|report| report.problems().to_vec()).collect())
}

fn missing_topic(loaded: &Loaded, node: Option<&str>, field: &str, topic: &str) -> Report {
    let message = format!("the topic `{topic}` does not exist");
    let help = "create it, or correct its name";
    loaded.places().report("connect::topic", node, field, &message, Some(help))
}

/// Opens a TCP connection and sends nothing: a request might change something.
async fn reach(host: &str) -> Result<(), String> {
    match tokio::time::timeout(Duration::from_secs(5), tokio::net::TcpStream::connect(host)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("no answer in 5 s".into()),
    }
}
