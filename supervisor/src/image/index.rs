//! The names of a store's images, in two files that each know whether they are whole.
//!
//! ```text
//! ROOT/index.json         OCI index: a descriptor for each name of an image
//! ROOT/index.copy.json    the same again: nothing else has the names, and without them nobody could tell what may be removed
//! ```
//!
//! The index counts; its copy is written after it, and mends it when it is damaged.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder, MediaType};

use super::digest::Digest;
use super::document;
use super::limits::MAX_MANIFEST_BYTES;
use super::store::{At as _, StoreError, damaged, read_bounded, write_file};

pub(super) const INDEX: &str = "index.json";
const COPY: &str = "index.copy.json";
/// Annotation with the digest of the descriptors: a changed byte in a name shows nowhere else.
const SUM: &str = "io.monopod.sum";

/// The index of the store in `root`.
#[derive(Debug)]
pub(super) struct Index<'a> {
    pub(super) root: &'a Path,
}

impl Index<'_> {
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(INDEX)
    }

    fn copy_path(&self) -> PathBuf {
        self.root.join(COPY)
    }

    /// What it holds; none yet is an empty one.
    pub(super) fn read(&self) -> Result<ImageIndex, StoreError> {
        let error = match read(&self.path()) {
            Ok(index) => return Ok(index),
            Err(error) => error,
        };
        match read(&self.copy_path()) {
            Ok(index) => {
                tracing::error!("{error}; mended with {COPY}");
                write(&self.path(), &index)?;
                Ok(index)
            }
            // The first one is still to be written.
            Err(_) if is_missing(&error) => new(Vec::new(), &self.path()),
            Err(_) => Err(error),
        }
    }

    /// Durable when it returns.
    pub(super) fn write(&self, descriptors: Vec<Descriptor>) -> Result<(), StoreError> {
        let index = new(descriptors, &self.path())?;
        write(&self.path(), &index)?;
        write(&self.copy_path(), &index)
    }

    /// The copy may be damaged, too, or of before a cut between the two.
    pub(super) fn mend_copy(&self) -> Result<(), StoreError> {
        let index = self.read()?;
        let copy = self.copy_path();
        match read(&copy) {
            Ok(same) if same == index => return Ok(()),
            Err(error) if is_missing(&error) && index.manifests().is_empty() => return Ok(()),
            Err(error) if is_missing(&error) => {}
            Ok(_) => tracing::info!("{} is of before the last change; made anew", copy.display()),
            Err(error) => tracing::error!("{error}; made anew"),
        }
        write(&copy, &index)
    }
}

fn new(descriptors: Vec<Descriptor>, path: &Path) -> Result<ImageIndex, StoreError> {
    let sum = HashMap::from([(SUM.to_owned(), sum(&descriptors))]);
    let builder = ImageIndexBuilder::default().schema_version(2u32).media_type(MediaType::ImageIndex);
    builder.manifests(descriptors).annotations(sum).build().map_err(|err| damaged(path, err))
}

/// Of the descriptors with their fields in order.
fn sum(descriptors: &[Descriptor]) -> String {
    let text = serde_json::to_value(descriptors).unwrap_or_default().to_string();
    Digest::of(text.as_bytes()).to_string()
}

fn read(path: &Path) -> Result<ImageIndex, StoreError> {
    let index = document::index(&read_bounded(path, MAX_MANIFEST_BYTES)?, None).map_err(|err| damaged(path, err))?;
    let said = index.annotations().as_ref().and_then(|annotations| annotations.get(SUM));
    // One that another program wrote has none.
    if said.is_some_and(|said| *said != sum(index.manifests())) {
        return Err(damaged(path, "its content does not fit its sum"));
    }
    Ok(index)
}

fn write(path: &Path, index: &ImageIndex) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(index).map_err(io::Error::other).at("write", path)?;
    write_file(path, &bytes)
}

fn is_missing(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { cause, .. } if cause.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(text: &[u8]) -> Descriptor {
        let digest = Digest::of(text).to_string().parse::<oci_spec::image::Digest>().unwrap();
        let mut descriptor = Descriptor::new(MediaType::ImageManifest, 7, digest);
        let names = [("b", "2"), ("a", "1"), ("c", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        descriptor.set_annotations(Some(names.into()));
        descriptor
    }

    #[test]
    fn either_file_can_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index { root: dir.path() };
        assert!(index.read().unwrap().manifests().is_empty());
        index.write(vec![descriptor(b"a"), descriptor(b"b")]).unwrap();
        let good = std::fs::read(index.path()).unwrap();
        // In a name, where the syntax stays what it was.
        let position = good.windows(4).position(|part| part == b":\"2\"").unwrap();
        let mut flipped = good.clone();
        flipped[position + 2] = b'4';
        for bad in [Vec::new(), good[..good.len() / 2].to_vec(), flipped] {
            for path in [index.path(), index.copy_path()] {
                std::fs::write(&path, &bad).unwrap();
                index.mend_copy().unwrap();
                assert_eq!(index.read().unwrap().manifests().len(), 2);
                assert!([index.path(), index.copy_path()].iter().all(|path| read(path).is_ok()), "{}", path.display());
            }
        }
    }

    #[test]
    fn the_index_counts_when_the_two_differ() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index { root: dir.path() };
        index.write(vec![descriptor(b"old")]).unwrap();
        let copy = std::fs::read(index.copy_path()).unwrap();
        index.write(vec![descriptor(b"new")]).unwrap();
        std::fs::write(index.copy_path(), copy).unwrap();
        index.mend_copy().unwrap();
        assert_eq!(read(&index.copy_path()).unwrap().manifests(), &[descriptor(b"new")]);
    }
}
