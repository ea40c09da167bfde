//! Which values of a file are secret. Collected while variables and files are put in; taken out of reports, and masked in
//! everything that the process shows once it is told to ([`Secrets::protect`], `model/secret.rs`).
//!
//! Masks whole known values and the user part of any URL; it does not guess at other secrets.

use std::path::PathBuf;

use crate::model::secret::{FileSecret, is_secret_value, mask, protect, user_parts, watch};

/// A variable whose name has one of these holds a secret.
const NAMES: [&str; 6] = ["SECRET", "PASSWORD", "PASSWD", "TOKEN", "KEY", "CREDENTIAL"];
/// So does one of whose words, between `_`, is one of these.
const WORDS: [&str; 8] =
    ["PASS", "PASSPHRASE", "AUTH", "AUTHORIZATION", "BEARER", "SIGNATURE", "COOKIE", "DSN"];

/// The secret values known so far.
#[derive(Clone, Default)]
pub struct Secrets {
    /// The longest first: one secret may be part of another.
    values: Vec<String>,
    files: Vec<FileSecret>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.values.len())
    }
}

impl Secrets {
    /// Whether a variable of this name holds a secret.
    #[must_use]
    pub fn is_secret_name(name: &str) -> bool {
        let name = name.to_uppercase();
        NAMES.iter().any(|part| name.contains(part)) || name.split('_').any(|word| WORDS.contains(&word))
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

    /// Remembers the secret in a file.
    pub fn learn_file(&mut self, path: PathBuf, value: &str) {
        self.add(value);
        self.files.push(FileSecret { path, loaded: value.to_owned(), now: value.to_owned() });
    }

    /// From now on this process masks them in all that it shows, and reads those in files again when they change.
    pub fn protect(&self) {
        protect(self.values.iter().map(String::as_str));
        watch(self.files.iter().filter(|file| is_secret_value(&file.loaded)).cloned());
    }

    fn add(&mut self, value: &str) {
        if is_secret_value(value) && !self.values.iter().any(|v| v == value) {
            self.values.push(value.to_owned());
            self.values.sort_by_key(|v| std::cmp::Reverse(v.len()));
        }
    }
}

/// The text with every known secret, and the user part of every URL, printed as `***`.
#[must_use]
pub fn redact(text: &str, secrets: &Secrets) -> String {
    mask(text, &secrets.values).into_owned()
}

/// The text with every secret overwritten by as many `*` as it has bytes, so that places stay right.
#[must_use]
pub fn overwrite(text: &str, secrets: &Secrets) -> String {
    let mut text = text.to_owned();
    for secret in &secrets.values {
        text = text.replace(secret.as_str(), &"*".repeat(secret.len()));
    }
    for range in user_parts(&text) {
        text.replace_range(range.clone(), &"*".repeat(range.len()));
    }
    text
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
        for name in ["DB_PASS", "API_AUTH", "SENTRY_DSN", "MY_SECRETS", "CREDENTIALS", "passwd"] {
            check(name, "hunter2", "a hunter2", "a ***");
        }
        check("COMPASS_URL", "hunter2", "hunter2", "hunter2");
        check("KEY_ENABLED", "true", "it is true", "it is true");
        check("DB_PASSWORD", "a", "a cat", "a cat");
        check("", "", "see http://bob:geheim@host:80/x and", "see http://***@host:80/x and");
        check("DB_URL", "postgres://bob:geheim@db/x", "password geheim failed", "password *** failed");
        check("", "", "http://host/a@b", "http://host/a@b");
        check("", "", "größe://ü@h", "größe://***@h");
    }
}
