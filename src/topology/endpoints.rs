//! Checks of the sections `http` and `endpoints`: each endpoint by itself, then all of them together.

use super::Settings;
use super::checks::check_name;
use crate::endpoints::{Routes, ServeConfig};
use crate::model::Problem;
use crate::model::kinds::placed;

/// The code of a problem that is about a section that is missing.
const MISSING: &str = "graph::endpoints";

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
        if let Err(other) = routes.insert(&endpoint.route, ()) {
            let message = format!("{name}: another endpoint has `{other}`, which takes the same requests");
            let help = "give it another method or path; parameters at the same place have the same name";
            let problem = Problem::new("graph::route", message);
            problems.push(problem.field(format!("{place}.route")).help(help));
        }
    }
}
