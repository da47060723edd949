//! Pulls from registries that break off, lie, and want to do harm (D25-D29, P14-P17, P35).
//!
//! Needs root, as the puller does.

#![expect(clippy::unwrap_used, reason = "tests")]
#![allow(unreachable_pub, reason = "nothing is outside of a test")]
#![expect(clippy::disallowed_methods, reason = "tests start the program under test")]

#[path = "image_pull/server.rs"]
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use supervisor::image::pull::{Options, Pulled, Request, pull};
use supervisor::image::registry::Secret;
use supervisor::image::registry::config::{Paths, PullSecret};
use supervisor::image::{Digest, Limits, Reference, Store};

use server::{Answer, MANIFEST, Server, TestImage, archive, entry, gzip, noise};

const PROGRAM: &str = env!("CARGO_BIN_EXE_monopod");

/// A store and configuration of a test's own.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    fn store(&self) -> Store {
        Store::open(self.root(), Limits { min_free_bytes: 0, ..Limits::default() }).unwrap()
    }

    fn options(&self) -> Options {
        let none = self.dir.path().join("none");
        let paths = Paths {
            registries_conf: self.dir.path().join("registries.conf"),
            registries_conf_d: none.clone(),
            certs_d: Vec::new(),
            policy: none,
            auth: vec![self.dir.path().join("auth.json")],
        };
        Options { program: Some(PROGRAM.into()), paths }
    }

    fn pull(&self, name: &str) -> Result<Pulled, String> {
        self.pull_with(name, Vec::new())
    }

    fn pull_with(&self, name: &str, secrets: Vec<PullSecret>) -> Result<Pulled, String> {
        let request = Request { name: name.to_owned(), secrets };
        pull(&self.store(), &request, &self.options(), &|_| {}).map_err(|error| error.to_string())
    }

    /// Everything in the store but its own lock files, by name.
    fn left(&self) -> Vec<String> {
        ["blobs/sha256", "layers", "tmp", "access"]
            .iter()
            .flat_map(|part| fs::read_dir(self.root().join(part)).into_iter().flatten().flatten())
            .map(|entry| entry.path().display().to_string())
            .collect()
    }

    /// A pull that fails and leaves nothing.
    fn refused(&self, name: &str) -> String {
        let error = self.pull(name).unwrap_err();
        assert!(self.left().is_empty(), "{error}: {:?}", self.left());
        assert!(self.store().images().unwrap().is_empty());
        error
    }
}

fn secret(host: &str) -> PullSecret {
    let text = str::to_owned;
    let content = format!(r#"{{"auths":{{"{host}":{{"username":"user","password":"hunter2"}}}}}}"#);
    PullSecret { namespace: text("ns"), name: text("s"), uid: text("u"), legacy: false, content: Secret::new(content) }
}

fn three_layers() -> TestImage {
    let layer = |n: u64| archive(&[entry(b'0', &format!("file{n}"), "", &noise(300_000, n))]);
    TestImage::new(&[layer(1), layer(2), layer(3)])
}

#[test]
fn an_image_is_pulled_once_however_many_want_it() {
    let (place, image) = (Place::new(), three_layers());
    let blobs = image.blobs.len();
    let server = Server::start(move |seen| image.answer(seen));
    let name = server.name("team/app:1");
    let all = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| all.lock().unwrap().push(place.pull(&name).unwrap()));
        }
    });
    assert_eq!(server.requests("/blobs/").len(), blobs);
    let store = place.store();
    let image = store.resolve(&name.parse().unwrap()).unwrap().unwrap();
    assert_eq!(image.layers.len(), 3);
    for (n, layer) in (1..).zip(image.layers.iter().rev()) {
        assert_eq!(fs::read(layer.join(format!("file{n}"))).unwrap(), noise(300_000, n));
    }
    let pulled = all.into_inner().unwrap();
    assert!(pulled.iter().all(|one| one.id == image.id && one.size == image.size), "{pulled:?}");
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    for ranges in [true, false] {
        let (place, image) = (Place::new(), three_layers());
        let layer = image.largest();
        let server = Server::start(move |seen| {
            if !seen.path.contains(&layer) || seen.before >= 2 && ranges {
                return image.answer(seen);
            }
            let body = image.blobs[&layer].clone();
            match (seen.before, ranges) {
                (0, _) => Answer::Cut { status: "200 OK", headers: Vec::new(), body, after: 100_000 },
                // A registry that knows no ranges begins anew.
                (_, false) => Answer::ok(body),
                (_, true) => {
                    let headers = vec![("Content-Range".to_owned(), "bytes 100000-299999/300000".to_owned())];
                    let body = body[100_000..].to_vec();
                    Answer::Cut { status: "206 Partial Content", headers, body, after: 50_000 }
                }
            }
        });
        let pulled = place.pull(&server.name("app")).unwrap();
        assert_eq!(pulled.resumed, if ranges { 2 } else { 1 });
        let asked: Vec<_> = server.requests("/blobs/").iter().filter_map(|s| s.headers.get("range").cloned()).collect();
        let wanted: &[&str] = if ranges { &["bytes=100000-", "bytes=150000-"] } else { &["bytes=100000-"] };
        assert_eq!(asked, wanted);
    }
}

