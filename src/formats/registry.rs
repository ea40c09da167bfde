//! A client for schema registries with Confluent's API: five requests over HTTP, one attempt each. The caller decides
//! whether to try again.
//!
//! The crate `schema_registry_converter` does not fit: it fetches schemas while it decodes, which a task may not do,
//! and it caches failures.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;

use super::settings::RegistryConfig;
use crate::clients::http::{causes, client, escape};
use crate::model::Json;
use crate::model::secret::fresh;

/// A schema as the registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id, unless the schema was asked for by id.
    pub id: Option<u32>,
    /// `AVRO`, `PROTOBUF` or `JSON`.
    pub kind: String,
    /// The schema's text.
    pub text: String,
    /// The schemas it refers to: the names it uses for them, and their text.
    pub references: Vec<(String, String)>,
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    /// There is no such schema or subject.
    #[error("{0}")]
    Unknown(String),
    /// The registry refuses; asking again does not help.
    #[error("{0}")]
    Refused(String),
    /// It contradicts what the registry has.
    #[error("{0}")]
    Conflict(String),
    /// The registry does not answer, or cannot answer now.
    #[error("{0}")]
    Away(String),
}

#[derive(Deserialize)]
struct Answer {
    id: Option<u32>,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    schema: Option<String>,
    references: Option<Vec<Reference>>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    subject: String,
    version: i32,
}

/// Limit for the number of files that one schema refers to, directly and indirectly.
const REFERENCES_MAX: usize = 256;
/// How often the schema is looked up after a conflict, each time after this pause.
const CONFLICT_LOOKS: usize = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(300);
/// Largest answer in bytes; no schema is larger.
const BODY_MAX: usize = 8 << 20;

/// A client of one registry.
pub struct RegistryClient {
    client: Client,
    config: RegistryConfig,
    base: String,
}

impl RegistryClient {
    /// A client. It connects with its first request.
    ///
    /// # Errors
    /// The TLS or DNS settings of this machine cannot be used.
    pub fn new(config: &RegistryConfig) -> Result<RegistryClient, String> {
        let client = client().timeout(config.timeout.duration()).build().map_err(causes)?;
        Ok(RegistryClient {
            client,
            config: config.clone(),
            base: config.url.trim_end_matches('/').to_owned(),
        })
    }

