//! Layers: several at a time, each hashed, kept and unpacked as it comes.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::{Progress, PullError, Puller, free_bytes};
use crate::image::digest::{Digest, Hasher};
use crate::image::document::Blob;
use crate::image::load::{self, LoadError, Place, io_error};
use crate::image::registry::AskError;
use crate::image::registry::wire::Question;

/// Layers that come at the same time, as with docker's `max-concurrent-downloads`.
const AT_ONCE: usize = 3;
/// Between fetching and unpacking: what smooths out both.
const PIPE_BYTES: usize = 1 << 20;
/// How often progress is told.
const TELL_BYTES: u64 = 1 << 20;
/// How often free space is looked at.
const CHECK_SPACE_BYTES: u64 = 16 << 20;

/// One layer of an image.
#[derive(Debug, Clone, Copy)]
struct Layer<'a> {
    blob: &'a Blob,
    diff_id: &'a Digest,
    number: usize,
    count: usize,
}

impl Puller<'_> {
    /// Gets all layers that are not there.
    pub(super) fn layers(&self, blobs: &[Blob], diff_ids: &[Digest]) -> Result<(), PullError> {
        let count = blobs.len();
        let all =
            blobs.iter().zip(diff_ids).zip(1..).map(|((blob, diff_id), number)| Layer { blob, diff_id, number, count });
        let mut missing = Vec::new();
        for layer in all {
            match self.store.layer_diff_id(&layer.blob.digest) {
                Some(known) if self.store.has_blob(&layer.blob.digest) => check_diff_id(&layer, known)?,
                _ if missing.iter().any(|other: &Layer<'_>| other.blob.digest == layer.blob.digest) => {}
                _ => missing.push(layer),
            }
        }
        let bytes = missing.iter().map(|layer| layer.blob.size).sum();
        (self.tell)(Progress::Layers { count, missing: missing.len(), bytes });
        self.fetch_all(&missing)
    }

    fn fetch_all(&self, missing: &[Layer<'_>]) -> Result<(), PullError> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || -> Result<(), PullError> {
            while let Some(layer) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                self.fetch(layer, &stop).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE.min(missing.len())).map(|_| scope.spawn(work)).collect();
            let ends = threads.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(io_error("fetch", "layer")(std::io::Error::other("panic")).into()))
            });
            let mut failed: Vec<PullError> = ends.filter_map(Result::err).collect();
            // The one that stopped the others comes before those that were stopped.
            failed.sort_by_key(is_stopped);
            failed.into_iter().next().map_or(Ok(()), Err)
        })
    }

    /// One layer: from the fetcher into a file and into the unpacker.
    fn fetch(&self, layer: &Layer<'_>, stop: &AtomicBool) -> Result<(), PullError> {
        let digest = &layer.blob.digest;
        let limit = self.store.limits().blob_bytes;
        if layer.blob.size > limit {
            return Err(LoadError::TooLarge { name: digest.to_string(), limit }.into());
        }
        let name = format!("layer-{}", digest.hex());
        let directory = self.work.path.join(&name);
        let pipe_error = |errno: rustix::io::Errno| io_error("pipe", &name)(errno.into());
        let (from, to) = pipe_with(PipeFlags::CLOEXEC).map_err(pipe_error)?;
        // A smaller one is slower and nothing else.
        fcntl_setpipe_size(&to, PIPE_BYTES).unwrap_or_default();
        let place = Place {
            store: self.store,
            program: self.unpacker.as_fd(),
            directory: &directory,
            digest,
            number: layer.number,
            count: layer.count,
        };
        let (fed, unpacked) = std::thread::scope(|scope| {
            // When the unpacker ends early, so does its end of the pipe, and then the feeder.
            let unpacking = scope.spawn(move || {
                let from = from;
                place.unpack(from.as_fd(), &mut |_| {})
            });
            let fed = self.feed(layer, File::from(to), stop);
            (fed, unpacking.join())
        });
        let unpacked = unpacked.unwrap_or_else(|_| Err(io_error("unpack", &name)(std::io::Error::other("panic"))));
        // Without the end of the content the unpacker has nothing sensible to say, and without the unpacker the feeder.
        let (diff_id, skipped) = match (fed, unpacked) {
            (Ok(()), unpacked) => unpacked?,
            (Err(error), Err(cause)) if is_broken_pipe(&error) => return Err(cause.into()),
            (Err(error), _) => return Err(error),
        };
        check_diff_id(layer, diff_id)?;
        let mut state = self.state();
        state.skipped.extend(skipped);
        state.finished.insert(name, self.store.layer_path(digest));
        state.finished.insert(digest.hex().to_owned(), self.store.blob_path(digest));
        drop(state);
        (self.tell)(Progress::LayerDone { number: layer.number });
        Ok(())
    }

    /// Brings the content; it is what its digest says when this ends well.
    fn feed(&self, layer: &Layer<'_>, mut to: File, stop: &AtomicBool) -> Result<(), PullError> {
        let (digest, size) = (&layer.blob.digest, layer.blob.size);
        let path = self.work.path.join(digest.hex());
        let mut file = File::options().write(true).create_new(true).open(&path).map_err(io_error("create", &path))?;
        let mut hasher = Hasher::default();
        let (mut bytes, mut told, mut checked) = (0u64, 0u64, 0u64);
        let mut take = |content: &[u8]| {
            if stop.load(Ordering::Relaxed) {
                return Err(stopped());
            }
            if content.len() as u64 > size - bytes {
                return Err(std::io::Error::other("more than the manifest says"));
            }
            hasher.update(content);
            file.write_all(content)?;
            to.write_all(content)?;
            bytes += content.len() as u64;
            if bytes - told >= TELL_BYTES {
                told = bytes;
                (self.tell)(Progress::Layer { number: layer.number, bytes, total: size });
            }
            if bytes - checked >= CHECK_SPACE_BYTES {
                checked = bytes;
                self.leave_space(&path)?;
            }
            Ok(())
        };
        let question = Question::Blob { digest: digest.clone(), size, offset: 0 };
        let facts = self.fetcher.ask(&question, &mut take).map_err(|error| match error {
            AskError::Registry(failure) => PullError::from(failure),
            AskError::Taker(cause) => io_error("write", &path)(cause).into(),
        })?;
        if bytes != size {
            return Err(LoadError::Size { name: digest.to_string(), wanted: size, actual: bytes }.into());
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Err(PullError::Digest { what: "a layer", wanted: digest.clone(), actual });
        }
        let mut state = self.state();
        state.note(&facts);
        state.fetched += bytes;
        Ok(())
    }

    fn leave_space(&self, path: &Path) -> std::io::Result<()> {
        let free = free_bytes(path).map_err(std::io::Error::other)?;
        if free < self.store.limits().min_free_bytes {
            let text = format!("only {free} bytes are left, {} must stay free", self.store.limits().min_free_bytes);
            return Err(std::io::Error::new(std::io::ErrorKind::StorageFull, text));
        }
        Ok(())
    }
}

fn stopped() -> std::io::Error {
    std::io::ErrorKind::Interrupted.into()
}

fn kind(error: &PullError) -> Option<std::io::ErrorKind> {
    if let PullError::Content(LoadError::Io { cause, .. }) = error { Some(cause.kind()) } else { None }
}

fn is_stopped(error: &PullError) -> bool {
    kind(error) == Some(std::io::ErrorKind::Interrupted)
}

fn is_broken_pipe(error: &PullError) -> bool {
    kind(error) == Some(std::io::ErrorKind::BrokenPipe)
}

fn check_diff_id(layer: &Layer<'_>, actual: Digest) -> Result<(), PullError> {
    if actual == *layer.diff_id {
        return Ok(());
    }
    let (layer, wanted) = (layer.blob.digest.clone(), layer.diff_id.clone());
    Err(load::LoadError::DiffId { layer, wanted, actual }.into())
}
