//! What people and programs read when a topology file is wrong: one snapshot per case, the file, the report, the JSON.
//!
//! After a change of words: `INSTA_UPDATE=always cargo test --test sim diagnostics`, then read the diff.

use slackwater::yaml::{Mode, load};

/// The variables of these tests; every other one is unset.
fn variable(name: &str) -> Option<String> {
    match name {
        "DB_PASSWORD" => Some("hunter2secret".into()),
        "QUIET" => Some("soon".into()),
        _ => None,
    }
}

fn check(name: &str, text: &str) {
    let report = load("topology.yaml", text, Mode::Required, &variable).expect_err("the file is wrong");
    let json = serde_json::to_string_pretty(&report.to_json()).expect("is JSON");
    let shown = format!("{text}\n{}\n{json}", report.render(false));
    // The report says more than an assertion's expression would.
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, shown);
    });
}

/// One test per case: `name: "text"`.
macro_rules! cases {
    ($($name:ident: $text:expr;)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), $text);
        })*
    };
}

cases! {
    unknown_names_beside_nodes_that_cannot_be_read: r#"
name: t
rate_limits:
  api: { limit: 10/s }
  slow: { limit: often }
sources:
  in: { kafka: { topic: a, clust: b } }
operators:
  wrong: { from: nowhere, filter: { a: 1 }, colour: red }
  route: { from: in, branch: { big: 5 } }
  asks: { from: route.big, enrich: { http: { url: "http://localhost" }, into: .a, rate_limit: apo } }
  paced: { from: in, enrich: { http: { url: "http://localhost" }, into: .a, rate_limit: slow } }
  lost: { from: inn, map: . }
sinks:
  out: { from: wrong, blackhole: {} }
"#;
    endpoints_that_cannot_be: r#"
name: t
http: { listen: nowhere, max_bodies: 1MiB, produce_timeout: 9s }
endpoints:
  create: { route: POST /things, request: { topic: things, key: .id, headers: { slackwater-x: .a } } }
  again: { route: POST /things, request: { topic: more } }
  silent: { route: GET /silent }
  read: { route: 'GET /things/{id}', request: { topic: things } }
  verb: { route: FETCH /things, request: { topic: things } }
  typed:
    route: POST /typed/{slug}
    schema: { title: text }
    checks: [ { field: title, that: length(.titel) > 3, message: is short } ]
    request: { topic: typed, key: path.slgu, value: '{ "a": nobody }' }
    respond: { status: 99, headers: { Date: "{{ now() }}" }, body: { a: .title + 1 } }
    auth: {}
"#;
    reads_that_cannot_be: r#"
name: t
http: { listen: "127.0.0.1:0" }
redis: { url: "redis://localhost" }
sources: { in: { generate: { rate: 10/s } } }
operators: { counts: { from: in, aggregate: { count: {} } }, slim: { from: in, map: . } }
sinks: { out: { from: [counts, slim], blackhole: {} } }
endpoints:
  nowhere: { route: 'GET /a/{account}', read: [ {} ] }
  twice: { route: 'GET /b/{account}', read: [ { redis: { get: "x:{{ account }}" }, store: counts, key: account } ] }
  keyless: { route: 'GET /c/{account}', read: [ { store: counts } ] }
  unknown: { route: 'GET /d/{account}', read: [ { store: conts, key: account } ] }
  fills:
    route: GET /f/{account}
    read:
      - { postgres: { query: "select a from b where c = $1 and d = $2", params: [account] }, fill: true, miss_ttl: 60s }
  both: { route: 'POST /g/{account}', request: { topic: t }, read: [ { store: counts, key: account, ttl: 5s } ] }
  typed: { route: 'GET /h/{account}', read: [ { store: counts, key: path.ib, body: { n: .n + nobody } } ] }
"#;
    reads_of_what_is_no_store: r#"
name: t
kafka: { brokers: "localhost:9092" }
http: { listen: "127.0.0.1:0" }
sources: { in: { kafka: { topic: in } } }
operators:
  slim: { from: in, map: . }
  by-to: { from: slim, key_by: .to }
  received: { from: by-to, aggregate: { count: {} } }
sinks: { out: { from: received, blackhole: {} } }
endpoints:
  slim: { route: 'GET /a/{account}', read: [ { store: slim, key: account } ] }
  typo: { route: 'GET /b/{account}', read: [ { store: recieved, key: account } ] }
  late: { route: 'GET /c/{account}', read: [ { store: received, key: account, at: query.at } ] }
"#;
    endpoints_without_a_place: r#"
name: t
endpoints:
  create: { route: POST /things, request: { topic: things } }
"#;
    commas_between_braces: r#"
name: t
sources:
  in: { generate: { rate: 10/s } }
operators:
  rest: { from: in, map: mod(.a, .b) }
  best: { from: in, aggregate: { fields: { a: top(.x, 3) } } }
sinks:
  out: { from: [rest, best], blackhole: {} }
"#;

    values_of_the_wrong_type: r#"
name: t
sources:
  in: { generate: { rate: 10/s }, schema: { id: int } }
operators:
  a: { from: in, aggregate: { count: {}, window: 5m } }
  b: { from: in, aggregate: { count: .x } }
  c: { from: in, aggregate: { top: { of: .x, n: -1 }, window: { tumbling: 99999999999999999d, grace: 5.5s } } }
  d: { from: in, aggregate: { fields: { a: median(.x) } } }
  e: { from: in, join: { with: [a, b], within: 5m } }
sinks:
  out: { from: [a, b, c, d, e], blackhole: {} }
"#;

    expressions_that_ask_for_too_much: r#"
name: t
sources:
  in: { generate: { rate: 10/s } }
operators:
  a: { from: in, map: '"x" * 99999999999' }
  b: { from: in, map: 'format_number(1.5, 99)' }
  c: { from: in, map: '.q[99999999999] = 1' }
  d: { from: in, map: 'foo(.x)' }
sinks:
  out: { from: [a, b, c, d], blackhole: {} }
"#;

    fields_without_a_value: r#"
name: t
sources:
  in: { generate: {} }
operators:
  a: { from: in, aggregate: { count: {}, window: null } }
  b:
    from: in
    aggregate:
      count:
      by: .x
  c: { from: in, aggregate: { sum: .x, window: { tumbling: 1m, grace: } } }
sinks:
  out: { from: [a, b, c], blackhole: {} }
"#;

    aggregates_that_contradict: r#"
name: t
sources:
  in: { generate: {} }
operators:
  a: { from: in, aggregate: { fold: { init: 0, step: acc + 1, merge: left + right } } }
  b: { from: in, aggregate: { fold: { init: 0, step: acc + 1, subtract: acc - 1 } } }
  c: { from: in, aggregate: { reduce: acc, subtract: acc } }
  d: { from: in, aggregate: { count: {}, window: { hopping: 30d, every: 1ms } } }
  e: { from: in, aggregate: { fields: { "": count() } } }
sinks:
  out: { from: [a, b, c, d, e], blackhole: {} }
"#;

    a_grace_that_is_too_short: r#"
name: t
sources:
  in: { generate: {} }
operators:
  w: { from: in, aggregate: { count: {}, window: { session: 1m, grace: 30s } } }
  last: { from: w, suppress: { until: window_closes, grace: 30s } }
sinks:
  out: { from: last, blackhole: {} }
"#;

    outputs_and_inputs: r#"
name: t
kafka: { brokers: "http://localhost:9092" }
sources:
  in: { kafka: { topics: [a, b, a] } }
  lines: { stdin: {} }
  more: { stdin: {} }
operators:
  sized: { from: in, branch: { "": .x > 3, small: true, x.y: .z } }
  all: { from: [in, in], merge: {} }
  none: { from: in, map: '# to do' }
sinks:
  out: { from: [sized.small, all, none], blackhole: {} }
  lines-out: { from: [lines, more], blackhole: {} }
"#;

    where_errors_go: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in: { kafka: { topic: in } }
sinks:
  out: { from: in, blackhole: {} }
errors: { on_failure: dead_letter }
"#;

    dead_letters_that_come_back: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in: { kafka: { topic: in } }
sinks:
  out: { from: in, blackhole: {} }
errors: { on_failure: skip, dead_letter: { topic: in } }
"#;

    servers_that_cannot_be: r#"
name: t
kafka:
  brokers: localhost:9092, localhost:99999
  session_timeout: 0s
  transaction_timeout: 1ms
  sasl_mechanism: GSSAPI
  ssl_ca: ca.pem
schema_registry: { url: "http://localhost:8081", password: geheim, timeout: 0s }
state: { replication: 0 }
sources:
  in: { kafka: { topic: in, format: avro } }
operators:
  call: { from: in, enrich: { http: { get: "localhost:8080/{{ key }}", connections: 5000 }, into: .a, retry: { base: 1m } } }
sinks:
  out: { from: call, kafka: { topic: out, format: avro, writer_schema: { auto_register: true }, headers: { "": key } } }
"#;

    connections_that_cannot_be: r#"
name: t
postgres:
  main: { url: "mysql://app:hunter2@db/x", pool: 0 }
  audit: { url: "postgres://app:hunter2@db/x?sslmode=maybe", timeout: 0s }
  other: { urls: "postgres://db/x", tls: { ca: ca.pem, certificate: me.pem } }
redis: { url: "redis://a:1,b:2", password: geheim12, timeout: soon }
smtp: { tls: { kay: me.key }, url: "mail:25" }
sources:
  in: { stdin: {} }
sinks:
  out: { from: in, blackhole: {} }
"#;

    types_that_stand_twice: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in: { kafka: { topic: in }, schema: { a: string, "a?": { b: string } } }
  more: { kafka: { topic: more }, schema: { "?": string } }
sinks:
  out: { from: [in, more], blackhole: {} }
"#;

    words_of_other_languages: r#"
name: t
sources:
  in: { generate: {} }
operators:
  a: { from: in, filter: .x > 1 and .y > 2 }
  b: { from: in, filter: ".x == 'paid'" }
  c: { from: in, map: .order-id }
sinks:
  out: { from: [a, b, c], blackhole: {} }
"#;

    steps_that_cannot_be: r#"
name: t
sources:
  in: { generate: {} }
operators:
  call: { from: in, enrich: { http: { get: "http://localhost" }, into: .a } }
sinks:
  out: { from: call, blackhole: {} }
tests:
  - name: ""
    steps:
      - send: { to: in, value: 1, raw: x }
      - send: { to: in, ts: -5 }
  - name: twice
    steps:
      - on_call: { call: [ { status: 99 }, { times: 0 } ] }
      - expect: { call: { dropped: { laet: 1 } } }
  - name: twice
    steps: []
"#;

    unknown_field: r#"
name: t
sources:
  in: { generate: { rate: 10/s } }
operators:
  settled:
    from: in
    debounce: { quite: 30s, max_wait: 5m }
sinks:
  out: { from: settled, blackhole: {} }
"#;

    unknown_section: r#"
name: t
source:
  in: { generate: {} }
sinks:
  out: { from: in, blackhole: {} }
"#;

    wrong_type: r#"
name: t
sources:
  in: { generate: { rate: 10/s, keys: many } }
sinks:
  out:
    from: in
    file: { path: /tmp/x, batch: 12 }
"#;

    missing_field: r#"
name: t
sources:
  in: { generate: {} }
operators:
  account:
    from: in
    enrich:
      http: { get: "http://localhost/{{ key }}" }
sinks:
  out: { from: account, file: {} }
"#;

    missing_name_and_from: r#"
sources:
  in: { generate: {} }
sinks:
  out: { blackhole: {} }
"#;

    unknown_from: r#"
name: t
sources:
  user-changes: { generate: {} }
operators:
  settled:
    from: user-change
    debounce: { quiet: 30s }
sinks:
  out: { from: [settled, elsewhere], blackhole: {} }
"#;

    cycle: r#"
name: t
sources:
  in: { generate: {} }
operators:
  a: { from: [in, c], merge: {} }
  b: { from: a, filter: .ok }
  c: { from: b, map: .x }
sinks:
  out: { from: c, blackhole: {} }
"#;

    duplicate_name: r#"
name: t
sources:
  in: { generate: {} }
operators:
  settled: { from: in, debounce: { quiet: 30s } }
  settled: { from: in, debounce: { quiet: 60s } }
sinks:
  out: { from: settled, blackhole: {} }
"#;

    a_section_that_stands_there_twice: r#"
name: t
sources:
  in: { generate: {} }
operators:
  a: { from: in, filter: .ok }
operators:
  b: { from: a, filter: .ok }
sinks:
  out: { from: [a, b], blackhole: {} }
"#;

    duplicate_name_in_two_sections: r#"
name: t
sources:
  orders: { generate: {} }
operators:
  orders: { from: orders, filter: .ok }
sinks:
  out: { from: orders, blackhole: {} }
"#;

    sink_without_key: r#"
name: t
sources:
  in: { generate: {} }
sinks:
  rows:
    from: in
    spanner:
      database: projects/p/instances/i/databases/d
      table: Accounts
      columns: { State: "1", UpdatedAt: commit_timestamp() }
"#;

    sink_without_columns: r#"
name: t
sources:
  in: { generate: {} }
sinks:
  none:
    from: in
    spanner: { database: projects/p/instances/i/databases/d, table: Accounts }
  empty:
    from: in
    spanner: { database: projects/p/instances/i/databases/d, table: Accounts, columns: {} }
"#;

    bad_duration_and_rate: r#"
name: t
rate_limits:
  api: { limit: 1500 }
  other: { limit: fast }
sources:
  in: { generate: { rate: 10 per second } }
operators:
  settled:
    from: in
    debounce: { quiet: 30, max_wait: 5 minutes }
sinks:
  out:
    from: settled
    file: { path: /tmp/x, batch: { max_bytes: 1 bit } }
"#;

    settings_that_contradict: r#"
name: t
sources:
  in: { generate: {} }
operators:
  both: { from: in, debounce: { quiet: 30s, settle: 30s } }
  short: { from: in, debounce: { quiet: 30s, max_wait: 10s } }
  calls:
    from: in
    enrich:
      http: { get: "http://localhost", post: "http://localhost" }
      into: .account
sinks:
  out: { from: [both, short, calls], blackhole: {} }
"#;

    unknown_rate_limit: r#"
name: t
rate_limits:
  accounts-api: { limit: 1500/s }
sources:
  in: { generate: {} }
operators:
  account:
    from: in
    enrich:
      http: { get: "http://localhost/{{ key }}" }
      rate_limit: account-api
      into: .account
sinks:
  out: { from: account, blackhole: {} }
"#;

    expression_syntax: r#"
name: t
sources:
  in: { generate: {} }
operators:
  big: { from: in, filter: ".amount >" }
  slim:
    from: in
    map: |
      x = .amount
      { "amount": x, "tax": x * }
sinks:
  out: { from: [big, slim], blackhole: {} }
"#;

    expression_unknown_function: r#"
name: t
sources:
  in: { generate: {} }
operators:
  big: { from: in, filter: 'starts_wiht(.name, "a")' }
  now: { from: in, map: '{ "at": now() }' }
sinks:
  out: { from: [big, now], blackhole: {} }
"#;

    a_comma_between_braces: r#"
name: t
sources:
  in: { generate: {} }
operators:
  a: { from: in, filter: starts_with(.name, "a") }
sinks:
  out: { from: a, blackhole: {} }
"#;

    expression_unknown_name: r#"
name: t
sources:
  in: { generate: {} }
  prices: { generate: {} }
operators:
  big: { from: in, filter: amount > 10 }
  part: { from: in, key_by: window.strat }
  pair: { from: in, join: { with: prices, within: { after: 1m }, value: '{ "l": lefft, "r": right }' } }
sinks:
  out: { from: [big, part, pair], blackhole: {} }
"#;

    expression_of_the_wrong_type: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in: { kafka: { topic: in, timestamp: .a == 1 } }
operators:
  call: { from: in, map: upcase(3) }
  cond: { from: in, filter: 5 }
  text: { from: in, filter: upcase(string!(.name)) }
  sized: { from: in, branch: { large: .n > 10, small: '"yes"' } }
  lines: { from: in, flat_map: '{ "a": .a }' }
sinks:
  out: { from: [call, cond, text, sized.large, lines], blackhole: {} }
"#;

    no_key: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in: { kafka: { topic: in } }
  all: { kafka: { topic: all }, table: { global: true } }
  file: { file: { path: /tmp/x, key: x = null; x } }
operators:
  key: { from: in, key_by: null }
  program: { from: in, key_by: "x = .a; null" }
  ids: { from: in, dedupe: { by: x = null; x, within: 10m } }
  sums: { from: in, aggregate: { by: x = null; x, count: {} } }
  looked-up: { from: in, join: { with: all, on: x = null; x } }
sinks:
  out: { from: [key, program, ids, sums, looked-up, file], blackhole: {} }
"#;

    names_of_topics_and_a_checkpoint: r#"
name: t
kafka: { brokers: localhost:9092 }
state: { checkpoint: 0s }
errors: { dead_letter: { topic: "dead letters" } }
sources:
  blank: { kafka: { topic: "a b" } }
  empty: { kafka: { topic: "" } }
  pattern: { kafka: { topics: [good, "^orders-.*"] } }
sinks:
  out: { from: [blank, empty, pattern], kafka: { topic: "" } }
  other: { from: blank, kafka: { topic: a/b } }
"#;

    a_property_that_a_checkpoint_depends_on: r#"
name: t
kafka:
  brokers: localhost:9092
  properties: { auto.offset.reset: latest, fetch.wait.max.ms: "10" }
sources:
  in: { kafka: { topic: in } }
sinks:
  out: { from: in, blackhole: {} }
"#;

    names_in_tests: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  orders: { kafka: { topic: shop.orders } }
operators:
  big: { from: orders, filter: .n > 10 }
sinks:
  out: { from: big, kafka: { topic: big-orders } }
tests:
  - name: good
    steps:
      - send: { to: orders, value: { n: 11 } }
      - send: { to: shop.orders, value: { n: 12 } }
      - expect: { out: [ { value: { n: 11 } }, { value: { n: 12 } } ], big-orders: { records: 2 }, big: { dropped: 0 } }
      - crash
  - name: bad
    steps:
      - send: { to: oders, value: { n: 11 } }
      - send: { to: big, value: { n: 11 } }
      - on_call: { big: [ { status: 503 } ], api: [ { status: 200 } ] }
      - expect: { uot: [], out: { record: 2 }, big: 3 }
"#;

    joins_that_never_match: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  q: { kafka: { topic: q } }
  rows: { kafka: { topic: rows }, table: {} }
operators:
  counts: { from: q, aggregate: { window: { tumbling: 1m }, count: {} } }
  big: { from: counts, filter: . > 10 }
  per-minute: { from: big, table: {} }
  stream-table: { from: q, join: { with: per-minute } }
  table-stream: { from: counts, join: { with: rows } }
  tables: { from: rows, join: { with: per-minute, type: outer } }
  turned: { from: per-minute, join: { with: rows } }
  foreign: { from: rows, join: { with: per-minute, on: .id } }
  foreign-turned: { from: per-minute, join: { with: rows, on: .id } }
  streams: { from: q, join: { with: counts, within: { after: 1m } } }
  both: { from: counts, join: { with: per-minute } }
  newest: { from: counts, aggregate: { last: . } }
  newest-table: { from: newest, table: {} }
  good: { from: q, join: { with: newest-table } }
  all: { from: [q, counts], merge: {} }
  mixed: { from: all, join: { with: per-minute } }
sinks:
  out: { from: [stream-table, table-stream, tables, turned, foreign, foreign-turned, streams, both, good, mixed], blackhole: {} }
"#;

    windows_that_cannot_be: r#"
name: t
sources:
  in: { generate: {} }
operators:
  zero: { from: in, aggregate: { window: { tumbling: 0s }, count: {} } }
  negative: { from: in, aggregate: { window: { session: -5s }, count: {} } }
  hop: { from: in, aggregate: { window: { hopping: 1m, every: 0s }, count: {} } }
  gaps: { from: in, aggregate: { window: { hopping: 1m, every: 2m }, count: {} } }
  seldom: { from: in, aggregate: { window: { hopping: 1m }, count: {} } }
  grace: { from: in, aggregate: { window: { grace: 5s }, count: {} } }
  late: { from: in, aggregate: { window: { sliding: 1m, grace: -1s }, count: {} } }
  two: { from: in, aggregate: { window: { tumbling: 1m, session: 1m }, count: {} } }
  nothing: { from: in, aggregate: { window: {}, count: {} } }
  beside: { from: in, aggregate: { grace: 5s, count: {} } }
  seen: { from: in, dedupe: { within: 0s } }
sinks:
  out: { from: [zero, negative, hop, gaps, seldom, grace, late, two, nothing, beside, seen], blackhole: {} }
"#;

    final_without_a_window: r#"
name: t
sources:
  in: { generate: {} }
operators:
  totals: { from: in, aggregate: { emit: final, count: {} } }
sinks:
  out: { from: totals, blackhole: {} }
"#;

    final_results_of_nothing: r#"
name: t
sources:
  in: { generate: {} }
operators:
  held: { from: in, suppress: { until: window_closes } }
  plain: { from: in, aggregate: { count: {} } }
  kept: { from: plain, suppress: { until: window_closes } }
sinks:
  out: { from: [held, kept], blackhole: {} }
"#;

    joins_that_cannot_be: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  orders: { kafka: { topic: orders } }
  payments: { kafka: { topic: payments } }
  customers: { kafka: { topic: customers }, table: {} }
operators:
  unbounded: { from: orders, join: { with: payments } }
  negative: { from: orders, join: { with: payments, within: { before: -1s } } }
  windowed: { from: orders, join: { with: customers, within: { after: 1m } } }
  waits: { from: orders, join: { with: customers, grace: 1m } }
  keyed: { from: orders, join: { with: customers, on: .customer } }
  outer: { from: orders, join: { with: customers, type: outer } }
  turned: { from: customers, join: { with: orders } }
  nobody: { from: orders, join: { with: costumers } }
sinks:
  out: { from: [unbounded, negative, windowed, waits, keyed, outer, turned, nobody], blackhole: {} }
"#;

    what_is_logged: r#"
name: t
sources:
  in: { generate: {} }
operators:
  loud: { from: in, peek: { level: error } }
  often: { from: in, peek: { rate: 0/s } }
  custom: { from: in, silence: { after: 30s } }
sinks:
  out: { from: [loud, often, custom], blackhole: {} }
"#;

    unknown_output: r#"
name: t
sources:
  in: { generate: {} }
operators:
  sized: { from: in, branch: { large: .n > 10, small: true } }
  plain: { from: in, filter: .ok }
sinks:
  a: { from: sized.larg, blackhole: {} }
  b: { from: sized, blackhole: {} }
  c: { from: plain.large, blackhole: {} }
"#;

    yaml_syntax: r#"
name: t
sources:
  in: { generate: { rate: 10/s }
sinks:
  out: { from: in, blackhole: {} }
"#;

    yaml_indentation: r#"
name: t
sources:
  in:
    generate: {}
   rate: 10/s
"#;

    unset_variable: r#"
name: t
sources:
  in: { generate: {} }
sinks:
  rows:
    from: in
    spanner:
      database: "${SPANNER_DATABASE}"
      table: "${TABLE"
      columns: { Id: key }
"#;

    a_variable_with_a_bad_value: r#"
name: t
sources:
  in: { generate: {} }
operators:
  settled: { from: in, debounce: { quiet: "${QUIET}" } }
sinks:
  out: { from: settled, blackhole: {} }
"#;

    secrets_are_redacted: r#"
name: t
kafka:
  brokers: localhost:9092
  sasl_password: "${DB_PASSWORD}"
  session_timeout: "${DB_PASSWORD}"
sources:
  in: { kafka: { topic: in } }
operators:
  account:
    from: in
    enrich:
      http: { get: "http://bob:geheim@localhost/{{ key }}", timeot: 5s }
      into: .account
sinks:
  out: { from: account, blackhole: {} }
"#;

    two_kinds: r#"
name: t
sources:
  in: { generate: {} }
operators:
  both: { from: in, filter: .ok, debounce: { quiet: 30s } }
  none: { from: in }
  odd: { from: in, debounse: { quiet: 30s } }
sinks:
  out: { from: [both, none, odd], blackhole: {} }
"#;

    no_kafka: r#"
name: t
sources:
  in: { kafka: { topic: in } }
sinks:
  out: { from: in, kafka: { topic: out } }
errors: { dead_letter: { topic: t.dlq } }
"#;

    promises_that_cannot_be_kept: r#"
name: t
kafka: { brokers: localhost:9092 }
guarantee: exactly_once
state: { changelog: off }
sources:
  in: { kafka: { topic: in } }
operators:
  settled: { from: in, debounce: { quiet: 30s } }
sinks:
  out: { from: settled, kafka: { topic: out } }
  log: { from: out, stdout: {} }
"#;

    bad_tests: r#"
name: t
sources:
  in: { generate: {} }
sinks:
  out: { from: in, blackhole: {} }
tests:
  - name: one
    steps:
      - sned: { to: in, key: a }
      - advance: 30
      - send: { to: in, kye: a }
  - steps: []
"#;

    several_at_once: r#"
name: my topology
kafka: { broker: localhost:9092 }
rate_limits:
  api: { limit: 1500/x }
sources:
  in: { kafka: { topic: in, topics: [a, b] } }
operators:
  settled: { from: inn, debounce: { quiet: 30 } }
  paid: { from: in, filter: .amount > }
  odd: { from: in, sleep: 5s }
sinks:
  out: { from: settled, file: { pth: /tmp/x } }
"#;

    unknown_format: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in: { kafka: { topic: in, format: avor } }
sinks:
  out: { from: in, blackhole: {} }
"#;

    no_registry: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in: { kafka: { topic: in, format: avro } }
sinks:
  out: { from: in, kafka: { topic: out, key_format: protobuf } }
"#;

    a_type_error_by_the_schema: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  in:
    kafka: { topic: in, timestamp: .tags }
    schema: { id: integer, amount: number, tags: [string] }
operators:
  big: { from: in, filter: .amonut > 10 }
  odd: { from: in, filter: .id > "x" }
  named: { from: in, map: '{ "name": upcase(.id) }' }
  maybe: { from: in, filter: .amount }
sinks:
  out: { from: [big, odd, named, maybe], blackhole: {} }
"#;

    a_wrong_type: r#"
name: t
sources:
  in: { stdin: {}, schema: { id: interger, tags: [] } }
sinks:
  out: { from: in, blackhole: {} }
"#;

    wrong_schema_files: r#"
name: t
kafka: { brokers: localhost:9092 }
schema_registry: { url: localhost:8081 }
sources:
  in: { kafka: { topic: in, format: avro, reader_schema: { file: nowhere.avsc } } }
sinks:
  avro: { from: in, kafka: { topic: a, format: avro, writer_schema: { inline: '{"type": "recrd"}' } } }
  proto: { from: in, kafka: { topic: b, format: protobuf, writer_schema: { inline: "message { }" } } }
  other: { from: in, kafka: { topic: c, format: protobuf, writer_schema: { inline: 'syntax = "proto3"; message A {}', message: B } } }
  json: { from: in, kafka: { topic: d, writer_schema: {} } }
"#;

    keys_of_two_formats: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  orders: { kafka: { topic: orders, key_format: long } }
  customers: { kafka: { topic: customers }, table: {} }
operators:
  both: { from: orders, join: { with: customers, value: '{ "l": left, "r": right }' } }
sinks:
  out: { from: both, blackhole: {} }
"#;

    lines_and_topics_together: r#"
name: t
kafka: { brokers: localhost:9092 }
sources:
  orders: { kafka: { topic: orders } }
  prices: { file: { path: prices.jsonl, key: .id }, table: {} }
  more: { stdin: {} }
  alone: { generate: { rate: 1/s } }
operators:
  big: { from: more, filter: .n > 1 }
  priced: { from: orders, join: { with: prices } }
  all: { from: [priced, big], merge: {} }
sinks:
  out: { from: all, blackhole: {} }
  other: { from: alone, blackhole: {} }
"#;

    a_limit_of_the_cluster_for_lines_and_topics: r#"
name: t
kafka: { brokers: localhost:9092 }
rate_limits:
  api: { limit: 10/s, scope: cluster }
  own: { limit: 10/s }
sources:
  orders: { kafka: { topic: orders } }
  lines: { stdin: {} }
operators:
  a: { from: orders, enrich: { http: { get: "http://localhost/{{ key }}" }, rate_limit: api, into: .a } }
  b: { from: lines, enrich: { http: { get: "http://localhost/{{ key }}" }, rate_limit: api, into: .b } }
  c: { from: orders, enrich: { http: { get: "http://localhost/{{ key }}" }, rate_limit: own, into: .a } }
  d: { from: lines, enrich: { http: { get: "http://localhost/{{ key }}" }, rate_limit: own, into: .b } }
sinks:
  out: { from: [a, c], blackhole: {} }
  other: { from: [b, d], blackhole: {} }
"#;

    an_empty_file: "# nothing here\n";

    a_list: "- name: t\n";
}

/// Each node reads the one above it: whatever goes along the graph must not look at all nodes for each of them.
#[test]
fn a_chain_of_twenty_thousand_nodes_is_checked_in_seconds() {
    const NODES: usize = 20_000;
    let mut text = String::from(
        "name: t\nkafka: { brokers: b }\nsources: { n0: { kafka: { topic: in } } }\noperators:\n",
    );
    for n in 1..NODES {
        let what = match n % 10 {
            1 => "key_by: .k",
            2 => "debounce: { quiet: 1s }",
            _ => "filter: .ok",
        };
        text.push_str(&format!("  n{n}: {{ from: n{}, {what} }}\n", n - 1));
    }
    text.push_str(&format!("sinks: {{ out: {{ from: n{}, blackhole: {{}} }} }}\n", NODES - 1));
    let began = std::time::Instant::now();
    let loaded = load("topology.yaml", &text, Mode::Required, &variable)
        .map_err(|r| r.render(false))
        .expect("is good");
    let took = began.elapsed();
    assert_eq!(loaded.topology.subs.len(), NODES / 10 + 1, "one behind each repartition topic");
    // Some seconds on a machine with nothing else to do.
    assert!(took < std::time::Duration::from_secs(60), "{took:?}");
}

#[test]
fn no_problem_hides_another() {
    let text = r#"
name: t
sources:
  in: { kafka: { topic: in, clust: b } }
  lines: { stdin: {} }
operators:
  a: { from: b, map: . }
  b: { from: a, map: . }
  calm: { from: in, debounce: { quiet: soon } }
  calm: { from: inn, filter: 1 }
  odd: { from: lines, filter: 1 }
  waits: { from: lines, suppress: { until: window_closes } }
  paced: { from: lines, enrich: { http: { get: "http://x", timeout: 1s, timeout: 2s }, into: .a, rate_limit: api } }
sinks:
  out: { from: [calm, nowhere], kafka: { topic: out } }
tests:
  - name: one
    steps:
      - send: { to: elsewhere, value: 1 }
      - expect: { ouut: [] }
      - on_call: { waits: [{ status: 200 }] }
"#;
    let report = load("topology.yaml", text, Mode::Required, &variable).expect_err("the file is wrong");
    let line = |p: &slackwater::model::Problem| {
        p.span.clone().map_or(0, |s| text[..s.start].matches('\n').count() + 1)
    };
    let found: Vec<(usize, &str)> = report.problems().iter().map(|p| (line(p), p.code)).collect();
    let expected = [
        (4, "graph::kafka"),
        (4, "unknown-field"),
        (7, "graph::cycle"),
        (9, "bad-value"),
        (10, "duplicate-name"),
        (10, "graph::from"),
        (10, "graph::setting"),
        (11, "graph::setting"),
        (12, "graph::window"),
        (13, "duplicate-name"),
        (13, "graph::rate_limit"),
        (15, "graph::from"),
        (15, "graph::kafka"),
        (20, "test-name"),
        (21, "test-name"),
    ];
    assert_eq!(found, expected, "{}", report.render(false));
}
