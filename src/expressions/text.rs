//! `slug(text)`: a part of a URL that people can read, from text in any script; `slug(text, unique: id)` with something
//! behind it that only this id has.
//!
//! The text's part has small Latin letters, digits and single `-` between them, 80 of these at most, cut at a `-` where
//! there is one; of very long text only the beginning is read. It is empty where there is no letter or digit. Behind it come
//! `-` and 16 digits of the id's SHA-256, whatever the id is made of.

use ::vrl::compiler::value::{VrlValueConvert, kind};
use ::vrl::compiler::{
    Context, Expression, Function, FunctionExpression, Parameter, Resolved, TypeDef, TypeState,
};

use sha2::{Digest, Sha256};

use super::own::Own;

/// Longest slug, in bytes, which are letters.
const SLUG_MAX: usize = 80;
/// Characters of a text that are read: a few times as many as a slug has, of which some may have no letter.
const READ_MAX: usize = 1024;
/// Bytes of a hash behind a slug: among 100 million of one text, two are equal once in 3,700 times.
const HASH_BYTES: usize = 8;

/// The function, with its parameters.
pub(super) fn texts() -> impl Iterator<Item = Box<dyn Function>> {
    const PARAMETERS: &[Parameter] = &[
        Parameter::required("value", kind::BYTES, "text"),
        Parameter::optional("unique", kind::BYTES, "what tells it from others of the same text"),
    ];
    std::iter::once(Own::boxed("slug", PARAMETERS, |_, _, all| {
        Ok(Slug { value: all.required("value"), unique: all.optional("unique") }.as_expr())
    }))
}

#[derive(Clone, Debug)]
struct Slug {
    value: Box<dyn Expression>,
    unique: Option<Box<dyn Expression>>,
}

impl FunctionExpression for Slug {
    fn resolve(&self, cx: &mut Context) -> Resolved {
        let value = self.value.resolve(cx)?;
        let unique = self.unique.as_ref().map(|unique| unique.resolve(cx)).transpose()?;
        let slug = slug(&value.try_bytes_utf8_lossy()?);
        Ok(match unique {
            None => slug.into(),
            Some(unique) => with_id(slug, &unique.try_bytes_utf8_lossy()?).into(),
        })
    }
    fn type_def(&self, _: &TypeState) -> TypeDef {
        TypeDef::bytes().infallible()
    }
}

fn with_id(mut slug: String, id: &str) -> String {
    if !slug.is_empty() {
        slug.push('-');
    }
    let hash = Sha256::digest(id);
    slug.extend(hash.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")));
    slug
}

fn slug(text: &str) -> String {
    let end = text.char_indices().nth(READ_MAX).map_or(text.len(), |(at, _)| at);
    let mut slug = ::slug::slugify(&text[..end]);
    if slug.len() > SLUG_MAX {
        // It is ASCII, so every place is one between letters. The one behind the last says whether a word ends there.
        let cut = slug[..=SLUG_MAX].rfind('-').unwrap_or(SLUG_MAX);
        slug.truncate(cut);
    }
    slug
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::VrlCompiler;
    use super::*;
    use crate::model::{Record, Scope, Timestamp, Value};

    #[test]
    fn a_title_in_any_script_is_readable() {
        for (title, expected) in [
            ("Hello, World!", "hello-world"),
            ("  --Zürich & Łódź--  ", "zurich-lodz"),
            ("cafe\u{301}", "cafe"),
            ("Привет, мир", "privet-mir"),
            ("Καλημέρα κόσμε", "kalemera-kosme"),
            ("北京的春天", "bei-jing-de-chun-tian"),
            ("こんにちは", "konnitiha"),
            ("안녕하세요", "annyeonghaseyo"),
            ("مرحبا", "mrhb"),
            ("नमस्ते", "nmste"),
            ("שלום", "shlvm"),
            ("a\u{0}b/../c?d=e#f%2F", "a-b-c-d-e-f-2f"),
            ("!!! ???", ""),
            ("", ""),
        ] {
            assert_eq!(slug(title), expected, "{title}");
        }
    }

    #[test]
    fn it_is_bounded_and_ends_with_a_word() {
        let words = "word ".repeat(100);
        let long = slug(&words);
        assert_eq!((long.len(), long.ends_with("-word")), (79, true));
        assert_eq!(slug(&"x".repeat(1_000_000)), "x".repeat(SLUG_MAX));
        assert_eq!(slug(&format!("{} {}", "x".repeat(80), "y")), "x".repeat(80));
        assert_eq!(
            slug(&"\u{fdfa}".repeat(100_000)).len().min(SLUG_MAX + 1),
            slug(&"\u{fdfa}".repeat(READ_MAX)).len()
        );
        // Whatever it is made of, it can stand in a URL.
        let odd: String = (0..0x3_0000).step_by(7).filter_map(char::from_u32).collect();
        for part in odd.as_bytes().chunks(200) {
            let slug = slug(&String::from_utf8_lossy(part));
            let good = slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(good && slug.len() <= SLUG_MAX && !slug.contains("--"), "{slug}");
            assert!(!slug.starts_with('-') && !slug.ends_with('-'), "{slug}");
        }
    }

    #[test]
    fn an_expression_calls_it() {
        let run = |text: &str, value: serde_json::Value| {
            let record = Record::new("k", Value::from(value), Timestamp(0));
            let function = VrlCompiler::new("").compile(text, None, &[]).map_err(|p| p.message)?;
            function.eval(&Scope::of(&record)).map_err(|e| e.to_string())
        };
        assert_eq!(run("slug(.title)", json!({"title": "Für Elise"})), Ok(json!("fur-elise")));
        assert_eq!(run("slug(.title) + \"-1\"", json!({"title": "?"})), Ok(json!("-1")));
        // echo -n hello | sha256sum
        let of = json!({"title": "Für Elise", "uid": "hello", "none": "?"});
        assert_eq!(run("slug(.title, .uid)", of.clone()), Ok(json!("fur-elise-2cf24dba5fb0a30e")));
        assert_eq!(run("slug(.none, unique: .uid)", of), Ok(json!("2cf24dba5fb0a30e")));
        let wrong = run("slug(.title)", json!({"title": 1})).expect_err("a number has none");
        assert!(wrong.contains("string"), "{wrong}");
        assert!(run("slug(1)", json!({})).is_err());
    }
}
