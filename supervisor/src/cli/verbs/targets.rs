//! What a user names: `pods`, `po,svc`, `pod a b`, `pod/a svc/b`, `all`.

use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;

/// A kind and the names of its objects; all of them where there are no names.
#[derive(Debug, Clone, PartialEq)]
pub struct Target<'k> {
    pub kind: &'k Kind,
    pub names: Vec<String>,
}

/// Reads the arguments of a verb.
///
/// # Errors
/// A kind does not exist, or both ways of naming are mixed.
pub fn targets<'k>(kinds: &'k Kinds, arguments: &[String]) -> Result<Vec<Target<'k>>, VerbError> {
    let Some((first, names)) = arguments.split_first() else {
        return Err(VerbError::usage("you must specify the type of resource, such as: pods, or pod/NAME"));
    };
    if first.contains('/') {
        return slashed(kinds, arguments);
    }
    if names.iter().any(|name| name.contains('/')) {
        return Err(VerbError::usage(
            "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form",
        ));
    }
    let mut found: Vec<Target<'k>> = Vec::new();
    for word in first.split(',').filter(|word| !word.is_empty()) {
        let of_category = kinds.of_category(word);
        let kinds = if of_category.is_empty() { vec![kinds.named(word)?] } else { of_category };
        found.extend(kinds.into_iter().map(|kind| Target { kind, names: names.to_vec() }));
    }
    Ok(found)
}

fn slashed<'k>(kinds: &'k Kinds, arguments: &[String]) -> Result<Vec<Target<'k>>, VerbError> {
    let mut found: Vec<Target<'k>> = Vec::new();
    for argument in arguments {
        let Some((kind, name)) = argument.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
        else {
            let message = format!("arguments in resource/name form must have a single resource and name: {argument:?}");
            return Err(VerbError::usage(message));
        };
        let kind = kinds.named(kind)?;
        match found.last_mut().filter(|target| target.kind == kind) {
            Some(target) => target.names.push(name.to_owned()),
            None => found.push(Target { kind, names: vec![name.to_owned()] }),
        }
    }
    Ok(found)
}

/// The pod of `NAME`, `pod/NAME` or `pods/NAME`.
///
/// # Errors
/// It is something else's name.
pub fn pod_name(argument: &str) -> Result<&str, VerbError> {
    match argument.split_once('/') {
        None => Ok(argument),
        Some(("pod" | "pods" | "po", name)) if !name.is_empty() => Ok(name),
        Some((kind, _)) => Err(VerbError::usage(format!("{kind:?} has no containers of its own: name a pod"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::discovery::tests::some;
    use super::*;

    fn read(arguments: &[&str]) -> Result<Vec<(String, Vec<String>)>, String> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let kinds = some();
        let found = targets(&kinds, &arguments).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|target| (target.kind.plural.clone(), target.names)).collect())
    }

    fn named(kind: &str, names: &[&str]) -> (String, Vec<String>) {
        (kind.to_owned(), names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn kinds_and_names_are_told_apart() {
        for (arguments, expected) in [
            (&["po"][..], vec![named("pods", &[])]),
            (&["po", "a", "b"], vec![named("pods", &["a", "b"])]),
            (&["po,no"], vec![named("pods", &[]), named("nodes", &[])]),
            (&["pod/a", "po/b", "node/n"], vec![named("pods", &["a", "b"]), named("nodes", &["n"])]),
            (&["all"], vec![named("pods", &[]), named("deployments", &[])]),
        ] {
            assert_eq!(read(arguments).unwrap(), expected);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in [&[][..], &["nope"], &["pod/"], &["pod", "pod/a"], &["pod/a", "b"]] {
            assert!(read(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn a_pod_may_be_named_with_its_kind() {
        assert_eq!(pod_name("x").unwrap(), "x");
        assert_eq!(pod_name("pod/x").unwrap(), "x");
        assert!(pod_name("deployment/x").is_err());
    }
}
