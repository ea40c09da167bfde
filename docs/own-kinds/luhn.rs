//! A function of one's own: JSON in, JSON out, and the types of both, which are checked when a file is loaded.

use slackwater::expressions::OwnFunction;
use slackwater::model::{Json, Types};

/// `luhn(text)`: does the number end with the right check digit? Spaces and `-` between its digits do not count.
pub fn function() -> OwnFunction {
    OwnFunction::new("luhn", &[("number", Types::STRING)], Types::BOOLEAN, |arguments| {
        let text = arguments[0].as_str().unwrap_or_default().replace([' ', '-'], "");
        let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(10)).collect();
        let digits = digits.ok_or_else(|| format!("`{text}` is no number"))?;
        let doubled = |n: u32| if n > 4 { 2 * n - 9 } else { 2 * n };
        let weighed = digits.iter().rev().enumerate();
        let sum: u32 = weighed.map(|(at, n)| if at % 2 == 1 { doubled(*n) } else { *n }).sum();
        Ok(Json::from(!digits.is_empty() && sum.is_multiple_of(10)))
    })
}
