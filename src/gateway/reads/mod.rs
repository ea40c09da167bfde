//! Reads for endpoints: one place after another, until one has what is asked for.
//!
//! A Redis that something else is behind is a cache: what it has is the answer, and what it has not, or cannot say, is asked
//! of the next place. The other places are the truth: there is nothing (404) only where all of them have said so; where one
//! cannot say now, it is not known (503).
//!
//! | file | what |
//! |---|---|
//! | `cache` | Redis: values, fills, marks of misses |
//! | `database` | one row of PostgreSQL |
//! | `store`, `peer` | a key of a state store, of this instance or of another |
//! | `flight` | one question at a time for each key |
//! | `health` | a server that fails is left alone for a moment |
//! | `etag` | weak ETags by content |
//! | `answer` | an endpoint that reads, as a handler of requests |

mod answer;
mod cache;
mod database;
pub mod etag;
mod flight;
mod health;
pub mod peer;
pub mod store;

use std::sync::Arc;

pub use self::answer::Reading;
use self::cache::{Cache, Cached};
use self::database::{Database, Row};
use self::flight::Flights;
use self::store::{Looked, Stores};
use crate::clients::{Class, Connections, Failure, Server, Uses};
use crate::endpoints::{Lookup, ReadConfig};
use crate::model::{Json, Millis, Timestamp};
use crate::operators::shared::describe::Described;
use crate::runtime::Position;

/// What a read found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// This, in that place of the endpoint.
    Value {
        /// Index of the place.
        place: usize,
        /// What is there.
        json: Json,
        /// Its text, where it has one already.
        text: Option<String>,
    },
    /// Nothing: said by all who would have it.
    Nothing,
    /// It is not known now, and why.
    Unknown(String),
    /// It cannot be asked so: the request is wrong.
    Refused(String),
}

/// What is asked in place of servers that are not there, as in `dev`: what a place is asked for, and what is there.
pub type StandIn = Arc<dyn Fn(&Lookup) -> Option<Json> + Send + Sync>;

/// The places of one endpoint.
pub struct Reader {
    places: Vec<Place>,
    flights: Flights<Result<Row, String>>,
}

enum Place {
    /// `true`: other places are behind it.
    Redis(Arc<Cache>, bool),
    Postgres(Arc<Database>, Option<Fill>),
    Store {
        node: String,
        anywhere: bool,
    },
    /// Redis or PostgreSQL, where something else is asked in their place.
    StandIn(StandIn),
}

/// How a row is put into the caches before it.
#[derive(Clone, Copy)]
struct Fill {
    ttl: Millis,
    miss_ttl: Millis,
}

impl Reader {
    /// The places of these settings. Nothing is connected before the first read; with a stand-in no other server is at all.
    ///
    /// # Errors
    /// A server's settings cannot be used.
    pub fn new(
        settings: &[ReadConfig],
        connections: &Connections,
        stand_in: Option<&StandIn>,
    ) -> Result<Reader, Failure> {
        let wrong = |(message, help)| Failure::new(Class::Config, format!("{message}: {help}"));
        let mut places = Vec::new();
        for (n, config) in settings.iter().enumerate() {
            let stand_in = stand_in.filter(|_| config.store.is_none());
            places.push(if let Some(stand_in) = stand_in {
                Place::StandIn(Arc::clone(stand_in))
            } else if let Some(redis) = &config.redis {
                let uses = Uses { server: Server::Redis, name: redis.connection.as_deref() };
                let (_, server) = connections.redis.find(uses).map_err(wrong)?;
                Place::Redis(Arc::new(Cache::new(server, redis.timeout)), n + 1 < settings.len())
            } else if let Some(postgres) = &config.postgres {
                let uses = Uses { server: Server::Postgres, name: postgres.connection.as_deref() };
                let (_, server) = connections.postgres.find(uses).map_err(wrong)?;
                let fill = config.ttl.filter(|_| config.fill);
                let fill = fill.map(|ttl| Fill { ttl, miss_ttl: config.miss_ttl() });
                Place::Postgres(Arc::new(Database::new(server, postgres)?), fill)
            } else {
                Place::Store { node: config.store.clone().unwrap_or_default(), anywhere: config.anywhere() }
            });
        }
        Ok(Reader { places, flights: Flights::default() })
    }

