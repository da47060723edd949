//! Images made to do harm (P14-P17), odd ones that are legal, and loaders that die half-way.
//!
//! Needs root, as the loader does: layers get owners, and `trusted.overlay.opaque` is root's.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use supervisor::image::load::{self, Options, Source};
use supervisor::image::tar::{Kind, Reader};
use supervisor::image::{Digest, Limits, Store};

/// One tar entry, with any name whatever.
fn entry(flag: u8, path: &str, link: &str, mode: u32, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.as_old_mut().linkflag = [flag];
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_000_000);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    entry(b'0', path, "", 0o644, content.as_bytes())
}

fn dir(path: &str) -> Vec<u8> {
    entry(b'5', path, "", 0o755, b"")
}

fn link(path: &str, target: &str) -> Vec<u8> {
    entry(b'2', path, target, 0o777, b"")
}

fn hard(path: &str, target: &str) -> Vec<u8> {
    entry(b'1', path, target, 0o644, b"")
}

/// A PAX header with one record.
fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length = length.to_string().len() + body.len();
    }
    let record = [length.to_string().as_bytes(), &body].concat();
    entry(b'x', "pax", "", 0o644, &record)
}

fn xattr(name: &str, value: &[u8]) -> Vec<u8> {
    pax(&format!("SCHILY.xattr.{name}"), value)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// What an OCI archive says, so that a test can make it lie.
struct Archive {
    layer: Vec<u8>,
    diff_id: Digest,
    layer_digest: Digest,
    layer_size: u64,
    manifest_extra: &'static str,
}

impl Archive {
    fn of(entries: &[Vec<u8>]) -> Self {
        let mut plain = entries.concat();
        plain.resize(plain.len() + 1024, 0);
        Self::of_layer(gzip(&plain), Digest::of(&plain))
    }

    fn of_layer(layer: Vec<u8>, diff_id: Digest) -> Self {
        Self { layer_digest: Digest::of(&layer), layer_size: layer.len() as u64, layer, diff_id, manifest_extra: "" }
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes_behind(|descriptor| (index(descriptor), Vec::new()))
    }

    /// `indexes` gives what stands before the manifest with this descriptor: `index.json`, and blobs that it leads to.
    fn bytes_behind(&self, indexes: impl FnOnce(&str) -> (String, Vec<String>)) -> Vec<u8> {
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","config":{{"Cmd":["sh"]}},
            "rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            self.diff_id
        );
        let manifest = format!(
            r#"{{"schemaVersion":2{},"config":{{"mediaType":"application/vnd.oci.image.config.v1+json",
            "digest":"{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",
            "digest":"{}","size":{}}}]}}"#,
            self.manifest_extra,
            Digest::of(config.as_bytes()),
            config.len(),
            self.layer_digest,
            self.layer_size
        );
        let descriptor =
            described("manifest", &manifest, r#","annotations":{"org.opencontainers.image.ref.name":"test:1"}"#);
        let (index, more) = indexes(&descriptor);
        let mut bytes = file("index.json", &index);
        let more = more.iter().map(String::as_bytes);
        for blob in [config.as_bytes(), manifest.as_bytes(), &self.layer].into_iter().chain(more) {
            let name = format!("blobs/sha256/{}", Digest::of(blob).hex());
            bytes.extend(entry(b'0', &name, "", 0o644, blob));
        }
        bytes.resize(bytes.len() + 1024, 0);
        bytes
    }
}

fn described(kind: &str, text: &str, more: &str) -> String {
    let (digest, size) = (Digest::of(text.as_bytes()), text.len());
    format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}.v1+json","digest":"{digest}","size":{size}{more}}}"#)
}

fn index(descriptors: &str) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{descriptors}]}}"#)
}

/// A store beside a directory that nothing may touch.
struct World {
    directory: tempfile::TempDir,
    limits: Limits,
}

impl World {
    fn new(limits: Limits) -> Self {
        let root = rustix::process::geteuid().is_root();
        assert!(root, "loading images needs root: run the tests as root");
        let directory = tempfile::tempdir().unwrap();
        let canary = directory.path().join("canary");
        fs::create_dir(&canary).unwrap();
        fs::write(canary.join("secret"), "untouched").unwrap();
        Self { directory, limits }
    }

