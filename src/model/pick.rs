//! Reads a few fields of a JSON object without building the rest of it.
//!
//! Used where an expression says which fields it reads. The whole text is still checked to be JSON, as a source checks
//! it (except that half of an escaped surrogate pair is accepted in skipped text). If a name occurs twice the last one
//! counts, as in a full parse.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::number::{Parsed, check_exact};
use super::scan;

/// Up to so many fields are found without an allocation.
const FEW: usize = 8;

/// The values of these fields, `None` if one is missing. `Ok(None)`: the text is not an object.
///
/// # Errors
/// The bytes are not JSON, or one of the fields has a number that `T` cannot hold.
pub fn pick<T: Parsed>(bytes: &[u8], fields: &[String]) -> Result<Option<Vec<Option<T>>>, serde_json::Error> {
    let mut few = [None; FEW];
    if let Some(found) = few.get_mut(..fields.len())
        && scan::fields(bytes, fields, found).is_some()
    {
        let values = found.iter().map(|text| text.map(serde_json::from_str).transpose());
        if let Ok(values) = values.collect::<Result<Vec<Option<T>>, _>>() {
            return exact(values, found).map(Some);
        }
        // The full parse reports where in the text the error is.
    }
    let Some(values) = read::<T>(bytes, fields)? else { return Ok(None) };
    if !values.iter().flatten().any(T::may_be_rounded) {
        return Ok(Some(values));
    }
    let texts = read::<&RawValue>(bytes, fields)?.unwrap_or_default();
    let texts: Vec<Option<&str>> = texts.into_iter().map(|text| text.map(RawValue::get)).collect();
    exact(values, &texts).map(Some)
}

/// Checks that the values are what is written in their texts.
fn exact<T: Parsed>(
    values: Vec<Option<T>>,
    texts: &[Option<&str>],
) -> Result<Vec<Option<T>>, serde_json::Error> {
    for (value, text) in values.iter().zip(texts) {
        if let (Some(value), Some(text)) = (value, text) {
            check_exact(value, text).map_err(|e| serde::de::Error::custom(e.0))?;
        }
    }
    Ok(values)
}

/// The texts of these fields, in `found` at the same positions, `None` if one is missing. False: the text is not an
/// object.
///
/// # Errors
/// The bytes are not JSON.
pub fn pick_texts<'de>(
    bytes: &'de [u8],
    fields: &[String],
    found: &mut [Option<&'de str>],
) -> Result<bool, serde_json::Error> {
    found.fill(None);
    if scan::fields(bytes, fields, found).is_some() {
        return Ok(true);
    }
    let Some(texts) = read::<&RawValue>(bytes, fields)? else { return Ok(false) };
    for (place, text) in found.iter_mut().zip(texts) {
        *place = text.map(RawValue::get);
    }
    Ok(true)
}

fn read<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    fields: &[String],
) -> Result<Option<Vec<Option<T>>>, serde_json::Error> {
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Ok(None);
    }
    let mut found: Vec<Option<T>> = fields.iter().map(|_| None).collect();
    let mut text = serde_json::Deserializer::from_slice(bytes);
    (&mut text).deserialize_map(Fields { names: fields, found: &mut found })?;
    text.end()?;
    Ok(Some(found))
}

struct Fields<'a, T> {
    names: &'a [String],
    found: &'a mut [Option<T>],
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(at) = map.next_key_seed(Name(self.names))? {
            match at.and_then(|at| self.found.get_mut(at)) {
                Some(place) => *place = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Deserializes a name as its position in the list.
struct Name<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Option<usize>, D::Error> {
        d.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|n| n == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Json;

    #[test]
    fn fields_are_those_of_a_whole_parse() {
        let names: Vec<String> = ["a", "b c", "ä"].map(String::from).into();
        for text in [
            r#"{}"#,
            r#" {"a": 1, "x": {"a": [2]}, "b c": {"d": null}}"#,
            r#"{"a":1,"a":{"z":2}}"#,
            r#"{"\u0061": "v", "ä": [1, {"a": 2}], "b c": null}"#,
            r#"{"b c": 1e3, "x": "\ud83d\ude00"}"#,
        ] {
            let whole: Json = serde_json::from_str(text).unwrap();
            let picked = pick::<Json>(text.as_bytes(), &names).unwrap().unwrap();
            let mut texts = [Some("x"); 3];
            assert!(pick_texts(text.as_bytes(), &names, &mut texts).unwrap());
            for ((name, value), text) in names.iter().zip(picked).zip(texts) {
                assert_eq!(whole.get(name), value.as_ref(), "{whole} {name}");
                let of_text = text.map(|text| serde_json::from_str::<Json>(text).unwrap());
                assert_eq!(of_text, value, "{whole} {name}");
            }
        }
        let beyond = |text: &str| pick::<Json>(text.as_bytes(), &names).map_err(|e| e.to_string());
        for text in [r#"{"a": [18446744073709551616]}"#, r#"{"\u0061": 18446744073709551616}"#] {
            assert!(beyond(text).is_err_and(|e| e.contains("18446744073709551616")), "{text}");
        }
        let text = r#"{"a": 18446744073709551615, "x": 18446744073709551616}"#;
        assert_eq!(beyond(text).unwrap().unwrap()[0], Some(Json::from(u64::MAX)));
        for other in ["[1]", "null", " 7 ", "\"{}\"", ""] {
            assert!(pick::<Json>(other.as_bytes(), &names).unwrap().is_none(), "{other}");
            assert!(!pick_texts(other.as_bytes(), &names, &mut [None; 3]).unwrap(), "{other}");
        }
        for bad in ["{", r#"{"a":}"#, r#"{"x":tru}"#, r#"{"a":1} x"#] {
            assert!(pick::<Json>(bad.as_bytes(), &names).is_err(), "{bad}");
            assert!(pick_texts(bad.as_bytes(), &names, &mut [None; 3]).is_err(), "{bad}");
        }
    }
}
