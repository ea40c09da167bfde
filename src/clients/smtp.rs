//! Mail servers: connections that are kept, and what their answers mean. The one home of `lettre`.

use std::path::PathBuf;
use std::time::Duration;

use lettre::transport::smtp::AsyncSmtpTransportBuilder;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{
    Certificate, CertificateStore, Identity, Tls as Protection, TlsParameters,
};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

pub use lettre::{Message, address, message};

use super::connections::ConnectionSettings;
use super::failure::{Class, Failure, causes};
use super::tls::Tls;
use crate::model::secret::Secret;
use crate::model::{Millis, Problem};

/// A mail server.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// `smtp://host:port` in plain text, with `?tls=required` STARTTLS; `smtps://user:password@host:port` TLS from the
    /// start. Without a port 587, with `smtps` 465.
    pub url: Secret,
    /// User, in place of the URL's. Default: the URL's; none: no login.
    #[serde(default)]
    pub user: Option<String>,
    /// Password, in place of the URL's; write it as `${SMTP_PASSWORD}`. Default: the URL's.
    #[serde(default)]
    pub password: Option<Secret>,
    /// TLS. With `smtp://` STARTTLS is required then. Default: as the URL says.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// How long one mail may take, from connecting to the server's last answer. Default 60s.
    #[serde(default = "SmtpConfig::default_timeout")]
    pub timeout: Millis,
}

impl SmtpConfig {
    /// A server with the defaults.
    #[must_use]
    pub fn new(url: impl Into<Secret>) -> SmtpConfig {
        SmtpConfig {
            url: url.into(),
            user: None,
            password: None,
            tls: None,
            timeout: Self::default_timeout(),
        }
    }

    fn default_timeout() -> Millis {
        Millis::secs(60)
    }

    /// Host, port, and whether TLS is there from the start.
    fn parsed(&self) -> Result<(String, u16, bool), String> {
        let url = Url::parse(&self.url).map_err(|e| e.to_string())?;
        let tls = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            _ => return Err("it does not begin with `smtp://` or `smtps://`".to_owned()),
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or("it has no host")?;
        let asked = url.query_pairs().find(|(name, _)| name == "tls");
        if let Some((_, how)) = asked.filter(|(_, how)| !matches!(&**how, "required" | "opportunistic")) {
            return Err(format!("`tls={how}` is neither `required` nor `opportunistic`"));
        }
        Ok((host.to_owned(), url.port().unwrap_or(if tls { 465 } else { 587 }), tls))
    }
}

impl ConnectionSettings for SmtpConfig {
    fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |field: &str, message: &str, help: &str| {
            problems.push(Problem::setting(field, message, help));
        };
        if !self.url.contains("${")
            && let Err(e) = self.parsed()
        {
            add(
                "url",
                &format!("no address of a mail server: {e}"),
                "write `url: \"smtp://host:587?tls=required\"`",
            );
        }
        if self.password.is_some() && self.user.is_none() {
            add("password", "nothing says whose it is", "add `user: NAME` beside it");
        }
        if self.timeout <= Millis::ZERO {
            add("timeout", "no time at all for a mail", "the default is 60s");
        }
        problems.extend(self.tls.iter().filter_map(Tls::check));
        problems
    }

    fn files_mut(&mut self) -> Vec<&mut PathBuf> {
        self.tls.iter_mut().flat_map(Tls::files_mut).collect()
    }
}

/// A mail server, and a connection to it that is kept between mails. A clone has a connection of its own.
pub struct Smtp {
    builder: AsyncSmtpTransportBuilder,
    /// Made with the first mail: lettre's must be made, and dropped, where tasks can be spawned.
    transport: Option<AsyncSmtpTransport<Tokio1Executor>>,
    address: String,
    timeout: Duration,
}

impl Clone for Smtp {
    fn clone(&self) -> Smtp {
        Smtp {
            builder: self.builder.clone(),
            transport: None,
            address: self.address.clone(),
            timeout: self.timeout,
        }
    }
}

impl Smtp {
    /// The server. Nothing is connected yet.
    ///
    /// # Errors
    /// `Config`: the URL is none, or a certificate cannot be read.
    pub fn new(config: &SmtpConfig) -> Result<Smtp, Failure> {
        let wrong = |what: String| Failure::new(Class::Config, what);
        let (host, port, from_start) =
            config.parsed().map_err(|e| wrong(format!("no address of a mail server: {e}")))?;
        let address = format!("{host}:{port}");
        let refused = |e: Error| wrong(format!("mail server at {address}: {}", causes(&e)));
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(&config.url).map_err(&refused)?;
        if let Some(tls) = &config.tls {
            let pem = tls.pem().map_err(|e| wrong(format!("mail server at {address}: TLS: {e}")))?;
            let mut parameters = TlsParameters::builder(host);
            if let Some(ca) = pem.ca {
                let ca = Certificate::from_pem(&ca).map_err(&refused)?;
                parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(ca);
            }
            if let Some((certificate, key)) = pem.own {
                parameters =
                    parameters.identify_with(Identity::from_pem(&certificate, &key).map_err(&refused)?);
            }
            let parameters = parameters.build().map_err(&refused)?;
            builder = builder.tls(match from_start {
                true => Protection::Wrapper(parameters),
                false => Protection::Required(parameters),
            });
        }
        if let Some(user) = &config.user {
            builder = builder.credentials(Credentials::new(
                user.clone(),
                config.password.as_deref().unwrap_or_default().to_owned(),
            ));
        }
        let timeout = config.timeout.duration();
        let builder = builder.timeout(Some(timeout)).pool_config(PoolConfig::new().max_size(1));
        Ok(Smtp { builder, transport: None, address, timeout })
    }

