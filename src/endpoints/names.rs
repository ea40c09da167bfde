//! What an expression of an endpoint may read, and of what kinds it is.
//!
//! | name | what |
//! |---|---|
//! | `body`, `.` | the request's body: JSON, or the fields of a form; `null` without one |
//! | `path` | the parameters of the route, as text |
//! | `query` | the parameters behind `?`, as text; of one that comes twice the last |
//! | `headers` | the HTTP headers by their names in small letters, as text |
//! | `id` | the request's id: a UUID, or made of its `Idempotency-Key` |
//! | `timestamp` | when the request came, milliseconds |
//!
//! A parameter of the route can be named by itself too (`{{ slug }}` for `{{ path.slug }}`). `key`, `window` and
//! `origin`, which expressions of nodes have, are null.

use std::collections::BTreeMap;

use super::route::Route;
use crate::expressions::{Kind, Typing, kind_of, object};
use crate::model::{Expr, Shape};

/// The names of every endpoint; no parameter of a route has such a name.
pub const RESERVED: [&str; 9] =
    ["body", "headers", "id", "key", "origin", "path", "query", "timestamp", "window"];

/// The names that the expressions of one endpoint may read.
pub struct Names {
    /// The body.
    body: Kind,
    /// The others.
    vars: Vec<(String, Kind)>,
}

impl Names {
    /// Of an endpoint with this route, whose bodies have this shape.
    #[must_use]
    pub fn new(route: &Route, schema: Option<&Shape>) -> Names {
        let params: Vec<String> = route.params().map(str::to_owned).collect();
        let text = |name: &String| (name.as_str().into(), Kind::bytes());
        let path = object(params.iter().map(text).collect::<BTreeMap<_, _>>());
        let body = schema.map_or_else(Kind::any, kind_of);
        let mut vars = vec![
            ("body".to_owned(), body.clone()),
            ("path".to_owned(), path),
            ("query".to_owned(), Kind::any()),
            ("id".to_owned(), Kind::bytes()),
        ];
        vars.extend(params.into_iter().map(|name| (name, Kind::bytes())));
        Names { body, vars }
    }

    /// Compiles an expression that reads a request; the kind of its result.
    pub fn compile(&self, expr: &mut Expr, typing: &mut Typing<'_>) -> Kind {
        typing.compile_scoped(expr, &self.borrowed(&[]), &self.body)
    }

    /// Compiles an expression that reads a request and something else: `.` is of the kind `value`, and there are more
    /// names.
    pub fn compile_for(
        &self,
        expr: &mut Expr,
        typing: &mut Typing<'_>,
        value: &Kind,
        more: &[(&str, Kind)],
    ) -> Kind {
        typing.compile_scoped(expr, &self.borrowed(more), value)
    }

    fn borrowed<'a>(&'a self, more: &[(&'a str, Kind)]) -> Vec<(&'a str, Kind)> {
        let own = self.vars.iter().map(|(name, kind)| (name.as_str(), kind.clone()));
        own.chain(more.iter().cloned()).collect()
    }
}
