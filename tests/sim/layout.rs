//! Where a topology keeps its state, what another form of it would leave behind, and what `renamed` makes of that. The same
//! against real topics: `tests/live/layout.rs`.

use std::collections::BTreeMap;

use slackwater::topology::{Home, Layout, Topology};
use slackwater::yaml::{Mode, load};

const SHOP: &str = "name: t
kafka: { brokers: b }
sources:
  orders: { kafka: { topic: orders } }
  clicks: { kafka: { topic: clicks } }
operators:
  per-buyer: { from: orders, aggregate: { by: .buyer, count: {} } }
  per-key: { from: clicks, aggregate: { count: {} } }
sinks:
  buyers: { from: per-buyer, blackhole: {} }
  keys: { from: per-key, blackhole: {} }
";

fn topology(text: &str) -> Topology {
    load("t.yaml", text, Mode::Lenient, &|_| None).expect("a topology").topology
}

fn layout(text: &str) -> Layout {
    topology(text).layout(Home::Topics)
}

/// What of `SHOP`'s state this form would leave behind.
fn lost(text: &str) -> Vec<String> {
    let (written, now) = (layout(SHOP), topology(text));
    let moves = now.moves(Home::Topics, &written).expect("moves");
    let lost = written.moved(&moves).lost(&now.layout(Home::Topics), &|_| true);
    lost.into_iter().map(|problem| problem.message).collect()
}

fn has(found: &[String], parts: &[&str]) {
    assert_eq!(found.len(), parts.len(), "{found:#?}");
    for (found, part) in found.iter().zip(parts) {
        assert!(found.contains(part), "{part:?}: {found}");
    }
}

#[test]
fn a_layout_names_every_node_with_state_and_every_topic_of_its_own() {
    let layout = layout(SHOP);
    let nodes: Vec<(&str, &str)> =
        layout.nodes.iter().map(|(name, kept)| (name.as_str(), kept.changelog.as_str())).collect();
    assert_eq!(
        nodes,
        [("per-buyer", "t-per-buyer-repartitioned-changelog"), ("per-key", "t-clicks-changelog")]
    );
    assert_eq!(
        layout.repartitions,
        BTreeMap::from([("t-per-buyer-repartition".to_owned(), "per-buyer".to_owned())])
    );
    let text = serde_json::to_string(&layout).expect("is JSON");
    assert_eq!(serde_json::from_str::<Layout>(&text).expect("is read"), layout);
    assert_eq!(topology(SHOP).layout(Home::Machine).nodes.len(), 0);
}

#[test]
fn whatever_would_be_left_behind_is_named() {
    assert_eq!(lost(SHOP), [""; 0]);
    has(&lost(&SHOP.replace("per-buyer", "by-customer")), &["the node `per-buyer` has state"]);
    has(
        &lost(&SHOP.replace("clicks: {", "hits: {").replace("from: clicks", "from: hits")),
        &[
            "the state of `per-key` is in `t-clicks-changelog`, and this topology would keep it in `t-hits-changelog`",
        ],
    );
    // Nothing of it changed but that it is read together with another source, which comes first.
    has(
        &lost(&SHOP.replace("per-key: { from: clicks,", "per-key: { from: [orders, clicks],")),
        &["in `t-clicks-changelog`, and this topology would keep it in `t-orders-changelog`"],
    );
    has(
        &lost(&SHOP.replace("count: {} } }\nsinks", "sum: 1 } }\nsinks")),
        &["the state of `per-key` was written as"],
    );
    has(
        &lost(&SHOP.replace("by: .buyer, ", "")),
        &["in `t-per-buyer-repartitioned-changelog`, and this topology would"],
    );
    let off = format!("{SHOP}state: {{ changelog: off }}\n");
    let off = off.replace("aggregate: { by: .buyer, count: {} }", "debounce: { quiet: 1s, max_wait: 1m }");
    let off = off.replace("aggregate: { count: {} }", "debounce: { quiet: 1s, max_wait: 1m }");
    has(&lost(&off), &["the node `per-buyer` has state", "the node `per-key` has state"]);
    // More is no loss.
    let more = SHOP.replace("sinks:", "  more: { from: clicks, aggregate: { sum: 1 } }\nsinks:");
    assert_eq!(lost(&more), [""; 0]);
}

#[test]
fn records_that_wait_are_not_left_behind_either() {
    let mut written = layout(SHOP);
    written.repartitions.insert("t-gone-repartition".into(), "gone".into());
    let now = layout(SHOP);
    assert_eq!(written.lost(&now, &|_| false).len(), 0);
    let lost = written.lost(&now, &|topic| topic == "t-gone-repartition");
    assert!(lost.len() == 1 && lost[0].message.contains("records wait in `t-gone-repartition`"), "{lost:?}");
}

#[test]
fn renamed_moves_what_the_names_lead_to_and_only_once() {
    let text = SHOP
        .replace("per-buyer", "by-customer")
        .replace("clicks: {", "hits: {")
        .replace("from: clicks", "from: hits");
    let text = text.replace("sources:", "renamed: { by-customer: per-buyer, hits: clicks }\nsources:");
    assert_eq!(lost(&text), [""; 0]);
    let (written, now) = (layout(SHOP), topology(&text));
    let moves = now.moves(Home::Topics, &written).expect("moves");
    let topics: Vec<(&str, &str)> =
        moves.changelogs.iter().map(|(from, to)| (from.as_str(), to.to.as_str())).collect();
    assert_eq!(
        topics,
        [
            ("t-clicks-changelog", "t-hits-changelog"),
            ("t-per-buyer-repartitioned-changelog", "t-by-customer-repartitioned-changelog")
        ]
    );
    let names = &moves.changelogs["t-per-buyer-repartitioned-changelog"].names;
    assert_eq!(names.get("per-buyer").map(String::as_str), Some("by-customer"));
    assert_eq!(names.get("per-buyer-repartitioned").map(String::as_str), Some("by-customer-repartitioned"));
    assert_eq!(moves.repartitions.values().collect::<Vec<_>>(), ["t-by-customer-repartition"]);
    let after = written.moved(&moves);
    assert_eq!(after.nodes, now.layout(Home::Topics).nodes);
    assert!(now.moves(Home::Topics, &after).expect("no problem").is_empty());
    // Both have state: neither is thrown away.
    let mut both = written.clone();
    both.nodes.insert("by-customer".into(), both.nodes["per-buyer"].clone());
    let problems = now.moves(Home::Topics, &both).expect_err("is refused");
    assert!(problems[0].message.contains("`by-customer` has state of its own already"), "{problems:?}");
}

#[test]
fn renamed_names_nodes_of_the_file_and_names_that_are_gone() {
    let check = |line: &str, part: &str| {
        let text = SHOP.replace("sources:", &format!("renamed: {{ {line} }}\nsources:"));
        let report = load("t.yaml", &text, Mode::Lenient, &|_| None).expect_err(line).render(false);
        assert!(report.contains(part) && report.contains("t.yaml:3:"), "{part}: {report}");
    };
    check("per-buyr: old", "there is no node `per-buyr`");
    check("per-buyer: per-key", "`per-key` is a node of this topology");
    check("per-buyer: old, per-key: old", "the state of `old` is given to another node already");
}
