//! Parameters of a URL as the API reads them.

/// Parameters in their order, decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(uri: &http::Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// Only absence, `0` and `false` are false.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A number; the error is the API's.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, String> {
        let parse = |value: &str| {
            value.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {value:?}: invalid syntax"))
        };
        self.get(name).filter(|value| !value.is_empty()).map(parse).transpose()
    }
}

/// `%41` and `+`; what is no escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let query = query("command=sh&command=-c&command=echo+%24A%26b%3D1&x&y=%zz");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo $A&b=1"]);
        assert_eq!((query.get("x"), query.get("y"), query.get("z")), (Some(""), Some("%zz"), None));
    }

    #[test]
    fn only_absence_zero_and_false_are_false() {
        for (text, expected) in [
            ("", false),
            ("f", true),
            ("f=", true),
            ("f=true", true),
            ("f=1", true),
            ("f=0", false),
            ("f=False", false),
        ] {
            assert_eq!(query(text).flag("f"), expected, "{text}");
        }
    }

    #[test]
    fn numbers_are_numbers() {
        assert_eq!(query("n=-3").number("n"), Ok(Some(-3)));
        assert_eq!(query("n=").number("n"), Ok(None));
        assert!(query("n=x").number("n").unwrap_err().contains("invalid syntax"));
    }
}
