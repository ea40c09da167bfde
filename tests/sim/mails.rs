//! The `smtp` sink without a mail server: `tests:` of a file see the mails as they would go out.

use std::sync::Arc;

use slackwater::testing::run_test;
use slackwater::yaml::{Mode, load};

const FILE: &str = r#"
name: welcome
kafka: { brokers: b }
smtp: { url: "${SMTP_URL}" }
sources: { mails: { kafka: { topic: send-email } } }
sinks:
  out:
    from: mails
    smtp:
      to: "{{ .name }} <{{ .to }}>"
      from: "${MAIL_FROM}"
      subject: "Welcome, {{ .name }}"
      text: "Your number is {{ .user_id }}."
errors: { dead_letter: { topic: dlq } }
tests:
  - name: a mail goes out
    steps:
      - send: { to: send-email, key: "7", value: { to: a@b.c, name: Ann, user_id: 7 } }
      - expect: { out: [ { to: "Ann <a@b.c>", subject: "Welcome, Ann", text: "Your number is 7." } ] }
  - name: what makes no mail goes to the dead letter
    steps:
      - send: { to: send-email, key: "7", value: { name: Ann } }
      - expect: { out: { records: 0 }, dlq: { records: 1 } }
"#;

#[test]
fn a_test_sees_the_mails() {
    let loaded =
        load("t.yaml", FILE, Mode::Lenient, &|_| None).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let topology = Arc::new(loaded.topology);
    for test in &loaded.tests {
        if let Err(failed) = run_test(&topology, test) {
            panic!("{}: {}: {}", test.name, &FILE[failed.place], failed.message);
        }
    }
    assert_eq!(loaded.tests.len(), 2);
}

#[test]
fn a_mail_that_cannot_be_is_a_problem_of_the_file() {
    let wrong = FILE.replace("${MAIL_FROM}", "nobody").replace("      text:", "      txet:");
    let problems = load("t.yaml", &wrong, Mode::Lenient, &|_| None).expect_err("is wrong").render(false);
    assert!(problems.contains("did you mean `text`?"), "{problems}");
    let wrong = FILE.replace("${MAIL_FROM}", "nobody");
    let problems = load("t.yaml", &wrong, Mode::Lenient, &|_| None).expect_err("is wrong").render(false);
    assert!(problems.contains("`from` is no address of a mail"), "{problems}");
    let wrong = FILE.replace("smtp: { url: \"${SMTP_URL}\" }", "");
    let problems = load("t.yaml", &wrong, Mode::Lenient, &|_| None).expect_err("is wrong").render(false);
    assert!(problems.contains("does not say where the mail server is"), "{problems}");
}
