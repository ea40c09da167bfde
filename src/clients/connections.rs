//! Connections by name: the sections of a topology file that say where a server is, once for all nodes that use it.
//!
//! A section holds one connection (`postgres: { url: .. }`) or several by name (`postgres: { main: { url: .. } }`). A node
//! says `connection: NAME`, or nothing where there is only one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::postgres::PostgresConfig;
use super::redis::RedisConfig;
use super::smtp::SmtpConfig;
use crate::model::{Problem, did_you_mean};

/// A kind of server that connections are made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// PostgreSQL.
    Postgres,
    /// Redis, single or a cluster.
    Redis,
    /// A mail server.
    Smtp,
}

impl Server {
    /// All of them.
    pub const ALL: [Server; 3] = [Server::Postgres, Server::Redis, Server::Smtp];

    /// The section of a topology file.
    #[must_use]
    pub fn section(self) -> &'static str {
        match self {
            Server::Postgres => "postgres",
            Server::Redis => "redis",
            Server::Smtp => "smtp",
        }
    }

    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Server::Postgres => "PostgreSQL",
            Server::Redis => "Redis",
            Server::Smtp => "the mail server",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Server::Postgres => "postgres://localhost:5432/database",
            Server::Redis => "redis://localhost:6379/0",
            Server::Smtp => "smtp://localhost:25",
        }
    }
}

/// What a node says of the connection that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses<'a> {
    /// The kind of server.
    pub server: Server,
    /// Its name; `None` is the only one.
    pub name: Option<&'a str>,
}

/// One of the connections that a topology names.
#[derive(Clone, Copy)]
pub struct Connection<'a> {
    /// The kind of server.
    pub server: Server,
    /// Its name; `None` is the only one.
    pub name: Option<&'a str>,
    /// What the file says of it.
    pub settings: &'a dyn ConnectionSettings,
}

impl Connection<'_> {
    /// The field of the topology where it stands: `postgres.main`.
    #[must_use]
    pub fn place(&self) -> String {
        place(self.server, self.name)
    }
}

/// What the settings of a connection answer.
pub trait ConnectionSettings {
    /// What is wrong with them, with fields counted from the connection. `${VAR}`, which is only filled in where something
    /// is connected, is taken.
    fn check(&self) -> Vec<Problem>;

    /// The files that they name.
    fn files_mut(&mut self) -> Vec<&mut PathBuf>;
}

/// Connections of one kind by name. The only one may have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T>(BTreeMap<String, T>);

/// The name of a connection without one.
const NAMELESS: &str = "";

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named(BTreeMap::new())
    }
}

impl<T> Named<T> {
    /// The only one.
    #[must_use]
    pub fn one(config: T) -> Named<T> {
        Named(BTreeMap::from([(NAMELESS.to_owned(), config)]))
    }

    /// Several, by name.
    #[must_use]
    pub fn several(configs: impl IntoIterator<Item = (String, T)>) -> Named<T> {
        Named(configs.into_iter().collect())
    }

    /// Each with its name; `None` is the only one.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&str>, &T)> {
        self.0.iter().map(|(name, config)| (Some(name.as_str()).filter(|name| !name.is_empty()), config))
    }

    /// Each of them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.values_mut()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// The one of that name; the only one without a name.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn find(&self, uses: Uses<'_>) -> Result<(&str, &T), (String, String)> {
        let (server, section) = (uses.server, uses.server.section());
        let found = match uses.name {
            Some(name) => self.0.get_key_value(name),
            None if self.0.len() == 1 => self.0.first_key_value(),
            None => None,
        };
        if let Some((name, config)) = found {
            return Ok((name, config));
        }
        Err(match uses.name {
            _ if self.0.is_empty() => (
                format!("the topology does not say where {} is", server.title()),
                format!("add `{section}: {{ url: \"{}\" }}`", server.example()),
            ),
            Some(name) if self.0.contains_key(NAMELESS) => (
                format!("there is no connection `{name}`: `{section}` holds one, without a name"),
                "remove `connection`".to_owned(),
            ),
            Some(name) => {
                (format!("there is no connection `{name}` in `{section}`"), did_you_mean(name, &self.names()))
            }
            None => {
                let names: Vec<String> = self.names().iter().map(|name| format!("`{name}`")).collect();
                (
                    format!("`{section}` has several connections"),
                    format!("say which with `connection: NAME`: {}", names.join(", ")),
                )
            }
        })
    }
}

