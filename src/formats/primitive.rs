//! Text and the numbers of Kafka's own serializers: `StringSerializer`, `IntegerSerializer`, `LongSerializer`,
//! `DoubleSerializer`.

use bytes::Bytes;

use super::Format;
use crate::model::Json;
use crate::model::number::{double, whole};

/// Decodes bytes to JSON.
pub(super) fn decode(format: Format, bytes: &[u8]) -> Result<Json, String> {
    let wrong = |wanted: usize| format!("{} bytes are no {}: it has {wanted}", bytes.len(), format.name());
    match format {
        Format::Integer => {
            let bytes = <[u8; 4]>::try_from(bytes).map_err(|_| wrong(4))?;
            Ok(Json::from(i32::from_be_bytes(bytes)))
        }
        Format::Long => {
            let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| wrong(8))?;
            Ok(Json::from(i64::from_be_bytes(bytes)))
        }
        Format::Double => {
            let number = f64::from_be_bytes(<[u8; 8]>::try_from(bytes).map_err(|_| wrong(8))?);
            let json = serde_json::Number::from_f64(number).map(Json::Number);
            json.ok_or_else(|| format!("the double {number} is no JSON number"))
        }
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Json::String(text.to_owned())),
            Err(e) => Err(format!("the bytes are no UTF-8 text: {e}")),
        },
    }
}

/// Encodes a JSON value.
pub(super) fn encode(format: Format, json: &Json) -> Result<Bytes, String> {
    let wrong = || format!("{json} is no {}", format.name());
    Ok(match format {
        Format::Integer => {
            let number = whole(json).and_then(|n| i32::try_from(n).ok()).ok_or_else(wrong)?;
            Bytes::copy_from_slice(&number.to_be_bytes())
        }
        Format::Long => Bytes::copy_from_slice(&whole(json).ok_or_else(wrong)?.to_be_bytes()),
        Format::Double => Bytes::copy_from_slice(&double(json).ok_or_else(wrong)?.to_be_bytes()),
        _ => match json {
            Json::String(text) => Bytes::from(text.clone()),
            other => Bytes::from(other.to_string()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_what_kafkas_serializers_write() {
        let check = |format: Format, json: Json, bytes: &[u8]| {
            assert_eq!(encode(format, &json).as_deref(), Ok(bytes), "{json}");
            assert_eq!(decode(format, bytes), Ok(json));
        };
        // These bytes are from the JVM: `new LongSerializer().serialize("", 258L)` and the like.
        check(Format::Long, json!(258), &[0, 0, 0, 0, 0, 0, 1, 2]);
        check(Format::Long, json!(-2), &[255, 255, 255, 255, 255, 255, 255, 254]);
        check(Format::Integer, json!(-2), &[255, 255, 255, 254]);
        check(Format::Double, json!(1.5), &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        check(Format::String, json!("größe"), "größe".as_bytes());
        assert_eq!(encode(Format::Double, &json!(2)).as_deref(), Ok(2f64.to_be_bytes().as_slice()));
        assert_eq!(encode(Format::String, &json!({"a": 1})).as_deref(), Ok(b"{\"a\":1}".as_slice()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |format: Format, bytes: &[u8], part: &str| {
            let error = decode(format, bytes).expect_err("does not fit");
            assert!(error.contains(part), "{error}");
        };
        refused(Format::Long, &[1, 2, 3, 4], "4 bytes are no long: it has 8");
        refused(Format::Integer, &[0; 8], "8 bytes are no integer: it has 4");
        refused(Format::Double, &f64::NAN.to_be_bytes(), "no JSON number");
        refused(Format::String, &[0xff], "no UTF-8");
        assert!(encode(Format::Long, &json!(1.5)).is_err_and(|e| e == "1.5 is no long"));
        assert!(encode(Format::Integer, &json!(1_i64 << 40)).is_err());
        assert!(encode(Format::Double, &json!("1")).is_err());
        assert!(
            encode(Format::Double, &json!(9_007_199_254_740_993_i64)).is_err(),
            "no double is this number"
        );
        assert!(encode(Format::Long, &json!(1e30)).is_err());
        assert_eq!(encode(Format::Long, &json!(5.0)), encode(Format::Long, &json!(5)));
    }
}