// D25, P17
#[test]
fn what_is_not_what_its_digest_says_is_refused() {
    let honest = three_layers();
    let layer = honest.largest();
    let other = |change: fn(&mut Vec<u8>)| {
        let mut image = honest.clone();
        change(image.blobs.get_mut(&layer).unwrap());
        image
    };
    for (image, want) in [
        (other(|bytes| bytes[5000] ^= 1), "digest"),
        (other(|bytes| bytes.push(0)), "larger than its manifest says"),
        (other(|bytes| bytes.truncate(2000)), "ended after 2000"),
        (other(|bytes| bytes.fill(0)), "digest"),
    ] {
        let place = Place::new();
        let server = Server::start(move |seen| image.answer(seen));
        let error = place.refused(&server.name("app"));
        assert!(error.contains(want), "want {want:?}, got {error:?}");
    }
}

#[test]
fn a_manifest_is_what_was_asked_for() {
    let (place, image) = (Place::new(), three_layers());
    let digest = Digest::of(&image.manifest);
    let (good, bad) = (image.clone(), Digest::of(b"other"));
    let server = Server::start(move |seen| image.answer(seen));
    let error = place.refused(&server.name(&format!("app@{bad}")));
    assert!(error.contains(&format!("for {bad}")), "{error}");
    place.pull(&server.name(&format!("app@{digest}"))).unwrap();
    let named = Server::start(move |seen| match good.answer(seen) {
        Answer::Whole { status, mut headers, body } if seen.path.contains("/manifests/") => {
            headers.push(("Docker-Content-Digest".to_owned(), bad.to_string()));
            Answer::Whole { status, headers, body }
        }
        answer @ (Answer::Whole { .. } | Answer::Cut { .. } | Answer::Stuck { .. } | Answer::Endless { .. }) => answer,
    });
    assert!(Place::new().refused(&named.name("app")).contains("gave a manifest with digest"));
}