    fn canary(&self) -> String {
        let path = self.directory.path().join("canary");
        path.to_str().unwrap().to_owned()
    }

    fn store(&self) -> Store {
        Store::open(self.directory.path().join("store"), self.limits.clone()).unwrap()
    }

    /// Loads and gives the unpacked layer, or the error.
    fn load(&self, archive: &Archive) -> Result<PathBuf, String> {
        self.load_bytes(archive.bytes())
    }

    fn load_bytes(&self, archive: Vec<u8>) -> Result<PathBuf, String> {
        let store = self.store();
        let options = Options { name: None, unpacker: Some(env!("CARGO_BIN_EXE_monopod").into()) };
        let source = Source::Stream(Box::new(std::io::Cursor::new(archive)));
        let loaded = load::load(&store, source, &options, &mut |_| {});
        let loaded = loaded.map_err(|err| err.to_string())?;
        let image = store.resolve(&loaded[0].references[0]).unwrap().unwrap();
        Ok(image.layers[0].clone())
    }

    /// Path, mode, owner, times, links and content of everything in the canary.
    fn snapshot(&self) -> Vec<String> {
        let canary = PathBuf::from(self.canary());
        let entries = fs::read_dir(&canary).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.push(canary);
        paths.sort();
        let show = |path: &PathBuf| {
            let meta = fs::symlink_metadata(path).unwrap();
            let content = fs::read(path).unwrap_or_default();
            let mut value = [0; 64];
            let xattrs = rustix::fs::llistxattr(path, &mut value[..]).unwrap();
            let (mode, uid, links) = (meta.mode(), meta.uid(), meta.nlink());
            let (time, nanos) = (meta.mtime(), meta.ctime_nsec());
            format!("{path:?} {mode:o} {uid} {links} {time} {nanos} {xattrs} {content:?}")
        };
        paths.iter().map(show).collect()
    }

    /// Refused archives leave no image, no blob, no layer, no work.
    fn assert_empty(&self) {
        let root = self.directory.path().join("store");
        for below in ["blobs/sha256", "layers", "tmp"] {
            let left: Vec<_> = fs::read_dir(root.join(below)).unwrap().collect();
            assert!(left.is_empty(), "{below}: {left:?}");
        }
        assert!(self.store().images().unwrap().is_empty());
    }
}

// P14
#[test]
fn no_entry_reaches_outside_of_the_layer() {
    let outside = World::new(Limits::default());
    let c = outside.canary();
    let secret = format!("{c}/secret");
    let up = format!("../../../../../../../../..{c}");
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("an absolute link", vec![link("l", &c), file("l/x", "evil"), file("l/secret", "evil")]),
        ("a relative link", vec![link("l", &up), file("l/secret", "evil")]),
        ("a link to the root", vec![link("l", "/"), file(&format!("l{secret}"), "evil")]),
        ("dots", vec![file(&format!("{up}/secret"), "evil")]),
        ("an absolute name", vec![file(&secret, "evil")]),
        ("a hard link", vec![hard("h", &secret), file("h", "evil")]),
        ("a hard link by dots", vec![hard("h", &format!("{up}/secret"))]),
        ("a hard link to a link", vec![link("s", &secret), hard("h", "s"), file("h", "evil")]),
        ("a hard link through a link", vec![link("l", &c), hard("h", "l/secret")]),
        ("a file over a link", vec![link("s", &secret), file("s", "evil")]),
        ("a whiteout through a link", vec![link("l", &c), file("l/.wh.secret", "")]),
        ("an opaque mark through a link", vec![link("l", &c), file("l/.wh..wh..opq", "")]),
        ("a mode through a link", vec![link("l", &c), entry(b'5', "l", "", 0o777, b"")]),
        ("a mode of a linked file", vec![link("s", &secret), entry(b'0', "s", "", 0o4777, b"")]),
        ("a magic root", vec![link("p", "/proc/self/root"), file(&format!("p{secret}"), "evil")]),
        ("a magic cwd", vec![link("p", "/proc/self/cwd"), file("p/../x", "evil")]),
        ("a link loop", vec![link("a", "b"), link("b", "a"), file("a/x", "evil")]),
        ("attributes through a link", vec![link("l", &c), xattr("user.x", b"1"), dir("l")]),
        ("a root that is a link", vec![link("./", &c), file("secret", "evil")]),
        ("a removed tree with a link", vec![dir("d"), link("d/l", &c), file("d", "evil")]),
    ];
    for (what, entries) in cases {
        let world = World::new(Limits::default());
        let before = outside.snapshot();
        let result = world.load(&Archive::of(&entries));
        assert_eq!(outside.snapshot(), before, "{what}: {result:?}");
        if result.is_err() {
            world.assert_empty();
        }
    }
}

