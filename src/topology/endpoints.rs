//! Checks of the sections `http` and `endpoints`: each endpoint by itself, then all of them together.

use super::checks::check_name;
use super::{Settings, Topology};
use crate::endpoints::{Routes, ServeConfig};
use crate::model::kinds::placed;
use crate::model::{Problem, did_you_mean};

/// The code of a problem that is about a section that is missing.
const MISSING: &str = "graph::endpoints";

/// The stores that endpoints read have to be nodes that keep rows; and where a position is asked for, the rows have to be
/// known to have taken in its record.
pub(super) fn check_stores(topology: &Topology) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, endpoint) in &topology.settings.endpoints {
        for (store, field) in endpoint.stores() {
            let mut wrong = |message: String, help: String| {
                let problem = Problem::new("graph::store", format!("{name}: {message}"));
                problems.push(problem.field(format!("endpoints.{name}.{field}")).help(help));
            };
            let keep = || {
                let keep = (0..topology.nodes.len()).filter(|n| topology.keeps_rows(*n));
                let keep = keep.filter(|n| topology.nodes[*n].is_declared());
                keep.map(|n| topology.nodes[n].name.as_str()).collect::<Vec<_>>()
            };
            match topology.node(store).map(|n| topology.readable(n)) {
                None => wrong(format!("there is no node `{store}`"), did_you_mean(store, &keep())),
                Some(None) => {
                    let all = keep().join(", ");
                    let help = match all.as_str() {
                        "" => "read a node with state, for example an `aggregate` or a `table`".to_owned(),
                        all => format!("these do: {all}"),
                    };
                    wrong(format!("`{store}` keeps no rows"), help);
                }
                Some(Some(_)) => {}
            }
        }
        for (n, read) in endpoint.read.iter().enumerate() {
            let Some(at) = read.at.as_ref().filter(|at| at.span().is_some()) else { continue };
            let node = read.store.as_deref().and_then(|store| topology.node(store));
            let Some(readable) = node.and_then(|n| topology.readable(n)) else { continue };
            if readable.positions.is_empty() {
                let store = read.store.as_deref().unwrap_or_default();
                let message = format!(
                    "{name}: no record is known to be in `{store}`: `{}` cannot be waited for",
                    at.text()
                );
                let help = "remove `at`, or read a node that takes its records from a source at once: not behind `key_by`, \
                            `debounce`, `enrich` or `suppress`";
                let problem = Problem::new("graph::store", message);
                problems.push(problem.field(format!("endpoints.{name}.read.{n}.at")).help(help));
            }
        }
    }
    problems
}

/// Checks the settings, and that no two endpoints take the same requests.
pub(super) fn check(settings: &Settings, problems: &mut Vec<Problem>) {
    problems.extend(placed("http", settings.http.iter().flat_map(ServeConfig::check).collect()));
    match (&settings.http, settings.endpoints.is_empty()) {
        (None, false) => {
            let message = "nothing says where the endpoints are served";
            let help = "add `http: { listen: \"127.0.0.1:8080\" }`";
            problems.push(Problem::new(MISSING, message).field("endpoints").help(help));
        }
        (Some(_), true) => {
            let help = "add some, for example `endpoints: { create: { route: POST /things, request: { topic: things } } }`, \
                        or remove `http`";
            problems
                .push(Problem::new(MISSING, "there are no endpoints to be served").field("http").help(help));
        }
        _ => {}
    }
    let mut routes: Routes<()> = Routes::default();
    for (name, endpoint) in &settings.endpoints {
        let place = format!("endpoints.{name}");
        let mut named = Vec::new();
        check_name(name, None, &mut named);
        problems.extend(named.into_iter().map(|p| p.field(place.clone())));
        let found = placed(&place, endpoint.check());
        problems
            .extend(found.into_iter().map(|p| Problem { message: format!("{name}: {}", p.message), ..p }));
        for (uses, field) in endpoint.connections() {
            if let Err((message, help)) = settings.connections.find(uses) {
                let field = match uses.name {
                    Some(_) => field,
                    None => field.trim_end_matches(".connection").to_owned(),
                };
                let problem = Problem::new("graph::connection", format!("{name}: {message}"));
                problems.push(problem.field(format!("{place}.{field}")).help(help));
            }
        }
        if let Err(other) = routes.insert(&endpoint.route, ()) {
            let message = format!("{name}: another endpoint has `{other}`, which takes the same requests");
            let help = "give it another method or path; parameters at the same place have the same name";
            let problem = Problem::new("graph::route", message);
            problems.push(problem.field(format!("{place}.route")).help(help));
        }
    }
}