// P16, P17
#[test]
fn documents_that_can_be_read_in_two_ways_or_never_end_are_refused() {
    let image = three_layers();
    let manifest = String::from_utf8(image.manifest.clone()).unwrap();
    let index = "application/vnd.oci.image.index.v1+json";
    let digest = Digest::of(b"x");
    let nested = format!(
        r#"{{"schemaVersion":2,"mediaType":"{index}","manifests":[{{"mediaType":"{index}","digest":"{digest}","size":5}}]}}"#
    );
    let traversal = manifest.replace(&image.largest(), "sha256:../../../../etc/passwd");
    let foreign =
        nested.replace(index, "application/x").replace(r#""mediaType":"application/x","manifests"#, r#""manifests"#);
    for (body, media_type, want) in [
        (manifest.replacen('{', r#"{"manifests":[],"#, 1), MANIFEST, "both"),
        (manifest.clone(), index, "its descriptor says"),
        (traversal, MANIFEST, "Invalid encoded value"),
        (nested, index, "for sha256:"),
        (foreign, index, "for sha256:"),
        ("[".repeat(100_000), MANIFEST, "manifest: "),
        ("{}".to_owned(), "text/html", "missing field"),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), "application/vnd.docker.distribution.manifest.v1+json", ""),
    ] {
        let place = Place::new();
        let served = body.clone();
        let media_type = media_type.to_owned();
        let server = Server::start(move |_| Answer::with(&[("Content-Type", &media_type)], served.clone()));
        let error = place.refused(&server.name("app"));
        assert!(error.contains(want), "want {want:?} for {:.80}, got {error:?}", body);
    }
    let ok = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (head, again, want) in [
        (
            [&ok[..], b"Transfer-Encoding: chunked\r\n\r\n"].concat(),
            b"1000\r\n".iter().copied().chain([b' '; 4096]).chain(*b"\r\n").collect(),
            "more than",
        ),
        (ok.clone(), b"X-Header: and another one\r\n".to_vec(), ""),
        (Vec::new(), b"HTTP ".to_vec(), ""),
    ] {
        let place = Place::new();
        let endless = Answer::Endless { head, again };
        let server = Server::start(move |_| endless.clone());
        let error = place.refused(&server.name("app"));
        assert!(error.contains(want), "{error}");
    }
}

// P14, P15, P16: as from an archive, see image_hostile.rs; here the layer is unpacked while it comes.
#[test]
fn hostile_layers_leave_no_trace() {
    let canary = tempfile::NamedTempFile::new().unwrap();
    fs::write(canary.path(), "canary").unwrap();
    let target = canary.path().to_str().unwrap();
    let bomb = archive(&[entry(b'0', "zeros", "", &vec![0; 16 << 20])]);
    for (name, layer, limits) in [
        ("hard link out", archive(&[entry(b'1', "x", target, b"")]), Limits::default()),
        ("bad whiteout", archive(&[entry(b'0', "d/.wh...", "", b"")]), Limits::default()),
        ("root replaced", archive(&[entry(b'2', ".", "/etc", b"")]), Limits::default()),
        ("bomb", bomb, Limits { ratio_free_bytes: 1 << 20, ratio: 50, ..Limits::default() }),
        ("entries", archive(&vec![entry(b'5', "d/", "", b""); 100]), Limits { entries: 50, ..Limits::default() }),
        ("not an archive", noise(100_000, 3), Limits::default()),
    ] {
        let place = Place::new();
        let image = TestImage::new(&[layer]);
        let server = Server::start(move |seen| image.answer(seen));
        let store = Store::open(place.root(), Limits { min_free_bytes: 0, ..limits }).unwrap();
        let request = Request { name: server.name("app"), secrets: Vec::new() };
        let error = pull(&store, &request, &place.options(), &|_| {}).unwrap_err().to_string();
        assert!(error.starts_with("layer 1 of 1"), "{name}: {error}");
        assert!(place.left().is_empty(), "{name}: {:?}", place.left());
    }
    // Legal, and harmless: the link's target is inside.
    let place = Place::new();
    let directory = canary.path().parent().unwrap().to_str().unwrap().trim_start_matches('/').to_owned();
    let file = canary.path().file_name().unwrap().to_str().unwrap().to_owned();
    let layer = archive(&[
        entry(b'2', "out", &format!("../../../../{directory}"), b""),
        entry(b'0', &format!("out/{file}"), "", b"changed"),
    ]);
    let image = TestImage::new(&[layer]);
    let server = Server::start(move |seen| image.answer(seen));
    place.pull(&server.name("app")).unwrap();
    assert_eq!(fs::read_to_string(canary.path()).unwrap(), "canary");
}

// D29, P35
#[test]
fn a_login_goes_to_nobody_but_the_registry() {
    let image = three_layers();
    let stolen = Server::start(|_| Answer::ok(r#"{"token":"t"}"#));
    let blobs = {
        let image = image.clone();
        Server::start(move |seen| image.answer(seen))
    };
    // Another port of one host is another origin; the registry is on loopback, so it may send there.
    let other = blobs.address;
    let server = Server::start(move |seen| {
        if !seen.headers.contains_key("authorization") {
            return Answer::status("401 Unauthorized", &[("WWW-Authenticate", r#"Basic realm="r""#)]);
        }
        if seen.path.contains("/blobs/") {
            let to = format!("http://user:pass@{other}{}?secret=1", seen.path);
            return Answer::status("307 Temporary Redirect", &[("Location", &to)]);
        }
        image.answer(seen)
    });
    let place = Place::new();
    let pulled = place.pull_with(&server.name("app"), vec![secret(&server.address.to_string())]).unwrap();
    assert!(pulled.rights.is_some());
    assert!(!blobs.requests("/blobs/").is_empty());
    assert!(blobs.requests("").iter().all(|seen| !seen.headers.contains_key("authorization")));

    // Without the login there is no image, and with a token service elsewhere no login.
    assert!(Place::new().refused(&server.name("app")).contains("wants a login"));
    let realm = format!(r#"Bearer realm="http://localhost:{}/token",service="s""#, stolen.address.port());
    let server = Server::start(move |_| Answer::status("401 Unauthorized", &[("WWW-Authenticate", &realm)]));
    let error = Place::new().pull_with(&server.name("app"), vec![secret(&server.address.to_string())]).unwrap_err();
    assert!(error.contains("not of its domain"), "{error}");
    assert!(stolen.requests("").is_empty());
}

// IP8, IP4
#[test]
fn tokens_and_wrong_logins() {
    let image = three_layers();
    let server = Server::start(move |seen| {
        let host = &seen.headers["host"];
        let authorization = seen.headers.get("authorization").map(String::as_str);
        if seen.path.starts_with("/token") {
            // user:hunter2
            return match authorization {
                Some("Basic dXNlcjpodW50ZXIy") => Answer::ok(r#"{"access_token":"good","expires_in":60}"#),
                _ => Answer::status("401 Unauthorized", &[]),
            };
        }
        if authorization == Some("Bearer good") {
            return image.answer(seen);
        }
        let challenge = format!(r#"Bearer realm="http://{host}/token",service="s",scope="repository:app:pull""#);
        Answer::status("401 Unauthorized", &[("WWW-Authenticate", &challenge)])
    });
    let (place, host) = (Place::new(), server.address.to_string());
    let mut wrong = secret(&host);
    wrong.content = Secret::new(wrong.content.reveal().replace("hunter2", "wrong"));
    let name = server.name("app");
    assert!(place.pull_with(&name, vec![wrong.clone()]).unwrap_err().contains("refuses the user name or password"));
    assert!(place.pull(&name).unwrap_err().contains("wants a login"));
    let pulled = place.pull_with(&name, vec![secret(&host)]).unwrap();
    assert_eq!(pulled.rights, Some(secret(&host).source()));
    assert_eq!(server.requests("/token").len(), 3, "a token is used for all of a pull");

    let (store, reference) = (place.store(), name.parse::<Reference>().unwrap());
    let image = store.resolve(&reference).unwrap().unwrap();
    assert!(store.allows(&image, &reference, &[secret(&host)]));
    assert!(!store.allows(&image, &reference, &[]));
}

#[test]
fn mirrors_come_first_and_the_registry_last() {
    let (place, image) = (Place::new(), three_layers());
    let good = {
        let image = image.clone();
        Server::start(move |seen| image.answer(seen))
    };
    let broken = Server::start(|_| Answer::status("503 Service Unavailable", &[]));
    let conf = |location: &str, mirror: &str| {
        let text = format!(
            "[[registry]]\nprefix = \"r.test/x\"\nlocation = \"{location}/own\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"{mirror}/copy\"\ninsecure = true\n"
        );
        fs::write(place.dir.path().join("registries.conf"), text).unwrap();
    };
    conf(&broken.address.to_string(), &good.address.to_string());
    place.pull("r.test/x/app:1").unwrap();
    assert!(broken.requests("").is_empty());
    assert!(!good.requests("/v2/copy/app/blobs/").is_empty());
    conf(&good.address.to_string(), &broken.address.to_string());
    place.pull("r.test/x/app:2").unwrap();
    assert_eq!(good.requests("/v2/own/app/manifests/2").len(), 1);
    conf(&broken.address.to_string(), &broken.address.to_string());
    assert!(place.pull("r.test/x/app:3").unwrap_err().contains("503"));
}

#[test]
fn a_killed_pull_leaves_nothing_that_the_next_one_does_not_clean() {
    let place = Place::new();
    let image = three_layers();
    let layer = image.largest();
    for round in 0..12 {
        let (stuck, served, after) = (layer.clone(), image.clone(), round * 25_000);
        let server = Server::start(move |seen| match seen.path.contains(&stuck) {
            true => Answer::Stuck { body: served.blobs[&stuck].clone(), after },
            false => served.answer(seen),
        });
        let mut child = Command::new(PROGRAM)
            .args(["image", "--root"])
            .arg(place.root())
            .args(["pull", &server.name("app")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        server.stuck.recv().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for_lock(&place.root());
    }
    let server = Server::start(move |seen| image.answer(seen));
    place.pull(&server.name("app")).unwrap();
    assert_eq!(fs::read_dir(place.root().join("tmp")).unwrap().count(), 0);
    let store = place.store();
    assert_eq!(store.images().unwrap().len(), 1);
    store.remove(&server.name("app").parse().unwrap()).unwrap().unwrap();
    // A touched image is in nobody's use.
    assert!(place.left().is_empty(), "{:?}", place.left());
}

/// A dying unpacker holds the store's lock until it is gone.
fn wait_for_lock(root: &Path) {
    if let Ok(lock) = fs::File::open(root.join("lock")) {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
}

#[test]
fn what_is_saved_is_what_was_pulled_and_what_is_in_use_stays() {
    let (place, image) = (Place::new(), three_layers());
    let digests: Vec<String> = image.blobs.keys().cloned().collect();
    let manifest = image.manifest.clone();
    let server = Server::start(move |seen| image.answer(seen));
    let name: Reference = server.name("app").parse().unwrap();
    place.pull(&server.name("app")).unwrap();
    let store = place.store();
    let image = store.resolve(&name).unwrap().unwrap();
    let mut saved = Vec::new();
    store.save(std::slice::from_ref(&image), &mut saved).unwrap();
    let mut archive = tar::Archive::new(&saved[..]);
    let names: Vec<String> =
        archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    for digest in digests.iter().chain([&Digest::of(&manifest).to_string()]) {
        assert!(names.contains(&format!("blobs/{}", digest.replace(':', "/"))), "{digest}");
    }
    let again = Place::new();
    let loaded = supervisor::image::load::load(
        &again.store(),
        supervisor::image::load::Source::Stream(Box::new(std::io::Cursor::new(saved))),
        &supervisor::image::load::Options { name: None, unpacker: Some(PROGRAM.into()) },
        &mut |_| {},
    );
    assert_eq!(loaded.unwrap()[0].manifest, image.manifest);

    let record = place.dir.path().join("container");
    fs::write(&record, "").unwrap();
    store.hold("c1", &image, &record).unwrap();
    assert!(store.remove(&name).unwrap_err().to_string().contains("in use"));
    assert!(store.remove_image(&image.manifest).is_err());
    store.tag(&image, &"other:1".parse().unwrap()).unwrap();
    assert!(store.remove(&name).unwrap().is_some(), "one of two names may go");
    store.release("c1").unwrap();
    assert!(store.remove(&"other:1".parse().unwrap()).unwrap().unwrap().collected);
    assert!(place.left().is_empty(), "{:?}", place.left());
}

#[test]
fn the_programs_image_verbs_tell_a_wrong_name_from_a_missing_host() {
    let none = gzip(b"");
    let server = Server::start(move |seen| match seen.path.as_str() {
        path if path.contains("/v2/there/tags/") => Answer::ok(none.clone()),
        _ => Answer::status("404 Not Found", &[]),
    });
    let place = Place::new();
    assert!(place.refused(&server.name("there:9")).contains("has no 9 in repository there: check the tag"));
    assert!(place.refused(&server.name("gone")).contains("has no repository gone: check the name"));
    assert!(place.refused("127.0.0.1:1/x").contains("connection refused"));
    assert!(place.refused("no.invalid..name/x").contains("not a registry host"));
    fs::write(place.dir.path().join("registries.conf"), "[[registry]]\nprefix = \"bad.test\"\nblocked = true\n")
        .unwrap();
    assert!(place.refused("bad.test/x").contains("registry bad.test is blocked in"));
}