// D26, D27: what container tools accept is accepted.
#[test]
fn odd_images_that_are_legal_work() {
    let world = World::new(Limits::default());
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let entries = [
        entry(b'5', "./", "", 0o711, b""),
        link("var/run", "/run"),
        file("var/run/x", "through a link that leads nowhere yet"),
        link("lib", "usr/lib"),
        file("lib/y", "through a relative one"),
        file("deep/er/file", "no directories before"),
        file("a", "one"),
        hard("b", "a"),
        link("s", "nowhere"),
        hard("t", "s"),
        dir("d"),
        file("d/old", ""),
        file("d", "a file replaces a directory"),
        entry(b'0', "su", "", 0o4755, b"x"),
        xattr("security.capability", &capability),
        file("ping", "x"),
        xattr("trusted.overlay.opaque", b"y"),
        dir("not-opaque"),
        file("etc/.wh.hidden", ""),
        dir("opq"),
        file("opq/.wh..wh..opq", ""),
        file("again/.wh.sub", ""),
        dir("again/sub"),
        entry(b'3', "null", "", 0o666, b""),
        entry(b'6', "fifo", "", 0o666, b""),
        file("./../cleaned", ""),
    ];
    let root = world.load(&Archive::of(&entries)).unwrap();
    let meta = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    let xattr = |path: &str, name: &str| {
        let mut value = [0u8; 64];
        let got = rustix::fs::lgetxattr(root.join(path), name, &mut value[..]);
        got.ok().map(|n| value[..n].to_vec())
    };
    let opaque = |path| xattr(path, "trusted.overlay.opaque") == Some(b"y".to_vec());
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o711);
    for path in ["run/x", "usr/lib/y", "deep/er/file", "d", "cleaned"] {
        assert!(meta(path).is_file(), "{path}");
    }
    assert_eq!(meta("a").ino(), meta("b").ino());
    assert_eq!(fs::read_link(root.join("t")).unwrap(), Path::new("nowhere"));
    let su = meta("su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 7, 8, 1_000_000));
    assert_eq!(xattr("ping", "security.capability"), Some(capability.to_vec()));
    assert!(meta("etc/hidden").file_type().is_char_device() && meta("etc/hidden").rdev() == 0);
    assert!(opaque("opq") && opaque("again/sub") && !opaque("not-opaque"));
    assert!(!root.join("null").exists() && !root.join("fifo").exists());
    for path in ["", "layers", "blobs", "tmp"] {
        let path = world.directory.path().join("store").join(path);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "D30: {path:?}");
    }
}

// P16, D28; with small limits, so that the bombs are small, too.
#[test]
fn bombs_are_refused_and_leave_nothing() {
    let limits =
        Limits { layer_bytes: 32 << 20, ratio_free_bytes: 1 << 20, entries: 1000, layers: 1, ..Limits::default() };
    let world = World::new(limits);
    let many: Vec<_> = (0..1001).map(|i| file(&format!("f{i}"), "")).collect();
    let mut huge_pax = tar::Header::new_ustar();
    huge_pax.as_old_mut().linkflag = [b'x'];
    huge_pax.set_size(1 << 30);
    huge_pax.set_cksum();
    let zeros = entry(b'0', "zeros", "", 0o644, &vec![0; 16 << 20]);
    for (entries, want) in [
        (vec![zeros], "more than 200:1"),
        (many, "more than 1000 entries"),
        (vec![pax("path", "d/".repeat(300).as_bytes()), file("x", "")], "256 components"),
        (vec![huge_pax.as_bytes().to_vec()], "the limit is 1048576"),
    ] {
        let err = world.load(&Archive::of(&entries)).unwrap_err();
        assert!(err.contains(want), "want {want:?}, got {err:?}");
        world.assert_empty();
    }
}

