//! The shipped `topology/create-user.yaml` with the real binary on real Kafka, PostgreSQL, OpenSearch and a mail server: a user is asked for
//! over HTTP at one of two instances, created once, and answered where it was asked for.
//!
//! Needs what `scripts/kafka.sh`, `scripts/postgres.sh`, `scripts/opensearch.sh` and `scripts/smtp.sh` print. Without it a test fails; it never skips.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Client;
use serde_json::{Value as Json, json};
use tokio::runtime::Runtime;
use tokio_postgres::NoTls;

use crate::common::{Instance, OwnServer, Stage, brokers, wait};

const LONG: Duration = Duration::from_secs(60);

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: start the servers of ./test, scripts/NAME.sh start DIR")
    })
}

/// The topology with topics and a database of the test's own.
struct Users {
    stage: Stage,
    postgres: String,
    smtp: String,
    /// Where the search index is; its name is the test's own.
    search: String,
    runtime: Runtime,
    client: Client,
}

/// Status and body of an answer.
type Answer = (u16, Json);

impl Users {
    fn new(what: &str, smtp: &str, search: &str) -> Users {
        let mut text = std::fs::read_to_string("topology/create-user.yaml").expect("is there");
        for (from, to) in [
            ("\nname: create-user\n", "\nname: NAME\n"),
            ("create-user.dlq", "NAME.dlq"),
            ("topic: create-user", "topic: NAME.create-user"),
            ("topic: user-created", "topic: NAME.user-created"),
            ("topic: user-rejected", "topic: NAME.user-rejected"),
            ("topic: send-email", "topic: NAME.send-email"),
            ("user-created: 201", "NAME.user-created: 201"),
            ("user-rejected: '", "NAME.user-rejected: '"),
            ("index: users", "index: NAME"),
        ] {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        let topics = ["create-user", "user-created", "user-rejected", "send-email"].map(|topic| (topic, 3));
        let topics = [&topics[..], &[("dlq", 1)]].concat();
        let stage = Stage::on(&brokers(), what, &topics, &text);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let shared = variable("POSTGRES_URL");
        let (server, _) = shared.rsplit_once('/').expect("a database");
        let postgres = format!("{server}/{}", stage.name);
        runtime.block_on(async {
            execute(&shared, &format!("CREATE DATABASE \"{}\"", stage.name)).await;
            execute(&postgres, include_str!("../../topology/create-user.sql")).await;
        });
        // An idle connection may be closed by the server while the next request is on its way.
        let client = Client::builder().timeout(LONG).pool_max_idle_per_host(0).build().expect("a client");
        Users { stage, postgres, smtp: smtp.to_owned(), search: search.to_owned(), runtime, client }
    }

    fn start(&self, id: &str) -> Instance {
        let mut command = self.stage.command();
        command
            .env("POSTGRES_URL", &self.postgres)
            .env("SMTP_URL", &self.smtp)
            .env("OPENSEARCH_URL", &self.search)
            .env("MAIL_FROM", "shop@example.org")
            .env("HTTP_LISTEN", "127.0.0.1:0");
        let mut instance = Instance::spawn(command, &self.stage.yaml, id, &[]);
        instance.wait_ready(LONG);
        instance
    }

    /// Asks for users at these addresses, all at once.
    fn ask(&self, asked: &[(&str, Option<&str>, String)]) -> Vec<Answer> {
        let asked = asked.iter().map(|(at, key, body)| {
            let request = self.client.post(format!("http://{at}/users")).body(body.clone());
            let mut request = request.header("content-type", "application/json");
            if let Some(key) = key {
                request = request.header("idempotency-key", *key);
            }
            async move {
                let answer = request.send().await.expect("an answer");
                let status = answer.status().as_u16();
                (status, serde_json::from_slice(&answer.bytes().await.expect("a body")).unwrap_or_default())
            }
        });
        self.runtime.block_on(join_all(asked))
    }

    fn one(&self, at: &str, key: Option<&str>, body: &Json) -> Answer {
        self.ask(&[(at, key, body.to_string())]).pop().expect("one answer")
    }

    /// Id and name by email, as PostgreSQL has them.
    fn rows(&self) -> BTreeMap<String, (String, String)> {
        self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.postgres, NoTls).await.expect("answers");
            tokio::spawn(connection);
            let rows = client.query("SELECT email, id, name FROM users", &[]).await.expect("is read");
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
        })
    }
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

fn user(email: &str, name: &str) -> Json {
    json!({ "email": email, "name": name })
}

/// The mails of a server to one recipient.
fn mails(folder: &std::path::Path, to: &str) -> Vec<String> {
    let files = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path());
    let whole = files.filter(|path| path.extension().is_some_and(|ending| ending == "eml"));
    let texts = whole.map(|path| std::fs::read_to_string(path).expect("is text"));
    texts.filter(|text| text.contains(&format!("X-Envelope-To: {to}\r\n"))).collect()
}

