//! Test images from Debian packages: real programs without a registry.
//!
//! Packages are downloaded by apt as an ordinary user into `target/apt`, unpacked without their scripts, and written as
//! one OCI archive per image: `target/images/NAME.tar`, the same bytes for the same packages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use flate2::{Compression, GzBuilder};
use serde_json::json;
use tar::{Builder, EntryType, Header};
use xshell::{Shell, cmd};

use crate::apt::Apt;
use crate::build;

/// Raised when the way images are built changes, so that old ones are not taken for new.
const RECIPE_VERSION: u32 = 3;
const NAMES: [&str; 5] = ["busybox", "nginx", "postgres", "python", "redis"];
/// Packages by the beginnings of their names that no server needs to serve: a compiler, and what installs and manages.
const LEFT_OUT: &[&str] =
    &["libllvm", "libz3", "perl", "libperl", "postgresql-common", "postgresql-client-common", "ssl-cert"];

/// Build test images from Debian packages into target/images
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Which: busybox, nginx, postgres, python, redis; all when left out
    names: Vec<String>,
}

impl Images {
    /// Builds what is not there yet and prints the paths.
    pub(crate) fn run(&self) -> Result<()> {
        let all = NAMES.map(str::to_owned).to_vec();
        let names = if self.names.is_empty() { &all } else { &self.names };
        for name in names {
            println!("{}", image(name)?.display());
        }
        Ok(())
    }
}

/// The archive of an image, built if necessary.
pub(crate) fn image(name: &str) -> Result<PathBuf> {
    let directory = build::root().join("target/images");
    let recipe = recipe(name)?;
    let path = directory.join(format!("{name}.tar"));
    let stamp_path = directory.join(format!("{name}.stamp"));
    let shell = Shell::new()?;
    let apt = Apt::open(&shell)?;
    // Until somebody runs `apt update` in target/apt, the packages are the same.
    let stamp = format!("{RECIPE_VERSION}\n{}\n{}", recipe.packages.join(" "), apt.lists_stamp()?);
    if path.exists() && fs::read_to_string(&stamp_path).is_ok_and(|old| old == stamp) {
        return Ok(path);
    }
    let mut tree = Tree::default();
    let packages = if recipe.with_dependencies {
        apt.closure(&recipe.packages, LEFT_OUT)?
    } else {
        recipe.packages.iter().map(|package| apt.download(package)).collect::<Result<_>>()?
    };
    for package in packages {
        tree.add_package(&package)?;
    }
    (recipe.finish)(&mut tree)?;
    write_archive(&path, name, &tree, &recipe.config)?;
    fs::write(&stamp_path, stamp)?;
    Ok(path)
}

struct Recipe {
    packages: Vec<&'static str>,
    with_dependencies: bool,
    config: serde_json::Value,
    finish: fn(&mut Tree) -> Result<()>,
}

fn recipe(name: &str) -> Result<Recipe> {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    Ok(match name {
        "busybox" => Recipe {
            packages: vec!["busybox-static"],
            with_dependencies: false,
            config: json!({ "Env": [PATH], "Cmd": ["sh"] }),
            finish: finish_busybox,
        },
        "nginx" => Recipe {
            packages: vec!["nginx-light"],
            with_dependencies: true,
            config: json!({
                "Env": [PATH], "Cmd": ["nginx", "-g", "daemon off;"],
                "ExposedPorts": { "80/tcp": {} }, "StopSignal": "SIGQUIT",
            }),
            finish: finish_nginx,
        },
        "redis" => Recipe {
            packages: vec!["redis-server", "redis-tools", "dash"],
            with_dependencies: true,
            config: json!({
                "Env": [PATH], "User": "redis", "WorkingDir": "/data", "Volumes": { "/data": {} },
                "Cmd": ["redis-server", "--protected-mode", "no", "--bind", "0.0.0.0"],
                "ExposedPorts": { "6379/tcp": {} },
            }),
            finish: finish_redis,
        },
        "python" => Recipe {
            packages: vec!["python3-minimal", "python3-kubernetes"],
            with_dependencies: true,
            config: json!({ "Env": [PATH], "Cmd": ["python3"] }),
            finish: finish_python,
        },
        "postgres" => Recipe {
            packages: vec!["postgresql-15", "coreutils", "dash"],
            with_dependencies: true,
            config: json!({
                "Env": [POSTGRES_PATH, "PGDATA=/var/lib/postgresql/data"],
                "Entrypoint": ["/entrypoint"], "Cmd": ["postgres"], "StopSignal": "SIGINT",
                "Volumes": { "/var/lib/postgresql/data": {} }, "ExposedPorts": { "5432/tcp": {} },
            }),
            finish: finish_postgres,
        },
        other => bail!("no recipe for image {other:?}; there are {}", NAMES.join(", ")),
    })
}

