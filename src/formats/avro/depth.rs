//! A depth limit for values of recursive schemas: a few bytes can encode lists nested so deep that decoding them
//! overflows the stack. A schema that is not recursive limits the depth of its values itself.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::Name;

use super::to_json::real;

/// Deeper values are refused.
const DEPTH_MAX: usize = 64;

/// Whether the schema contains itself.
pub(super) fn is_recursive(schema: &Schema, names: &HashMap<Name, Schema>) -> bool {
    fn walk<'a>(schema: &'a Schema, names: &'a HashMap<Name, Schema>, above: &mut Vec<&'a Name>) -> bool {
        match real(schema, names) {
            Schema::Array(array) => walk(&array.items, names, above),
            Schema::Map(map) => walk(&map.types, names, above),
            Schema::Union(union) => union.variants().iter().any(|branch| walk(branch, names, above)),
            Schema::Record(record) => {
                if above.contains(&&record.name) {
                    return true;
                }
                above.push(&record.name);
                let found = record.fields.iter().any(|field| walk(&field.schema, names, above));
                above.pop();
                found
            }
            _ => false,
        }
    }
    walk(schema, names, &mut Vec::new())
}

/// Walks over an encoded value without building it.
pub(super) fn check(bytes: &[u8], schema: &Schema, names: &HashMap<Name, Schema>) -> Result<(), String> {
    Walk { bytes, names }.skip(schema, 0)
}

struct Walk<'a> {
    bytes: &'a [u8],
    names: &'a HashMap<Name, Schema>,
}

impl Walk<'_> {
    fn skip(&mut self, schema: &Schema, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("the Avro value is more than {DEPTH_MAX} levels deep"));
        }
        let names = self.names;
        match real(schema, names) {
            Schema::Null => Ok(()),
            Schema::Boolean => self.take(1),
            Schema::Float => self.take(4),
            Schema::Double => self.take(8),
            Schema::Duration => self.take(12),
            Schema::Fixed(fixed) => self.take(fixed.size),
            Schema::Decimal(decimal) => self.skip(&decimal.inner, depth),
            Schema::Bytes | Schema::String | Schema::Uuid | Schema::BigDecimal => {
                let length = self.length()?;
                self.take(length)
            }
            Schema::Array(array) => self.blocks(|walk| walk.skip(&array.items, depth + 1)),
            Schema::Map(map) => self.blocks(|walk| {
                let length = walk.length()?;
                walk.take(length)?;
                walk.skip(&map.types, depth + 1)
            }),
            Schema::Record(record) => {
                record.fields.iter().try_for_each(|field| self.skip(&field.schema, depth + 1))
            }
            Schema::Union(union) => {
                let at = self.length()?;
                let branch = union.variants().get(at).ok_or("no such branch of a union")?;
                self.skip(branch, depth)
            }
            // Every other type is a single number.
            _ => self.number().map(drop),
        }
    }

    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        loop {
            let mut count = self.number()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // A negative count is followed by the size of the block in bytes.
                self.number()?;
                count = count.saturating_neg();
            }
            for _ in 0..count {
                if self.bytes.is_empty() {
                    return Err("the Avro value ends too early".into());
                }
                item(self)?;
            }
        }
    }

    fn length(&mut self) -> Result<usize, String> {
        usize::try_from(self.number()?).map_err(|_| "a negative length".to_owned())
    }

    fn number(&mut self) -> Result<i64, String> {
        let mut value = 0u64;
        for n in 0..10 {
            let (byte, rest) = self.bytes.split_first().ok_or("the Avro value ends too early")?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                return Ok(i64::from_ne_bytes((value >> 1).to_ne_bytes()) ^ -i64::from(value & 1 == 1));
            }
        }
        Err("a number of more than 64 bits".into())
    }

    fn take(&mut self, count: usize) -> Result<(), String> {
        self.bytes = self.bytes.get(count..).ok_or("the Avro value ends too early")?;
        Ok(())
    }
}