    /// Asks whether the registry answers.
    ///
    /// # Errors
    /// It does not, or refuses.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        self.ask(Method::GET, "/subjects", None).await.map(drop)
    }

    /// The schema of an id, with everything it refers to.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn by_id(&self, id: u32) -> Result<Registered, RegistryError> {
        let answer = self.ask(Method::GET, &format!("/schemas/ids/{id}"), None).await?;
        self.registered(parse(&answer)?).await
    }

    /// The latest schema of a subject.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn latest(&self, subject: &str) -> Result<Registered, RegistryError> {
        let path = format!("/subjects/{}/versions/latest", escape(subject));
        let answer = self.ask(Method::GET, &path, None).await?;
        self.registered(parse(&answer)?).await
    }

    /// The id of this schema under a subject. With `register` the schema is registered if it is not there.
    ///
    /// # Errors
    /// See [`RegistryError`]. A schema that is incompatible with the subject's other schemas is
    /// [`RegistryError::Refused`].
    pub async fn id_of(
        &self,
        subject: &str,
        kind: &str,
        text: &str,
        register: bool,
    ) -> Result<u32, RegistryError> {
        // Avro is the registry's default, and older registries do not know the field.
        let body = match kind {
            "AVRO" => serde_json::json!({ "schema": text }),
            kind => serde_json::json!({ "schema": text, "schemaType": kind }),
        };
        let path = format!("/subjects/{}", escape(subject));
        let look_up = || self.id(&path, &body);
        // Look first, so that nothing is written without need.
        match look_up().await {
            Err(RegistryError::Unknown(_)) if register => {}
            other => return other,
        }
        match self.id(&format!("{path}/versions"), &body).await {
            Err(RegistryError::Conflict(message)) => {
                // Either the schema is incompatible, or it is just being registered: by another instance, or by an
                // earlier request of ours whose answer was lost.
                for _ in 0..CONFLICT_LOOKS {
                    tokio::time::sleep(CONFLICT_PAUSE).await;
                    if let Ok(id) = look_up().await {
                        return Ok(id);
                    }
                }
                Err(RegistryError::Refused(message))
            }
            other => other,
        }
    }

    async fn id(&self, path: &str, body: &Json) -> Result<u32, RegistryError> {
        let answer = parse(&self.ask(Method::POST, path, Some(body)).await?)?;
        answer.id.ok_or_else(|| RegistryError::Refused("the registry's answer has no `id`".into()))
    }

    async fn registered(&self, answer: Answer) -> Result<Registered, RegistryError> {
        let text = answer
            .schema
            .ok_or_else(|| RegistryError::Refused("the registry's answer has no `schema`".into()))?;
        let mut references: Vec<(String, String)> = Vec::new();
        let mut open = answer.references.unwrap_or_default();
        while let Some(Reference { name, subject, version }) = open.pop() {
            if references.iter().any(|(known, _)| *known == name) {
                continue;
            }
            if references.len() >= REFERENCES_MAX {
                return Err(RegistryError::Refused(format!("more than {REFERENCES_MAX} references")));
            }
            let path = format!("/subjects/{}/versions/{version}", escape(&subject));
            let answer = parse(&self.ask(Method::GET, &path, None).await?)?;
            references.push((name, answer.schema.unwrap_or_default()));
            open.extend(answer.references.unwrap_or_default());
        }
        // A schema must come after those it refers to.
        references.reverse();
        Ok(Registered { id: answer.id, kind: answer.kind.unwrap_or_else(|| "AVRO".into()), text, references })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Json>) -> Result<Vec<u8>, RegistryError> {
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(body) = body {
            request = request
                .header("content-type", "application/vnd.schemaregistry.v1+json")
                .body(body.to_string());
        }
        if let Some(token) = &self.config.token {
            request = request.bearer_auth(fresh(token));
        } else if let Some(user) = &self.config.username {
            request = request.basic_auth(user, self.config.password.as_deref().map(fresh));
        }
        let away = |e: reqwest::Error| RegistryError::Away(format!("{}: {}", self.base, causes(e)));
        let response = request.send().await.map_err(away)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(away)?;
        if status.is_success() {
            if bytes.len() > BODY_MAX {
                return Err(RegistryError::Refused(format!("an answer of {} bytes", bytes.len())));
            }
            return Ok(bytes.to_vec());
        }
        let said = serde_json::from_slice::<Json>(&bytes).ok();
        let message = said.as_ref().and_then(|json| json.get("message")?.as_str());
        let code = said.as_ref().and_then(|json| json.get("error_code")?.as_i64());
        let text = format!("{status}: {}", message.unwrap_or("the registry does not say why"));
        Err(match status {
            // A wrong path is answered with 404 too, but without one of the registry's own codes.
            StatusCode::NOT_FOUND if code.is_some_and(|c| (40_401..=40_403).contains(&c) || c == 404) => {
                RegistryError::Unknown(text)
            }
            StatusCode::NOT_FOUND => RegistryError::Refused(format!(
                "{}{path} is not there ({text}): `url` has to end before `/subjects`",
                self.base
            )),
            StatusCode::CONFLICT => RegistryError::Conflict(text),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => RegistryError::Away(text),
            // What is wrong is our credentials, not what was asked.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Away(text),
            status if status.is_server_error() => RegistryError::Away(text),
            _ => RegistryError::Refused(text),
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Answer, RegistryError> {
    serde_json::from_slice(bytes)
        .map_err(|e| RegistryError::Refused(format!("the registry's answer is not what was asked for: {e}")))
}