const POSTGRES_PATH: &str =
    "PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes the database on its first start, and never runs it as root.
const POSTGRES_ENTRYPOINT: &str = r#"#!/bin/sh
set -e
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chown postgres:postgres "$PGDATA" /run/postgresql
    chmod 700 "$PGDATA"
    exec chroot --userspec=postgres:postgres / "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --locale=C --encoding=UTF8 --auth=trust --username=postgres
    echo 'host all all all trust' >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
fi
exec "$@"
"#;

/// The official client of the API, as Debian packages it.
fn finish_python(tree: &mut Tree) -> Result<()> {
    tree.add_skeleton();
    tree.add_linker_cache();
    Ok(())
}

fn finish_redis(tree: &mut Tree) -> Result<()> {
    tree.add_skeleton();
    tree.add_user("redis", 999);
    tree.add_own_directory("data", 999);
    tree.add_link("bin/sh", "dash");
    tree.add_linker_cache();
    Ok(())
}

fn finish_postgres(tree: &mut Tree) -> Result<()> {
    tree.add_skeleton();
    tree.add_user("postgres", 999);
    tree.add_own_directory("var/lib/postgresql", 999);
    tree.add_own_directory("run/postgresql", 999);
    tree.add_link("var/run", "/run");
    tree.add_file("entrypoint", 0o755, POSTGRES_ENTRYPOINT.into());
    tree.add_link("bin/sh", "dash");
    tree.add_linker_cache();
    Ok(())
}

/// As in busybox's own image: the program under the name of each of its applets, and nothing else.
fn finish_busybox(tree: &mut Tree) -> Result<()> {
    let program = tree.file("bin/busybox").or_else(|_| tree.file("usr/bin/busybox"))?;
    let applets = applets(&program)?;
    ensure!(applets.iter().any(|applet| applet == "sh"), "busybox lists no applet sh");
    *tree = Tree::default();
    tree.add_skeleton();
    tree.add_file("bin/busybox", 0o755, program);
    for applet in applets.iter().filter(|applet| *applet != "busybox") {
        tree.add_link(&format!("bin/{applet}"), "busybox");
    }
    Ok(())
}

/// Asks the program itself, which is static and runs anywhere.
fn applets(program: &[u8]) -> Result<Vec<String>> {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("busybox");
    fs::write(&path, program)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let shell = Shell::new()?;
    let list = cmd!(shell, "{path} --list").quiet().read()?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// What the packages' scripts would have done.
fn finish_nginx(tree: &mut Tree) -> Result<()> {
    tree.add_skeleton();
    tree.add_link("etc/nginx/sites-enabled/default", "/etc/nginx/sites-available/default");
    let modules: Vec<String> = tree.names_below("usr/share/nginx/modules-available/");
    for name in modules {
        tree.add_link(
            &format!("etc/nginx/modules-enabled/50-{name}"),
            &format!("/usr/share/nginx/modules-available/{name}"),
        );
    }
    let page = tree.file("usr/share/nginx/html/index.html")?;
    tree.add_directory("var/www/html", 0o755);
    tree.add_file("var/www/html/index.html", 0o644, page);
    for directory in ["body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        tree.add_directory(&format!("var/lib/nginx/{directory}"), 0o700);
    }
    tree.add_directory("var/log/nginx", 0o755);
    // Where people look for a container's log.
    tree.add_link("var/log/nginx/access.log", "/dev/stdout");
    tree.add_link("var/log/nginx/error.log", "/dev/stderr");
    // dash's package makes this link by script.
    tree.add_link("bin/sh", "dash");
    tree.add_linker_cache();
    Ok(())
}

/// A root file system, by path without the leading slash.
#[derive(Default)]
struct Tree {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone)]
enum Node {
    Directory { mode: u32, uid: u64, gid: u64 },
    File { mode: u32, uid: u64, gid: u64, content: Vec<u8> },
    Link { target: String },
}

