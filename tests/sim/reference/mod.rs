//! The reference pages in `docs/reference` are made here, from the JSON schema (which is made from the config types) and
//! from the examples in `tests/sim/reference/examples`: a page per operator, one for sources, one for sinks, one for the rest.
//!
//! `REFERENCE=write cargo test --test sim reference` writes them; without it they must be as they would be written.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

const NOTE: &str = "<!-- Made from the config types by `REFERENCE=write cargo test --test sim reference`. Do not edit. -->\n\n";

struct Schema {
    root: Json,
}

impl Schema {
    /// The definition that a schema points to, with its name.
    fn def<'a>(&'a self, schema: &'a Json) -> Option<(&'a str, &'a Json)> {
        let reference = schema["$ref"].as_str().or_else(|| {
            // An optional one: itself or null.
            schema["anyOf"].as_array()?.iter().find_map(|s| s["$ref"].as_str())
        })?;
        let name = reference.strip_prefix("#/$defs/")?;
        Some((name, &self.root["$defs"][name]))
    }

    /// What the value looks like, in a word or two.
    fn type_of(&self, schema: &Json) -> String {
        if let Some((name, def)) = self.def(schema) {
            return match name {
                "Duration" => "duration".into(),
                "Size" => "size".into(),
                "Rate" => "rate".into(),
                "Expression" => "expression".into(),
                "Template" => "template".into(),
                "FieldPath" => "path".into(),
                _ if def["properties"].is_object() => format!("[{name}](#{})", name.to_lowercase()),
                _ if def["oneOf"].is_array() => self.choices(def),
                _ => self.type_of(def),
            };
        }
        if let Some(choices) = schema["enum"].as_array() {
            return choices.iter().map(|c| format!("`{}`", text(c))).collect::<Vec<_>>().join(", ");
        }
        let plain = |name: &str| match name {
            "integer" | "number" => "number".to_owned(),
            "boolean" => "true or false".to_owned(),
            "array" => format!("list of {}", self.type_of(&schema["items"])),
            "object" if schema["additionalProperties"].is_object() => {
                format!("names to {}", self.type_of(&schema["additionalProperties"]))
            }
            "string" => "text".to_owned(),
            other => other.to_owned(),
        };
        match &schema["type"] {
            Json::String(name) => plain(name),
            Json::Array(names) => {
                let names: Vec<_> = names.iter().filter_map(Json::as_str).filter(|n| *n != "null").collect();
                names.into_iter().map(plain).collect::<Vec<_>>().join(" or ")
            }
            _ if schema["oneOf"].is_array() => self.choices(schema),
            _ => "any".into(),
        }
    }

    fn choices(&self, def: &Json) -> String {
        let all = def["oneOf"].as_array().into_iter().flatten();
        let word = |c: &Json| match (c["const"].as_str(), c["enum"].as_array()) {
            (Some(word), _) => format!("`{word}`"),
            (None, Some(words)) => {
                words.iter().map(|w| format!("`{}`", text(w))).collect::<Vec<_>>().join(", ")
            }
            (None, None) => {
                let keys = c["properties"].as_object().into_iter().flat_map(Map::keys);
                keys.map(|key| format!("`{key}: ..`")).collect::<Vec<_>>().join(", ")
            }
        };
        all.map(word).collect::<Vec<_>>().join(", ")
    }

    /// A table of the fields; then those of what stands in them.
    fn fields(&self, def: &Json, out: &mut String, seen: &mut BTreeSet<String>) {
        let Some(properties) = def["properties"].as_object().filter(|p| !p.is_empty()) else { return };
        let required: Vec<&str> =
            def["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        out.push_str("| field | value | meaning |\n|---|---|---|\n");
        let mut inner = Vec::new();
        for (field, schema) in properties {
            let mut meaning = one_line(&schema["description"]);
            if meaning.is_empty()
                && let Some((_, def)) = self.def(schema)
            {
                meaning = one_line(&def["description"]);
            }
            if required.contains(&field.as_str()) && !meaning.contains("Required") {
                meaning.push_str(" Required.");
            }
            let default = &schema["default"];
            if !default.is_null() && !meaning.to_lowercase().contains("default") && !default.is_object() {
                write!(meaning, " Default `{}`.", text(default)).expect("a String takes it");
            }
            let value = self.type_of(schema);
            writeln!(out, "| `{field}` | {value} | {} |", meaning.trim().replace('|', "\\|"))
                .expect("a String takes it");
            let of = if schema["items"].is_object() { &schema["items"] } else { schema };
            let of = if of["additionalProperties"].is_object() { &of["additionalProperties"] } else { of };
            inner.extend(self.def(of).filter(|(_, def)| describes(def)));
        }
        out.push('\n');
        for (name, def) in inner {
            self.section(name, def, out, seen);
        }
    }

    fn section(&self, name: &str, def: &Json, out: &mut String, seen: &mut BTreeSet<String>) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        writeln!(out, "### {name}\n\n{}\n", one_line(&def["description"])).expect("a String takes it");
        for choice in def["oneOf"].as_array().into_iter().flatten() {
            let word = self.choices(&serde_json::json!({ "oneOf": [choice] }));
            writeln!(out, "- {word}: {}", one_line(&choice["description"])).expect("a String takes it");
        }
        if def["oneOf"].is_array() {
            out.push('\n');
        }
        self.fields(def, out, seen);
    }

    /// The sections of a file with such names.
    fn sections(&self, which: impl Fn(&str) -> bool, page: &mut String) {
        let mut seen = BTreeSet::new();
        let all = self.root["properties"].as_object().expect("an object");
        for (name, of) in all.iter().filter(|(name, _)| which(name)) {
            writeln!(page, "## {name}\n\n{}\n", one_line(&of["description"])).expect("a String takes it");
            let of = if of["additionalProperties"].is_object() { &of["additionalProperties"] } else { of };
            let Some((_, def)) = self.def(of) else { continue };
            if of["description"].is_null() {
                writeln!(page, "{}\n", one_line(&def["description"])).expect("a String takes it");
            }
            self.fields(def, page, &mut seen);
            for choice in def["oneOf"].as_array().into_iter().flatten() {
                let word = self.choices(&serde_json::json!({ "oneOf": [choice] }));
                writeln!(page, "- {word}: {}", one_line(&choice["description"])).expect("a String takes it");
            }
            page.push('\n');
        }
    }

    /// One kind of node: what it does and its settings.
    fn kind(&self, name: &str, schema: &Json, out: &mut String) {
        let settings = &schema["properties"][name];
        let summary = one_line(&schema["description"]);
        let more = self.def(settings).map(|(_, def)| one_line(&def["description"])).unwrap_or_default();
        if !more.starts_with(summary.trim_end_matches('.')) {
            writeln!(out, "{summary}\n").expect("a String takes it");
        }
        let Some((_, def)) = self.def(settings) else {
            writeln!(out, "`{name}:` {}\n", self.type_of(settings)).expect("a String takes it");
            return;
        };
        if !more.is_empty() {
            writeln!(out, "{more}\n").expect("a String takes it");
        }
        let mut seen = BTreeSet::new();
        self.fields(def, out, &mut seen);
        if !def["properties"].is_object() {
            writeln!(out, "`{name}:` {}\n", self.type_of(settings)).expect("a String takes it");
        }
    }

    /// The kinds of `sources`, `operators` or `sinks`, by name.
    fn kinds(&self, of: &str) -> Vec<(&str, &Json)> {
        let all = self.root["properties"][of]["additionalProperties"]["oneOf"].as_array().expect("kinds");
        all.iter().map(|kind| (kind["required"][0].as_str().expect("a kind's key"), kind)).collect()
    }
}

