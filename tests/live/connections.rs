//! Connections to Redis and mail servers against real ones: by name and login, in clear and by TLS, a cluster; and what
//! is said of a server that refuses or is not there.
//!
//! Needs what `scripts/redis.sh` and `scripts/smtp.sh` print. Without it a test fails; it never skips.

use std::time::Duration;

use slackwater::clients::redis::{Redis, RedisConfig, cmd, pipe};
use slackwater::clients::smtp::{Message, Smtp, SmtpConfig};
use slackwater::clients::{Class, Clients, Connections, Failure, Named, Server, Tls, Uses};
use slackwater::model::Millis;

use crate::common::unique;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: start the servers of ./test, scripts/NAME.sh start DIR")
    })
}

fn tls(ca: &str) -> Option<Tls> {
    Some(Tls { ca: Some(variable(ca).into()), ..Tls::default() })
}

async fn redis(config: RedisConfig) -> Result<Redis, Failure> {
    let mut redis = Redis::connect(&config).await?;
    redis.ping().await.map(|()| redis)
}

#[tokio::test]
async fn redis_answers_in_clear_by_tls_and_as_a_cluster() {
    let secret = |password: &str| RedisConfig {
        user: Some("secret".into()),
        password: Some(password.into()),
        tls: tls("REDIS_CA"),
        ..RedisConfig::new(variable("REDIS_TLS_URL"))
    };
    let cluster =
        RedisConfig { cluster: true, ..RedisConfig::new(format!("redis://{}", variable("REDIS_CLUSTER"))) };
    for config in [RedisConfig::new(variable("REDIS_URL")), secret("s3cret"), cluster] {
        let mut client = redis(config).await.unwrap_or_else(|e| panic!("{e}"));
        // Of one slot in a cluster: by the braces.
        let key = format!("{{{}}}", unique("connections"));
        let (a, b) = (format!("{key}a"), format!("{key}b"));
        let mut both = pipe();
        both.cmd("SET").arg(&a).arg("1").ignore().cmd("SET").arg(&b).arg("x").ignore().cmd("GET").arg(&a);
        assert_eq!(client.pipeline::<Vec<String>>(&both).await, Ok(vec!["1".to_owned()]));
        let wrong = client.command::<i64>(cmd("LPUSH").arg(&b).arg("y")).await.expect_err("it is no list");
        assert_eq!((wrong.class, wrong.code.as_deref()), (Class::Row, Some("WRONGTYPE")), "{wrong}");
        let wrong = client.command::<i64>(&cmd("NOPE")).await.expect_err("there is no such command");
        assert_eq!(wrong.class, Class::Config, "{wrong}");
    }
    let refused = redis(secret("geheim")).await.map(drop).expect_err("a wrong password");
    assert_eq!(refused.class, Class::Config, "{refused}");
    assert!(!refused.message.contains("geheim"), "{refused}");
    let stranger = RedisConfig { tls: Some(Tls::default()), ..secret("s3cret") };
    let refused = redis(stranger).await.map(drop).expect_err("an authority that this machine does not know");
    assert!(refused.message.contains("127.0.0.1"), "{refused}");
}

fn mail(to: &str) -> Message {
    let address = |text: &str| text.parse().expect("an address");
    Message::builder()
        .from(address("blog@example.org"))
        .to(address(to))
        .subject("hello")
        .body("text".to_owned())
        .expect("a mail")
}

#[tokio::test]
async fn a_mail_goes_out_in_clear_by_starttls_and_by_tls() {
    let with = |url: &str| SmtpConfig { tls: tls("SMTP_CA"), ..SmtpConfig::new(variable(url)) };
    let clear = SmtpConfig::new(variable("SMTP_URL"));
    for (n, config) in [clear.clone(), with("SMTP_STARTTLS_URL"), with("SMTPS_URL")].into_iter().enumerate() {
        let mut smtp = Smtp::new(&config).expect("is a server");
        smtp.ping().await.unwrap_or_else(|e| panic!("{n}: {e}"));
        let to = format!("{}@example.org", unique("mail"));
        smtp.send(mail(&to)).await.unwrap_or_else(|e| panic!("{n}: {e}"));
        let mails = std::fs::read_dir(variable("SMTP_MAILS")).expect("a folder");
        let texts =
            mails.map(|entry| std::fs::read_to_string(entry.expect("a file").path()).unwrap_or_default());
        assert_eq!(texts.filter(|text| text.contains(&format!("X-Envelope-To: {to}"))).count(), 1, "{n}");
    }
    // What the server says of a recipient, and of a login.
    let mut smtp = Smtp::new(&clear).expect("is a server");
    for (answer, class) in [
        ("550 5.1.1 no such user", Class::Row),
        ("451 4.3.0 later", Class::Transient),
        ("drop", Class::Unknown),
    ] {
        let to = format!("{}@example.org", unique("refused"));
        let file = std::path::Path::new(&variable("SMTP_ANSWERS")).join(&to);
        std::fs::write(&file, answer).expect("is written");
        let failure = smtp.send(mail(&to)).await.expect_err("is refused");
        assert_eq!(failure.class, class, "{answer}: {failure}");
        std::fs::remove_file(&file).expect("is there");
        smtp.send(mail(&to)).await.unwrap_or_else(|e| panic!("after {answer}: {e}"));
    }
    let wrong =
        SmtpConfig { user: Some("slackwater".into()), password: Some("geheim".into()), ..with("SMTPS_URL") };
    let failure = Smtp::new(&wrong).expect("is a server").ping().await.expect_err("a wrong password");
    assert_eq!((failure.class, failure.code.as_deref()), (Class::Config, Some("535")), "{failure}");
    assert!(!failure.message.contains("geheim"), "{failure}");
}

#[tokio::test]
async fn clients_are_shared_by_name() {
    let redis = |url: String| RedisConfig {
        connect_timeout: Millis(500),
        timeout: Millis(500),
        ..RedisConfig::new(url)
    };
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("is bound");
    let clients = Clients::new(&Connections {
        redis: Named::several([
            ("here".to_owned(), redis(variable("REDIS_URL"))),
            ("away".to_owned(), redis(format!("redis://{free}"))),
        ]),
        smtp: Named::one(SmtpConfig::new(variable("SMTP_URL"))),
        ..Connections::default()
    });
    let ping = async |server, name| {
        tokio::time::timeout(Duration::from_secs(10), clients.ping(Uses { server, name }))
            .await
            .expect("in time")
    };
    assert_eq!(ping(Server::Redis, Some("here")).await, Ok(()));
    assert_eq!(ping(Server::Smtp, None).await, Ok(()));
    let away = ping(Server::Redis, Some("away")).await.expect_err("nobody is there");
    assert!(away.class == Class::Transient && away.message.contains(&free.to_string()), "{away}");
    let which = ping(Server::Redis, None).await.expect_err("there are two");
    assert!(which.class == Class::Config && which.message.contains("connection: NAME"), "{which}");
}