impl Tree {
    /// Adds the files of a Debian package; `dpkg-deb` knows its formats.
    fn add_package(&mut self, package: &Path) -> Result<()> {
        let shell = Shell::new()?;
        let bytes = cmd!(shell, "dpkg-deb --fsys-tarfile {package}").quiet().output()?.stdout;
        let mut archive = tar::Archive::new(&bytes[..]);
        for entry in archive.entries()? {
            self.add_entry(&mut entry?).with_context(|| format!("{}", package.display()))?;
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: &mut tar::Entry<'_, &[u8]>) -> Result<()> {
        let path = entry.path()?.to_str().context("path")?.trim_start_matches("./").trim_end_matches('/').to_owned();
        if path.is_empty() || is_left_out(&path) {
            return Ok(());
        }
        let path = self.merged(&path);
        let header = entry.header();
        let (mode, uid, gid) = (header.mode()?, header.uid()?, header.gid()?);
        let link = entry.link_name()?.and_then(|link| Some(link.to_str()?.to_owned()));
        let kind = header.entry_type();
        let node = if kind.is_dir() {
            if self.nodes.contains_key(&path) {
                return Ok(());
            }
            Node::Directory { mode, uid, gid }
        } else if kind.is_symlink() {
            Node::Link { target: link.context("link")? }
        } else if kind.is_hard_link() {
            let target = self.merged(link.context("link")?.trim_start_matches("./"));
            self.nodes.get(&target).context("hard link")?.clone()
        } else {
            ensure!(kind.is_file(), "{path}: entry type {kind:?}");
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            Node::File { mode, uid, gid, content }
        };
        self.nodes.insert(path, node);
        Ok(())
    }

    /// `/bin`, `/lib` and `/sbin` are links into `/usr`, which packages of Debian 12 do not all know.
    fn merged(&mut self, path: &str) -> String {
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        if !matches!(first, "bin" | "sbin" | "lib" | "lib64") {
            return path.to_owned();
        }
        self.nodes.insert(first.to_owned(), Node::Link { target: format!("usr/{first}") });
        self.nodes.entry(format!("usr/{first}")).or_insert(Node::Directory { mode: 0o755, uid: 0, gid: 0 });
        format!("usr/{first}{}{rest}", if rest.is_empty() { "" } else { "/" })
    }

    /// What every image needs to run as anybody.
    fn add_skeleton(&mut self) {
        for (path, mode) in [
            ("etc", 0o755),
            ("root", 0o700),
            ("home", 0o755),
            ("tmp", 0o1777),
            ("var", 0o755),
            ("var/tmp", 0o1777),
            ("run", 0o755),
            ("proc", 0o555),
            ("sys", 0o555),
            ("dev", 0o755),
        ] {
            self.add_directory(path, mode);
        }
        self.add_file("etc/passwd", 0o644, PASSWD.into());
        self.add_file("etc/group", 0o644, GROUP.into());
        self.add_file("etc/nsswitch.conf", 0o644, b"passwd: files\ngroup: files\nhosts: files dns\n".to_vec());
    }

    /// An account that a package's script would have made.
    fn add_user(&mut self, name: &str, id: u64) {
        self.add_file("etc/passwd", 0o644, format!("{PASSWD}{name}:x:{id}:{id}::/home:/bin/false\n").into());
        self.add_file("etc/group", 0o644, format!("{GROUP}{name}:x:{id}:\n").into());
    }

    /// A directory that an account owns.
    fn add_own_directory(&mut self, path: &str, id: u64) {
        self.nodes.insert(path.to_owned(), Node::Directory { mode: 0o755, uid: id, gid: id });
    }

    /// glibc looks into `/lib/ARCH-linux-gnu` without a cache; a path for libraries elsewhere is not needed.
    fn add_linker_cache(&mut self) {
        self.add_file("etc/ld.so.conf", 0o644, b"include /etc/ld.so.conf.d/*.conf\n".to_vec());
    }

    fn add_directory(&mut self, path: &str, mode: u32) {
        self.nodes.insert(path.to_owned(), Node::Directory { mode, uid: 0, gid: 0 });
    }

    fn add_file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.add_node(path, Node::File { mode, uid: 0, gid: 0, content });
    }

    fn add_link(&mut self, path: &str, target: &str) {
        self.add_node(path, Node::Link { target: target.to_owned() });
    }

