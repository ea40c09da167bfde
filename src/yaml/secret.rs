//! Secrets: values that must not be printed. They are collected while variables are filled in, and removed from
//! everything shown.
//!
//! `env` collects them; `problem` and everything that logs configuration uses them. Masked are whole known values and
//! the user part of any URL; other secrets are not guessed at.

use std::borrow::Cow;
use std::ops::Range;

/// Shown in place of a secret.
const MASK: &str = "***";
/// A shorter value is no secret, and masking it would make text unreadable.
const LENGTH_MIN: usize = 4;
/// A variable whose name has one of these holds a secret.
const NAMES: [&str; 5] = ["SECRET", "PASSWORD", "TOKEN", "KEY", "CREDENTIAL"];

/// The secret values known so far.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// Whether a variable of this name holds a secret.
    #[must_use]
    pub fn is_secret_name(name: &str) -> bool {
        let name = name.to_uppercase();
        NAMES.iter().any(|part| name.contains(part))
    }

    /// Remembers the secret in a variable's value: all of it if the name says so, else the user part of a URL.
    pub fn learn(&mut self, name: &str, value: &str) {
        if Secrets::is_secret_name(name) {
            self.add(value);
        }
        for range in user_parts(value) {
            let user = &value[range];
            self.add(user);
            if let Some((_, password)) = user.split_once(':') {
                self.add(password);
            }
        }
    }

    fn add(&mut self, value: &str) {
        if value.len() >= LENGTH_MIN && !self.0.iter().any(|v| v == value) {
            self.0.push(value.to_owned());
            // The longest first: one secret may be part of another.
            self.0.sort_by_key(|v| std::cmp::Reverse(v.len()));
        }
    }
}

/// The text with every known secret, and the user part of every URL, printed as `***`.
#[must_use]
pub fn redact(text: &str, secrets: &Secrets) -> String {
    let mut text = Cow::Borrowed(text);
    for secret in &secrets.0 {
        if text.contains(secret.as_str()) {
            text = Cow::Owned(text.replace(secret.as_str(), MASK));
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for range in user_parts(&text) {
        out.push_str(&text[done..range.start]);
        out.push_str(MASK);
        done = range.end;
    }
    out.push_str(&text[done..]);
    out
}

/// The text with every secret overwritten by as many `*` as it has bytes, so that places stay right.
#[must_use]
pub fn overwrite(text: &str, secrets: &Secrets) -> String {
    let mut text = text.to_owned();
    for secret in &secrets.0 {
        text = text.replace(secret.as_str(), &"*".repeat(secret.len()));
    }
    for range in user_parts(&text) {
        text.replace_range(range.clone(), &"*".repeat(range.len()));
    }
    text
}

/// Byte ranges of `user:password` in every `scheme://user:password@host` of the text.
fn user_parts(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let rest = &text[start..];
        let end = rest
            // A `}` ends it too: `${USER}:${PASSWORD}@` contains no secret yet.
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '`' | '}'))
            .unwrap_or(rest.len());
        if let Some(at) = rest[..end].rfind('@').filter(|&at| at > 0) {
            parts.push(start..start + at);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &str, text: &str, expected: &str) {
        let mut secrets = Secrets::default();
        secrets.learn(name, value);
        assert_eq!(redact(text, &secrets), expected, "{name}");
        assert_eq!(overwrite(text, &secrets).len(), text.len());
    }

    #[test]
    fn secrets_print_as_stars() {
        check("DB_PASSWORD", "hunter2", "`hunter2` is no duration", "`***` is no duration");
        check("api_token", "hunter2", "a hunter2 b hunter2", "a *** b ***");
        check("BROKERS", "hunter2", "hunter2", "hunter2");
        check("DB_PASSWORD", "a", "a cat", "a cat");
        check("", "", "see http://bob:geheim@host:80/x and", "see http://***@host:80/x and");
        check("DB_URL", "postgres://bob:geheim@db/x", "password geheim failed", "password *** failed");
        check("", "", "http://host/a@b", "http://host/a@b");
        check("", "", "größe://ü@h", "größe://***@h");
    }
}