/// Everything that a topology says of servers that its nodes share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// PostgreSQL servers.
    pub postgres: Named<PostgresConfig>,
    /// Redis servers and clusters.
    pub redis: Named<RedisConfig>,
    /// Mail servers.
    pub smtp: Named<SmtpConfig>,
}

impl Connections {
    /// What is wrong with each, with fields counted from the topology: `postgres.main.url`.
    #[must_use]
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for connection in self.all() {
            let place = connection.place();
            if let Some(name) = connection.name.filter(|name| !is_name(name)) {
                let help = "names have 1 to 100 letters, digits, `-` or `_`";
                problems.push(Problem::setting(place.clone(), format!("`{name}` is no name"), help));
            }
            for problem in connection.settings.check() {
                let field = format!("{place}.{}", problem.field);
                problems.push(problem.field(field));
            }
        }
        problems
    }

    /// Whether there is what a node uses.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn find(&self, uses: Uses<'_>) -> Result<(), (String, String)> {
        match uses.server {
            Server::Postgres => self.postgres.find(uses).map(drop),
            Server::Redis => self.redis.find(uses).map(drop),
            Server::Smtp => self.smtp.find(uses).map(drop),
        }
    }

    /// The field of the topology where the connection stands that a node uses.
    #[must_use]
    pub fn place(&self, uses: Uses<'_>) -> Option<String> {
        let name = match uses.server {
            Server::Postgres => self.postgres.find(uses).ok()?.0,
            Server::Redis => self.redis.find(uses).ok()?.0,
            Server::Smtp => self.smtp.find(uses).ok()?.0,
        };
        Some(place(uses.server, Some(name).filter(|name| !name.is_empty())))
    }

    /// Every connection.
    #[must_use]
    pub fn all(&self) -> Vec<Connection<'_>> {
        let mut all: Vec<Connection<'_>> = Vec::new();
        let mut add = |server, name, settings| all.push(Connection { server, name, settings });
        self.postgres.iter().for_each(|(name, config)| add(Server::Postgres, name, config));
        self.redis.iter().for_each(|(name, config)| add(Server::Redis, name, config));
        self.smtp.iter().for_each(|(name, config)| add(Server::Smtp, name, config));
        all
    }

    /// The files that they name.
    pub fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        let postgres = self.postgres.values_mut().flat_map(ConnectionSettings::files_mut);
        let redis = self.redis.values_mut().flat_map(ConnectionSettings::files_mut);
        postgres.chain(redis).chain(self.smtp.values_mut().flat_map(ConnectionSettings::files_mut)).collect()
    }
}

fn place(server: Server, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{}.{name}", server.section()),
        None => server.section().to_owned(),
    }
}

fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    !name.is_empty() && name.len() <= 100 && name.chars().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], name: Option<&str>, expected: Result<&str, &str>) {
        let all =
            names.iter().map(|name| ((*name).to_owned(), PostgresConfig::new("postgres://localhost/x")));
        let named = Named::several(all);
        let found = named.find(Uses { server: Server::Postgres, name });
        let found = found.map(|(name, _)| name).map_err(|(message, help)| format!("{message}: {help}"));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(said), Err(part)) => assert!(said.contains(part), "{said}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_node_finds_the_only_connection_or_the_one_it_names() {
        check(&[""], None, Ok(""));
        check(&["main"], None, Ok("main"));
        check(&["main"], Some("main"), Ok("main"));
        check(&["audit", "main"], Some("audit"), Ok("audit"));
        check(
            &["audit", "main"],
            None,
            Err("several connections: say which with `connection: NAME`: `audit`, `main`"),
        );
        check(&["audit", "main"], Some("mian"), Err("did you mean `main`?"));
        check(&[""], Some("main"), Err("remove `connection`"));
        check(&[], None, Err("does not say where PostgreSQL is: add `postgres: { url:"));
        check(&[], Some("main"), Err("does not say where PostgreSQL is"));
    }

    #[test]
    fn what_is_wrong_with_a_connection_has_its_place() {
        let connections = Connections {
            postgres: Named::several([
                (
                    "main".to_owned(),
                    PostgresConfig { pool: 0, ..PostgresConfig::new("postgres://localhost/x") },
                ),
                ("a b".to_owned(), PostgresConfig::new("postgres://localhost/x")),
            ]),
            redis: Named::one(RedisConfig::new("http://localhost")),
            ..Connections::default()
        };
        let fields: Vec<String> = connections.check().into_iter().map(|p| p.field).collect();
        assert_eq!(fields, ["postgres.a b", "postgres.main.pool", "redis.url"]);
    }
}