/// Worth a section of its own?
fn describes(def: &Json) -> bool {
    def["properties"].as_object().is_some_and(|p| !p.is_empty())
        || def["oneOf"].as_array().is_some_and(|all| all.iter().any(|c| c["description"].is_string()))
}

fn text(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

/// A doc comment's text without its line breaks and links into the code.
fn one_line(description: &Json) -> String {
    let words: Vec<&str> = description.as_str().unwrap_or_default().split_whitespace().collect();
    words.join(" ").replace("[`", "`").replace("`]", "`")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn example(kind: &str, tested: bool) -> String {
    let path = root().join("tests/sim/reference/examples").join(format!("{kind}.yaml"));
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("every operator has an example with tests: {}: {e}", path.display()));
    assert!(!tested || text.contains("\ntests:"), "{} has no tests", path.display());
    text
}

/// The steps of `tests:`, each with its fields.
fn tests_page(schema: &Schema) -> String {
    let mut page = format!(
        "{NOTE}# tests\n\nTests in the topology file, run by `slackwater test FILE` on virtual time and without servers, each on \
         a topology of its own. `slackwater check` knows their names too.\n\n| field | value | meaning |\n|---|---|---|\n\
         | `name` | text | What it shows. Required. |\n| `steps` | list of steps | What happens, in order; each of these. \
         Required. |\n\n"
    );
    let mut seen = BTreeSet::new();
    let steps = schema.root["$defs"]["TestStep"]["oneOf"].as_array().expect("the steps");
    for step in steps {
        for (name, of) in step["properties"].as_object().expect("a step") {
            writeln!(page, "## {name}\n\n{}\n", one_line(&step["description"])).expect("a String takes it");
            let of = if of["additionalProperties"].is_object() { &of["additionalProperties"] } else { of };
            let of = if of["items"].is_object() { &of["items"] } else { of };
            if let Some((_, def)) = schema.def(of) {
                schema.fields(def, &mut page, &mut seen);
            }
        }
    }
    writeln!(
        page,
        "`- crash` and `- checkpoint` are written without settings.\n\n## Example\n\n```yaml\n{}```",
        example("tests", true)
    )
    .expect("a String takes it");
    page
}

/// File name and text of every page.
fn pages() -> Vec<(String, String)> {
    let schema = Schema { root: slackwater::yaml::schema() };
    let mut pages = Vec::new();
    let mut index = format!("{NOTE}# Reference\n\nOperators:\n\n");
    for (kind, of) in schema.kinds("operators") {
        let mut page = format!("{NOTE}# {kind}\n\n");
        schema.kind(kind, of, &mut page);
        writeln!(page, "## Example\n\n```yaml\n{}```", example(kind, true)).expect("a String takes it");
        writeln!(index, "- [{kind}]({kind}.md): {}", one_line(&of["description"]))
            .expect("a String takes it");
        pages.push((format!("{kind}.md"), page));
    }
    index.push_str("\nThe rest:\n\n");
    for of in ["sources", "sinks"] {
        let mut page = format!("{NOTE}# {of}\n\n");
        for (kind, schema_of) in schema.kinds(of) {
            writeln!(page, "## {kind}\n").expect("a String takes it");
            schema.kind(kind, schema_of, &mut page);
        }
        let kinds: Vec<&str> = schema.kinds(of).iter().map(|(kind, _)| *kind).collect();
        writeln!(index, "- [{of}]({of}.md): {}", kinds.join(", ")).expect("a String takes it");
        pages.push((format!("{of}.md"), page));
    }
    let mut page = format!("{NOTE}# settings\n\nWhat stands in a topology file beside its nodes.\n\n");
    let others = ["sources", "operators", "sinks", "http", "endpoints", "tests"];
    schema.sections(|name| !others.contains(&name), &mut page);
    index.push_str("- [settings](settings.md): Kafka, errors, time, state, rate limits\n");
    pages.push(("settings.md".into(), page));
    let mut page = format!("{NOTE}{}\n", include_str!("endpoints.md"));
    schema.sections(|name| ["http", "endpoints"].contains(&name), &mut page);
    let example = example("endpoints", false);
    writeln!(page, "## Example\n\n```yaml\n{example}```").expect("a String takes it");
    index.push_str("- [endpoints](endpoints.md): HTTP routes of a topology, and where they are served\n");
    pages.push(("endpoints.md".into(), page));
    index.push_str("- [tests](tests.md): the tests in a topology file\n");
    pages.push(("tests.md".into(), tests_page(&schema)));
    pages.push(("README.md".into(), index));
    for (_, page) in &mut pages {
        while page.contains("\n\n\n") {
            *page = page.replace("\n\n\n", "\n\n");
        }
        *page = format!("{}\n", page.trim_end());
    }
    pages
}

#[test]
fn the_reference_is_what_the_config_types_say() {
    let dir = root().join("docs/reference");
    let pages = pages();
    if std::env::var("REFERENCE").is_ok_and(|v| v == "write") {
        std::fs::create_dir_all(&dir).expect("a folder");
        for (name, text) in &pages {
            std::fs::write(dir.join(name), text).expect("is written");
        }
    }
    let mut old: BTreeSet<String> = std::fs::read_dir(&dir)
        .expect("docs/reference is there")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    for (name, text) in pages {
        let found = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        assert!(
            found == text,
            "docs/reference/{name} is old: REFERENCE=write cargo test --test sim reference"
        );
        old.remove(&name);
    }
    assert!(old.is_empty(), "nothing makes these any more: {old:?}");
}

/// A field without a description would leave an empty cell in the reference.
#[test]
fn every_field_is_described() {
    let mut bare = Vec::new();
    for (name, page) in pages() {
        bare.extend(page.lines().filter(|l| l.ends_with("|  |")).map(|l| format!("{name}: {l}")));
    }
    assert!(bare.is_empty(), "{bare:#?}");
}