/// Longest that a refusal may take (P16); it takes a few seconds on a busy machine.
const REFUSED_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

// P16: 1 GiB of headers. With the limit as it is shipped, a million, the refusal takes 8 s of an optimized build.
#[test]
fn two_million_entries_end_at_the_limit() {
    let world = World::new(Limits { entries: 100_000, ..Limits::default() });
    let part: Vec<_> = (0..1000).map(|i| dir(&format!("d{i}"))).collect();
    let part = gzip(&part.concat());
    let layer = part.repeat(2000);
    let started = std::time::Instant::now();
    let err = world.load(&Archive::of_layer(layer, Digest::of(b""))).unwrap_err();
    assert!(err.contains("more than 100000 entries"), "{err}");
    assert!(started.elapsed() < REFUSED_WITHIN, "{:?}", started.elapsed());
    world.assert_empty();
}

// P16: no path of the archive is long, but its links lead ever deeper.
#[test]
fn a_tree_that_links_make_deep_goes_again() {
    let world = World::new(Limits::default());
    let down = "a/".repeat(200);
    let mut entries = vec![pax("path", down.as_bytes()), dir("x"), pax("linkpath", down.as_bytes()), link("l0", "x")];
    // The kernel follows 40 links, and counts a walk that it has to begin again without RCU twice.
    for step in 1..19 {
        let below = format!("l{}/{down}", step - 1);
        entries.extend([pax("path", below.as_bytes()), dir("x"), pax("linkpath", below.as_bytes())]);
        entries.push(link(&format!("l{step}"), "x"));
    }
    let started = std::time::Instant::now();
    let root = world.load(&Archive::of(&entries)).unwrap();
    assert!(fs::symlink_metadata(root.join("l18")).unwrap().is_symlink());
    let store = world.store();
    let image = store.images().unwrap().remove(0).unwrap();
    store.remove_image(&image.manifest).unwrap();
    assert!(started.elapsed() < REFUSED_WITHIN, "{:?}", started.elapsed());
    world.assert_empty();
}

// P15, P16
#[test]
fn headers_that_contradict_each_other_are_refused() {
    let world = World::new(Limits::default());
    let long_name = |name: &[u8]| entry(b'L', "././@LongLink", "", 0, &[name, b"\0"].concat());
    let deep = "d/".repeat(100_000);
    let raw = |records: &[u8]| entry(b'x', "pax", "", 0o644, records);
    let cases: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("two names", vec![long_name(b"a"), pax("path", b"b"), file("c", "")], "and they differ"),
        ("two headers", vec![pax("path", b"a"), pax("path", b"b"), file("c", "")], "two extension headers"),
        ("a header for nothing", vec![pax("path", b"a")], "describe no entry"),
        ("a directory with a size", vec![pax("size", b"512"), dir("d"), vec![0; 512]], "has a size"),
        ("more than there is", vec![pax("size", b"1000000"), file("f", "x")], "unexpected end of file"),
        ("a size below zero", vec![pax("size", b"-1"), file("f", "x")], "not decimal"),
        ("a size beyond all", vec![pax("size", b"18446744073709551616"), file("f", "x")], "not decimal"),
        ("a record beyond its header", vec![raw(b"99 path=x\n"), file("f", "")], "not a number in range"),
        ("a record without an end", vec![raw(b"8 path=xy"), file("f", "")], "line end"),
        ("a path for all", vec![entry(b'g', "pax", "", 0o644, b"9 path=x\n"), file("f", "")], "do not agree"),
        ("a deep path", vec![pax("path", deep.as_bytes()), dir("d")], "256 components"),
        ("a deep GNU name", vec![long_name(deep.as_bytes()), dir("d")], "256 components"),
        ("a deep link", vec![pax("linkpath", deep.as_bytes()), link("l", "x")], "256 components"),
        ("a long header", vec![pax("comment", &vec![b'x'; 1 << 20]), file("f", "")], "the limit is 1048576"),
        ("an attribute beyond the kernel's", vec![xattr("user.x", &vec![b'x'; 70_000]), file("f", "")], "setxattr"),
    ];
    for (what, entries, want) in cases {
        let err = world.load(&Archive::of(&entries)).unwrap_err();
        assert!(err.contains(want), "{what}: want {want:?}, got {err:?}");
        world.assert_empty();
    }
}

