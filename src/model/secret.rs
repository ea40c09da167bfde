//! Secrets: values that must not leave the process in text that people read. Known by value, masked in one place.
//!
//! Who loads a topology for a command says once which values are secret ([`protect`]); whatever leaves as text goes through
//! [`masked`]: what commands print, logs, everything that the admin server answers, the error in a dead letter. So nothing
//! depends on how a secret came into a text: through a URL, an expression, the answer of an API.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::io::Write;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use schemars::JsonSchema;
use serde::Deserialize;

/// What stands in place of a secret.
pub const MASK: &str = "***";
/// A shorter value is no secret, and masking it would make text unreadable.
pub const LENGTH_MIN: usize = 4;
/// Values that say nothing, and stand everywhere.
const PLAIN: [&str; 4] = ["true", "false", "null", "none"];

/// The values that this process masks, the longest first; read where text is printed, written when a topology is loaded and when
/// a secret's file has changed.
static KNOWN: RwLock<Vec<String>> = RwLock::new(Vec::new());
/// Files that secrets came from; read where a request is sent, written as `KNOWN` is.
static FILES: RwLock<Vec<FileSecret>> = RwLock::new(Vec::new());

/// A text of a topology's settings that is a secret, or may hold one, as a URL may. `Debug` shows it as `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct Secret(String);

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Secret {
        Secret(text.into())
    }
}

impl Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// A secret that was read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSecret {
    /// The file.
    pub path: PathBuf,
    /// What was in it when the topology was loaded: so it stands in settings.
    pub loaded: String,
    /// What is in it now.
    pub now: String,
}

/// May this value be a secret at all?
#[must_use]
pub fn is_secret_value(value: &str) -> bool {
    value.len() >= LENGTH_MIN && !PLAIN.contains(&value.to_ascii_lowercase().as_str())
}

/// These values are masked from now on, however they are escaped.
pub fn protect<'a>(values: impl IntoIterator<Item = &'a str>) {
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    for value in values.into_iter().filter(|value| is_secret_value(value)) {
        for form in forms(value) {
            if !known.contains(&form) {
                known.push(form);
            }
        }
    }
    // One secret may be part of another.
    known.sort_by_key(|value| std::cmp::Reverse(value.len()));
}

/// A value as it may stand in JSON, in a page, in a graph and in a URL.
fn forms(value: &str) -> Vec<String> {
    let json = serde_json::Value::from(value).to_string();
    let mut percent = String::new();
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                percent.push(char::from(byte))
            }
            // Writing to a String cannot fail.
            other => write!(percent, "%{other:02X}").unwrap_or_default(),
        }
    }
    let html = value.replace('&', "&amp;").replace('<', "&lt;");
    let forms = [
        value.to_owned(),
        json[1..json.len() - 1].to_owned(),
        html.replace('"', "#quot;"),
        html,
        value.replace('"', "#quot;"),
        percent,
    ];
    let mut out: Vec<String> = Vec::new();
    for form in forms {
        if !out.contains(&form) {
            out.push(form);
        }
    }
    out
}

/// The text with every secret, and the user part of every URL, as `***`.
#[must_use]
pub fn masked(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    mask(text, &known)
}

/// The text with these values, the longest first, and the user part of every URL, as `***`.
#[must_use]
pub fn mask<'t>(text: &'t str, secrets: &[String]) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(text);
    for secret in secrets {
        if text.contains(secret.as_str()) {
            text = Cow::Owned(text.replace(secret.as_str(), MASK));
        }
    }
    let parts = user_parts(&text);
    if parts.is_empty() {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for range in parts {
        out.push_str(&text[done..range.start]);
        out.push_str(MASK);
        done = range.end;
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// Byte ranges of `user:password` in every `scheme://user:password@host` of the text.
#[must_use]
pub fn user_parts(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let rest = &text[start..];
        let end = rest
            // The `}` ends it too: `${USER}:${PASSWORD}@` is no secret yet.
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '`' | '}'))
            .unwrap_or(rest.len());
        if let Some(at) = rest[..end].rfind('@').filter(|&at| at > 0) {
            parts.push(start..start + at);
        }
    }
    parts
}

/// These files hold secrets, which may change while the process runs.
pub fn watch(files: impl IntoIterator<Item = FileSecret>) {
    let mut known = FILES.write().unwrap_or_else(PoisonError::into_inner);
    for file in files {
        if !known.iter().any(|f| f.path == file.path && f.loaded == file.loaded) {
            known.push(file);
        }
    }
}