    /// With the directories above it.
    fn add_node(&mut self, path: &str, node: Node) {
        let path = match self.nodes.get(path.split('/').next().unwrap_or_default()) {
            Some(Node::Link { .. }) => self.merged(path),
            Some(Node::Directory { .. } | Node::File { .. }) | None => path.to_owned(),
        };
        for (slash, _) in path.match_indices('/') {
            let parent = path.get(..slash).unwrap_or_default().to_owned();
            self.nodes.entry(parent).or_insert(Node::Directory { mode: 0o755, uid: 0, gid: 0 });
        }
        self.nodes.insert(path, node);
    }

    fn file(&self, path: &str) -> Result<Vec<u8>> {
        let merged = [path.to_owned(), format!("usr/{path}")];
        match merged.iter().find_map(|path| self.nodes.get(path)) {
            Some(Node::File { content, .. }) => Ok(content.clone()),
            Some(Node::Directory { .. } | Node::Link { .. }) | None => {
                bail!("no file {path} in the packages")
            }
        }
    }

    fn names_below(&self, prefix: &str) -> Vec<String> {
        self.nodes.keys().filter_map(|path| path.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// The layer: sorted, all times zero.
    fn to_layer(&self) -> Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        for (path, node) in &self.nodes {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            match node {
                Node::Directory { mode, uid, gid } => {
                    set_header(&mut header, EntryType::Directory, (*mode, *uid, *gid), 0);
                    builder.append_data(&mut header, format!("{path}/"), &[][..])?;
                }
                Node::File { mode, uid, gid, content } => {
                    set_header(&mut header, EntryType::Regular, (*mode, *uid, *gid), content.len() as u64);
                    builder.append_data(&mut header, path, &content[..])?;
                }
                Node::Link { target } => {
                    set_header(&mut header, EntryType::Symlink, (0o777, 0, 0), 0);
                    builder.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(builder.into_inner()?)
    }
}

fn set_header(header: &mut Header, kind: EntryType, (mode, uid, gid): (u32, u64, u64), size: u64) {
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_size(size);
}

/// What no container reads.
fn is_left_out(path: &str) -> bool {
    LEFT_OUT_FILES.iter().any(|prefix| path.starts_with(prefix)) || path.contains("/gconv/")
}

/// Texts for people, sources of locales, and what only a just-in-time compiler reads that is left out itself.
const LEFT_OUT_FILES: &[&str] = &[
    "usr/lib/postgresql/15/lib/bitcode/",
    "usr/share/doc/",
    "usr/share/i18n/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
    "usr/share/perl",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    bin:x:2:2:bin:/bin:/bin/false\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str =
    "root:x:0:\ndaemon:x:1:\nbin:x:2:\nadm:x:4:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n";

/// GOARCH of this machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An OCI archive with one image of one layer, named `docker.io/library/NAME:latest`.
fn write_archive(path: &Path, name: &str, tree: &Tree, config: &serde_json::Value) -> Result<()> {
    let plain = tree.to_layer()?;
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::new(6));
    gzip.write_all(&plain)?;
    let layer = gzip.finish()?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [digest(&plain)?] },
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config)?,
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)?],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest)?;
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": format!("docker.io/library/{name}:latest") });
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;
    let mut files = BTreeMap::from([
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index),
    ]);
    for blob in [manifest, config, layer] {
        files.insert(format!("blobs/{}", digest(&blob)?.replace(':', "/")), blob);
    }
    write_files(path, &files)
}

fn write_files(path: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    fs::create_dir_all(path.parent().context("parent")?)?;
    let temporary = path.with_extension("new");
    let mut builder = Builder::new(File::create(&temporary)?);
    for (name, content) in files {
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        set_header(&mut header, EntryType::Regular, (0o644, 0, 0), content.len() as u64);
        builder.append_data(&mut header, name, &content[..])?;
    }
    builder.into_inner()?.sync_all()?;
    fs::rename(&temporary, path)?;
    Ok(())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Result<serde_json::Value> {
    Ok(json!({ "mediaType": media_type, "digest": digest(bytes)?, "size": bytes.len() }))
}

/// `sha256:` and the hash in hexadecimal. `sha256sum` is on every Debian machine, and no hash library is needed for a few
/// images.
pub(crate) fn digest(bytes: &[u8]) -> Result<String> {
    let shell = Shell::new()?;
    let sum = cmd!(shell, "sha256sum").stdin(bytes).quiet().read()?;
    let hex = sum.split(' ').next().unwrap_or_default();
    ensure!(hex.len() == 64, "sha256sum printed {sum:?}");
    Ok(format!("sha256:{hex}"))
}