// P16
#[test]
fn indexes_are_followed_so_far_and_each_is_read_once() {
    let archive = Archive::of(&[file("x", "y")]);
    // Indexes below index.json.
    let nested = |depth: usize| {
        archive.bytes_behind(|descriptor| {
            let (mut descriptor, mut blobs) = (descriptor.to_owned(), Vec::new());
            for _ in 0..depth {
                let text = index(&descriptor);
                descriptor =
                    described("index", &text, r#","annotations":{"org.opencontainers.image.ref.name":"test:1"}"#);
                blobs.push(text);
            }
            (index(&descriptor), blobs)
        })
    };
    World::new(Limits::default()).load_bytes(nested(4)).unwrap();
    let world = World::new(Limits::default());
    let err = world.load_bytes(nested(5)).unwrap_err();
    assert!(err.contains("more than 4 deep"), "{err}");
    world.assert_empty();

    // As many as one index may name, and each is 4 MiB long: 40 GB, if each were read.
    let wide = archive.bytes_behind(|descriptor| {
        let long = format!("{}{}", index(descriptor), " ".repeat((4 << 20) - 1024));
        let below = described("index", &long, r#","annotations":{"org.opencontainers.image.ref.name":"test:1"}"#);
        (index(&vec![below; 10_000].join(",")), vec![long])
    });
    let started = std::time::Instant::now();
    World::new(Limits::default()).load_bytes(wide).unwrap();
    assert!(started.elapsed() < REFUSED_WITHIN / 3, "{:?}", started.elapsed());
}

// D28
#[test]
fn the_last_free_bytes_of_a_disk_stay_free() {
    let world = World::new(Limits { min_free_bytes: u64::MAX, ..Limits::default() });
    let big = entry(b'0', "big", "", 0o644, &vec![7; 17 << 20]);
    let err = world.load(&Archive::of(&[big])).unwrap_err();
    assert!(err.contains("must stay free"), "{err}");
    world.assert_empty();
}

// P17
#[test]
fn lies_about_content_are_found_before_anything_is_visible() {
    let honest = || Archive::of(&[file("x", "y")]);
    let wrong = Digest::of(b"something else");
    let cut = honest();
    let half = cut.layer[..cut.layer.len() / 2].to_vec();
    let cases = [
        (Archive { diff_id: wrong.clone(), ..honest() }, "the configuration says"),
        (Archive { layer_digest: wrong, ..honest() }, "is missing"),
        (Archive { layer_size: 1, ..honest() }, "its descriptor says"),
        (Archive { manifest_extra: r#","manifests":[]"#, ..honest() }, "could be read as either"),
        (Archive { manifest_extra: r#","layers":[]"#, ..honest() }, "duplicate field"),
        (Archive::of_layer(half, cut.diff_id), "layer 1 of 1"),
    ];
    for (archive, want) in cases {
        let world = World::new(Limits::default());
        let err = world.load(&archive).unwrap_err();
        assert!(err.contains(want), "want {want:?}, got {err:?}");
        world.assert_empty();
    }
}

#[expect(clippy::disallowed_methods, reason = "the test starts other programs")]
fn command(program: &str) -> std::process::Command {
    std::process::Command::new(program)
}

/// Prints `NAME [(member, size), ...]` or `NAME error` for every archive in a directory.
const PYTHON: &str = "
import sys, tarfile, os
for p in sorted(os.listdir(sys.argv[1])):
    try:
        with tarfile.open(os.path.join(sys.argv[1], p), 'r:') as t:
            print(p, [(m.name.rstrip('/'), m.size if m.isreg() else 0) for m in t])
    except Exception as e:
        print(p, 'error')
";

// P15
#[test]
fn changed_headers_are_refused_or_read_as_python_reads_them() {
    let base = [
        pax("size", b"512"),
        entry(b'0', "outer", "", 0o644, &file("hidden", "")),
        file("two", "content"),
        entry(b'L', "././@LongLink", "", 0, b"a-long-name\0"),
        file("three", "3"),
        dir("dir/"),
        link("link", "two"),
        vec![0; 1024],
    ]
    .concat();
    let directory = tempfile::tempdir().unwrap();
    let mut ours = BTreeMap::new();
    let mut state = 0x9e37_79b9_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    for case in 0..400 {
        let mut bytes = base.clone();
        let block = random(bytes.len() / 512) * 512;
        bytes[block + random(512)] = b"\x00071 /\x80\xffxgLS"[random(12)];
        repair_checksum(&mut bytes[block..block + 512]);
        let name = format!("{case:04}");
        if let Some(list) = our_list(&bytes) {
            fs::write(directory.path().join(&name), &bytes).unwrap();
            ours.insert(name, list);
        }
    }
    assert!(ours.len() > 100, "only {} of 400 were read", ours.len());
    let output = command("python3").args(["-c", PYTHON]).arg(directory.path()).output();
    let text = String::from_utf8(output.expect("python3 is installed").stdout).unwrap();
    assert_eq!(text.lines().count(), ours.len());
    for line in text.lines() {
        let (name, theirs) = line.split_once(' ').unwrap();
        // What Python refuses cannot be read in two ways.
        if theirs != "error" {
            assert_eq!(ours[name], theirs, "case {name}");
        }
    }
}

fn repair_checksum(header: &mut [u8]) {
    if header[257..262] != *b"ustar" {
        return;
    }
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// As Python prints it; nothing for what is refused or whose names the two languages print differently.
fn our_list(bytes: &[u8]) -> Option<String> {
    let mut reader = Reader::new(bytes);
    let mut list = Vec::new();
    while let Some(entry) = reader.next_entry().ok()? {
        let size = match entry.kind {
            Kind::File { size } | Kind::Sparse { size, .. } => size,
            Kind::HardLink { .. } | Kind::Symlink { .. } | Kind::Directory | Kind::Device | Kind::Fifo => 0,
        };
        let name = String::from_utf8(entry.path).ok()?;
        if name.chars().any(|c| !c.is_ascii_graphic()) {
            return None;
        }
        list.push(format!("('{}', {size})", name.trim_end_matches('/')));
        std::io::copy(&mut reader.by_ref(), &mut std::io::sink()).ok()?;
    }
    Some(format!("[{}]", list.join(", ")))
}

// The next opening after a death finds a whole image or none, and nothing else.
#[test]
fn a_killed_loader_leaves_a_store_that_opens_clean() {
    let world = World::new(Limits::default());
    let content = [b'x'; 4096];
    let name = |i| format!("d{}/f{i}", i % 7);
    let entries: Vec<_> = (0..400).map(|i| entry(b'0', &name(i), "", 0o644, &content)).collect();
    let path = world.directory.path().join("image.tar");
    fs::write(&path, Archive::of(&entries).bytes()).unwrap();
    let root = world.directory.path().join("store");
    let (_never, timer) = std::sync::mpsc::channel::<()>();
    for round in 0..24u64 {
        let mut child = command(env!("CARGO_BIN_EXE_monopod"))
            .args(["image", "load", "--root"])
            .args([&root, &path])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // The moment is what varies, from before the first byte to after the last.
        let moment = std::time::Duration::from_millis(round * 4);
        timer.recv_timeout(moment).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_store_is_clean(&root);
    }
}

fn assert_store_is_clean(root: &Path) {
    // The unpacker of a killed loader may still be dying; until then it holds the lock that keeps its work from being swept.
    if let Ok(lock) = fs::File::open(root.join("lock")) {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
    let store = Store::open(root, Limits::default()).unwrap();
    assert_eq!(fs::read_dir(root.join("tmp")).unwrap().count(), 0);
    let blobs = fs::read_dir(root.join("blobs/sha256")).unwrap().count();
    match store.images().unwrap().as_slice() {
        [] => assert_eq!(blobs, 0),
        [image] => {
            let image = image.as_ref().unwrap();
            let top = fs::read_dir(&image.layers[0]).unwrap().count();
            assert_eq!((blobs, top), (3, 7));
            store.remove_image(&image.manifest).unwrap();
        }
        more => panic!("{more:?}"),
    }
}
