//! The toy operator of [`crate::operators`] works in a file like a built-in kind.

use crate::yaml::{Loaded, Mode, Report, load};

fn toys(every: u32) -> Result<Loaded, Box<Report>> {
    let text = format!(
        "name: toys\nsources: {{ in: {{ generate: {{ rate: 1/s }} }} }}\n\
         operators: {{ some: {{ from: in, toy: {{ every: {every} }} }} }}\n\
         sinks: {{ out: {{ from: some, blackhole: {{}} }} }}\n"
    );
    load("toys.yaml", &text, Mode::Lenient, &|_| None)
}

#[test]
fn a_kind_is_one_file_and_one_line() {
    let topology = toys(2).expect("a sound file").topology;
    let nodes: Vec<_> = topology.explain().sub_topologies.into_iter().flat_map(|sub| sub.nodes).collect();
    assert!(nodes.iter().any(|node| node.name == "some" && node.what == "toy 2"), "{nodes:?}");
    let refused = toys(0).expect_err("its own check refuses it");
    assert!(format!("{refused:?}").contains("no record at all"), "{refused:?}");
}

/// The kind is named nowhere else, except in tests at the end of a file.
#[test]
fn a_simple_kind_is_named_in_its_file_and_in_the_list() {
    fn walk(dir: &std::path::Path, found: &mut Vec<String>) {
        let mut entries: Vec<_> =
            std::fs::read_dir(dir).expect("a folder").flatten().map(|e| e.path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("a file");
                let code = text.split("\n#[cfg(test)]\nmod tests {").next().expect("a beginning");
                let path = path.display().to_string();
                for line in code.lines().map(str::trim_start).filter(|l| !l.starts_with("//")) {
                    let names = [
                        "(DedupeConfig)",
                        "NodeConfig::Dedupe",
                        "\"dedupe\"",
                        "(MergeConfig)",
                        "NodeConfig::Merge",
                    ];
                    if names.iter().any(|name| line.contains(name)) {
                        found.push(format!("{path}: {line}"));
                    }
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    found.retain(|line| !line.contains("toy_operator.rs"));
    assert_eq!(found.len(), 2, "only the list's lines: {found:#?}");
    assert!(found.iter().all(|line| line.contains("operators/registry.rs")), "{found:#?}");
}
