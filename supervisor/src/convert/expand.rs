//! `$(VAR)` references in commands, arguments and environment values (rule EN8).

/// Replaces each `$(NAME)` that `value_of` knows; `$$` is a literal `$`, anything else stays as written. Not recursive.
pub fn expand(text: &str, value_of: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(rest) {
            match value_of(name) {
                Some(value) => out.push_str(&value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The names that `text` refers to, in order.
pub fn references(text: &str) -> Vec<String> {
    let names = std::cell::RefCell::new(Vec::new());
    expand(text, |name| {
        names.borrow_mut().push(name.to_owned());
        Some(String::new())
    });
    names.into_inner()
}

/// Splits `(NAME)rest` after a dollar sign.
fn reference(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix('(')?.split_once(')')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EN8
    #[test]
    fn only_known_references_are_replaced() {
        let known = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("$(A)2", "12"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$()", "$()"),
            ("$(A", "$(A"),
            ("x$", "x$"),
            ("$(A)$(A)", "11"),
            ("$($(A))", "$($(A))"),
            ("", ""),
            ("日本$(A)", "日本1"),
        ] {
            assert_eq!(expand(text, known), expected, "{text}");
        }
    }

    #[test]
    fn references_are_listed_without_escaped_ones() {
        assert_eq!(references("$(A)/$$(B)/$(C)"), ["A", "C"]);
    }
}