    /// Looks in every place for what was made for it of a request ([`ReadConfig::lookup`]).
    pub async fn look(&self, lookups: Vec<Lookup>, stores: Option<&Stores>) -> Found {
        let mut caches: Vec<(Arc<Cache>, String)> = Vec::new();
        let mut unknown: Vec<String> = Vec::new();
        for (n, (place, lookup)) in self.places.iter().zip(lookups).enumerate() {
            let value = |json: Json, text: Option<String>| Found::Value { place: n, json, text };
            match (place, lookup) {
                (Place::Redis(cache, is_cache), Lookup::Redis(key)) => match cache.get(&key).await {
                    Ok(Cached::Value(json, text)) => return value(json, Some(text)),
                    Ok(Cached::Deleted) => return Found::Nothing,
                    Ok(Cached::Nothing) => caches.push((Arc::clone(cache), key)),
                    Err(why) if !is_cache => unknown.push(why),
                    Err(error) => tracing::debug!(error, "the next place is asked"),
                },
                (Place::Postgres(database, fill), Lookup::Postgres(values)) => {
                    let flight = format!("{n} {values:?}");
                    let ask = || row(Arc::clone(database), values, std::mem::take(&mut caches), *fill);
                    match self.flights.join(flight, ask).await {
                        Some(Ok(Some((json, text)))) => return value(json, Some(text)),
                        Some(Ok(None)) => {}
                        Some(Err(why)) => unknown.push(why),
                        None => unknown.push("the read failed".to_owned()),
                    }
                }
                (Place::Store { node, anywhere }, Lookup::Store { key, at }) => {
                    let at = match at.map(|text| text.parse::<Position>()).transpose() {
                        Ok(at) => at,
                        Err(refused) => return Found::Refused(refused.to_string()),
                    };
                    let Some(stores) = stores else { continue };
                    match stores.look(node, &key, at.as_ref(), *anywhere).await {
                        Looked::Rows(rows, _) => return value(as_json(rows), None),
                        Looked::Absent => {}
                        Looked::Unknown(why) => unknown.push(why),
                        Looked::Refused(why) => return Found::Refused(why),
                    }
                }
                (Place::StandIn(stand_in), lookup) => {
                    if let Some(json) = stand_in(&lookup) {
                        return value(json, None);
                    }
                }
                // Lookups are made of the same settings as the places.
                (Place::Redis(..) | Place::Postgres(..) | Place::Store { .. }, _) => {}
            }
        }
        match unknown.is_empty() {
            true => Found::Nothing,
            false => Found::Unknown(unknown.join("; ")),
        }
    }
}

/// A row, from the database unless a miss was noted a moment ago; and what was found, or not, goes into the caches.
async fn row(
    database: Arc<Database>,
    values: Vec<Option<String>>,
    caches: Vec<(Arc<Cache>, String)>,
    fill: Option<Fill>,
) -> Result<Row, String> {
    let Some(fill) = fill else { return database.row(&values).await };
    if fill.miss_ttl > Millis::ZERO {
        for (cache, key) in &caches {
            if cache.is_marked(key).await {
                return Ok(None);
            }
        }
    }
    let began = tokio::time::Instant::now();
    let row = database.row(&values).await?;
    for (cache, key) in &caches {
        match &row {
            // What was read long ago may have been replaced, and what replaced it may have been removed from the cache.
            Some(_) if began.elapsed() > FRESH => {}
            Some((_, text)) => cache.fill(key, text, fill.ttl).await,
            None if fill.miss_ttl > Millis::ZERO => cache.mark(key, fill.miss_ttl).await,
            None => {}
        }
    }
    Ok(row)
}

/// How old a row may be that is put into a cache.
const FRESH: std::time::Duration = std::time::Duration::from_secs(2);

/// The rows of a key as one value: that of the only row; where rows have windows, a list of them with their windows, the
/// oldest first.
fn as_json(mut rows: Vec<Described>) -> Json {
    let windowed = |row: &Described| row.at.contains_key("window");
    if !rows.iter().any(windowed) {
        // Of several rows the one that came last, where a key moved between partitions.
        let time = |row: &Described| row.at.get("ts").and_then(Json::as_i64).unwrap_or(Timestamp::MIN.0);
        return rows.into_iter().max_by_key(time).map_or(Json::Null, |row| row.value);
    }
    let start =
        |row: &Described| row.at.get("window").and_then(|window| window[0].as_i64()).unwrap_or(i64::MIN);
    rows.sort_by_key(start);
    let row = |row: Described| {
        let mut object = row.at;
        object.remove("ts");
        object.insert("value".to_owned(), row.value);
        Json::Object(object)
    };
    rows.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_of_a_key_are_one_value() {
        let row = |value: Json, ts: i64| Described::of_key(b"k", value).at("ts", ts);
        assert_eq!(as_json(vec![row(json!({"n": 1}), 5)]), json!({"n": 1}));
        assert_eq!(as_json(vec![row(json!(2), 9), row(json!(1), 5)]), json!(2), "the newest");
        let window = |start: i64| row(json!(start), start).at("window", vec![start, start + 5]);
        assert_eq!(
            as_json(vec![window(5), window(0)]),
            json!([{"window": [0, 5], "value": 0}, {"window": [5, 10], "value": 5}])
        );
    }
}
