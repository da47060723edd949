//! The query of a URL: options of verbs.

use super::path::decode;
use super::status::Status;

/// Names and values, in their order.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// # Errors
    /// It has a broken escape.
    pub(crate) fn parse(text: &str) -> Result<Self, Status> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let broken = || Status::bad_request(format!("invalid URL escape in {pair:?}"));
            Ok((decode(name, true).ok_or_else(broken)?, decode(value, true).ok_or_else(broken)?))
        });
        pairs.collect::<Result<_, Status>>().map(Self)
    }

    /// The first value; empty ones count as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of a name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// As the API server reads booleans: a name without a value is true, so is anything but `0`, `f` and `false`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let value = self.0.iter().find(|(known, _)| known == name);
        value.is_some_and(|(_, value)| !matches!(value.to_ascii_lowercase().as_str(), "0" | "f" | "false"))
    }

    /// # Errors
    /// It is no number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let parse = |text: &str| {
            text.parse().map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
        };
        self.get(name).map(parse).transpose()
    }

    /// That `timeout`, if there is one, is a time.
    ///
    /// # Errors
    /// It isn't.
    pub(crate) fn check_timeout(&self) -> Result<(), Status> {
        match self.get("timeout") {
            Some(text) if !is_duration(text) => Err(Status::bad_request(format!(
                "invalid timeout specified in the request URL - time: invalid duration {text:?}"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether nothing is to be stored.
    ///
    /// # Errors
    /// The value is not `All`.
    pub(crate) fn is_dry_run(&self) -> Result<bool, Status> {
        let mut is_dry = false;
        for value in self.all("dryRun") {
            match value {
                "" => {}
                "All" => is_dry = true,
                other => return Err(bad_dry_run(other)),
            }
        }
        Ok(is_dry)
    }
}

/// Whether a text is a duration as Go writes it: `1m30s`, `1.5h`, `0`.
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 8] = ["ns", "us", "\u{b5}s", "\u{3bc}s", "ms", "s", "m", "h"];
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let is_filled = !rest.is_empty();
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(unit);
        let has_digit = number.bytes().any(|byte| byte.is_ascii_digit());
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        if !has_digit || number.matches('.').count() > 1 || !UNITS.contains(&&after[..end]) {
            return false;
        }
        rest = &after[end..];
    }
    is_filled
}

/// A value of `dryRun` that doesn't exist.
pub(super) fn bad_dry_run(value: &str) -> Status {
    Status::bad_request(format!("dryRun: Unsupported value: {value:?}: supported values: \"All\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_duration() {
        for (text, expected) in [
            ("", true),
            ("0", true),
            ("32s", true),
            ("1m30s", true),
            ("-1.5h", true),
            ("10", false),
            ("invalid", false),
            ("1x", false),
            ("1.2.3s", false),
            (".s", false),
        ] {
            let checked = Query::parse(&format!("timeout={text}")).unwrap().check_timeout();
            assert_eq!(checked.is_ok(), expected, "{text}");
        }
    }

    #[test]
    fn options_read_as_the_api_server_reads_them() {
        let query = Query::parse("watch=1&limit=x&a=%3D&a=b&empty=&dryRun=All&follow").unwrap();
        assert!(query.flag("watch") && query.flag("follow") && !query.flag("nope"));
        assert_eq!(query.number("limit").unwrap_err().message, "strconv.ParseInt: parsing \"x\": invalid syntax");
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["=", "b"]);
        assert_eq!(query.get("empty"), None);
        assert!(query.is_dry_run().unwrap());
        assert!(Query::parse("dryRun=Some").unwrap().is_dry_run().is_err());
        assert!(!Query::parse("watch=false").unwrap().flag("watch"));
    }
}