/// Reads the files again, by `read`. Gives those whose secret has changed; one that cannot be read, or is empty, keeps its
/// secret.
pub fn read_again(read: impl Fn(&Path) -> Option<String>) -> Vec<PathBuf> {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner).clone();
    let mut changed = Vec::new();
    for file in files {
        let Some(text) = read(&file.path) else { continue };
        let text = trimmed(&text);
        if text.is_empty() || text == file.now {
            continue;
        }
        // Masked before anybody can have it.
        protect([text]);
        let mut all = FILES.write().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().filter(|f| f.path == file.path).for_each(|f| text.clone_into(&mut f.now));
        changed.push(file.path);
    }
    changed
}

/// A text of the settings with the secrets that are in their files now. To be asked right before it is sent.
#[must_use]
pub fn fresh(text: &str) -> Cow<'_, str> {
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    let mut text = Cow::Borrowed(text);
    for file in files.iter().filter(|file| file.now != file.loaded) {
        if text.contains(file.loaded.as_str()) {
            text = Cow::Owned(text.replace(file.loaded.as_str(), &file.now));
        }
    }
    text
}

/// A secret without the line break that an editor or `echo` left at its end.
#[must_use]
pub fn trimmed(secret: &str) -> &str {
    secret.trim_end_matches(['\n', '\r'])
}

/// Masks what is written, line by line.
pub struct Masked<W: Write> {
    to: W,
    line: Vec<u8>,
}

impl<W: Write> Masked<W> {
    /// Writes to `to`.
    pub fn new(to: W) -> Masked<W> {
        Masked { to, line: Vec::new() }
    }

    fn pass(&mut self, end: usize) -> std::io::Result<()> {
        let rest = self.line.split_off(end);
        let whole = std::mem::replace(&mut self.line, rest);
        match std::str::from_utf8(&whole) {
            Ok(text) => self.to.write_all(masked(text).as_bytes()),
            Err(_) => self.to.write_all(masked(&String::from_utf8_lossy(&whole)).as_bytes()),
        }
    }
}

impl<W: Write> Write for Masked<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if let Some(end) = self.line.iter().rposition(|byte| *byte == b'\n') {
            self.pass(end + 1)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.pass(self.line.len())?;
        self.to.flush()
    }
}

impl<W: Write> Drop for Masked<W> {
    fn drop(&mut self) {
        // There is no caller left to be told.
        drop(self.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_masked_however_it_is_escaped() {
        // Of this test alone: the values are the process's.
        let secret = "s3\"cr&t/<of one test>";
        protect([secret, "true", "ab"]);
        for shown in [
            format!("k={secret}!"),
            format!("{}!", serde_json::json!(secret)),
            "s3%22cr%26t%2F%3Cof%20one%20test%3E!".to_owned(),
            "s3#quot;cr&amp;t/&lt;of one test>!".to_owned(),
        ] {
            let out = masked(&shown).into_owned();
            assert!(out.contains("***") && !out.contains("cr") && out.ends_with('!'), "{shown}: {out}");
        }
        assert_eq!(masked("true ab"), "true ab");
        let mut out = Masked::new(Vec::new());
        let (first, second) = secret.split_at(5);
        out.write_all(first.as_bytes()).expect("writes");
        out.write_all(format!("{second}\nrest").as_bytes()).expect("writes");
        out.flush().expect("writes");
        assert_eq!(String::from_utf8_lossy(&out.to), "***\nrest");
    }

    #[test]
    fn a_secret_in_a_file_is_sent_as_it_is_now() {
        let path = PathBuf::from("a file of this test");
        let loaded = "first-token-of-this-test".to_owned();
        watch([FileSecret { path: path.clone(), now: loaded.clone(), loaded }]);
        let read = |text: &'static str| move |_: &Path| Some(text.to_owned());
        assert_eq!(fresh("Bearer first-token-of-this-test"), "Bearer first-token-of-this-test");
        assert!(read_again(read("first-token-of-this-test\n")).is_empty());
        assert_eq!(read_again(read("second-token-of-this-test\r\n")), [path]);
        assert_eq!(fresh("Bearer first-token-of-this-test"), "Bearer second-token-of-this-test");
        assert_eq!(masked("got second-token-of-this-test"), "got ***");
        assert!(read_again(read("")).is_empty(), "an empty file is being written");
        assert!(read_again(|_| None).is_empty());
        assert_eq!(fresh("first-token-of-this-test"), "second-token-of-this-test");
    }
}
