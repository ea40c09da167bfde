//! Suggestions for misspelt names.

/// The known name nearest to this one, if it is near enough to have been meant.
#[must_use]
pub fn near<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // A name that was not finished: `int` for `integer`, `strin` for `string`.
    let name = name.to_lowercase();
    let begun = |k: &&&str| name.len() >= 3 && k.to_lowercase().starts_with(&name);
    if let Some(only) = known.iter().find(begun).filter(|_| known.iter().filter(begun).count() == 1) {
        return Some(only);
    }
    known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&name, &k.to_lowercase()), *k))
        .min()
        // One mistake per three letters, and never every letter of a short name.
        .filter(|(distance, k)| {
            *distance <= (k.len().min(name.len()) / 3).max(1) && *distance < name.len().min(k.len())
        })
        .map(|(_, near)| near)
}

/// `did you mean ...?` if a known name is near.
#[must_use]
pub fn meant(name: &str, known: &[&str]) -> Option<String> {
    near(name, known).map(|near| format!("did you mean `{near}`?"))
}

/// `did you mean ...?` if a known name is near, otherwise all of them.
#[must_use]
pub fn did_you_mean(name: &str, known: &[&str]) -> String {
    // `{ map: mod(.a, .b) }`
    if name.ends_with([')', ']', '"']) {
        return "between `{ }` a comma ends a value: put an expression that has one in single quotes".into();
    }
    meant(name, known).unwrap_or_else(|| match known {
        [] => "nothing is expected here".into(),
        known => {
            format!("known here: {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", "))
        }
    })
}
