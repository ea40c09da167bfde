//! The names that Kafka accepts for topics: checked for every setting that names one.

/// Why Kafka does not accept a topic of that name, and what to write. A `${VAR}` is accepted: its value is filled in
/// only where something is connected.
#[must_use]
pub fn topic_problem(name: &str) -> Option<(String, &'static str)> {
    if name.is_empty() {
        return Some(("the topic has no name".into(), "write `topic: name`"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.contains("${") || (name.chars().all(good) && name.len() <= 249 && name != "." && name != "..") {
        return None;
    }
    let help = "a topic's name has 1 to 249 letters, digits, `.`, `_` or `-`";
    Some((format!("`{name}` is no name of a topic"), help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_topics_are_what_kafka_takes() {
        let long = "t".repeat(249);
        for good in ["t", "a.b-c_9", "...", "${TOPIC}", "x-${TOPIC}", &long] {
            assert_eq!(topic_problem(good), None, "{good}");
        }
        let longer = "t".repeat(250);
        for bad in ["", "a b", ".", "..", "^a.*", "a/b", "ä", "a$", &longer] {
            assert!(topic_problem(bad).is_some(), "{bad}");
        }
    }
}
