//! The `smtp` sink against a real mail server. Recipients are each test's own; the test that kills the server has one of its
//! own.
//!
//! Needs what `scripts/smtp.sh` prints. Without it a test fails; it never skips.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};
use slackwater::clients::smtp::SmtpConfig;
use slackwater::clients::{Clients, Connections, Named};
use slackwater::model::{Clock, Millis, Origin, Record, SinkRow, SystemClock, Timestamp, Value};
use slackwater::sinks::{Answer, Answers, Lane, SinkError, SinkSettings, SmtpSinkConfig, Surroundings};

use crate::common::OwnServer;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see scripts/smtp.sh"))
}

/// A lane, how its rows are made, and where mails and answers of its server are.
struct Sender {
    config: SmtpSinkConfig,
    lane: Box<dyn Lane>,
    mails: PathBuf,
    answers: PathBuf,
    /// Before the `@` of every recipient.
    own: String,
}

impl Sender {
    async fn new(own: &str, server: SmtpConfig, mails: PathBuf, answers: PathBuf) -> Sender {
        // As `yaml/` hands them over: start, end, text.
        let at = |text: &str| json!([0, text.len(), text]);
        let config: SmtpSinkConfig = serde_json::from_value(json!({
            "to": at("{{ .to }}"), "from": at("Shop <shop@example.org>"), "subject": at("{{ .subject }}"),
            "text": at("Hello"),
        }))
        .expect("are settings");
        let clients = Clients::new(&Connections { smtp: Named::one(server), ..Connections::default() });
        let around = Surroundings {
            topology: "users",
            node: "welcome",
            env: &|_| None,
            kafka: None,
            clients: &clients,
            limit: &|_| None,
        };
        let lane = config.connect(around).await.expect("connects").lane();
        let own = format!("{own}-{}", SystemClock.now());
        Sender { config, lane, mails, answers, own }
    }

    async fn shared(own: &str) -> Sender {
        let server = SmtpConfig { timeout: Millis::secs(2), ..SmtpConfig::new(variable("SMTP_URL")) };
        Sender::new(own, server, variable("SMTP_MAILS").into(), variable("SMTP_ANSWERS").into()).await
    }

    fn address(&self, who: &str) -> String {
        format!("{}-{who}@example.org", self.own)
    }

    /// Rows `key:who:subject`, read one after the other from partition 3.
    fn rows(&self, rows: &[&str]) -> Vec<SinkRow> {
        let row = |(offset, row): (i64, &&str)| {
            let (key, rest) = row.split_once(':').expect("a key");
            let (who, subject) = rest.split_once(':').expect("a recipient");
            let value = Value::from(json!({"to": self.address(who), "subject": subject}));
            let origin = Origin { topic: 0, partition: 3, offset };
            let record =
                Record { origin, ..Record::new(key.to_owned(), value, Timestamp(1_764_500_000_000)) };
            SinkRow { reply_to: None, payload: self.config.payload(&record).expect("is a mail"), record }
        };
        (100..).zip(rows).map(row).collect()
    }

    async fn deliver(&mut self, rows: &[SinkRow]) -> (Vec<Option<Answer>>, Result<(), SinkError>) {
        let mut answers = Answers::new(rows.len());
        let result = self.lane.deliver_batch(rows, &mut answers).await;
        (answers.into_vec(), result)
    }

    fn answer(&self, who: &str, answer: &str) {
        let file = self.answers.join(match who.strip_suffix(".data") {
            Some(who) => format!("{}.data", self.address(who)),
            None => self.address(who),
        });
        match answer {
            "" => std::fs::remove_file(file).expect("is there"),
            answer => std::fs::write(file, answer).expect("is written"),
        }
    }

    /// The mails to a recipient, in the order in which the server took them.
    fn mails(&self, who: &str) -> Vec<String> {
        let to = format!("X-Envelope-To: {}\r\n", self.address(who));
        let mut files: Vec<PathBuf> = std::fs::read_dir(&self.mails)
            .expect("a folder")
            .map(|entry| entry.expect("a file").path())
            .collect();
        files.sort();
        let whole = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "eml");
        let texts = files
            .iter()
            .filter(|path| whole(path))
            .map(|path| std::fs::read_to_string(path).expect("is text"));
        texts.filter(|text| text.contains(&to)).collect()
    }

    fn subjects(&self, who: &str) -> Vec<String> {
        self.mails(who).iter().map(|mail| header(mail, "Subject")).collect()
    }
}

fn header(mail: &str, name: &str) -> String {
    let line = mail.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("no {name}: {mail}")).to_owned()
}

/// `w` written, `x` refused, `-` no answer.
fn letters(answers: &[Option<Answer>]) -> String {
    let letter = |answer: &Option<Answer>| match answer {
        Some(Answer::Written | Answer::Wrote(_)) => 'w',
        Some(Answer::Refused(_)) => 'x',
        None => '-',
    };
    answers.iter().map(letter).collect()
}

