//! What a user may do. A policy that fits on a page instead of RBAC objects:
//!
//! * `system:masters` (the certificate of the kubeconfig, root and the administrators' group on the socket): everything;
//! * the readers' group: get, list and watch of everything but secrets, and logs of pods;
//! * a service account, and whoever is in its group: get, list and watch of what is in its own namespace, secrets left out;
//! * everybody with a credential: discovery, the version, and questions about themselves;
//! * without a credential: version and health.

use super::super::registry::Resource;
use super::super::status::{Reason, Status};
use super::{AUTHENTICATED, MASTERS, READERS, User};

/// The local groups that have rights, by name.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    /// May do everything.
    pub administrators: Option<String>,
    /// May look, except at secrets.
    pub readers: Option<String>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy)]
pub enum Ask<'a> {
    /// A verb on a resource; `group` and `resource` as in discovery.
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    /// A method on another path.
    Path { verb: &'a str, path: &'a str },
}

/// The verbs of looking.
pub const LOOKING: [&str; 3] = ["get", "list", "watch"];
/// Paths for everybody with a credential.
pub const OPEN_PATHS: [&str; 10] =
    ["/", "/api", "/apis", "/openapi", "/version", "/healthz", "/livez", "/readyz", "/.well-known", "/openid"];
/// Questions about oneself.
pub const SELF_REVIEWS: [&str; 3] = ["selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"];

/// Whether the policy allows it.
pub fn allows(user: &User, ask: &Ask<'_>) -> bool {
    if user.is_in(MASTERS) {
        return true;
    }
    match *ask {
        Ask::Path { verb, path } => {
            let is_below = |open: &str| path == open || open != "/" && path.starts_with(&format!("{open}/"));
            user.is_in(AUTHENTICATED) && verb == "get" && OPEN_PATHS.iter().any(|open| is_below(open))
        }
        Ask::Resource { verb: "create", resource, .. } if SELF_REVIEWS.contains(&resource) => true,
        Ask::Resource { verb, resource, subresource, namespace, .. } => {
            let is_look = LOOKING.contains(&verb) && is_visible(resource, subresource);
            is_look && (user.is_in(READERS) || user.is_account_of(namespace))
        }
    }
}

/// Whether those who may look may look at it. exec, attach, portforward and proxy are got as well.
pub fn is_visible(resource: &str, subresource: &str) -> bool {
    resource != "secrets" && matches!(subresource, "" | "log" | "status")
}

/// The 403 in the API server's words.
pub fn denied(user: &User, ask: &Ask<'_>, resource: Option<&Resource>) -> Status {
    match *ask {
        Ask::Path { verb, path } => {
            let message = format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name);
            Status::new(Reason::Forbidden, message).with_details(serde_json::json!({}))
        }
        Ask::Resource { verb, group, resource: plural, subresource, namespace, name } => {
            let part = if subresource.is_empty() { plural.to_owned() } else { format!("{plural}/{subresource}") };
            let place = match namespace {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            let why = format!("User {:?} cannot {verb} resource {part:?} in API group {group:?} {place}", user.name);
            match resource {
                Some(resource) => Status::forbidden(resource, name, why),
                None => Status::new(Reason::Forbidden, format!("{plural} {name:?} is forbidden: {why}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::registry;
    use super::*;

    fn ask(line: &str) -> Ask<'_> {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap_or_default();
        let (verb, part, namespace, name) = (next(), next(), next(), next());
        let (resource, subresource) = part.split_once('/').unwrap_or((part, ""));
        Ask::Resource { verb, group: "", resource, subresource, namespace, name }
    }

    #[test]
    fn each_kind_of_user_may_what_the_policy_says() {
        let master = User::new("admin", [MASTERS.to_owned()]);
        let reader = User::new("ann", [READERS.to_owned()]);
        let robot = User::new("system:serviceaccount:web:robot", []);
        let nobody = User::new("eve", []);
        // By the group alone, as in a question about somebody.
        let member = User::new("e2e", ["system:serviceaccounts:web".to_owned()]);
        for (line, expected) in [("get pods web h", true), ("list pods other", false), ("list pods ", false)] {
            assert_eq!(allows(&member, &ask(line)), expected, "{line}");
        }
        for (line, expected) in [
            ("get pods web h", [true, true, true, false]),
            ("list pods ", [true, true, false, false]),
            ("list pods other", [true, true, false, false]),
            ("get pods/log web h", [true, true, true, false]),
            ("get pods/exec web h", [true, false, false, false]),
            ("create pods/exec web h", [true, false, false, false]),
            ("get pods/portforward web h", [true, false, false, false]),
            ("get pods/proxy web h", [true, false, false, false]),
            ("get secrets web s", [true, false, false, false]),
            ("list secrets web", [true, false, false, false]),
            ("create pods web", [true, false, false, false]),
            ("delete pods web h", [true, false, false, false]),
            ("create serviceaccounts/token web robot", [true, false, false, false]),
            ("create selfsubjectaccessreviews ", [true, true, true, true]),
            ("create subjectaccessreviews ", [true, false, false, false]),
        ] {
            let got = [&master, &reader, &robot, &nobody].map(|user| allows(user, &ask(line)));
            assert_eq!(got, expected, "{line}");
        }
        for (path, expected) in [("/version", true), ("/openapi/v2", true), ("/metrics", false), ("/apiserver", false)]
        {
            assert_eq!(allows(&nobody, &Ask::Path { verb: "get", path }), expected, "{path}");
        }
    }

    #[test]
    fn refusals_are_worded_as_upstream() {
        let user = User::new("x", []);
        let pods = registry::find("", "v1", "pods");
        for (line, expected) in [
            (
                "list pods y",
                "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"y\"",
            ),
            (
                "get pods/log y web",
                "pods \"web\" is forbidden: User \"x\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"y\"",
            ),
            (
                "list pods ",
                "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" at the cluster scope",
            ),
        ] {
            assert_eq!(denied(&user, &ask(line), pods).message, expected);
        }
        let path = Ask::Path { verb: "get", path: "/metrics" };
        assert_eq!(denied(&user, &path, None).message, "forbidden: User \"x\" cannot get path \"/metrics\"");
    }
}
