//! Sinks of tables and documents without a server: `tests:` of a file see rows that stay, are replaced, deleted and given
//! back.

use std::sync::Arc;

use slackwater::testing::run_test;
use slackwater::yaml::{Mode, load};

fn check(text: &str) {
    let loaded =
        load("t.yaml", text, Mode::Lenient, &|_| None).unwrap_or_else(|e| panic!("{}", e.render(false)));
    assert!(!loaded.tests.is_empty());
    let topology = Arc::new(loaded.topology);
    for test in &loaded.tests {
        if let Err(failed) = run_test(&topology, test) {
            panic!("{}: {}: {}", test.name, &text[failed.place], failed.message);
        }
    }
}

#[test]
fn who_was_first_is_told_from_who_came_too_late_also_after_a_crash() {
    check(
        r#"
name: users
kafka: { brokers: b }
postgres: { url: "${POSTGRES_URL}" }
sources: { create: { kafka: { topic: create-user } } }
operators:
  created: { from: users, filter: .row.id == .id }
  taken: { from: users, filter: .row.id != .id }
sinks:
  users:
    from: create
    postgres:
      table: users
      columns: { email: key, id: .id, name: .name }
      conflict: keep
      returning: .row
  user-created: { from: created, kafka: { topic: user-created, value: .row } }
  user-rejected: { from: taken, kafka: { topic: user-rejected, value: '{ "email": .row.email }' } }
errors: { dead_letter: { topic: dlq } }
tests:
  - name: the first is created, the second is not
    steps:
      - send: { to: create-user, key: a@b.c, value: { id: "1", name: A } }
      - send: { to: create-user, key: a@b.c, value: { id: "2", name: B } }
      - expect: { user-created: [ { email: a@b.c, id: "1", name: A } ], user-rejected: [ { email: a@b.c } ] }
  - name: after a crash it was still the first
    steps:
      - checkpoint
      - send: { to: create-user, key: a@b.c, value: { id: "1", name: A } }
      - expect: { user-created: [ { id: "1" } ] }
      - crash
      - expect: { user-created: [ { id: "1" } ], user-rejected: [] }
  - name: a value that takes no row is refused before it is written
    steps:
      - send: { to: create-user, key: a@b.c, raw: '"text"' }
      - expect: { users: { dropped: 0 }, dlq: { records: 1 } }
      - send: { to: create-user, key: a@b.c, value: { id: "2", name: B } }
      - expect: { user-created: [ { id: "2" } ] }
"#,
    );
}

#[test]
fn what_is_refused_as_a_row_goes_to_the_dead_letter() {
    check(
        r#"
name: once
kafka: { brokers: b }
postgres: { main: { url: "${POSTGRES_URL}" }, audit: { url: "${AUDIT_URL}" } }
sources: { in: { kafka: { topic: in } } }
sinks:
  rows:
    from: in
    postgres: { connection: main, table: rows, columns: { id: key, n: .n }, conflict: fail }
errors: { dead_letter: { topic: dlq } }
tests:
  - name: the same row twice is one, another one is refused
    steps:
      - send: { to: in, key: a, value: { n: 1 } }
      - send: { to: in, key: a, value: { n: 1 } }
      - expect: { dlq: { records: 0 } }
      - send: { to: in, key: a, value: { n: 2 } }
      - expect: { dlq: [ { headers: { slackwater-reason: sink_refused } } ] }
"#,
    );
}

#[test]
fn a_tombstone_deletes_and_shows_as_that() {
    check(
        r#"
name: deletes
kafka: { brokers: b }
postgres: { url: "${POSTGRES_URL}" }
sources: { in: { kafka: { topic: in } } }
sinks:
  rows:
    from: in
    postgres: { table: rows, columns: { id: key, n: .n }, newer_wins: n, delete_when: .gone, returning: .row }
  after: { from: rows, kafka: { topic: after } }
tests:
  - name: the newest wins, and goes
    steps:
      - send: { to: in, key: a, value: { n: 2 } }
      - send: { to: in, key: a, value: { n: 1 } }
      - expect: { rows: [ { id: a, n: 2 }, { id: a, n: 1 } ], after: [ { n: 2, row: { n: 2 } }, { n: 1, row: { n: 2 } } ] }
      - send: { to: in, key: a, value: { gone: true } }
      - send: { to: in, key: a, value: null }
      - expect: { rows: [ { delete: { id: a } }, { delete: { id: a } } ] }
      - send: { to: in, key: a, value: { n: 1 } }
      - expect: { after: { records: 3 } }
"#,
    );
}

