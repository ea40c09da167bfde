//! Which kinds of JSON an expression may give: what is known of its result before any record.

use std::fmt;

use super::Json;

/// A set of kinds of JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Types(u8);

/// Every kind with its name.
const ALL: [(Types, &str); 7] = [
    (Types::NULL, "null"),
    (Types::BOOLEAN, "boolean"),
    (Types::INTEGER, "integer"),
    (Types::FLOAT, "float"),
    (Types::STRING, "string"),
    (Types::ARRAY, "array"),
    (Types::OBJECT, "object"),
];

impl Types {
    /// `null`.
    pub const NULL: Types = Types(1);
    /// `true`, `false`.
    pub const BOOLEAN: Types = Types(2);
    /// Whole numbers.
    pub const INTEGER: Types = Types(4);
    /// Other numbers.
    pub const FLOAT: Types = Types(8);
    /// Numbers.
    pub const NUMBER: Types = Types(4 | 8);
    /// Text.
    pub const STRING: Types = Types(16);
    /// Arrays.
    pub const ARRAY: Types = Types(32);
    /// Objects.
    pub const OBJECT: Types = Types(64);
    /// Anything.
    pub const ANY: Types = Types(127);
    /// None of them.
    pub const NEVER: Types = Types(0);

    /// The kind of a value.
    #[must_use]
    pub fn of(value: &Json) -> Types {
        match value {
            Json::Null => Types::NULL,
            Json::Bool(_) => Types::BOOLEAN,
            Json::Number(n) if n.is_f64() => Types::FLOAT,
            Json::Number(_) => Types::INTEGER,
            Json::String(_) => Types::STRING,
            Json::Array(_) => Types::ARRAY,
            Json::Object(_) => Types::OBJECT,
        }
    }

    /// The kinds in either set.
    #[must_use]
    pub const fn or(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    /// Whether the sets have a kind in common.
    #[must_use]
    pub const fn may_be(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    /// For sentences: `a number or text`.
    #[must_use]
    pub fn in_words(self) -> String {
        let words = [
            (Types::NULL, "null"),
            (Types::BOOLEAN, "true or false"),
            (Types::NUMBER, "a number"),
            (Types::STRING, "text"),
            (Types::ARRAY, "a list"),
            (Types::OBJECT, "an object"),
        ];
        let mine = words.iter().filter(|(types, _)| self.may_be(*types)).map(|(_, word)| *word);
        mine.collect::<Vec<_>>().join(" or ")
    }

    /// The kinds that are not in the other set.
    #[must_use]
    pub const fn without(self, other: Types) -> Types {
        Types(self.0 & !other.0)
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = ALL.iter().filter(|(t, _)| self.may_be(*t)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(" or "))
    }
}

impl fmt::Debug for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Types({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_kinds_is_named() {
        let number = Types::INTEGER.or(Types::FLOAT);
        assert_eq!(number.to_string(), "integer or float");
        assert!(Types::ANY.may_be(Types::NULL) && !number.may_be(Types::STRING));
        assert_eq!(number.without(Types::INTEGER), Types::FLOAT);
        assert_eq!(Types::NEVER.to_string(), "");
        assert_eq!(number.or(Types::STRING).in_words(), "a number or text");
    }
}
