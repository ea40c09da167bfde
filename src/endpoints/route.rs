//! Routes: a method and a path with parameters, and the table in which a request's route is found. The one home of
//! `matchit`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use percent_encoding::percent_decode_str;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer};

use super::names::RESERVED;
use crate::model::{Problem, Refused, did_you_mean};

/// The method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// Reads; answers `HEAD` too.
    Get,
    /// Makes something.
    Post,
    /// Replaces something.
    Put,
    /// Changes something.
    Patch,
    /// Removes something.
    Delete,
}

/// The methods that a route may have.
pub const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

impl Method {
    /// The method of that name, in capitals as HTTP has it.
    #[must_use]
    pub fn named(name: &str) -> Option<Method> {
        Some(match name {
            "GET" => Method::Get,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            _ => return None,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }

    /// Whether its requests have a body.
    #[must_use]
    pub fn has_body(self) -> bool {
        self != Method::Get
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `POST /post`, `GET /post/{slug}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with parameters in braces: each is one part of the path between two `/`.
    pub path: String,
}

impl Route {
    /// Reads `METHOD /path`.
    ///
    /// # Errors
    /// It is no route.
    pub fn new(text: &str) -> Result<Route, Refused> {
        let help = "write method and path: `GET /post/{slug}`";
        let Some((name, path)) = text.trim().split_once(char::is_whitespace) else {
            return Err(Refused::new(format!("`{text}` is no route"), help));
        };
        let method = Method::named(name).ok_or_else(|| {
            let help = did_you_mean(&name.to_ascii_uppercase(), &METHODS);
            Refused::new(format!("`{name}` is no method that a route can have"), help)
        })?;
        let path = path.trim();
        let good =
            |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%' | '*' | '"' | '<' | '>' | '\\');
        if !path.starts_with('/') || !path.chars().all(good) {
            let help = "a path begins with `/` and has parameters such as `{slug}`; write what follows `?` nowhere: it is `query`";
            return Err(Refused::new(format!("`{path}` is no path"), help));
        }
        for part in path.split('/') {
            let inside = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            let name_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            match inside {
                Some(name) => {
                    let starts = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
                    if !starts || !name.chars().all(name_good) {
                        let help = "names of parameters have small letters, digits and `_`: `{post_id}`";
                        return Err(Refused::new(format!("`{{{name}}}` is no parameter"), help));
                    }
                }
                None if part.contains(['{', '}']) => {
                    let help = "a parameter is all that stands between two `/`: `/post/{slug}`";
                    return Err(Refused::new(format!("`{part}` is no part of a path"), help));
                }
                None => {}
            }
        }
        Ok(Route { method, path: path.to_owned() })
    }

    /// The names of its parameters, in the path's order.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    pub(super) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let params: Vec<&str> = self.params().collect();
        for (n, name) in params.iter().enumerate() {
            let mut wrong = |message: String, help: String| {
                problems.push(Problem::setting("route", message, help));
            };
            if RESERVED.contains(name) {
                let message = format!("`{name}` is a name that every expression has");
                wrong(message, format!("give the parameter another one, for example `{{the_{name}}}`"));
            }
            if params[..n].contains(name) {
                wrong(format!("`{{{name}}}` stands there twice"), "give one of them another name".into());
            }
        }
        problems
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Route::new(&String::deserialize(d)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Route {
    fn schema_name() -> Cow<'static, str> {
        "Route".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Method and path: `GET /post/{slug}`.",
            "type": "string",
            "pattern": format!("^({}) +/", METHODS.join("|"))
        })
    }
}

/// The table of routes: finds what belongs to a request.
#[derive(Clone)]
pub struct Routes<T> {
    paths: matchit::Router<BTreeMap<Method, T>>,
    all: Vec<T>,
}

/// Why a request has no route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No route has such a path.
    Path,
    /// The path has other methods.
    Method {
        /// Those: what the header `Allow` says.
        allow: Vec<&'static str>,
    },
    /// A parameter is empty, or no text when it is decoded.
    Param(String),
}

/// Text with its `%XX` decoded, once; `None` if it is no UTF-8 then.
#[must_use]
pub fn decode_percent(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

/// The parameters of a request's path, decoded, in the path's order.
pub type Params = Vec<(String, String)>;

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Routes { paths: matchit::Router::new(), all: Vec::new() }
    }
}

impl<T: Clone> Routes<T> {
    /// What was added, in that order.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.all.iter()
    }

    /// Adds a route.
    ///
    /// # Errors
    /// The path of the route that takes the same requests.
    pub fn insert(&mut self, route: &Route, to: T) -> Result<(), String> {
        if let Ok(found) = self.paths.at_mut(&route.path)
            && found.params.iter().all(|(name, value)| value == format!("{{{name}}}"))
            && found.params.len() == route.params().count()
        {
            if found.value.contains_key(&route.method) {
                return Err(route.to_string());
            }
            self.all.push(to.clone());
            found.value.insert(route.method, to);
            return Ok(());
        }
        let methods = BTreeMap::from([(route.method, to.clone())]);
        let inserted = self.paths.insert(route.path.clone(), methods);
        if inserted.is_ok() {
            self.all.push(to);
        }
        inserted.map_err(|e| match e {
            matchit::InsertError::Conflict { with } => with,
            other => other.to_string(),
        })
    }

    /// What belongs to a request, by its method and its path as it was sent (`%2F` is no `/`).
    ///
    /// # Errors
    /// See [`NoRoute`].
    pub fn find(&self, method: &str, path: &str) -> Result<(&T, Params), NoRoute> {
        let found = match self.paths.at(path) {
            Ok(found) => found,
            // A parameter is never empty: what would have a route with something in its place is a bad request, not an
            // unknown one.
            Err(_) => {
                let filled = path.replace("//", "/-/");
                let filled = if filled.ends_with('/') { filled + "-" } else { filled };
                let empty = filled != path && self.paths.at(&filled).is_ok();
                return Err(match empty {
                    true => NoRoute::Param("a part of the path is empty".into()),
                    false => NoRoute::Path,
                });
            }
        };
        let asked = if method == "HEAD" { Some(Method::Get) } else { Method::named(method) };
        let Some(to) = asked.and_then(|method| found.value.get(&method)) else {
            let mut allow: Vec<&'static str> = found.value.keys().map(|method| method.name()).collect();
            if allow.contains(&"GET") {
                allow.push("HEAD");
            }
            return Err(NoRoute::Method { allow });
        };
        let mut params = Vec::new();
        for (name, value) in found.params.iter() {
            match decode_percent(value).ok_or(()) {
                Ok(text) if text.is_empty() => {
                    return Err(NoRoute::Param(format!("`{name}` in the path is empty")));
                }
                Ok(text) => params.push((name.to_owned(), text)),
                Err(()) => return Err(NoRoute::Param(format!("`{name}` in the path is no UTF-8 text"))),
            }
        }
        Ok((to, params))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str) -> Route {
        Route::new(text).expect("a route")
    }

    #[test]
    fn a_route_is_read_or_refused_with_a_reason() {
        let read = route("GET /post/{slug}/lines/{n}");
        assert_eq!(read.params().collect::<Vec<_>>(), ["slug", "n"]);
        assert_eq!(read.to_string(), "GET /post/{slug}/lines/{n}");
        for (bad, why) in [
            ("/post", "no route"),
            ("post /post", "did you mean `POST`"),
            ("FETCH /post", "no method"),
            ("GET post", "no path"),
            ("GET /a?b=1", "no path"),
            ("GET /{Slug}", "no parameter"),
            ("GET /a{b}", "no part"),
            ("GET /{}", "no parameter"),
        ] {
            let said = Route::new(bad).expect_err(bad).to_string();
            assert!(said.contains(why), "{bad}: {said}");
        }
        let fields = |text: &str| route(text).check().len();
        assert_eq!((fields("GET /{id}"), fields("GET /{a}/{a}"), fields("GET /{a}/{b}")), (1, 1, 0));
    }

    #[test]
    fn routes_that_take_the_same_requests_are_refused() {
        let mut routes = Routes::default();
        let mut insert = |text: &str| routes.insert(&route(text), ());
        assert_eq!(insert("GET /post/{slug}"), Ok(()));
        assert_eq!(insert("DELETE /post/{slug}"), Ok(()));
        assert_eq!(insert("GET /post/new"), Ok(()));
        assert_eq!(insert("POST /post"), Ok(()));
        assert!(insert("GET /post/{slug}").is_err());
        assert!(insert("GET /post/{other}").is_err());
        assert!(insert("PUT /post/{other}").is_err());
        assert!(insert("GET /post/new").is_err());
        assert!(insert("GET /post").is_ok());
    }

    #[test]
    fn a_request_finds_its_route() {
        let mut routes = Routes::default();
        for (n, text) in
            ["GET /post/{slug}", "POST /post", "GET /post/new", "PUT /a/{b}/c"].iter().enumerate()
        {
            routes.insert(&route(text), n).expect("is new");
        }
        let found = |method: &str, path: &str| {
            let (to, params) = routes.find(method, path)?;
            Ok((*to, params.into_iter().map(|(_, value)| value).collect::<Vec<_>>().join(",")))
        };
        assert_eq!(found("GET", "/post/a%2Fb%20%C3%A4"), Ok((0, "a/b ä".into())));
        assert_eq!(found("HEAD", "/post/x"), Ok((0, "x".into())));
        assert_eq!(found("GET", "/post/new"), Ok((2, String::new())));
        assert_eq!(found("PUT", "/a/%252F/c"), Ok((3, "%2F".into())));
        assert_eq!(found("GET", "/posts"), Err(NoRoute::Path));
        assert_eq!(found("GET", "/"), Err(NoRoute::Path));
        assert_eq!(found("DELETE", "/post"), Err(NoRoute::Method { allow: vec!["POST"] }));
        assert_eq!(found("BREW", "/post/x"), Err(NoRoute::Method { allow: vec!["GET", "HEAD"] }));
        assert!(matches!(found("GET", "/post/"), Err(NoRoute::Param(_))));
        assert!(matches!(found("PUT", "/a//c"), Err(NoRoute::Param(_))));
        assert!(matches!(found("GET", "/post/%FF"), Err(NoRoute::Param(_))));
    }
}