#[test]
fn keys_of_redis_show_with_value_and_time_to_live_and_what_it_would_not_take_is_dead() {
    check(
        r#"
name: cache
kafka: { brokers: b }
redis: { url: "${REDIS_URL}" }
sources: { posts: { kafka: { topic: posts } } }
operators:
  told: { from: cache, map: '{ "slug": .slug }' }
sinks:
  cache:
    from: posts
    redis: { key: "post:{{ key }}", value: .post, ttl: .ttl, delete_when: .gone == true }
  tags: { from: posts, redis: { command: sadd, key: "tags:{{ .post.author }}", value: .slug } }
  out: { from: told, kafka: { topic: out } }
errors: { dead_letter: { topic: dlq } }
tests:
  - name: a row is a key with its value, and goes on
    steps:
      - send: { to: posts, key: a, value: { slug: s, ttl: 1m, post: { author: ada } } }
      - expect:
          cache: [ { key: "post:a", value: { author: ada }, ttl_ms: 60000 } ]
          tags: [ { key: "tags:ada", value: s } ]
          out: [ { slug: s } ]
  - name: it is deleted by a tombstone or by what it says
    steps:
      - send: { to: posts, key: a, value: { gone: true, slug: s, post: { author: ada } } }
      - expect: { cache: [ { delete: { key: "post:a" } } ], dlq: [] }
  - name: what cannot be written is dead
    steps:
      - send: { to: posts, key: a, value: { slug: s, ttl: soon, post: { author: ada } } }
      - send: { to: posts, key: b, value: { slug: s, post: null } }
      - expect:
          cache: []
          dlq:
            - { key: a, headers: { slackwater-reason: expression, slackwater-node: cache } }
            - { key: b, headers: { slackwater-node: cache } }
            - { key: b, headers: { slackwater-node: tags } }
"#,
    );
}

#[test]
fn documents_show_with_their_index_and_id() {
    check(
        r#"
name: indexer
kafka: { brokers: b }
sources: { users: { kafka: { topic: user-created } } }
sinks:
  index:
    from: users
    elasticsearch:
      url: "${OPENSEARCH_URL}"
      index: "users-{{ .region }}"
      id: "{{ .id }}"
      document: '{ "email": key, "name": .name }'
      version: timestamp
      delete_when: .gone
errors: { dead_letter: { topic: dlq } }
tests:
  - name: a user is a document until it goes
    steps:
      - send: { to: user-created, key: a@b.c, value: { id: "1", name: A, region: eu }, ts: 5 }
      - expect: { index: [ { index: users-eu, id: "1", version: 5, document: { email: a@b.c, name: A } } ] }
      - send: { to: user-created, key: a@b.c, value: { id: "1", region: eu, gone: true }, ts: 6 }
      - expect: { index: [ { delete: { index: users-eu, id: "1", version: 6 } } ] }
  - name: what names no index is refused before it is sent
    steps:
      - send: { to: user-created, key: a@b.c, value: { id: "1", name: A, region: "E U" } }
      - expect: { index: { records: 0 }, dlq: [ { headers: { slackwater-reason: expression } } ] }
"#,
    );
}

#[test]
fn requests_show_with_method_and_url() {
    check(
        r#"
name: caller
kafka: { brokers: b }
rate_limits: { partners: { limit: 100/s, scope: cluster } }
sources: { orders: { kafka: { topic: orders } } }
sinks:
  partner:
    from: orders
    http:
      url: "${PARTNER}/orders/{{ .id }}"
      method: '{{ if .gone == true { "DELETE" } else { "PUT" } }}'
      headers: { x-region: "{{ .region }}" }
      body: 'if .gone == true { null } else { { "n": .n } }'
      rate_limit: partners
errors: { dead_letter: { topic: dlq } }
tests:
  - name: an order is put, and deleted
    steps:
      - send: { to: orders, key: a, value: { id: "a/1", n: 7, region: eu } }
      - expect: { partner: [ { method: PUT, url: "${PARTNER}/orders/a%2F1", headers: { x-region: eu }, body: { n: 7 } } ] }
      - send: { to: orders, key: a, value: { id: "a/1", gone: true, region: eu } }
      - expect: { partner: [ { method: DELETE, url: "${PARTNER}/orders/a%2F1" } ] }
      - send: { to: orders, key: a, value: { id: "..", region: eu } }
      - expect: { partner: { records: 0 }, dlq: { records: 1 } }
"#,
    );
}

#[test]
fn a_rate_limit_that_is_not_there_is_named_at_the_sink() {
    let text = r#"
name: caller
kafka: { brokers: b }
sources: { orders: { kafka: { topic: orders } } }
sinks:
  partner: { from: orders, http: { url: "http://h/x", rate_limit: partners } }
"#;
    let problems = load("t.yaml", text, Mode::Lenient, &|_| None).expect_err("is refused").render(false);
    assert!(problems.contains("there is no rate limit `partners`"), "{problems}");
}