#[tokio::test]
async fn each_recipient_has_a_mail_and_the_same_one_again_after_a_crash() {
    let mut sender = Sender::shared("again").await;
    let rows = sender.rows(&["1:ann:hello", "2:bob:Grüße", "1:ann:bye"]);
    for _ in 0..2 {
        let (answers, result) = sender.deliver(&rows).await;
        assert_eq!((letters(&answers).as_str(), result), ("www", Ok(())));
    }
    assert_eq!(sender.subjects("ann"), ["hello", "bye", "hello", "bye"]);
    let ids: Vec<String> = sender.mails("ann").iter().map(|mail| header(mail, "Message-ID")).collect();
    assert_eq!(ids[..2], ids[2..], "sent again, it is the same mail");
    assert_ne!(ids[0], ids[1]);
    assert!(ids[0].starts_with("<users.welcome.0.3.100.") && ids[0].ends_with("@example.org>"), "{ids:?}");
    assert_eq!(header(&sender.mails("bob")[0], "Date"), "Sun, 30 Nov 2025 10:53:20 +0000");
}

#[tokio::test]
async fn what_is_refused_for_good_is_refused_alone_and_what_is_put_off_waits_with_its_key() {
    let mut sender = Sender::shared("put-off").await;
    sender.answer("nobody", "550 5.1.1 no such user");
    sender.answer("grey", "451 4.7.1 come back later");
    let rows =
        sender.rows(&["1:nobody:a", "2:grey:b", "2:ann:c", "3:ann:d", "4:ann:e\r\nBcc: x@example.org"]);
    let (answers, result) = sender.deliver(&rows).await;
    assert_eq!(letters(&answers), "x--wx", "{answers:?}");
    let Err(SinkError::Retry { message, .. }) = result else { panic!("{result:?}") };
    assert!(message.contains("451") || message.contains("come back later"), "{message}");
    assert!(matches!(&answers[0], Some(Answer::Refused(why)) if why.contains("no such user")), "{answers:?}");
    assert_eq!(sender.subjects("ann"), ["d"]);
    sender.answer("grey", "");
    let (answers, result) = sender.deliver(&rows[1..3]).await;
    assert_eq!((letters(&answers).as_str(), result), ("ww", Ok(())));
    assert_eq!(
        (sender.subjects("grey"), sender.subjects("ann")),
        (vec!["b".into()], vec!["d".into(), "c".into()])
    );
}

#[tokio::test]
async fn a_server_that_closes_hangs_up_or_says_nothing_is_asked_again() {
    let mut sender = Sender::shared("closing").await;
    let rows = sender.rows(&["1:ann:a", "2:bob:b"]);
    for (who, answer) in [
        ("ann", "421 4.3.2 closing"),
        ("ann", "drop"),
        ("ann.data", "drop"),
        ("ann.data", "451 4.3.0 later"),
        ("ann", "slow 3 451 4.3.0 later"),
        // The answer to the mail before comes late: it is not taken for that to the next one.
        ("ann.data", "slow 3 550 5.7.1 no"),
    ] {
        sender.answer(who, answer);
        let (answers, result) = sender.deliver(&rows[..1]).await;
        assert_eq!(letters(&answers), "-", "{who} {answer}");
        assert!(matches!(result, Err(SinkError::Retry { .. })), "{who} {answer}: {result:?}");
        sender.answer(who, "");
    }
    let (answers, result) = sender.deliver(&rows).await;
    assert_eq!((letters(&answers).as_str(), result), ("ww", Ok(())));
    assert_eq!((sender.subjects("ann").len(), sender.subjects("bob").len()), (1, 1));
}

#[tokio::test]
async fn a_refused_login_is_a_fault_of_the_topology() {
    let tls = serde_json::from_value::<Json>(json!({"ca": variable("SMTP_CA")})).expect("is JSON");
    let server = SmtpConfig {
        user: Some("slackwater".into()),
        password: Some("geheim".into()),
        tls: Some(serde_json::from_value(tls).expect("is TLS")),
        ..SmtpConfig::new(variable("SMTPS_URL"))
    };
    let mut sender =
        Sender::new("login", server, variable("SMTP_MAILS").into(), variable("SMTP_ANSWERS").into()).await;
    let rows = sender.rows(&["1:ann:a"]);
    let (answers, result) = sender.deliver(&rows).await;
    let Err(SinkError::Config { message, .. }) = result else { panic!("{result:?}") };
    assert_eq!(letters(&answers), "-");
    assert!(message.contains("535") && !message.contains("geheim"), "{message}");
}

#[tokio::test]
async fn a_server_that_was_killed_gets_the_rest_when_it_is_back() {
    let own = OwnServer::smtp();
    let mails = own.path().join("mails");
    let server = SmtpConfig { timeout: Millis::secs(2), ..SmtpConfig::new(&own.address) };
    let mut sender = Sender::new("killed", server, mails, own.path().join("answers")).await;
    let rows = sender.rows(&["1:ann:a", "2:ann:b", "3:ann:c"]);
    assert_eq!(sender.deliver(&rows[..1]).await.1, Ok(()));
    own.act("kill");
    for _ in 0..2 {
        let (answers, result) = sender.deliver(&rows[1..]).await;
        assert_eq!(letters(&answers), "--");
        assert!(matches!(result, Err(SinkError::Retry { .. })), "{result:?}");
    }
    own.act("resume");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sender.deliver(&rows[1..]).await.1, Ok(()));
    assert_eq!(sender.subjects("ann"), ["a", "b", "c"]);
}
