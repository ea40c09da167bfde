//! Several topology files in one command: read together, and what must hold among them.

use std::path::PathBuf;

use super::{BAD_FILE, Exit, load_file};
use crate::model::Problem;
use crate::topology::{Topology, circles};
use crate::yaml::{Loaded, Mode, Registry, Report};

/// Reads every file, and reports the problems of all at once.
pub(super) fn load_files(registry: &Registry, paths: &[PathBuf]) -> Result<Vec<Loaded>, Exit> {
    let (mut files, mut bad) = (Vec::new(), Vec::new());
    for path in paths {
        match load_file(registry, path, Mode::Required) {
            Ok(loaded) => files.push(loaded),
            Err(exit) => bad.push(exit),
        }
    }
    if bad.is_empty() { Ok(files) } else { Err(all(bad)) }
}

/// What keeps these topologies from running in one process: two of one name, gates in a circle.
pub(super) fn check_files(files: &[Loaded]) -> Result<(), Exit> {
    let mut reports = Vec::new();
    for (n, loaded) in files.iter().enumerate() {
        let name = &loaded.topology.name;
        if let Some(other) = files[..n].iter().find(|other| other.topology.name == *name) {
            let message = format!(
                "{} has the name `{name}` too: their consumer group and state would be one",
                other.places().file()
            );
            let help = Some("give one of them another name");
            let report = loaded.places().report("graph::name", None, "name", &message, help);
            reports.push(report.redacted(&loaded.secrets));
        }
    }
    reports.extend(circle_reports(files));
    if reports.is_empty() { Ok(()) } else { Err(all(reports.iter().map(Exit::bad_file).collect())) }
}

/// Gates that wait for each other in a circle, each in the file of its first.
pub(super) fn circle_reports(files: &[Loaded]) -> Vec<Report> {
    let topologies: Vec<&Topology> = files.iter().map(|loaded| &loaded.topology).collect();
    let report = |(n, problem): (usize, Problem)| {
        let (node, help) = (problem.node.as_deref(), problem.help.as_deref());
        let report = files[n].places().report(problem.code, node, &problem.field, &problem.message, help);
        report.redacted(&files[n].secrets)
    };
    circles(&topologies).into_iter().map(report).collect()
}

/// Several ends as one, with everything that they say. A file that cannot be read counts before a bad one.
fn all(exits: Vec<Exit>) -> Exit {
    let code = exits.iter().map(|exit| exit.code).min().unwrap_or(BAD_FILE);
    let messages: Vec<String> = exits.into_iter().filter_map(|exit| exit.message).collect();
    Exit { code, message: Some(messages.join("\n")) }
}
