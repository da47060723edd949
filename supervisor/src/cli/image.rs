//! `monopod image`: what is in the image store.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::pull_bars::PullBars;
use crate::image::load::{LoadError, Loaded, Options, Progress, Source};
use crate::image::pull::{self, PullError, Request};
use crate::image::reference::BadReference;
use crate::image::store::{DEFAULT_ROOT, StoreError};
use crate::image::{Digest, Image, Limits, Reference, Store, load};

/// Digits of an image id in a table.
const SHORT_ID: usize = 12;

/// Load, list and remove images.
#[derive(Debug, Args)]
pub struct ImageCommand {
    /// Directory of the image store
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_ROOT)]
    root: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Pull images from their registries
    Pull {
        /// Names, such as nginx, nginx:1.27 or registry.example.com/team/app@sha256:...
        #[arg(value_name = "REF", required = true)]
        images: Vec<String>,
    },
    /// Load images from an OCI layout, an OCI archive or a docker archive
    Load {
        /// A directory, a file, or - for standard input; plain, gzip or zstd
        #[arg(value_name = "FILE|DIR|-")]
        from: PathBuf,
        /// Name of the image, instead of the one in the archive
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// List images
    #[command(visible_alias = "list")]
    Ls {
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Remove a name, and the image with its last name
    Rm {
        /// A name or an image id
        #[arg(value_name = "REF", required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Why a command did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot load images from {}: {cause}{}", .from.display(), hint(.cause))]
    Load { from: PathBuf, cause: LoadError },
    #[error("cannot pull {name}: {cause}")]
    Pull { name: String, cause: PullError },
    #[error("cannot open {}: {cause}", .from.display())]
    Open { from: PathBuf, cause: io::Error },
    #[error(transparent)]
    Reference(#[from] BadReference),
    #[error("no image {0} in {1}; `monopod image ls` shows what is there")]
    NoSuchImage(String, PathBuf),
    #[error("write: {0}")]
    Output(#[from] io::Error),
}

/// What to do about it, where that is known.
fn hint(cause: &LoadError) -> &'static str {
    match cause {
        LoadError::NoImage => "; make one with `docker save`, `podman save` or `skopeo copy ... oci-archive:FILE`",
        LoadError::Digest { .. } | LoadError::Size { .. } | LoadError::Missing(_) => {
            "; the archive is damaged, get it again"
        }
        LoadError::Platform { .. } => "; get the image for this machine's platform",
        LoadError::OneName(_) => "; leave --name out",
        LoadError::Store(_)
        | LoadError::Io { .. }
        | LoadError::Archive(_)
        | LoadError::Document { .. }
        | LoadError::Twice(_)
        | LoadError::TooManyMembers
        | LoadError::TooLarge { .. }
        | LoadError::DiffId { .. }
        | LoadError::Unpack { .. }
        | LoadError::TooDeep
        | LoadError::Reference(_) => "",
    }
}

/// Runs `monopod image ...`.
pub fn run(command: &ImageCommand) -> Result<ExitCode, ImageError> {
    let store = Store::open(&command.root, Limits::default())?;
    match &command.verb {
        Verb::Pull { images } => images.iter().try_for_each(|image| pull_image(&store, image))?,
        Verb::Load { from, name } => load_images(&store, from, name.as_deref())?,
        Verb::Ls { output } => list(&store, *output)?,
        Verb::Rm { images } => {
            for image in images {
                remove(&store, image)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pull_image(store: &Store, name: &str) -> Result<(), ImageError> {
    let request = Request { name: name.to_owned(), secrets: Vec::new() };
    let bars = PullBars::default();
    let pulled = pull::pull(store, &request, &pull::Options::default(), &|progress| bars.show(name, progress));
    bars.clear();
    let pulled = pulled.map_err(|cause| ImageError::Pull { name: name.to_owned(), cause })?;
    for text in &pulled.skipped {
        writeln!(io::stderr(), "warning: left out {text}")?;
    }
    writeln!(io::stdout(), "Pulled {}\n{}", pulled.reference.familiar(), pulled.reference.with_digest(&pulled.digest))?;
    Ok(())
}

fn load_images(store: &Store, from: &Path, name: Option<&str>) -> Result<(), ImageError> {
    let options = Options { name: name.map(str::parse).transpose()?, unpacker: None };
    let source = Source::open(from).map_err(|cause| ImageError::Open { from: from.to_owned(), cause })?;
    let bar = progress_bar();
    let loaded = load::load(store, source, &options, &mut |progress| show(&bar, progress));
    bar.finish_and_clear();
    let loaded = loaded.map_err(|cause| ImageError::Load { from: from.to_owned(), cause })?;
    let mut out = io::stdout().lock();
    for image in loaded {
        report(&mut out, &image)?;
    }
    Ok(())
}

fn report(out: &mut impl io::Write, image: &Loaded) -> io::Result<()> {
    for text in &image.skipped {
        writeln!(io::stderr(), "warning: left out {text}")?;
    }
    if image.references.is_empty() {
        return writeln!(out, "Loaded image without a name: {} (give it one with --name)", image.id);
    }
    image.references.iter().try_for_each(|name| writeln!(out, "Loaded image: {name}"))
}

fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {eta}");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn show(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Read { bytes } => {
            bar.set_message("reading");
            bar.set_position(bytes);
        }
        Progress::Unpack { number, count, bytes, total } => {
            bar.set_message(format!("layer {number}/{count}"));
            bar.set_length(total);
            bar.set_position(bytes);
        }
    }
}

fn list(store: &Store, output: Output) -> Result<(), ImageError> {
    let mut images = Vec::new();
    for image in store.images()? {
        match image {
            Ok(image) => images.push(image),
            Err(err) => writeln!(io::stderr(), "warning: {err}")?,
        }
    }
    let mut out = io::stdout().lock();
    match output {
        Output::Table => table(&mut out, &images)?,
        Output::Json => {
            let list: Vec<_> = images.iter().map(json).collect();
            serde_json::to_writer_pretty(&mut out, &list).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

fn table(out: &mut impl io::Write, images: &[Image]) -> io::Result<()> {
    let rows: Vec<[String; 3]> = images.iter().flat_map(rows).collect();
    let width = rows.iter().map(|[name, ..]| name.chars().count()).max().unwrap_or(0).max("IMAGE".len());
    writeln!(out, "{:width$}  {:SHORT_ID$}  SIZE", "IMAGE", "IMAGE ID")?;
    for [name, id, size] in rows {
        writeln!(out, "{name:width$}  {id}  {size}")?;
    }
    Ok(())
}

fn rows(image: &Image) -> Vec<[String; 3]> {
    let id = image.id.hex().chars().take(SHORT_ID).collect::<String>();
    let size = HumanBytes(image.size).to_string();
    let row = |name: String| [name, id.clone(), size.clone()];
    if image.references.is_empty() {
        return vec![row("<none>".to_owned())];
    }
    image.references.iter().map(|name| row(name.to_string())).collect()
}

fn json(image: &Image) -> serde_json::Value {
    serde_json::json!({
        "id": image.id,
        "manifest": image.manifest,
        "names": image.references,
        "repoDigests": image.repo_digests,
        "sizeBytes": image.size,
        "layers": image.layers.len(),
        "architecture": image.config.architecture,
        "created": image.config.created,
    })
}

fn remove(store: &Store, text: &str) -> Result<(), ImageError> {
    let missing = || ImageError::NoSuchImage(text.to_owned(), store.root().to_owned());
    let collected = if let Ok(id) = text.parse::<Digest>() {
        let image = store.resolve_id(&id)?.ok_or_else(missing)?;
        store.remove_image(&image.manifest)?
    } else {
        let reference: Reference = text.parse()?;
        store.remove(&reference)?.ok_or_else(missing)?.collected
    };
    let note = if collected { "" } else { " (its space is given back when nobody uses the store)" };
    writeln!(io::stdout(), "Removed {text}{note}")?;
    Ok(())
}
