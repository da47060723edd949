//! The stream of a layer: decompressed, counted, hashed, bounded.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::image::archive::decompress;
use crate::image::digest::Digest;
use crate::image::digest::HashingReader;
use crate::image::limits::Limits;

/// Passes bytes on and counts them where others can see it.
#[derive(Debug)]
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

/// Stops a decompressor that gives too much (D28).
#[derive(Debug)]
struct Bounded<R> {
    inner: R,
    limits: Limits,
    stored: Rc<Cell<u64>>,
    out: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let out = self.out.get() + n as u64;
        self.out.set(out);
        let limits = &self.limits;
        if out > limits.layer_bytes {
            let text = format!("the layer is larger than {} bytes", limits.layer_bytes);
            return Err(io::Error::other(text));
        }
        if out > limits.ratio_free_bytes && out / limits.ratio > self.stored.get() {
            let text =
                format!("{out} bytes came out of {} compressed ones, more than {}:1", self.stored.get(), limits.ratio);
            return Err(io::Error::other(text));
        }
        Ok(n)
    }
}

/// An uncompressed layer.
pub(super) struct Layer {
    stream: HashingReader<Bounded<Box<dyn Read>>>,
    stored: Rc<Cell<u64>>,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("stored", &self.stored).finish_non_exhaustive()
    }
}

impl Layer {
    pub(super) fn new(stored: impl Read + 'static, limits: &Limits) -> io::Result<Self> {
        let count = Rc::new(Cell::new(0));
        let counted = Counted { inner: stored, count: Rc::clone(&count) };
        let inner = decompress(counted)?;
        let stream = HashingReader::new(Bounded {
            inner,
            limits: limits.clone(),
            stored: Rc::clone(&count),
            out: Rc::new(Cell::new(0)),
        });
        Ok(Self { stream, stored: count })
    }

    /// Shows how many stored bytes are read, while somebody else reads.
    pub(super) fn stored_bytes(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.stored)
    }

    /// Reads what follows the archive's end and gives digest and size of the whole.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self.stream, &mut io::sink())?;
        Ok(self.stream.finish())
    }
}

impl Read for Layer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}