    /// `host:port` of the server, for people.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends one mail. It is the server's when this returns.
    ///
    /// # Errors
    /// See [`judge`]; `Unknown` too when it takes too long.
    pub async fn send(&mut self, mail: Message) -> Result<(), Failure> {
        // lettre bounds only the time to connect.
        let transport = self.transport.get_or_insert_with(|| self.builder.clone().build());
        match tokio::time::timeout(self.timeout, Box::pin(transport.send(mail))).await {
            Ok(sent) => sent.map(drop).map_err(|e| self.at(judge(&e))),
            Err(_) => {
                // A connection whose answer is still to come goes back to its pool as if it were well, and would give
                // that answer to the next mail: it is never used again.
                self.transport = None;
                Err(self.at(Failure::new(Class::Unknown, format!("no answer in {:?}", self.timeout))))
            }
        }
    }

    /// Greets the server, logs in, and says goodbye.
    ///
    /// # Errors
    /// Its address, and why it does not answer.
    pub async fn ping(&self) -> Result<(), Failure> {
        let transport = self.builder.clone().build::<Tokio1Executor>();
        let Ok(answer) = tokio::time::timeout(self.timeout, Box::pin(transport.test_connection())).await
        else {
            let message = format!("no answer in {:?}", self.timeout);
            return Err(self.at(Failure::new(Class::Transient, message)));
        };
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.at(Failure::new(Class::Transient, "it answers, but not well"))),
            // Nothing was sent that could be done twice; what it refuses for good is the login.
            Err(e) => Err(self.at(match judge(&e) {
                failure @ Failure { class: Class::Row, .. } => Failure { class: Class::Config, ..failure },
                failure @ Failure { class: Class::Unknown, .. } => {
                    Failure { class: Class::Transient, ..failure }
                }
                failure => failure,
            })),
        }
    }

    fn at(&self, failure: Failure) -> Failure {
        Failure { message: format!("mail server at {}: {}", self.address, failure.message), ..failure }
    }
}

/// What an error of a mail means.
#[must_use]
pub fn judge(error: &Error) -> Failure {
    let code = error.status().map(u16::from);
    let class = match code {
        Some(code) => class_of(code),
        // An address that this server cannot be given (SMTPUTF8), a mail that cannot be written.
        None if error.is_client() => Class::Row,
        None if error.is_tls() => Class::Config,
        // The network, or the time: nothing in the error says whether the mail had been taken.
        None => Class::Unknown,
    };
    Failure { class, message: causes(error), code: code.map(|code| code.to_string()), column: None }
}

/// What a code of the server means (RFC 5321, 4.2.3; RFC 4954, 6).
fn class_of(code: u16) -> Class {
    match code {
        // Login wanted, too weak, or refused.
        530 | 534 | 535 | 538 => Class::Config,
        // Too many mails or connections at the moment, a mailbox that is locked, grey-listing.
        400..=499 => Class::Transient,
        500..=599 => Class::Row,
        _ => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_class() {
        let check = |codes: &[u16], class: Class| {
            for code in codes {
                assert_eq!(class_of(*code), class, "{code}");
            }
        };
        check(&[421, 450, 451, 452, 454], Class::Transient);
        check(&[550, 551, 552, 553, 554, 501], Class::Row);
        check(&[530, 534, 535, 538], Class::Config);
    }

    #[test]
    fn a_url_says_where() {
        let parsed = |url: &str| SmtpConfig::new(url).parsed();
        assert_eq!(parsed("smtp://mail:2525"), Ok(("mail".into(), 2525, false)));
        assert_eq!(parsed("smtp://mail?tls=required"), Ok(("mail".into(), 587, false)));
        assert_eq!(parsed("smtps://u:p@mail"), Ok(("mail".into(), 465, true)));
        for bad in ["mail:25", "http://mail", "smtp://", "smtp://mail?tls=maybe"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
        let config = SmtpConfig { password: Some("geheim".into()), ..SmtpConfig::new("smtp://mail") };
        assert_eq!(config.check().iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), ["password"]);
        assert!(!format!("{config:?}").contains("geheim"));
    }

    #[test]
    fn a_server_that_gets_no_mail_needs_no_runtime() {
        let smtp = Smtp::new(&SmtpConfig::new("smtp://mail")).expect("is a server");
        drop((smtp.clone(), smtp));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named_with_its_cause() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("has one");
        let smtp = Smtp::new(&SmtpConfig::new(format!("smtp://{free}"))).expect("a pool");
        let failure = smtp.ping().await.expect_err("nobody is there");
        assert_eq!(failure.class, Class::Transient, "{failure}");
        assert!(failure.message.contains(&free.to_string()), "{failure}");
    }
}