#[test]
fn a_user_is_created_once_and_answered_where_it_was_asked_for() {
    let users = Users::new("users", &variable("SMTP_URL"), &variable("OPENSEARCH_URL"));
    let (one, two) = (users.start("one"), users.start("two"));
    let (first, second) = (one.http(), two.http());

    // Created, and there when the answer is; a second one is not, in whatever case of letters.
    let own = |who: &str| format!("{who}-{}@example.org", users.stage.name);
    let ann = own("Ann");
    let (status, body) = users.one(&first, None, &user(&ann, "Ann"));
    assert_eq!(status, 201, "{body}");
    assert_eq!((&body["email"], &body["name"]), (&json!(ann.to_lowercase()), &json!("Ann")));
    let id = body["id"].as_str().expect("an id").to_owned();
    assert!(body["created_at"].is_string(), "{body}");
    assert_eq!(users.rows()[&ann.to_lowercase()], (id, "Ann".into()));
    let (status, body) = users.one(&second, None, &user(&ann.to_uppercase(), "Other"));
    assert_eq!((status, &body["email"]), (409, &json!(ann.to_lowercase())), "{body}");
    assert!(body["error"].is_string(), "{body}");

    // What is no user is answered before anything is produced.
    for (body, status, field) in [
        (user("nobody", "N").to_string(), 422, json!("email")),
        (user(&own("empty"), " ").to_string(), 422, json!("name")),
        (json!({ "email": own("none") }).to_string(), 422, json!("name")),
        ("{".to_owned(), 400, Json::Null),
    ] {
        let answer = users.ask(&[(&first, None, body.clone())]).pop().expect("one");
        assert_eq!((answer.0, &answer.1["field"]), (status, &field), "{body}: {answer:?}");
    }

    // The same Idempotency-Key is the same user at both, and of no other body.
    let bob = user(&own("bob"), "Bob");
    let answers = users.ask(&[(&first, Some("k1"), bob.to_string()), (&second, Some("k1"), bob.to_string())]);
    assert_eq!((answers[0].0, answers[1].0), (201, 201), "{answers:?}");
    assert_eq!(answers[0].1["id"], answers[1].1["id"]);
    let again = users.one(&first, Some("k1"), &bob);
    assert_eq!((again.0, &again.1), (201, &answers[0].1));
    for other in [user(&own("bob"), "Bobby"), user(&own("bobby"), "Bob")] {
        let (status, body) = users.one(&second, Some("k1"), &other);
        assert_eq!(status, 422, "{body}");
    }
    assert!(!users.rows().contains_key(&own("bobby")));

    // Of two requests for one email at two instances at once exactly one creates it.
    let asked: Vec<_> = (0..20)
        .flat_map(|n| {
            [&first, &second].map(|at| (at.as_str(), None, user(&own(&format!("race{n}")), at).to_string()))
        })
        .collect();
    let answers = users.ask(&asked);
    for pair in answers.chunks(2) {
        let mut statuses = [pair[0].0, pair[1].0];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409], "{pair:?}");
    }

    // An instance that is killed takes its own waiting requests with it, and no others.
    one.kill9();
    let asked: Vec<_> =
        (0..10).map(|n| (second.as_str(), None, user(&own(&format!("after{n}")), "A").to_string())).collect();
    // What the killed one owned is taken over after its session's time; a request may be asked again meanwhile.
    for (n, (status, body)) in users.ask(&asked).into_iter().enumerate() {
        assert!(status == 201 || status == 504, "{n}: {status} {body}");
    }
    wait("the other one has taken over", LONG, || {
        users.one(&second, Some("over"), &user(&own("over"), "Over")).0 == 201
    });

    // Every user is in the index, by its number, and has had one mail.
    for (id, _) in users.rows().values() {
        let document = format!("{}/{}/_doc/{id}", users.search, users.stage.name);
        wait("a document", LONG, || {
            let answer = users.runtime.block_on(async { users.client.get(&document).send().await });
            answer.is_ok_and(|answer| answer.status().as_u16() == 200)
        });
    }
    let folder = std::path::PathBuf::from(variable("SMTP_MAILS"));
    for email in users.rows().keys() {
        wait("a mail", LONG, || !mails(&folder, email).is_empty());
    }
    let bob = mails(&folder, &own("bob"));
    assert_eq!(bob.len(), 1, "asked for three times, and greeted once: {bob:?}");
    assert!(bob[0].contains("Subject: Welcome") && bob[0].contains("From: shop@example.org"), "{bob:?}");
    assert_eq!(two.stop(LONG), 0);
}

#[test]
fn users_are_created_while_mail_server_and_index_are_down_and_the_mails_catch_up() {
    let server = OwnServer::smtp();
    // Nothing answers there.
    let users = Users::new("nomail", &server.address, "http://127.0.0.1:9");
    server.act("kill");
    let one = users.start("one");
    let emails: Vec<String> = (0..20).map(|n| format!("u{n}@example.org")).collect();
    let at = one.http();
    let asked: Vec<_> =
        emails.iter().map(|email| (at.as_str(), None, user(email, "U").to_string())).collect();
    for (status, body) in users.ask(&asked) {
        assert_eq!(status, 201, "{body}");
    }
    server.act("resume");
    let folder = server.path().join("mails");
    for email in &emails {
        wait("the mail", LONG, || mails(&folder, email).len() == 1);
    }
    assert_eq!(one.stop(LONG), 0);
}
