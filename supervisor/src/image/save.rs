//! Writes images out as they came: the same manifests, configurations and layers, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};

use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType};
use serde_json::Value;

use super::digest::Digest;
use super::store::{At as _, Image, Store, StoreError};

/// What other tools name an image by, beside the specification's own annotation.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

impl Store {
    /// Writes images as one OCI archive, which every image tool loads.
    pub fn save(&self, images: &[Image], to: impl Write) -> Result<(), StoreError> {
        let mut archive = tar::Builder::new(to);
        let mut descriptors = Vec::new();
        let mut blobs = BTreeSet::new();
        for image in images {
            let (descriptor, own) = self.blobs(image)?;
            blobs.extend(own);
            descriptors.extend(named(&descriptor, image));
        }
        let failed = |error: oci_spec::OciSpecError| self.io_error("make index.json", io::Error::other(error));
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(descriptors)
            .build()
            .map_err(failed)?;
        let index = serde_json::to_value(&index).and_then(|index| serde_json::to_vec(&sorted(index)));
        let index = index.map_err(|error| self.io_error("make index.json", error.into()))?;
        let write = |error| self.io_error("write archive", error);
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(write)?;
        append(&mut archive, "index.json", &index).map_err(write)?;
        for blob in blobs {
            self.append_blob(&mut archive, &blob)?;
        }
        archive.into_inner().and_then(|mut to| to.flush()).map_err(write)
    }

    fn append_blob(&self, archive: &mut tar::Builder<impl Write>, blob: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(blob);
        let file = File::open(&path).at("open", &path)?;
        let size = file.metadata().at("stat", &path)?.len();
        let mut header = header(size);
        let name = format!("blobs/sha256/{}", blob.hex());
        archive.append_data(&mut header, name, file).at("copy", path)
    }
}

/// Keys in their order: annotations come in any, and one image would give many archives.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            Value::Object(fields.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// A descriptor for each name, or one for an image that has none.
fn named(descriptor: &Descriptor, image: &Image) -> Vec<Descriptor> {
    let with = |name: Option<String>| {
        let mut named = descriptor.clone();
        let annotations = name.map(|name| {
            [(REF_NAME.to_owned(), name.clone()), (CONTAINERD_NAME.to_owned(), name)].into_iter().collect()
        });
        named.set_annotations(annotations);
        named
    };
    if image.references.is_empty() {
        return vec![with(None)];
    }
    image.references.iter().map(|name| with(Some(name.to_string()))).collect()
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), name, bytes)
}

/// The same for the same content, whoever saves it and when.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_size(size);
    header
}
